"""Pictures that are shown: in videos, in windows and to browsers."""

from __future__ import annotations

import http.client
import re
import threading
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
from handler_kit import load
from hypothesis import given, settings
from hypothesis import strategies as st

from vdag import open_source
from vdag.errors import ConfigError, SinkError
from vdag.tasks.handlers import render
from vdag.tasks.handlers.ordering import InOrder

WAIT_S = 20.0


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(render.FOLDER, str(tmp_path))
    return tmp_path


def test_a_video_is_there_when_the_task_is_closed(folder, carphone_frames):
    with closing(load("render", to="seen.mp4", fps=10)) as show:
        for seq, image in enumerate(carphone_frames[:10]):
            assert show.process([{"image": image, "seq": seq}]) == [{"shown": True}]
        assert not (folder / "seen.mp4").exists()
    with open_source(folder / "seen.mp4") as source:
        frames = list(source)
    assert [frame.pts_s for frame in frames] == pytest.approx([n / 10 for n in range(10)])
    assert frames[0].pixels.shape == (144, 176, 3)
    assert float(np.abs(frames[5].pixels.astype(int) - carphone_frames[5]).mean()) < 8


def test_a_video_has_its_frames_in_order_and_waits_for_none(folder, face):
    with closing(load("render", to="gaps.mkv", fps=10)) as show:
        numbers = [*range(2, 30), 1, 31, 30, 30, 0, 1]  # 0 comes never, and at last once more
        shown = [show.process([{"image": face, "seq": seq}])[0]["shown"] for seq in numbers]
    assert shown == [True] * 28 + [False, True, True, False, True, True]
    with open_source(folder / "gaps.mkv") as source:
        times = [frame.pts_s for frame in source]
    assert times == pytest.approx([n / 10 for n in range(32)], abs=2e-3)  # 2 to 31, then two more


def test_what_is_shown_live_is_shown_at_once_or_not_at_all(face):
    with closing(load("render", to=":0")) as show:
        numbers = [0, 1, 4, 3, 4, 5, 400, 5, 0]
        shown = [show.process([{"image": face, "seq": seq}])[0]["shown"] for seq in numbers]
        assert shown == [True, True, True, False, False, True, True, True, True]


@settings(deadline=None)
@given(
    numbers=st.lists(st.integers(0, 40), unique=True),
    lost=st.sets(st.integers(0, 40)),
    room=st.integers(0, 50),
)
def test_pictures_come_out_in_order_and_none_twice(numbers, lost, room):
    out = []
    order = InOrder(lambda pixels, seq: out.append((seq, int(pixels[0]))), room)
    came = [seq for seq in numbers if seq not in lost and seq > 0]  # 0 begins anew
    kept = [seq for seq in came if order.put(np.array([seq]), seq)]
    assert len(kept) - len(out) <= room
    order.flush()
    assert out == [(seq, seq) for seq in sorted(kept)]
    if room >= len(came):
        assert kept == came


@pytest.mark.parametrize(
    "to",
    ["", "../out.mp4", "/tmp/out.mp4", "a/b.mp4", ".mp4", "out.avi", "out", "host", ":99999", ":x"],
)
def test_pictures_go_nowhere_else(folder, to):
    with pytest.raises(
        ConfigError, match=rf"^render: to is {re.escape(repr(to))}, expected window, "
    ):
        load("render", to=to)


def test_a_window_without_a_display_is_refused(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(
        ConfigError,
        match=r"^render: a window needs a display, and neither DISPLAY nor WAYLAND_DISPLAY is set; "
        r"the parameter to may be a file such as out\.mp4, or an address such as :8090$",
    ):
        load("render")


def test_an_opencv_without_windows_is_told(monkeypatch):
    monkeypatch.setenv("DISPLAY", ":99")

    def refuse(*_):
        raise cv2.error("The function is not implemented. Rebuild the library")

    monkeypatch.setattr(cv2, "namedWindow", refuse)
    with pytest.raises(SinkError, match=r"^render: OpenCV opens no window \(The function is not "):
        load("render", to="window")


class Viewer:
    """A browser that looks at a render's address."""

    def __init__(self, address):
        host, port = re.fullmatch(r"http://([^:]+):(\d+)/", address).groups()
        self.connection = http.client.HTTPConnection(host, int(port), timeout=WAIT_S)
        self.connection.request("GET", "/")
        self.reply = self.connection.getresponse()

    def picture(self):
        """Return the next picture; None at the end."""
        assert self.reply.readline() in (b"--frame\r\n", b"--frame--\r\n")
        length = 0
        while (line := self.reply.readline().strip()) or not length:
            if not line:
                return None
            name, _, value = line.partition(b": ")
            length = int(value) if name == b"Content-Length" else length
        data = self.reply.read(length)
        assert self.reply.readline() == b"\r\n"
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def test_browsers_see_the_newest_picture():
    one, two = (np.full((40, 60, 3), value, np.uint8) for value in (50, 200))
    with closing(load("render", to=":0")) as show:
        assert show.address.startswith("http://127.0.0.1:")
        show.process([{"image": one, "seq": 0}])
        viewer = Viewer(show.address)
        assert viewer.reply.status == 200
        assert viewer.reply.getheader("Content-Type") == "multipart/x-mixed-replace; boundary=frame"
        assert abs(int(viewer.picture().mean()) - 50) < 3
        show.process([{"image": two, "seq": 1}])
        means = (int(viewer.picture().mean()) for _ in range(20))  # the first may come once more
        assert any(abs(mean - 200) < 3 for mean in means)
        ending = threading.Thread(target=show.close)
        ending.start()
        while viewer.picture() is not None:
            pass
        ending.join(WAIT_S)
        assert not ending.is_alive()
        viewer.connection.close()


def test_an_address_that_is_taken_is_told():
    with closing(load("render", to="127.0.0.1:0")) as show:
        taken = show.address.removeprefix("http://").rstrip("/")
        with pytest.raises(SinkError, match=rf"^render: {taken} cannot be bound: "):
            load("render", to=taken)


def test_viewers_are_counted():
    from vdag.tasks.handlers.mjpeg import MAX_VIEWERS

    with closing(load("render", to=":0")) as show:
        show.process([{"image": np.zeros((4, 4, 3), np.uint8), "seq": 0}])
        viewers = [Viewer(show.address) for _ in range(MAX_VIEWERS)]
        assert all(viewer.picture() is not None for viewer in viewers)
        assert Viewer(show.address).reply.status == 503
        for viewer in viewers:
            viewer.connection.close()
