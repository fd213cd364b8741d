from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from vdag.errors import ConfigError, SinkError
from vdag.frame import Frame
from vdag.results import Result
from vdag.sinks import VideoSink
from vdag.sources import open_source


def result(seq: int, *, width: int = 64, height: int = 48, pts_s: float | None = None) -> Result:
    pixels = np.full((height, width, 3), 40 + seq % 200, np.uint8)
    frame = Frame(pixels, seq=seq, pts_s=pts_s, fps=10.0)
    return Result("cam", seq, seq, pts_s, width, height, {}, frame=frame)


def write_and_raise(sink: VideoSink, count: int, err: BaseException) -> None:
    with sink:
        for seq in range(count):
            sink.write(result(seq))
        raise err


def times(path: Path) -> list[float]:
    with av.open(path) as container:
        return [frame.time for frame in container.decode(video=0)]


def test_a_clip_becomes_an_annotated_video_that_lasts_as_long(
    carphone: Path, tmp_path: Path
) -> None:
    path = tmp_path / "out.mp4"
    boxes = np.array([[50, 20, 120, 110]], np.float32)
    with open_source(carphone, fps=10) as source, VideoSink(path) as sink:
        for frame in source:
            outputs = {"face_detection": {"bbox": boxes, "prob": [0.9]}}
            size = frame.width, frame.height
            sink.write(
                Result(
                    "cam", frame.seq, frame.cam_frame_id, frame.pts_s, *size, outputs, frame=frame
                )
            )
    with av.open(path) as container:
        stream = container.streams.video[0]
        codec = stream.codec_context
        assert (codec.name, codec.pix_fmt, codec.width, codec.height) == (
            "h264",
            "yuv420p",
            704,
            576,
        )
        frames = [frame.to_ndarray(format="bgr24") for frame in container.decode(stream)]
    assert len(frames) == 40
    assert times(path) == pytest.approx([n * 3 * 1001 / 30000 for n in range(40)], abs=0.002)
    assert np.ptp([frame[200:360, 200].mean(axis=0) for frame in frames], axis=0).max() < 40


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".MP4"])
def test_a_given_rate_counts_frames_whatever_their_times(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    with VideoSink(path, 20) as sink:
        for seq in range(5):
            sink.write(result(seq, pts_s=0.0))
    assert times(path) == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2], abs=0.001)


def test_without_any_times_the_rate_of_the_source_is_used(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with VideoSink(path) as sink:
        for seq in range(3):
            sink.write(result(seq))
    assert times(path) == pytest.approx([0.0, 0.1, 0.2], abs=0.001)


def test_times_that_go_back_are_moved_on(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with VideoSink(path) as sink:
        for seq, pts_s in enumerate([5.0, 5.1, 0.0, 5.2]):
            sink.write(result(seq, pts_s=pts_s))
    found = times(path)
    assert found == sorted(found)
    assert found == pytest.approx([0.0, 0.1, 0.1, 0.2], abs=0.001)


def test_odd_sizes_are_rounded_up_and_later_sizes_fitted(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with VideoSink(path, 10, min_height=0) as sink:
        sink.write(result(0, width=51, height=37))
        sink.write(result(1, width=100, height=80))
    with open_source(path) as source:
        frames = list(source)
    assert [frame.pixels.shape for frame in frames] == [(38, 52, 3)] * 2
    assert abs(int(frames[0].pixels[37, 51, 0]) - 40) <= 3  # the edge is repeated


def test_colours_survive(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    colour = (200, 60, 30)
    frame = Frame(np.full((480, 640, 3), colour, np.uint8))
    with VideoSink(path, 10, crf=5) as sink:
        for seq in range(3):
            sink.write(Result("cam", seq, seq, None, 640, 480, {}, frame=frame))
    for found in open_source(path):
        assert np.abs(found.pixels[::40, ::40].astype(int) - colour).max() <= 6


def test_the_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"the one before")
    with VideoSink(path, 10) as sink:
        sink.write(result(0))
        assert path.read_bytes() == b"the one before"
    assert [item.name for item in tmp_path.iterdir()] == ["out.mp4"]
    assert len(times(path)) == 1
    sink.close()


def test_an_error_leaves_nothing_behind(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "out.mp4", 10)
    with pytest.raises(RuntimeError, match="broken"):
        write_and_raise(sink, 1, RuntimeError("broken"))
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_a_video_of_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with pytest.raises(KeyboardInterrupt):
        write_and_raise(VideoSink(path, 10), 4, KeyboardInterrupt())
    assert len(times(path)) == 4


def test_without_a_frame_there_is_no_video(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "out.mp4"
    with VideoSink(path):
        pass
    assert list(tmp_path.iterdir()) == []
    assert caplog.messages == [f"{path}: no frame was written, so there is no video"]


def test_a_result_without_its_frame_is_refused(tmp_path: Path) -> None:
    dropped = result(3)
    dropped.drop_frame()
    with (
        pytest.raises(SinkError, match=r"^result 3 of cam has no frame to draw into$"),
        VideoSink(tmp_path / "out.mp4", 10) as sink,
    ):
        sink.write(dropped)


def test_a_closed_sink_takes_nothing(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "out.mp4", 10)
    sink.abort()
    with pytest.raises(SinkError, match=r"out\.mp4: is closed$"):
        sink.write(result(0))
    sink.abort()
    sink.close()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none" / "out.mp4"
    with pytest.raises(SinkError) as caught:
        VideoSink(path)
    assert str(caught.value) == f"{path}: cannot be written: no such file or directory"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fps": 0}, "fps 0 is not between 0.001 and 1000"),
        ({"crf": 52}, "crf is 52, expected 0 to 51"),
    ],
)
def test_an_argument_without_meaning_is_refused(
    tmp_path: Path, arguments: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        VideoSink(tmp_path / "out.mp4", **arguments)  # type: ignore[arg-type]
    assert str(caught.value) == message
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"out\.gif: a video ends in \.mp4, \.mov, \.mkv$"):
        VideoSink(tmp_path / "out.gif")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_preset_is_an_error_that_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(SinkError, match=r"out\.mp4: cannot be written: "),
        VideoSink(tmp_path / "out.mp4", 10, preset="instant") as sink,
    ):
        sink.write(result(0))
    assert list(tmp_path.iterdir()) == []


FULL = """
import resource, sys
import numpy as np
from vdag.errors import SinkError
from vdag.frame import Frame
from vdag.results import Result
from vdag.sinks import open_sink

resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
random = np.random.default_rng(0)
try:
    with open_sink(sys.argv[1]) as sink:
        for seq in range(200):
            frame = Frame(random.integers(0, 256, (480, 640, 3), dtype=np.uint8))
            outputs = {"own": {"values": list(range(100))}}
            sink.write(Result("cam", seq, seq, None, 640, 480, outputs, frame=frame))
except SinkError as err:
    print(err)
"""


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv", "out.jsonl", "frames/"])
def test_a_full_disk_is_an_error_that_leaves_no_part_of_a_file(tmp_path: Path, name: str) -> None:
    # A limit on the size of files stands for the disk; Python ignores its signal.
    run = subprocess.run(
        [sys.executable, "-c", FULL, f"{tmp_path}/{name}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (run.stderr, run.returncode) == ("", 0)
    assert run.stdout.endswith(": cannot be written: file too large\n")
    assert run.stdout.startswith(str(tmp_path))
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert left == []


def test_the_file_has_the_permissions_that_the_user_wants(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    before = os.umask(0o027)
    try:
        with VideoSink(path, 10) as sink:
            sink.write(result(0))
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640
