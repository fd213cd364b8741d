"""Pictures at a cloud: one way to the node for all who look on, whatever it carries."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from live_kit import TIMEOUT_S, Feeder, Lease, Site, picture, result
from system_kit import until

from vdag import _native as native
from vdag.control.jobs.live import LiveView
from vdag.control.viewing.pace import Coding
from vdag.control.viewing.pieces import HEAD, Kind, Piece, PieceReader, write
from vdag.transport.h264 import Decoder, Encoder

pytestmark = pytest.mark.slow  # as a whole

PATH = "/user/video/GLOBAL_ID_1"
JPEG = bytes(native.jpeg.encode(np.full((48, 64, 3), 90, np.uint8)))


@pytest.fixture(params=["auto", "mjpeg", "h264"])
def coded(view: LiveView, request) -> Iterator[Site]:
    site = Site(view, codec=request.param)
    yield site
    view.close()
    site.close()


def test_viewers_of_a_cloud_share_one_way_to_the_node(coded, view, lease):
    with Feeder(view, lease):
        replies = [coded.get(1, PATH) for _ in range(4)]
        for reply in replies:
            for _ in range(3):
                shown = picture(reply)
                assert shown.shape == (96, 128, 3)
                assert np.ptp(shown) <= 4
        assert len(view._watchers) == 1


def test_nothing_is_pulled_when_nobody_looks(coded, view, lease):
    with Feeder(view, lease):
        for _ in range(2):
            replies = [coded.get(1, PATH) for _ in range(2)]
            for reply in replies:
                picture(reply)
            coded.hang_up()
            until(lambda: not view._watchers, TIMEOUT_S)
    until(lambda: view._thread is None, TIMEOUT_S)


def test_the_newest_picture_is_shown_as_it_was(view, lease):
    site = Site(view, codec="h264")
    try:
        with Feeder(view, lease):
            first = site.get(1, PATH)
            picture(first)
        # The feeder has stopped: every viewer sees what is shown from now on, once each.
        levels = []
        for level in (40, 120, 200):
            shown = result(level, lease)
            view.show(shown)
            shown.drop_frame()
            until(lambda level=level: abs(int(picture(first).mean()) - level) <= 2, TIMEOUT_S)
            levels.append(level)
        assert levels == [40, 120, 200]
    finally:
        view.close()
        site.close()


def test_a_node_sends_a_cloud_pieces_that_begin_with_a_key_frame(site, view, lease):
    with Feeder(view, lease):
        reply = site.get(0, f"{PATH}?codec=h264")
        assert reply.headers["content-type"] == "application/x-vdag-pictures"
        reader, found = PieceReader(), []
        while sum(piece.kind.is_h264 for piece in found) < 5:
            found += reader.read(reply.read1(4096))
    kinds = [piece.kind for piece in found if piece.kind is not Kind.NOTHING]
    coded = kinds[kinds.index(Kind.KEY) :]
    assert set(kinds[: kinds.index(Kind.KEY)]) <= {Kind.JPEG}
    assert set(coded[1:]) == {Kind.DELTA}
    decoder, out = Decoder(128, 96), np.empty((96, 128, 3), np.uint8)
    for piece in found:
        if piece.kind.is_h264:
            decoder.copy_pixels(decoder.decode(piece.data), out)
    assert np.ptp(out) <= 4


def test_a_codec_that_is_none_is_refused(site):
    reply = site.get(0, f"{PATH}?codec=av1")
    expected = "codec is 'av1', expected auto, mjpeg or h264"
    assert (reply.status, json.loads(reply.read())["error"]) == (400, expected)


def test_h264_is_not_coded_for_those_who_have_not_taken_the_one_before(view, lease):
    woken = threading.Semaphore(0)
    watcher = view.watch(woken.release)
    watcher.code_as(Coding(1_000_000, 25.0))

    def show(level: int) -> None:
        before = watcher.offered
        view.show(result(level, lease))
        until(lambda: watcher.offered > before, TIMEOUT_S)

    for level in (10, 20, 30):
        show(level)
    first = watcher.take()
    assert first is not None
    assert first.kind is Kind.KEY
    assert watcher.take() is None
    show(40)
    second = watcher.take()
    assert second is not None
    assert second.kind is Kind.DELTA
    decoder, out = Decoder(128, 96), np.empty((96, 128, 3), np.uint8)
    for piece, level in ((first, 10), (second, 40)):
        decoder.copy_pixels(decoder.decode(piece.data), out)
        assert out.mean() == pytest.approx(level, abs=2)
    watcher.code_as(None)
    show(50)
    third = watcher.take()
    assert third is not None
    assert third.kind is Kind.JPEG
    view.leave(watcher)


# Nodes of which nothing is known.


class Stub:
    """A side channel that answers each connection with the next of these, and then ends it."""

    def __init__(self, *answers: bytes) -> None:
        self._answers = list(answers)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.asked: list[bytes] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        for answer in self._answers:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # it was closed
            with connection:
                connection.settimeout(TIMEOUT_S)
                self.asked.append(connection.recv(1 << 16))
                connection.sendall(answer)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()


@contextmanager
def stub(site: Site, *answers: bytes) -> Iterator[Stub]:
    stub = Stub(*answers)
    told = {"job_uid": "GLOBAL_ID_1", "node_addr": stub.address}
    assert site.post("/user/update_node_addr", json.dumps(told).encode()).status == 200
    try:
        yield stub
    finally:
        stub.close()


def answer(content_type: str, *parts: bytes, ends: bool = True) -> bytes:
    """Return a chunked reply, which may lack its end."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return head.encode() + chunks + b"0\r\n\r\n" * ends


