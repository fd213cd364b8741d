"""A job's live view, with a node and a cloud that show it over real connections."""

from __future__ import annotations

import asyncio
import http.client
import threading

import numpy as np

from vdag import _native as native
from vdag.control.http.listening import bind
from vdag.control.jobs.live import LiveView
from vdag.control.sidechannel import create_cloud_app, create_node_app
from vdag.control.viewing.pace import Wanted
from vdag.frame import Frame
from vdag.node.listening import Door, Servers
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


class Site:
    """A node's side channel, and a cloud's that knows of it."""

    def __init__(self, view: LiveView, token: str = "", codec: Wanted = "auto") -> None:
        sockets = [bind("127.0.0.1", 0, host_key=f"{name}.host") for name in ("edge", "cloud")]
        self.ports = [found.getsockname()[1] for found in sockets]
        near = create_node_app({"GLOBAL_ID_1": view}.get, token=token)
        far = create_cloud_app(
            lambda uid: {"GLOBAL_ID_1": "127.0.0.1:5001"}.get(uid, ""),
            live_port=self.ports[0],
            codec=codec,
            token=token,
        )
        self.sockets = sockets
        self.connections: list[http.client.HTTPConnection] = []
        doors = [
            Door(app, found, app.state.audience.close)
            for app, found in zip((near, far), sockets, strict=True)
        ]
        self.servers = Servers(doors)
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

    def hang_up(self) -> None:
        """End all connections, as viewers do."""
        for connection in self.connections:
            connection.close()

    def close(self) -> None:
        self.hang_up()
        self.servers.stop()
        self.thread.join(TIMEOUT_S)
        assert not self.thread.is_alive()
        for found in self.sockets:
            found.close()


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
