"""Live sources over real MJPEG by HTTP, from a camera that the test commands."""

from __future__ import annotations

import http.server
import queue
import socketserver
import threading
from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from vdag.errors import SourceError, SourceTimeout
from vdag.frame import Frame
from vdag.sources import Reconnect, SingleFrameGenerator, open_source

SOON = Reconnect(attempts=50, initial_s=0.01, max_s=0.02)


class Camera(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """An MJPEG camera that shows what it is told; each connection starts with three pictures."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), CameraHandler)
        self.orders: queue.Queue[int | None] = queue.Queue()
        self.connections = 0
        self.url = f"http://127.0.0.1:{self.server_port}/stream"
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def show(self, *values: int) -> None:
        """Send grey pictures of these values."""
        for value in values:
            self.orders.put(value)

    def hang_up(self) -> None:
        """End the connection that is open."""
        self.orders.put(None)

    def turn_off(self) -> None:
        self.hang_up()
        self.shutdown()
        self.server_close()
        self._thread.join(10)


class CameraHandler(http.server.BaseHTTPRequestHandler):
    server: Camera

    def do_GET(self) -> None:
        self.server.connections += 1
        value = self.server.connections * 10
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        try:
            for _ in range(3):
                self.send_picture(value)
            while (order := self.server.orders.get(timeout=20)) is not None:
                self.send_picture(order)
        except (OSError, queue.Empty):
            self.close_connection = True

    def send_picture(self, value: int) -> None:
        jpeg = cv2.imencode(".jpg", np.full((48, 64, 3), value, np.uint8))[1].tobytes()
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
        self.wfile.write(head.encode() + jpeg + b"\r\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name
        pass


@pytest.fixture
def camera() -> Iterator[Camera]:
    camera = Camera()
    yield camera
    camera.turn_off()


def read_until(source: SingleFrameGenerator, value: int) -> Frame:
    """Read frames until one shows `value`."""
    while True:
        frame = source.read(timeout_s=20)
        assert frame is not None
        if abs(int(frame.pixels[0, 0, 0]) - value) <= 2:
            return frame


def close(source: SingleFrameGenerator, camera: Camera) -> None:
    """Close the source, with a picture that ends the read its thread is in."""
    closing = threading.Thread(target=source.close)
    closing.start()
    while source.read(timeout_s=20) is not None:
        pass
    camera.show(0)
    closing.join(20)
    assert not closing.is_alive()


def test_an_mjpeg_camera_is_a_live_source(camera: Camera) -> None:
    with open_source(camera.url) as source:
        assert (source.live, source.frame_count, source.fps) == (True, None, 0.0)
        assert (source.width, source.height, source.name) == (64, 48, camera.url)
        camera.show(100, 200)
        last = read_until(source, 200)
        stats = source.stats()
        close(source, camera)
    assert last.pts_s is not None
    assert last.pts_s >= 0
    assert stats.decoded == stats.read + stats.skipped + stats.late_dropped == 5


def test_a_camera_that_hangs_up_is_connected_again(camera: Camera) -> None:
    with open_source(camera.url, reconnect=SOON) as source:
        first = read_until(source, 10)
        camera.hang_up()
        again = read_until(source, 20)
        assert again.cam_frame_id > first.cam_frame_id
        assert again.pts_s is not None
        assert first.pts_s is not None
        assert again.pts_s > first.pts_s
        assert again.capture_ns > first.capture_ns
        assert source.stats().reconnects == 1
        camera.hang_up()
        read_until(source, 30)
        assert source.stats().reconnects == 2
        close(source, camera)


def test_a_camera_that_falls_silent_is_connected_again(camera: Camera) -> None:
    with open_source(camera.url, read_timeout_s=0.3, reconnect=SOON) as source:
        read_until(source, 10)
        read_until(source, 20)  # nothing was sent meanwhile, but by the new connection
        stats = source.stats()
    assert stats.reconnects >= 1
    assert stats.errors >= 1


def test_a_camera_that_dies_and_returns_is_found_again() -> None:
    camera = Camera()
    with open_source(camera.url, reconnect=SOON) as source:
        read_until(source, 10)
        camera.turn_off()
        returned = Camera(camera.server_port)
        returned.connections = 6
        read_until(source, 70)
        returned.turn_off()


def test_a_camera_that_dies_for_good_is_an_error() -> None:
    camera = Camera()
    source = open_source(camera.url, reconnect=Reconnect(attempts=2, initial_s=0.01))
    read_until(source, 10)
    camera.turn_off()
    with pytest.raises(SourceError) as caught:
        list(source)
    assert str(caught.value) == (
        f"{camera.url}: cannot be opened: connection refused; given up after 2 reconnections"
    )
    assert source.read() is None
    source.close()


def test_close_ends_a_read_of_a_silent_camera(camera: Camera) -> None:
    source = open_source(camera.url, read_timeout_s=1.0)
    read_until(source, 10)
    ended = threading.Event()

    def read() -> None:
        for _ in source:
            pass
        ended.set()

    reader = threading.Thread(target=read)
    reader.start()
    source.close()
    assert ended.wait(10)
    reader.join(10)
    assert source.read() is None


def test_a_server_that_never_answers_is_a_timeout() -> None:
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}/stream"
        with pytest.raises(SourceTimeout) as caught:
            open_source(url, read_timeout_s=0.3)
    assert str(caught.value) == f"{url}: cannot be opened: nothing for 0.3 s"


def test_a_page_that_is_not_there_is_an_error(camera: Camera) -> None:
    class Nothing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Nothing) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/cam"
        with pytest.raises(SourceError) as caught:
            open_source(url, read_timeout_s=5)
    assert str(caught.value) == f"{url}: cannot be opened: server returned 404 not found"
