"""Keys of nodes: the files, the command, and who gets in."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from typer.testing import CliRunner

from vdag.cli import app
from vdag.errors import ConfigError, TransportError
from vdag.transport.channel import bound_address, open_pull, open_push, try_send
from vdag.transport.edge import Edge
from vdag.transport.keys import Gate, KeyFolder, default_folder
from vdag.transport.sockets import Curve

TIMEOUT_MS = 10_000
TIMEOUT_S = 30.0
LOOPBACK = "tcp://127.0.0.1:0"
SMALL = (144, 176, 3)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def folder(tmp_path: Path) -> KeyFolder:
    return KeyFolder(tmp_path / "keys")


@pytest.fixture
def other(tmp_path: Path) -> KeyFolder:
    return KeyFolder(tmp_path / "other")


# Files


def test_the_keys_that_are_made_are_the_keys_that_are_read(folder):
    pair = folder.new("edge-1")
    assert folder.own() == pair
    assert (pair.name, len(pair.public), len(pair.secret)) == ("edge-1", 40, 40)
    assert pair.secret not in repr(pair)


def test_nobody_else_can_read_them(folder):
    folder.new("edge-1")
    folder.trust("gpu-1", "0" * 40)
    files = [folder.path / "own.json", folder.path / "trusted" / "gpu-1.pub"]
    assert [mode(path) for path in files] == [0o600, 0o600]
    assert [mode(path) for path in (folder.path, folder.path / "trusted")] == [0o700, 0o700]
    assert sorted(path.name for path in folder.path.rglob("*")) == [
        "gpu-1.pub",
        "own.json",
        "trusted",
    ]


def test_keys_are_not_replaced_by_accident(folder):
    first = folder.new("edge-1")
    error = f"{folder.path / 'own.json'} exists: these keys would be lost"
    with pytest.raises(ConfigError, match=f"^{re.escape(error)}$"):
        folder.new("edge-1")
    assert folder.own() == first
    assert folder.new("edge-1", replace=True) != first


def test_trust_is_given_changed_and_taken_back(folder):
    one, two = "1" * 40, "2" * 40
    folder.trust("gpu-1", one)
    folder.trust("gpu-2", one)
    folder.trust("gpu-1", two)
    assert folder.trusted() == {"gpu-1": two, "gpu-2": one}
    folder.distrust("gpu-1")
    assert folder.trusted() == {"gpu-2": one}
    with pytest.raises(ConfigError, match=r"^node gpu-1 is not trusted: .* has no key$"):
        folder.distrust("gpu-1")


def test_a_folder_without_keys_says_how_to_make_some(folder):
    assert folder.trusted() == {}
    error = f"folder {folder.path} has no keys: make some with `vdag keys new NAME`"
    with pytest.raises(ConfigError, match=f"^{re.escape(error)}$"):
        folder.own()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-x", "ä", "a" * 65, "a\n"])
def test_what_is_no_name_is_refused(folder, name: str):
    error = f"name {name!r} is not 1 to 64 letters, digits, dots, dashes and underscores"
    for call in (lambda: folder.new(name), lambda: folder.trust(name, "1" * 40)):
        with pytest.raises(ConfigError, match=f"^{re.escape(error)}$"):
            call()
    assert not folder.path.exists()


@pytest.mark.parametrize("key", ["", "1" * 39, "1" * 41, "1" * 39 + " ", "1" * 39 + "é"])
def test_what_is_no_key_is_refused(folder, key: str):
    error = f"key of {len(key)} characters is not 40 characters of Z85"
    with pytest.raises(ConfigError, match=f"^{error}$"):
        folder.trust("gpu-1", key)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{", r"holds no keys: Input data was truncated$"),
        ('{"name": "a", "public": "b"}', r"holds no keys: Object missing required field `secret`$"),
        ('{"name": "a", "public": "b", "secret": "c"}', r"^key of 1 characters is not 40 "),
        ("x" * 2000, r"of 2000 bytes exceeds limit 1024$"),
    ],
)
def test_a_broken_file_of_keys_is_an_error(folder, text: str, error: str):
    folder.new("edge-1")
    (folder.path / "own.json").write_text(text)
    with pytest.raises(ConfigError, match=error):
        folder.own()


def test_keys_that_do_not_belong_together_are_refused(folder, other):
    pair, stranger = folder.new("edge-1"), other.new("edge-2")
    file = folder.path / "own.json"
    file.write_text(file.read_text().replace(pair.secret, stranger.secret))
    with pytest.raises(ConfigError, match=r"holds two keys that do not belong together$"):
        folder.own()


def test_files_that_others_can_read_or_write_are_not_used(folder):
    folder.new("edge-1")
    folder.trust("gpu-1", "1" * 40)
    (folder.path / "own.json").chmod(0o640)
    (folder.path / "trusted" / "gpu-1.pub").chmod(0o620)
    with pytest.raises(ConfigError, match=r"has mode 0640, expected 0600 of user \d+$"):
        folder.own()
    with pytest.raises(ConfigError, match=r"has mode 0620, expected 0600 of user \d+$"):
        folder.trusted()


def test_keys_are_not_put_where_others_can_enter(tmp_path: Path):
    (tmp_path / "open").mkdir(mode=0o755)
    with pytest.raises(ConfigError, match=r"has mode 0755, not 0700$"):
        KeyFolder(tmp_path / "open").new("edge-1")


def test_the_folder_is_the_users_own_unless_it_is_named(monkeypatch, tmp_path: Path):
    monkeypatch.delenv("VDAG_KEYS", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "vdag" / "keys"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".config" / "vdag" / "keys"
    monkeypatch.setenv("VDAG_KEYS", "/run/keys")
    assert default_folder() == Path("/run/keys")


def test_connecting_needs_the_key_of_the_other_node(folder):
    folder.new("edge-1")
    error = "node gpu-1 is not trusted: add its key with `vdag keys trust gpu-1 PUBLIC`"
    with pytest.raises(ConfigError, match=f"^{re.escape(error)}$"):
        folder.to_connect("gpu-1")


# Who gets in


class Server:
    """A PULL that a gate guards."""

    def __init__(self, folder: KeyFolder) -> None:
        self.context: zmq.Context[Any] = zmq.Context()
        self.gate = Gate(self.context, folder)
        curve = folder.to_bind()
        self.socket = open_pull(LOOPBACK, context=self.context, depth=8, curve=curve)
        self.address = bound_address(self.socket)

    def close(self) -> None:
        self.socket.close()
        self.gate.close()
        self.context.term()


@pytest.fixture
def server(folder: KeyFolder) -> Iterator[Server]:
    folder.new("gpu-1")
    server = Server(folder)
    yield server
    server.close()


@pytest.fixture
def context() -> Iterator[zmq.Context]:
    with zmq.Context() as context:
        yield context


def outcome(context: zmq.Context, address: str, curve: Curve | None) -> int:
    """Connect, and return what becomes of the handshake."""
    with open_push(address, context=context, depth=1, curve=curve) as push:
        good = zmq.EVENT_HANDSHAKE_SUCCEEDED
        bad = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
        monitor = push.get_monitor_socket(good | bad | zmq.EVENT_DISCONNECTED)
        assert monitor.poll(TIMEOUT_MS)
        event = int.from_bytes(monitor.recv_multipart()[0][:2], "little")
        if event == good:
            assert push.poll(TIMEOUT_MS, zmq.POLLOUT)
            assert try_send(push, [b"hello"])
        push.disable_monitor()
        monitor.close()
        if event == good:
            push.setsockopt(zmq.LINGER, TIMEOUT_MS)
        return event


def test_a_trusted_node_gets_in_and_is_known_by_its_key(server, folder, other, context):
    pair = other.new("edge-1")
    folder.trust("edge-1", pair.public)
    other.trust("gpu-1", folder.own().public)
    curve = other.to_connect("gpu-1")
    assert outcome(context, server.address, curve) == zmq.EVENT_HANDSHAKE_SUCCEEDED
    assert server.socket.poll(TIMEOUT_MS)
    frame = server.socket.recv(copy=False)
    assert (frame.bytes, frame.get("User-Id")) == (b"hello", pair.public)
    assert server.gate.refused == 0


def test_an_unknown_key_is_refused_until_it_is_trusted(server, folder, other, context):
    pair = other.new("edge-1")
    other.trust("gpu-1", folder.own().public)
    curve = other.to_connect("gpu-1")
    assert outcome(context, server.address, curve) == zmq.EVENT_HANDSHAKE_FAILED_AUTH
    assert server.gate.refused >= 1
    folder.trust("edge-1", pair.public)
    assert outcome(context, server.address, curve) == zmq.EVENT_HANDSHAKE_SUCCEEDED


def test_a_wrong_key_of_the_server_leads_nowhere(server, folder, other, context):
    pair = other.new("edge-1")
    folder.trust("edge-1", pair.public)
    wrong = Curve(pair.public, pair.secret, pair.public)
    assert outcome(context, server.address, wrong) != zmq.EVENT_HANDSHAKE_SUCCEEDED
    assert not server.socket.poll(0)


def test_a_node_without_keys_is_refused(server, context):
    assert outcome(context, server.address, None) != zmq.EVENT_HANDSHAKE_SUCCEEDED
    assert not server.socket.poll(0)


def test_a_folder_that_cannot_be_trusted_lets_nobody_in(server, folder, other, context, caplog):
    pair = other.new("edge-1")
    folder.trust("edge-1", pair.public)
    (folder.path / "trusted" / "edge-1.pub").chmod(0o666)
    curve = Curve(pair.public, pair.secret, folder.own().public)
    assert outcome(context, server.address, curve) == zmq.EVENT_HANDSHAKE_FAILED_AUTH
    assert "nobody can enter: " in caplog.text


def test_without_a_gate_nobody_gets_in(folder, other, context):
    pair = other.new("edge-1")
    curve = Curve(pair.public, pair.secret, folder.new("gpu-1").public)
    with (
        zmq.Context() as guarded,
        open_pull(LOOPBACK, context=guarded, depth=1, curve=folder.to_bind()) as pull,
    ):
        succeeded = zmq.EVENT_HANDSHAKE_SUCCEEDED
        assert outcome(context, bound_address(pull), curve) != succeeded


def test_a_context_has_one_gate(server, folder):
    with pytest.raises(TransportError, match=r"^the context has a gate already$"):
        Gate(server.context, folder)


@pytest.mark.parametrize("is_trusted", [True, False])
def test_frames_and_their_receipts_travel_between_nodes_that_trust_each_other(
    open_node, folder, other, message, small, is_trusted: bool
):
    edge_keys, gpu_keys = other, folder
    edge_pair, gpu_pair = edge_keys.new("edge-1"), gpu_keys.new("gpu-1")
    edge_keys.trust("gpu-1", gpu_pair.public)
    if is_trusted:
        gpu_keys.trust("edge-1", edge_pair.public)
    gpu, home = open_node(keys=gpu_keys), open_node(keys=edge_keys)
    curve = edge_keys.to_connect("gpu-1")
    with Edge(gpu.landing.address, inbox=home.landing, curve=curve) as edge:
        assert edge.offer(message(SMALL, 0), small[0])
        if is_trusted:
            assert (gpu.take()[1] == small[0]).all()
            assert edge.drain(TIMEOUT_S)
            assert edge.stats().arrived == 1
        else:
            assert not edge.drain(1.0)
            assert edge.stats().waiting == 1
    assert (gpu.landing.stats().refused_nodes > 0) is not is_trusted
    gpu.close()
    home.close()


# The command


@pytest.fixture
def run(folder: KeyFolder) -> Any:
    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["keys", *arguments, "--folder", str(folder.path)])

    return run


def test_new_prints_the_public_key_and_show_prints_it_again(run, folder):
    made = run("new", "edge-1")
    assert (made.exit_code, made.stdout) == (0, f"{folder.own().public}\n")
    assert run("show").stdout == made.stdout
    assert folder.own().secret not in made.stdout


def test_list_names_this_node_and_those_it_trusts(run, folder):
    run("new", "edge-1")
    assert run("trust", "gpu-1", "1" * 40).exit_code == 0
    shown = run("list").stdout
    for text in ("edge-1", folder.own().public, "this node", "gpu-1", "1" * 40, "trusted"):
        assert text in shown
    assert run("distrust", "gpu-1").exit_code == 0
    assert "gpu-1" not in run("list").stdout


def test_list_shows_a_key_as_it_is(run):
    key = "[b]:x:" + "1" * 34
    run("new", "edge-1")
    run("trust", "gpu-1", key)
    assert key in run("list").stdout


def test_an_error_is_an_error_of_ours_and_nothing_is_printed(run, folder):
    result = run("show")
    assert isinstance(result.exception, ConfigError)
    assert result.stdout == ""
    run("new", "edge-1")
    before = folder.own()
    assert isinstance(run("new", "edge-1").exception, ConfigError)
    assert folder.own() == before
    assert run("new", "edge-1", "--replace").exit_code == 0
    assert folder.own() != before
