from __future__ import annotations

import gc
import threading
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from vdag.errors import SourceError
from vdag.sources import SourceStats, open_source
from vdag.sources.base import OpenOptions
from vdag.sources.video import VideoReader


def remux(source: Path, target: Path, **options: str) -> Path:
    """Copy the video stream of `source` into another container, packet by packet."""
    with av.open(source) as read, av.open(target, "w", container_options=options) as write:
        stream = write.add_stream_from_template(read.streams.video[0])
        for packet in read.demux(read.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                write.mux(packet)
    return target


@pytest.fixture
def streamable(bikes: Path, tmp_path: Path) -> Path:
    """The clip with its index in front, so that its beginning can be read alone."""
    return remux(bikes, tmp_path / "streamable.mp4", movflags="faststart")


@pytest.mark.parametrize(
    ("name", "count", "size", "fps"),
    [
        ("carphone_pristine.mp4", 120, (176, 144), 30000 / 1001),
        ("bikes.mp4", 250, (640, 272), 25.0),
        ("bigbuckbunny.mp4", 132, (1280, 720), 25.0),
    ],
)
def test_a_file_yields_all_its_frames(
    clips: Path, name: str, count: int, size: tuple[int, int], fps: float
) -> None:
    with open_source(clips / name) as source:
        assert (source.name, source.frame_count, source.live) == (name, count, False)
        assert ((source.width, source.height), source.fps) == (size, fps)
        frames = list(source)
        assert source.stats() == SourceStats(read=count, decoded=count)
    assert [frame.seq for frame in frames] == list(range(count))
    assert [frame.cam_frame_id for frame in frames] == list(range(count))
    assert [frame.pts_s for frame in frames] == pytest.approx(
        [number / fps for number in range(count)], abs=0.002
    )
    captures = [frame.capture_ns for frame in frames]
    assert captures == sorted(captures)


def test_the_pixels_are_those_that_opencv_decodes(bikes: Path) -> None:
    capture = cv2.VideoCapture(str(bikes))
    with open_source(bikes) as source:
        for frame, _ in zip(source, range(30), strict=False):
            difference = cv2.absdiff(frame.pixels, capture.read()[1])
            assert difference.mean() < 1.0  # the two round differently
    capture.release()


def test_frames_stay_valid_after_the_source_is_closed(bikes: Path) -> None:
    with open_source(bikes) as source:
        frames = [frame for frame, _ in zip(source, range(20), strict=False)]
    kept = [frame.pixels.copy() for frame in frames]
    with open_source(bikes) as source:  # reuses the decoder's memory, if it were free
        assert len(list(source)) == 250
    gc.collect()
    assert all(np.array_equal(frame.pixels, copy) for frame, copy in zip(frames, kept, strict=True))


def test_a_file_is_sampled_by_position_and_resized(clips: Path) -> None:
    with open_source(clips / "carphone_pristine.mp4", fps=10, resolution="480p") as source:
        frames = list(source)
        stats = source.stats()
    assert [frame.cam_frame_id for frame in frames[:5]] == [0, 3, 6, 9, 12]
    assert len(frames) == 40
    assert (stats.decoded, stats.skipped) == (120, 80)
    assert {frame.pixels.shape for frame in frames} == {(480, 640, 3)}


def test_a_looped_file_goes_on_counting(carphone: Path) -> None:
    with open_source(carphone, loop=True, fps=1) as source:
        assert source.frame_count is None
        frames = [frame for frame, _ in zip(source, range(9), strict=False)]
    # 1 fps of 29.97: every 30th picture, but the one more that an hour of it has too few.
    assert [frame.cam_frame_id for frame in frames] == [0, 30, 60, 90, 120, 150, 180, 210, 240]
    times = [frame.pts_s for frame in frames]
    assert times == pytest.approx([frame.cam_frame_id * 1001 / 30000 for frame in frames], abs=0.05)


def test_a_turned_video_is_shown_upright(bikes: Path, tmp_path: Path) -> None:
    path = tmp_path / "turned.mp4"
    with av.open(bikes) as read, av.open(path, "w") as write:
        stream = write.add_stream_from_template(read.streams.video[0])
        stream.set_display_rotation(90)
        for packet in read.demux(read.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                write.mux(packet)
    capture = cv2.VideoCapture(str(path))
    expected = capture.read()[1]
    capture.release()
    with open_source(path) as source:
        frame = source.read()
    assert frame is not None
    assert frame.pixels.shape == expected.shape == (640, 272, 3)
    assert cv2.absdiff(frame.pixels, expected).mean() < 1.0


def test_a_file_cut_short_ends_after_its_good_part(
    streamable: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = streamable.read_bytes()
    streamable.write_bytes(data[: len(data) * 6 // 10])
    with open_source(streamable) as source:
        count = len(list(source))
        errors = source.stats().errors
    assert 100 < count < 250
    assert errors >= 1
    with open_source(streamable) as source:
        assert len(list(source)) == count
    assert f"streamable.mp4: ends after {count} of 250 pictures" in caplog.text


def test_a_file_cut_before_its_index_cannot_be_opened(bikes: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.mp4"
    path.write_bytes(bikes.read_bytes()[:300_000])
    with pytest.raises(SourceError) as caught:
        open_source(path)
    assert str(caught.value) == (
        "cut.mp4: cannot be opened: invalid data found when processing input"
    )


def test_damage_inside_a_file_is_counted_and_left_out(bikes: Path, tmp_path: Path) -> None:
    data = bytearray(bikes.read_bytes())
    data[200_000:230_000] = bytes(value * 73 % 256 for value in range(30_000))
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    with open_source(path) as source:
        count = len(list(source))
        errors = source.stats().errors
    assert errors >= 1
    assert count + errors == 250


def test_damage_without_end_is_an_error_that_says_how_far_it_came(
    streamable: Path, bikes: Path
) -> None:
    data = bytearray(streamable.read_bytes())
    start = len(data) // 8
    data[start:] = bytes(len(data) - start)
    streamable.write_bytes(data)
    source = open_source(streamable)
    with pytest.raises(SourceError) as caught:
        list(source)
    count = source.stats().read
    assert count > 0
    assert str(caught.value) == (
        f"streamable.mp4: 101 damaged packets in a row after {count} pictures: "
        "invalid data found when processing input"
    )
    assert source.read() is None
    source.close()


def test_text_with_the_name_of_a_video_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.mp4"
    path.write_text("This is no video.\n" * 500)
    with pytest.raises(SourceError) as caught:
        open_source(path)
    assert str(caught.value) == (
        "text.mp4: cannot be opened: invalid data found when processing input"
    )


def test_text_is_no_video_of_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("This is no video.\n" * 500)
    with pytest.raises(SourceError, match=r"^text\.txt: cannot be opened: "):
        open_source(path)


def test_a_file_without_pictures_is_refused(clips: Path, tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(clips / "bigbuckbunny.mp4") as read, av.open(path, "w") as write:
        stream = write.add_stream_from_template(read.streams.audio[0])
        for packet in read.demux(read.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = stream
                write.mux(packet)
    with pytest.raises(SourceError, match=r"^sound\.mp4: has no video stream$"):
        open_source(path)


def test_a_playlist_may_not_reach_into_the_network(tmp_path: Path) -> None:
    path = tmp_path / "list.m3u8"
    path.write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"
    )
    with pytest.raises(SourceError, match=r"^list\.m3u8: "):
        list(open_source(path))


def test_the_times_of_a_transport_stream_start_at_zero(bikes: Path, tmp_path: Path) -> None:
    path = remux(bikes, tmp_path / "bikes.ts")
    with open_source(path) as source:
        frames = list(source)
    assert len(frames) == 250
    assert frames[0].pts_s == 0.0
    assert frames[-1].pts_s == pytest.approx(249 / 25)


def test_a_reader_ends_once_and_closes_twice(carphone: Path) -> None:
    reader = VideoReader(f"file:{carphone}", "clip", OpenOptions(), local=True)
    assert sum(1 for _ in iter(reader.read, None)) == 120
    assert reader.read() is None
    reader.close()
    reader.close()
    assert reader.read() is None


def test_a_source_can_be_closed_while_another_thread_reads_it(carphone: Path) -> None:
    source = open_source(carphone, loop=True)
    started = threading.Event()

    def read() -> None:
        for _ in source:
            started.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert started.wait(10)
    source.close()
    reader.join(10)
    assert not reader.is_alive()