def pieces(*found: Piece, ends: bool = True) -> bytes:
    return answer("application/x-vdag-pictures", *(write(each) for each in found), ends=ends)


def test_a_node_of_another_make_is_understood(site):
    part = b"--frame\r\nContent-Type: image/jpeg\r\n\r\n" + JPEG + b"\r\n\r\n"
    content_type = "multipart/x-mixed-replace; boundary=frame"
    with stub(site, answer(content_type, part[:50], part[50:])):
        reply = site.get(1, PATH)
        assert reply.status == 200
        assert reply.read() == part


def test_a_reply_without_a_length_is_understood(site):
    part = b"--frame\r\nContent-Type: image/jpeg\r\n\r\n" + JPEG + b"\r\n"
    head = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"
    with stub(site, head + part):
        assert picture(site.get(1, PATH)).shape == (48, 64, 3)


def test_viewers_see_the_job_go_on_after_a_cut(site):
    first, second = (Piece(Kind.JPEG, JPEG, 64, 48) for _ in range(2))
    with stub(site, pieces(first, ends=False), pieces(second)) as node:
        reply = site.get(1, PATH)
        assert picture(reply).shape == picture(reply).shape == (48, 64, 3)
        assert reply.read() == b""  # the second has ended in good order
        assert len(node.asked) == 2
        assert node.asked[0].startswith(
            b"GET /user/video/GLOBAL_ID_1?codec=auto&overlay=0 HTTP/1.1"
        )


def key(width: int, height: int) -> bytes:
    return Encoder(width, height, bitrate=100_000).encode(np.zeros((height, width, 3), np.uint8))[0]


@pytest.mark.parametrize(
    "body",
    [
        b"no piece at all",
        HEAD.pack(b"VL", 1, 1, 64, 48, (16 << 20) + 1),
        HEAD.pack(b"VL", 1, 2, 65535, 65535, 100),
        write(Piece(Kind.DELTA, b"before a key frame", 64, 48)),
        write(Piece(Kind.KEY, b"no H.264", 64, 48)),
        write(Piece(Kind.KEY, b"", 64, 48)),
        write(Piece(Kind.KEY, key(640, 480), 64, 48)),
    ],
)
def test_nonsense_from_a_node_is_no_picture_and_harms_nobody(site, view, lease, body):
    with stub(site, answer("application/x-vdag-pictures", body)):
        reply = site.get(1, PATH)
        assert json.loads(reply.read()) == {"msg": "video not ready on cloud", "status": 1}
    with Feeder(view, lease):
        assert picture(site.get(0, PATH)).shape == (96, 128, 3)


def test_a_node_that_has_something_else_to_say_is_not_shown(site):
    head = b"HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\n"
    text = head + b"Content-Length: 2\r\n\r\n{}"
    with stub(site, text):
        reply = site.get(1, PATH)
        assert json.loads(reply.read()) == {"msg": "video not ready on cloud", "status": 1}


def test_the_end_of_the_servers_is_the_end_of_the_pictures(view: LiveView, lease: Lease):
    site = Site(view)
    with Feeder(view, lease):
        replies: list[http.client.HTTPResponse] = [site.get(side, PATH) for side in (0, 1)]
        for reply in replies:
            picture(reply)
        site.servers.stop()
        for reply in replies:
            reply.read()  # in good order
    view.close()
    site.close()
