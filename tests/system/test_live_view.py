"""Pictures of a job at the cloud: as JPEG over a fast link, as H.264 over a thin one."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from system_kit import TIMEOUT_S, TOKEN, System, until

from vdag import _native as native
from vdag.control.viewing.multipart import PartReader

CHAIN = ["first", "second"]
FPS = 25
SIZE = (640, 360)
THIN = "1mbit"
#: Long enough for some pictures even where there are two in a second.
COUNTED_S = 6.0
AS_JPEG, AS_H264 = r"pictures of .* come as JPEG", r"pictures of .* come as H\.264"


@pytest.fixture
def nothing_is_left() -> None:
    """The nodes are everybody's; what must not be left is looked for by `system`."""


@pytest.fixture(scope="module")
def hosts(make_hosts):
    return make_hosts(2)


@pytest.fixture(scope="module")
def system(hosts, tasks, clips: Path, tmp_path_factory) -> Iterator[System]:
    video = {"path": str(clips / "bikes.mp4"), "loop": True, "policy": "latest"}
    with System(
        hosts,
        tmp_path_factory.mktemp("system"),
        modules=tasks,
        tasks={"cloud": CHAIN, "edge": CHAIN},
        videos={"edge": {"0": video}},
        cloud={"period_s": 3600},
    ) as system:
        yield system
        system.end_well()


@pytest.fixture
def query(system: System) -> Iterator[str]:
    plan = {
        "video_conf": {"resolution": "640x360", "fps": FPS, "encoder": "raw"},
        "flow_mapping": system.place(first="edge", second="edge"),
    }
    query = system.submit("edge", 0, CHAIN, policy="static", plan=plan)
    system.wait_results(query, 3)
    yield query
    system.query(query)  # a connection that was idle for long may have ended
    system.cloud.post("/query/stop", {"query_id": query})
    system.wait_state(query, "ended")


@pytest.fixture
def thin(hosts) -> Iterator[None]:
    hosts.thin(1, THIN)
    yield
    hosts.widen(1)


class Viewer:
    """Looks at a job, as a browser does, and counts the pictures."""

    def __init__(self, system: System, name: str, query: str, parameters: str = "") -> None:
        node = system.nodes[name]
        port = 5100 if name == "cloud" else 5101
        # A viewer of the node sits at the cloud: the link is between them.
        sock = node.hosts.connect(0, node.address, port, TIMEOUT_S)
        self._connection = http.client.HTTPConnection(node.address, port)
        self._connection.sock = sock
        headers = {"authorization": f"Bearer {TOKEN}"}
        self._connection.request("GET", f"/user/video/{query}{parameters}", headers=headers)
        self.reply = self._connection.getresponse()
        assert self.reply.headers["content-type"] == "multipart/x-mixed-replace; boundary=frame"
        self.count = 0
        self.newest = b""
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        reader = PartReader("frame")
        try:
            while data := self.reply.read1(1 << 16):
                for piece in reader.read(data):
                    self.count += 1
                    self.newest = piece.data
        except (OSError, ValueError, AttributeError, http.client.HTTPException):
            pass  # it was closed

    def rate(self) -> float:
        """Return the pictures per second from now on."""
        before, begin_s = self.count, time.monotonic()
        threading.Event().wait(COUNTED_S)
        return (self.count - before) / (time.monotonic() - begin_s)

    def close(self) -> None:
        sock = self._connection.sock or self.reply.fp.raw._sock
        sock.shutdown(2)
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()
        self._connection.close()


@contextmanager
def viewing(system: System, name: str, query: str, parameters: str = "") -> Iterator[Viewer]:
    viewer = Viewer(system, name, query, parameters)
    try:
        until(lambda: viewer.count)
        yield viewer
    finally:
        viewer.close()


@pytest.mark.slow
def test_a_fast_link_carries_jpeg(system: System, query: str):
    mark = len(system.nodes["cloud"].log)
    with viewing(system, "cloud", query) as viewer:
        system.nodes["cloud"].wait_for(AS_JPEG, mark)
        until(lambda: viewer.count > 3 * FPS)
        assert native.jpeg.decode(viewer.newest).shape == (*SIZE[::-1], 3)
    assert not any("come as H.264" in line for line in system.nodes["cloud"].log[mark:])


@pytest.mark.slow
def test_a_thin_link_carries_several_times_the_pictures_as_h264(system: System, query: str, thin):
    with viewing(system, "edge", query) as viewer:
        as_jpeg = viewer.rate()
    mark = len(system.nodes["cloud"].log)
    with viewing(system, "cloud", query) as viewer, viewing(system, "cloud", query) as another:
        system.nodes["cloud"].wait_for(AS_H264, mark)
        as_h264 = viewer.rate()
        assert native.jpeg.decode(viewer.newest).shape == (*SIZE[::-1], 3)
        before = another.count
        until(lambda: another.count > before)
    print(f"\n{THIN}: {as_jpeg:.1f} pictures per second as JPEG, {as_h264:.1f} as H.264")
    assert as_h264 > 3 * as_jpeg


@pytest.mark.slow
def test_a_viewer_sees_the_job_go_on_after_a_cut(system: System, query: str, hosts):
    with viewing(system, "cloud", query) as viewer:
        mark = len(system.nodes["cloud"].log)
        hosts.cut(1)
        try:
            system.nodes["cloud"].wait_for(r"side channel .*: ", mark)
        finally:
            hosts.mend(1)
        before = viewer.count
        until(lambda: viewer.count > before + FPS)
