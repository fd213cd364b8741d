"""Mistakes with the commands that speak to a query manager: an error in one line each."""

from __future__ import annotations

import pytest
from command_kit import POLICY, Vdag, plan_file, rows
from node_kit import Running

from vdag.control.policies import BUILT_IN

pytestmark = pytest.mark.slow  # as a whole

TOKEN = "correct-horse-battery"
#: On which nobody listens: it is for testing what happens then (RFC 6335 reserves it).
NOBODY = "http://127.0.0.1:1"


@pytest.mark.parametrize(
    "command",
    [["queries"], ["top", "--once"], ["plan", "GLOBAL_ID_1"], ["stop", "GLOBAL_ID_1"],
     ["results", "GLOBAL_ID_1"], ["results", "GLOBAL_ID_1", "--follow"],
     ["submit", "brightness", "--node", "127.0.0.1:5001"]],
    ids=" ".join,
)  # fmt: skip
def test_a_cloud_that_is_not_there_is_an_error_in_one_line(vdag_command, command):
    ended = vdag_command(*command, "--cloud", NOBODY)
    text = f"vdag: {NOBODY} cannot be reached: [Errno 111] Connection refused\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", text)


@pytest.mark.parametrize("url", ["ftp://cloud", "http://", "cloud:70000", "http://[::1"])
def test_an_address_that_is_none_is_an_error_in_one_line(vdag_command, url):
    ended = vdag_command("queries", "--cloud", url)
    text = f"vdag: cloud {url!r} is no address, expected http://HOST:PORT\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", text)


@pytest.mark.parametrize(
    "command",
    [["plan"], ["results"], ["results", "--follow"], ["stop"], ["stop", "--delete"]],
    ids=" ".join,
)
@pytest.mark.parametrize(
    ("query", "text"),
    [("GLOBAL_ID_999", "query 999 is not known"), ("first", "'first' is no query's id")],
)
def test_a_query_that_is_not_known_is_an_error_in_one_line(ask: Vdag, command, query, text):
    ended = ask(*command, query)
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", f"vdag: {text}\n")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--node", "10.9.9.9:5001"], "cannot found 10.9.9.9:5001"),
        (["--video", "7"], "{address} has no video 7, only 0, 1"),
        (["--policy", "nonesuch"],
         f"policy 'nonesuch' is unknown, expected one of {', '.join([*BUILT_IN, POLICY])}"),
        (["--delay", "0.1", "--plan", "missing.json"],
         "plan missing.json cannot be read: No such file or directory"),
    ],
    ids=["node", "video", "policy", "plan"],
)  # fmt: skip
def test_a_query_about_what_is_not_there_is_refused(ask: Vdag, address, arguments, text):
    ended = ask("submit", "brightness", "--node", address, *arguments)
    expected = (2, "", f"vdag: {text.format(address=address)}\n")
    assert (ended.returncode, ended.stdout, ended.stderr) == expected


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", "plan {path} is not JSON: Expecting property name enclosed in double quotes: "
              "line 1 column 2 (char 1)"),
        ([], "plan {path} is not an object with video_conf and flow_mapping"),
        ({}, "video_conf is an object, not nothing"),
        ({"video_conf": {"resolution": "9p", "fps": 5}, "flow_mapping": {}},
         "resolution '9p' is unknown, expected 360p, 480p, 540p, 630p, 720p, 810p, 900p, 990p, "
         "1080p, WIDTHxHEIGHT or native"),
        ({"video_conf": {"resolution": "480p", "fps": 5}, "flow_mapping": {}},
         "flow_mapping does not place brightness"),
    ],
    ids=["no JSON", "no object", "empty", "resolution", "placement"],
)  # fmt: skip
def test_a_plan_that_is_none_is_refused(ask: Vdag, address, tmp_path, content, text):
    path = plan_file(tmp_path, content)
    ended = ask("submit", "brightness", "--node", address, "--plan", path)
    expected = (2, "", f"vdag: {text.format(path=path)}\n")
    assert (ended.returncode, ended.stdout, ended.stderr) == expected


def test_a_cloud_that_wants_a_token_is_shown_it_from_a_file(vdag_command, tmp_path):
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    settings = {
        "port": "0",
        "live_port": "0",
        "channel": "tcp://127.0.0.1:0",
        "token_file": str(token),
        "database": str(tmp_path / "records.db"),
    }
    flags = [
        part for name, value in settings.items() for part in ("--set", f"cloud.{name}={value}")
    ]
    node = Running("--role", "cloud", "--set", f"node.state={tmp_path / 'state'}", *flags,
                   section="cloud.live")  # fmt: skip
    url = node.urls["cloud"]
    refused = vdag_command("queries", "--cloud", url)
    shown = vdag_command("queries", "--cloud", url, "--token-file", token)
    token.chmod(0o644)
    open_to_all = vdag_command("queries", "--cloud", url, "--token-file", token)
    assert node.stop() == 0
    text = "vdag: this service wants a token: Authorization: Bearer <token>\n"
    assert (refused.returncode, refused.stdout, refused.stderr) == (2, "", text)
    assert len(rows(shown)) == 1
    text = f"vdag: token file {token} has mode 0644, not 0600\n"
    assert (open_to_all.returncode, open_to_all.stderr) == (2, text)
    assert TOKEN not in "".join(node.log)
