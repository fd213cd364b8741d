"""Live pictures: what viewers get of a job, over real connections, directly and through a cloud."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from vdag import _native as native
from vdag.control.jobs.live import MAX_WATCHERS, LiveView
from vdag.control.sidechannel import create_cloud_app, create_node_app
from vdag.errors import Saturated
from vdag.frame import Frame
from vdag.node.listening import Door, Servers, bind
from vdag.results import Result

TIMEOUT_S = 20.0
TOKEN = "correct-horse-battery"
HEAD = b"--frame\r\nContent-Type: image/jpeg\r\n\r\n"


class Lease:
    """Counts the frames that were not given back."""

    def __init__(self) -> None:
        self.held = 0

    def frame(self, level: int) -> Frame:
        self.held += 1
        pixels = np.full((96, 128, 3), level, np.uint8)
        return Frame(pixels, stream="job", seq=level, cam_frame_id=level, capture_ns=0, lease=self)

    def release(self) -> None:
        self.held -= 1


def result(level: int, lease: Lease) -> Result:
    outputs = {"face_detection": {"bbox": np.float32([[20, 20, 90, 80]]), "prob": [0.9]}}
    frame = lease.frame(level)
    return Result("job", level, level, None, frame.width, frame.height, outputs, frame=frame)


@pytest.fixture
def lease() -> Iterator[Lease]:
    lease = Lease()
    yield lease
    assert lease.held == 0


@pytest.fixture
def view(lease: Lease) -> Iterator[LiveView]:
    view = LiveView()
    yield view
    view.close()


class Site:
    """A node's side channel, and a cloud's that knows of it."""

    def __init__(self, view: LiveView, token: str = "") -> None:
        sockets = [bind(name, "127.0.0.1", 0) for name in ("edge", "cloud")]
        self.ports = [found.getsockname()[1] for found in sockets]
        near = create_node_app({"GLOBAL_ID_1": view}.get, token=token)
        far = create_cloud_app(
            lambda uid: {"GLOBAL_ID_1": "127.0.0.1:5001"}.get(uid, ""),
            live_port=self.ports[0],
            token=token,
        )
        self.sockets = sockets
        self.connections: list[http.client.HTTPConnection] = []
        self.servers = Servers([Door(near, sockets[0]), Door(far, sockets[1])])
        self.thread = threading.Thread(target=lambda: asyncio.run(self.servers.serve()))
        self.thread.start()
        assert self.servers.wait_started(TIMEOUT_S)

    def get(self, side: int, path: str, **headers: str) -> http.client.HTTPResponse:
        connection = self.connect(side)
        connection.request("GET", path, headers=headers)
        return connection.getresponse()

    def post(self, path: str, body: bytes) -> http.client.HTTPResponse:
        connection = self.connect(1)
        connection.request("POST", path, body)
        return connection.getresponse()

    def connect(self, side: int) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[side], timeout=TIMEOUT_S)
        self.connections.append(connection)
        return connection

    def close(self) -> None:
        for connection in self.connections:
            connection.close()
        self.servers.stop()
        self.thread.join(TIMEOUT_S)
        assert not self.thread.is_alive()
        for found in self.sockets:
            found.close()


@pytest.fixture
def site(view: LiveView) -> Iterator[Site]:
    site = Site(view)
    yield site
    view.close()
    site.close()


class Feeder:
    """Shows pictures of rising level for as long as somebody looks on."""

    def __init__(self, view: LiveView, lease: Lease) -> None:
        self.view, self.lease = view, lease
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        level = 0
        while not self.stopped.wait(0.005):  # the pace of the pictures
            level = (level + 1) % 250
            shown = result(level, self.lease)
            self.view.show(shown)
            shown.drop_frame()

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *exc: object) -> None:
        self.stopped.set()
        self.thread.join(TIMEOUT_S)


def picture(reply: http.client.HTTPResponse) -> np.ndarray:
    """Read one part, exactly as documented."""
    assert reply.read(len(HEAD)) == HEAD
    data = b""
    while not data.endswith(b"\xff\xd9\r\n\r\n"):
        data += reply.read(1)
    return native.jpeg.decode(data[:-4])


@pytest.mark.parametrize("side", [0, 1])
def test_a_viewer_gets_pictures_as_documented(site, view, lease, side):
    with Feeder(view, lease):
        reply = site.get(side, "/user/video/GLOBAL_ID_1")
        assert reply.status == 200
        expected = "multipart/x-mixed-replace; boundary=frame"
        assert reply.headers["content-type"] == expected
        shapes = {picture(reply).shape for _ in range(3)}
        assert shapes == {(96, 128, 3)}


@pytest.mark.parametrize("side", [0, 1])
def test_what_was_found_is_drawn_for_those_who_ask_for_it(site, view, lease, side):
    with Feeder(view, lease):
        plain = site.get(side, "/user/video/GLOBAL_ID_1?overlay=0")
        drawn = site.get(side, "/user/video/GLOBAL_ID_1?overlay=1")
        assert np.ptp(picture(plain)) <= 2
        assert np.ptp(picture(drawn)) > 50


def test_the_stream_ends_with_its_job(site, view, lease):
    with Feeder(view, lease):
        replies = [site.get(side, "/user/video/GLOBAL_ID_1") for side in (0, 1)]
        for reply in replies:
            picture(reply)
        view.close()
        for reply in replies:
            reply.read()  # to its end, which comes
            assert reply.isclosed()


@pytest.mark.parametrize(("side", "msg"), [(0, "video not ready"), (1, "video not ready on cloud")])
def test_an_unknown_job_is_answered_as_documented(site, side, msg):
    reply = site.get(side, "/user/video/NOPE")
    assert (reply.status, json.loads(reply.read())) == (200, {"msg": msg, "status": 1})


def test_a_job_that_is_over_has_no_pictures(site, view):
    view.close()
    reply = site.get(0, "/user/video/GLOBAL_ID_1")
    assert json.loads(reply.read()) == {"msg": "video not ready", "status": 1}


def test_a_cloud_is_told_where_the_pictures_of_other_nodes_are(site, view, lease):
    told = {"job_uid": "GLOBAL_ID_1", "node_addr": "127.0.0.1:1"}
    reply = site.post("/user/update_node_addr", json.dumps(told).encode())
    msg = "update <job_uid, addr> (<GLOBAL_ID_1, 127.0.0.1:1>) to cloud"
    assert json.loads(reply.read())["msg"] == msg
    reply = site.get(1, "/user/video/GLOBAL_ID_1")  # nobody is there
    assert json.loads(reply.read()) == {"msg": "video not ready on cloud", "status": 1}
    told["node_addr"] = f"127.0.0.1:{site.ports[0]}"
    assert site.post("/user/update_node_addr", json.dumps(told).encode()).status == 200
    with Feeder(view, lease):
        reply = site.get(1, "/user/video/GLOBAL_ID_1")
        assert picture(reply).shape == (96, 128, 3)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b'{"job_uid": "x"}', 400),
        (b'{"job_uid": "x", "node_addr": "nowhere"}', 400),
        (b'{"job_uid": "x", "node_addr": "h:99999"}', 400),
        (b" " * 20_000, 413),
    ],
)
def test_a_wrong_address_is_refused(site, body, status):
    reply = site.post("/user/update_node_addr", body)
    assert reply.status == status
    assert json.loads(reply.read())["status"] == 1


def test_a_cloud_shows_nodes_the_token_that_it_was_shown(view, lease):
    site = Site(view, TOKEN)
    try:
        assert site.get(1, "/user/video/GLOBAL_ID_1").status == 401
        with Feeder(view, lease):
            reply = site.get(1, "/user/video/GLOBAL_ID_1", Authorization=f"Bearer {TOKEN}")
            assert picture(reply).shape == (96, 128, 3)
    finally:
        view.close()
        site.close()


def test_without_viewers_a_job_keeps_its_frames(view, lease):
    shown = result(1, lease)
    view.show(shown)
    assert shown.frame is not None
    shown.drop_frame()


def test_a_viewer_who_takes_nothing_misses_pictures_and_holds_none(view, lease):
    woken = threading.Semaphore(0)
    slow = view.watch(woken.release)
    for level in range(1, 6):
        view.show(result(level, lease))
        assert woken.acquire(timeout=TIMEOUT_S)
    newest = slow.take()
    assert newest is not None
    assert native.jpeg.decode(newest)[0, 0, 0] == pytest.approx(5, abs=2)
    assert slow.take() is None
    view.leave(slow)
    view.leave(slow)


def test_there_are_not_more_viewers_than_there_may_be(view):
    for _ in range(MAX_WATCHERS):
        view.watch(lambda: None)
    with pytest.raises(Saturated, match="64 viewers look on already"):
        view.watch(lambda: None)
