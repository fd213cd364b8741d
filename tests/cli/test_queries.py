"""The commands that speak to a query manager, against a node that does everything."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from node_kit import ROOT, Caller, Running

from vdag.control.policies import BUILT_IN

pytestmark = pytest.mark.slow  # as a whole

TASK = """
import vdag

@vdag.task(outputs=["brightness", "count_result"])
def brightness(image):
    return {"brightness": float(image.mean()), "count_result": {"total": 1}}
"""
POLICY = f"{ROOT / 'examples' / 'policy.py'}:sharpest_in_time"
TOKEN = "correct-horse-battery"
#: Of the video that ends.
FRAMES = 20
#: On which nobody listens: it is for testing what happens then (RFC 6335 reserves it).
NOBODY = "http://127.0.0.1:1"

SETTINGS = """
[node]
roles = ["all"]
state = "{folder}/state"
limits = "rlimit"

[service]
modules = ["{folder}/user_tasks.py"]
slots = [[960, 540, 16]]
tasks.brightness.workers = 1

[edge]
port = 0
live_port = 0
videos.0 = {{path = "synthetic:320x240@25", type = "test pattern"}}
videos.1 = {{path = "synthetic:320x240@25?frames={frames}", pace = "asap"}}

[cloud]
port = 0
live_port = 0
channel = "tcp://127.0.0.1:0"
period_s = 0.1
policy = "golden"
policies = ["{policy}"]
"""

Vdag = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("node")
    (folder / "user_tasks.py").write_text(TASK)
    config = folder / "node.toml"
    config.write_text(SETTINGS.format(folder=folder, policy=POLICY, frames=FRAMES))
    node = Running("--config", str(config))
    yield node
    assert node.stop() == 0
    assert "Traceback" not in "".join(node.log)


@pytest.fixture(scope="module")
def address(cloud: Running) -> str:
    """What names the node: its address and the port of its jobs."""
    return urllib.parse.urlsplit(cloud.urls["edge"]).netloc


@pytest.fixture(scope="module")
def ask(vdag_command, cloud: Running) -> Vdag:
    """Run a command that speaks to the node."""
    variables = {"VDAG_CLOUD": cloud.urls["cloud"]}
    return lambda *arguments: vdag_command(*arguments, env=variables)


@pytest.fixture
def submit(ask: Vdag, address: str) -> Iterator[Callable[..., str]]:
    """Submit a query, which is forgotten after the test, and return its id."""
    ids: list[str] = []

    def run(*arguments: str) -> str:
        ended = ask("submit", "brightness", "--node", address, *arguments)
        assert (ended.returncode, ended.stderr) == (0, "")
        ids.append(ended.stdout.strip())
        assert re.fullmatch(r"GLOBAL_ID_\d+", ids[-1])
        return ids[-1]

    yield run
    for query in ids:
        ask("stop", query, "--delete")


@pytest.fixture
def over(ask: Vdag, submit) -> str:
    """A query whose video is over, and all of whose results are there."""
    query = submit("--video", "1", "--delay", "0.5", "--accuracy", "0.9")
    ended = ask("results", query, "--follow", "--after", "0")
    assert (ended.returncode, ended.stderr) == (0, f"{query} has ended: the video is over\n")
    assert len(ended.stdout.splitlines()) == FRAMES
    return query


def rows(ended: subprocess.CompletedProcess[str]) -> list[list[str]]:
    """The rows of a table whose cells are not wrapped."""
    assert (ended.returncode, ended.stderr) == (0, "")
    return [re.split(r"\s{2,}", line.strip()) for line in ended.stdout.splitlines() if line.strip()]


def plan_file(folder: Path, document: Any) -> Path:
    path = folder / "plan.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


# --- queries ------------------------------------------------------------------------------------


def test_a_query_is_submitted_and_followed_to_its_end(ask: Vdag, address: str):
    ended = ask("submit", "brightness", "--node", address, "--video", "1", "--follow")
    query, *frames = ended.stdout.splitlines()
    assert (ended.returncode, ended.stderr) == (0, f"{query} has ended: the video is over\n")
    for number, line in enumerate(frames):
        pattern = rf"frame {number}  plan 1  delay \d+ ms \(brightness \d+\)  total=1"
        assert re.fullmatch(pattern, line)
    assert len(frames) == FRAMES
    assert ask("stop", query, "--delete").stdout == "query deleted\n"


def test_queries_are_listed_with_what_is_wanted_of_them(ask: Vdag, over, submit, address):
    running = submit()
    listed = rows(ask("queries", "--limit", "2"))
    assert listed == [
        ["query", "state", "video", "tasks", "constraint", "policy", "plan"],
        [over, "ended: the video is over", f"{address}/1", "brightness",
         "delay 0.5, accuracy 0.9", "golden", "1"],
        [running, *listed[2][1:2], f"{address}/0", "brightness", *listed[2][4:]],
    ]  # fmt: skip
    assert [row[0] for row in rows(ask("queries", "--live"))] == ["query", running]


def test_a_query_that_cannot_be_planned_says_why(ask: Vdag, address: str):
    query = ask("submit", "crystal_ball", "--node", address).stdout.strip()
    (_, listed) = rows(ask("queries", "--live"))
    assert listed[:2] == [query, "unscheduled: policy golden: no live node offers crystal_ball"]
    assert ask("plan", query).stdout == f"{query} has no plan yet\n"
    assert ask("stop", query).stdout == "query stopped\n"
    (_, listed) = rows(ask("queries", "--limit", "1"))
    assert listed[:2] == [query, "ended: stopped"]
    ask("stop", query, "--delete")


def test_a_query_that_is_stopped_keeps_its_results_until_it_is_deleted(ask: Vdag, over: str):
    assert ask("stop", over).stdout == "query was over\n"
    assert len(ask("results", over).stdout.splitlines()) == 11
    assert ask("stop", over, "--delete").stdout == "query deleted\n"
    ended = ask("results", over)
    number = over.removeprefix("GLOBAL_ID_")
    assert (ended.returncode, ended.stderr) == (2, f"vdag: query {number} is not known\n")


# --- results ------------------------------------------------------------------------------------


def test_results_are_the_newest_or_those_after_one(ask: Vdag, over: str):
    newest = ask("results", over, "--json").stdout.splitlines()
    assert [json.loads(line)["n_loop"] for line in newest] == list(range(10, FRAMES + 1))
    rest = ask("results", over, "--json", "--after", "17").stdout.splitlines()
    assert rest == newest[-3:]
    assert ask("results", over, "--after", str(FRAMES)).stdout == ""


def test_every_key_of_a_result_is_in_the_documentation(ask: Vdag, over: str):
    frame = json.loads(ask("results", over, "--json", "--after", str(FRAMES - 1)).stdout)
    text = (ROOT / "docs" / "queries.md").read_text()
    context, info = frame["ext_runtime"], frame["proc_resource_info"]
    keys = {
        *frame,
        *context,
        *info,
        *context["plan_result"],
        *frame["ext_plan"],
        *frame["task_conf"],
    }
    assert {key for key in keys - {"brightness"} if f"`{key}`" not in text} == set()
    assert frame["brightness"] > 0
    assert (frame["frame_id"], frame["n_loop"], frame["plan"]) == (FRAMES - 1, FRAMES, 1)
    assert frame["ext_plan"]["flow_mapping"]["brightness"]["node_ip"] == info["node_ip"]
    assert frame["delay"] >= info["compute_latency"]


def test_results_of_a_node_that_says_little_are_shown(ask: Vdag, cloud: Running):
    caller = Caller(cloud.urls["cloud"])
    video = {"node_ip": "127.0.0.1", "node_port": 1, "video_id": 0, "video_type": "street"}
    name = caller.post("/node/join", video).json()["node_addr"]
    query = ask("submit", "car_detection", "--node", name).stdout.strip()
    for result in (4, {"n_loop": 7, "car": 2, "ext_runtime": {"proc_resource_info": {"pid": 1}}}):
        caller.post(
            "/query/sync_result", {"job_uid": query, "job_result": {"appended_result": result}}
        )
    ended = ask("results", query)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines() == [
        "frame ?  plan ?  delay ? ms ()  total=4",
        "frame ?  plan ?  delay ? ms ()  car=2",
    ]
    assert ask("top", "--once").returncode == 0
    assert caller.ask("DELETE", f"/query/{query}").json()["msg"] == "query deleted"
    caller.close()


def test_results_that_are_followed_end_with_the_query(ask: Vdag, start_vdag, cloud, submit):
    query = submit()
    url = cloud.urls["cloud"]
    with start_vdag("results", query, "--follow", "--json", "--cloud", url) as following:
        numbers = [json.loads(following.stdout.readline())["n_loop"] for _ in range(5)]
        assert numbers == list(range(numbers[0], numbers[0] + 5))
        assert ask("stop", query).stdout == "query stopped\n"
        _, said = following.communicate()
    assert (following.returncode, said) == (0, f"{query} has ended: stopped\n")


# --- plans --------------------------------------------------------------------------------------


def test_a_plan_from_a_file_is_kept_to(ask: Vdag, submit, tmp_path):
    conf = {"resolution": "480p", "fps": 5, "encoder": "JPEG"}
    mapping = {"brightness": {"node_role": "host", "node_ip": "127.0.0.1", "model_id": 0}}
    path = plan_file(tmp_path, {"video_conf": conf, "flow_mapping": mapping})
    query = submit("--video", "1", "--plan", str(path))
    ask("results", query, "--follow", "--after", "0")
    ended = ask("plan", query, "--history", "5")
    assert re.fullmatch(
        r"plan 1: 480p, 5 fps, JPEG  submitted\n  brightness: host 127\.0\.0\.1:\d+, model 0\n",
        ended.stdout,
    )
    assert ask("plan", query).stdout == ended.stdout.replace("  submitted", "")
    assert rows(ask("queries", "--limit", "1"))[1][-2:] == ["static", "1"]


def test_a_users_policy_goes_down_while_results_are_late(
    ask: Vdag, start_vdag, cloud, submit, address
):
    query = submit("--policy", POLICY, "--delay", "0.00001")
    url = cloud.urls["cloud"]
    with start_vdag("results", query, "--follow", "--json", "--cloud", url) as following:
        frame = json.loads(following.stdout.readline())
        while frame["plan"] < 3:
            frame = json.loads(following.stdout.readline())
    assert frame["task_conf"]["resolution"] == {"w": 480, "h": 360}
    plans = ask("plan", query, "--history", "9").stdout.splitlines()
    assert plans[0::2] == [
        "plan 1: 540p, 10 fps, JPEG  submitted",
        "plan 2: 480p, 10 fps, JPEG  period",
        "plan 3: 360p, 10 fps, JPEG  period",
    ]
    assert set(plans[1::2]) == {f"  brightness: host {address}, model 0"}


# --- top ----------------------------------------------------------------------------------------


def test_top_shows_nodes_queries_and_their_tasks(
    ask: Vdag, start_vdag, cloud, submit, address, over
):
    query = submit("--delay", "60")
    with start_vdag("results", query, "--follow", "--cloud", cloud.urls["cloud"]) as following:
        assert following.stdout.readline()
    found = rows(ask("top", "--once"))
    assert found[0] == ["node", "videos", "jobs"]
    assert [address, "0 test pattern, 1", query] in found[1:-3]
    assert found[-3] == ["job", "state", "plan", "fps", "delay", "wanted", "objects", "dropped"]
    assert found[-2][:3] == [query, "running", "1"]
    assert found[-1][0] == "brightness"


# --- documentation ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "heading", "sections"),
    [
        ("queries.md", "### Queries, :5000", ["cloud"]),
        ("queries.md", "### Jobs, :5001", ["edge"]),
        ("queries.md", "### Live pictures, :5100 and :5101", ["cloud.live", "edge.live"]),
        ("service.md", "## Endpoints", ["service"]),
    ],
    ids=["cloud", "edge", "live", "service"],
)
def test_the_documentation_has_every_endpoint_and_no_other(cloud: Running, page, heading, sections):
    text = (ROOT / "docs" / page).read_text().partition(f"{heading}\n")[2]
    rows = re.split(r"^##", text, maxsplit=1, flags=re.MULTILINE)[0]
    told = set(re.findall(r"`(?:[A-Z]+\s+)?(/[^`?\s]+)`", rows))
    there: set[str] = set()
    for section in sections:
        caller = Caller(cloud.urls[section])
        there |= caller.get("/openapi.json").json()["paths"].keys()
        caller.close()
    assert told - {"/docs"} == there


def test_a_portrait_has_what_the_documents_say_of_each_task(cloud: Running, over: str):
    caller = Caller(cloud.urls["cloud"])
    portrait = caller.get(f"/query/get_portrait_info/{over}").json()
    caller.close()
    assert portrait["user_constraint"] == {"delay": 0.5, "accuracy": 0.9}
    assert portrait["cur_latency"] >= portrait["cur_process_latency"] > 0
    assert portrait["process_delay"].keys() == portrait["delay"].keys() == {"brightness"}
    task = portrait["resource_portrait"]["brightness"]
    assert (task["node_ip"], task["node_role"], task["cpu_util_limit"]) == ("127.0.0.1", "cloud", 1)
    assert portrait["available_resource"].keys() == {"127.0.0.1"}
    assert portrait["exe_plan"]["flow_mapping"].keys() == {"brightness"}


# --- mistakes -----------------------------------------------------------------------------------


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


# --- explain ------------------------------------------------------------------------------------


def explained(ask: Vdag, query: str) -> Any:
    """What is said of a query, once something was measured under its plan."""
    deadline_s = time.monotonic() + 120
    while True:
        ended = ask("explain", query, "--json")
        assert (ended.returncode, ended.stderr) == (0, "")
        found = json.loads(ended.stdout)
        if any(each.get("measured", {}).get("reports") for each in found["decisions"]):
            return found
        assert time.monotonic() < deadline_s, found


def test_a_decision_is_explained_with_what_was_foretold_and_measured(ask: Vdag, submit):
    query = submit("--delay", "0.5", "--accuracy", "0.5", "--policy", "predictive")
    found = explained(ask, query)
    assert found["user_constraint"] == {"delay": 0.5, "accuracy": 0.5}
    first = found["decisions"][0]
    assert (first["number"], first["cause"], first["policy"]) == (1, "submitted", "predictive")
    assert first["explanation"]["why"]
    assert first["explanation"]["predicted"]["delay_p95"] > 0
    assert first["plan"]["flow_mapping"]["brightness"]["node_role"] == "host"
    shown = ask("explain", query, "--plans", "1000").stdout
    assert re.search(rf"{query}: delay 0.5, accuracy 0.5; policy predictive", shown)
    assert re.search(r"plan 1 at \d\d:\d\d:\d\d, submitted, by predictive", shown)
    assert re.search(r"foretold +\d+ ms +\d+ ms", shown)
    assert re.search(r"measured +\d+ ms +\d+ ms .* \d+% of \d+ reports in time", shown)


def test_a_bound_that_cannot_be_kept_is_said_with_the_best_there_is(ask: Vdag, submit):
    query = submit("--delay", "0.0001", "--policy", "predictive")
    found = explained(ask, query)
    bound = found["decisions"][0]["explanation"]["bound"]
    assert (bound["what"], bound["limit"]) == ("delay", 0.0001)
    assert bound["best"] > bound["limit"]
    text = "delay of 0.0001 cannot be kept: the best there is is"
    assert text in ask("explain", query).stdout
    assert text in ask("plan", query).stdout


def test_a_query_that_is_not_there_cannot_be_explained(ask: Vdag):
    ended = ask("explain", "GLOBAL_ID_999")
    assert ended.returncode == 2
    assert ended.stderr == "vdag: query 999 is not known\n"
