"""The example in `config/`, run as docs/orchestrator.md says, on ports that are free."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import av
import pytest
from node_kit import MAIN, Caller
from waiting_kit import until

import vdag

pytestmark = pytest.mark.slow

ROOT = Path(vdag.__file__).parents[1]
TIMEOUT_S = 120.0
NODES = ("client", "edge_server", "cloud_server")


class Place:
    """A folder with `config/` and a clip, in which things are run.

    Attributes:
        folder: the folder.
        url: of the coordinator.
    """

    def __init__(self, folder: Path, clip: Path, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        shutil.copytree(ROOT / "config", folder / "config")
        shutil.copy(clip, folder / "faces.mp4")
        self._run = tempfile.mkdtemp(prefix="vy-")  # short: paths of sockets are
        stack.callback(shutil.rmtree, self._run, ignore_errors=True)
        self._ports = iter(free_ports(8))
        orders, channel = next(self._ports), next(self._ports)
        self.url, self._channel = f"http://127.0.0.1:{orders}", f"tcp://127.0.0.1:{channel}"
        conf = folder / "config/coordinator.conf"
        more = f"[coordinator]\ncoordinator_port = {orders}\nchannel = {self._channel}\n"
        conf.write_text(conf.read_text().replace("[coordinator]\n", more))

    def start(self) -> None:
        """Start all, and wait until the nodes are there."""
        self._start("-m", "vdag", "coordinator", "config/coordinator.conf")
        for name in NODES:
            settings = [
                f"node.controller={self._channel}",
                f"node.landing=tcp://127.0.0.1:{next(self._ports)}",
                f"service.port={next(self._ports)}",
            ]
            if name == "client":
                settings += ["edge.port=0", "edge.live_port=0"]
            flags = [part for each in settings for part in ("--set", each)]
            self._start("-c", MAIN, "--config", f"config/{name}.toml", *flags)
        until(self._are_there, TIMEOUT_S)

    def vdag(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "vdag", *arguments],
            capture_output=True, text=True, env=self._environment(), cwd=self.folder,
            timeout=TIMEOUT_S,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def _are_there(self) -> bool | None:
        try:
            with closing(Caller(self.url)) as caller:
                nodes = caller.get("/node").json()["nodes"]
        except OSError:
            return None
        return {each["node_name"] for each in nodes if each["is_there"]} == {*NODES} or None

    def _start(self, *command: str) -> None:
        process = subprocess.Popen(
            [sys.executable, *command], env=self._environment(), cwd=self.folder
        )
        self._stack.callback(end, process)

    def _environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("VDAG_")}
        own = {"XDG_STATE_HOME": str(self.folder / "state"), "XDG_RUNTIME_DIR": self._run}
        url = {"VDAG_COORDINATOR": self.url, "COLUMNS": "200", "PYTHONPATH": str(ROOT)}
        return {**kept, **own, **url}


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in found:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in found]


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(TIMEOUT_S)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def place(tmp_path: Path, carphone: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        place = Place(tmp_path, carphone, stack)
        place.start()
        yield place


def test_the_example_finds_faces_in_a_clip_and_leaves_a_video(place: Place):
    assert place.vdag("session", "create", "detect_faces", "--start") == (
        "session 1 detect_faces: running\n"
    )
    database = str(place.folder / "reports.db")

    def whole() -> int | None:
        done = subprocess.run(
            [sys.executable, "-m", "vdag", "trace", "1", "--database", database],
            capture_output=True, text=True, env=place._environment(), timeout=TIMEOUT_S,
        )  # fmt: skip
        found = re.search(r", (\d+) whole", done.stdout)
        return int(found[1]) if found and int(found[1]) >= 20 else None

    assert until(whole, TIMEOUT_S) >= 20
    placement = place.vdag("session", "placement", "1")
    assert "handler 0: node 0 client" in placement
    assert "handler 5: node 2 cloud_server" in placement
    assert place.vdag("session", "stop", "1") == "session 1 detect_faces: stopped\n"
    assert place.vdag("session", "delete", "1") == "session 1 detect_faces: deleted\n"
    shown = place.folder / "faces_found.mp4"
    until(lambda: shown.exists() or None, TIMEOUT_S)  # its worker ends now, and it gets its name
    with av.open(str(shown)) as video:
        sizes = {(frame.width, frame.height) for frame in video.decode(video=0)}
    assert sizes == {(640, 480)}


def test_the_files_of_the_example_name_the_same_nodes():
    files = {path.stem for path in (ROOT / "config").glob("*.toml")}
    nodes = [json.loads(path.read_text()) for path in (ROOT / "config/nodes").iterdir()]
    assert {node["node_name"] for node in nodes} == files == {*NODES}
