from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from vdag.errors import ConfigError, SinkError
from vdag.frame import Frame
from vdag.results import Result
from vdag.sinks import FrameFolderSink
from vdag.sources import open_source


def result(seq: int) -> Result:
    frame = Frame(np.full((30, 40, 3), seq, np.uint8))
    return Result("cam", seq, seq, None, 40, 30, {}, frame=frame)


def write_and_fail(sink: FrameFolderSink) -> None:
    with sink:
        sink.write(result(1))
        raise ValueError("broken")


def test_pictures_are_numbered_and_can_be_read_again(tmp_path: Path) -> None:
    with FrameFolderSink(tmp_path / "a" / "b", format="png") as sink:
        for seq in (0, 5, 123):
            sink.write(result(seq))
    folder = tmp_path / "a" / "b"
    assert sorted(path.name for path in folder.iterdir()) == [
        "00000000.png",
        "00000005.png",
        "00000123.png",
    ]
    with open_source(folder) as source:
        assert [int(frame.pixels[0, 0, 0]) for frame in source] == [0, 5, 123]


def test_what_was_found_is_drawn(tmp_path: Path) -> None:
    found = result(0)
    found.outputs["face_detection"] = {"bbox": [[10, 10, 30, 25]]}
    with FrameFolderSink(tmp_path, format="png", min_height=480) as sink:
        sink.write(found)
    pixels = cv2.imread(str(tmp_path / "00000000.png"))
    assert pixels is not None
    assert pixels.shape == (480, 640, 3)
    assert pixels[160, 160:480].any(axis=1).all()


def test_a_jpeg_has_the_asked_quality(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    found = Result("cam", 0, 0, None, 80, 60, {}, frame=Frame(noise))
    sizes = []
    for quality in (20, 90):
        with FrameFolderSink(tmp_path, quality=quality) as sink:
            sink.write(found)
        sizes.append((tmp_path / "00000000.jpg").stat().st_size)
    assert sizes[0] < sizes[1]


def test_pictures_stay_after_an_error(tmp_path: Path) -> None:
    sink = FrameFolderSink(tmp_path)
    with pytest.raises(ValueError, match="broken"):
        write_and_fail(sink)
    assert [path.name for path in tmp_path.iterdir()] == ["00000001.jpg"]
    with pytest.raises(SinkError, match=r"is closed$"):
        sink.write(result(2))


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(SinkError) as caught:
        FrameFolderSink(path)
    assert str(caught.value) == f"{path}: cannot be made: file exists"


def test_an_argument_without_meaning_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^format of frames is 'gif', expected jpg or png$"):
        FrameFolderSink(tmp_path, format="gif")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^quality is 101, expected 1 to 100$"):
        FrameFolderSink(tmp_path, quality=101)
