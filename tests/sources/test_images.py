from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdag.errors import ImageError, SourceError
from vdag.sources import open_source
from vdag.sources.images import _read_size


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures 0 to 11, whose samples are ten times their number, in all formats."""
    for number in range(12):
        suffix = (".jpg", ".png", ".bmp")[number % 3]
        picture = np.full((8, 10 + number, 3), number * 10, np.uint8)
        assert cv2.imwrite(str(tmp_path / f"frame{number}{suffix}"), picture)
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / "sub.jpg").mkdir()
    return tmp_path


def test_a_folder_is_read_in_the_order_of_its_numbers(folder: Path) -> None:
    with open_source(folder) as source:
        assert (source.width, source.height, source.frame_count) == (10, 8, 12)
        assert (source.name, source.fps, source.live) == (folder.name, 0.0, False)
        frames = list(source)
    assert [round(frame.pixels.mean() / 10) for frame in frames] == list(range(12))
    assert [frame.width for frame in frames] == list(range(10, 22))
    assert [frame.pts_s for frame in frames] == [None] * 12


def test_one_picture_is_a_video_of_one_frame(folder: Path) -> None:
    with open_source(str(folder / "frame1.png")) as source:
        (frame,) = source
    expected = cv2.imread(str(folder / "frame1.png"))
    assert expected is not None
    assert np.array_equal(frame.pixels, expected)


def test_a_damaged_picture_is_counted_and_left_out(folder: Path) -> None:
    (folder / "frame4.png").write_bytes((folder / "frame4.png").read_bytes()[:40])
    (folder / "frame5.bmp").write_bytes(b"")
    with open_source(folder) as source:
        frames = list(source)
        assert source.stats().errors == 2
    assert [frame.cam_frame_id for frame in frames] == [0, 1, 2, 3, 6, 7, 8, 9, 10, 11]
    assert [frame.seq for frame in frames] == list(range(10))


def test_a_picture_that_is_skipped_is_not_even_opened(folder: Path) -> None:
    for number in (1, 2, 4, 5):
        for path in folder.glob(f"frame{number}.*"):
            path.write_bytes(b"no picture")
    with open_source(folder, cam_fps=30, fps=10) as source:
        assert [frame.cam_frame_id for frame in source] == [0, 3, 6, 9]
        stats = source.stats()
    assert (stats.read, stats.decoded, stats.skipped, stats.errors) == (4, 12, 8, 0)


def test_too_many_damaged_pictures_in_a_row_end_it(tmp_path: Path) -> None:
    assert cv2.imwrite(str(tmp_path / "0.png"), np.zeros((2, 2, 3), np.uint8))
    for number in range(1, 150):
        (tmp_path / f"{number}.png").write_bytes(b"nothing")
    source = open_source(tmp_path, stream="shots")
    assert source.read() is not None
    with pytest.raises(SourceError) as caught:
        source.read()
    assert str(caught.value) == (
        "shots: 101 damaged pictures in a row: 101.png: not a JPEG, PNG or BMP picture"
    )
    assert source.read() is None
    source.close()


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        open_source(tmp_path)
    assert str(caught.value) == f"{tmp_path.name}: has no pictures (.bmp, .jpeg, .jpg, .png)"


def test_a_header_that_promises_too_much_is_refused_before_decoding(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    assert cv2.imwrite(str(path), np.zeros((2, 2, 3), np.uint8))
    data = bytearray(path.read_bytes())
    data[16:20] = (20_000).to_bytes(4, "big")
    path.write_bytes(data)
    with pytest.raises(SourceError) as caught:
        open_source(path)
    assert str(caught.value) == "bomb.png: picture of 20000x2 has a side outside 1 to 16384"


def test_a_broken_first_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "0.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(SourceError) as caught:
        open_source(tmp_path, stream="x")
    assert str(caught.value) == f"{tmp_path.name}: 0.jpg: header is cut short"


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
@pytest.mark.parametrize("size", [(1, 1), (17, 3), (640, 480)])
def test_the_size_in_a_header_is_that_of_the_picture(
    tmp_path: Path, suffix: str, size: tuple[int, int]
) -> None:
    path = tmp_path / f"picture{suffix}"
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1] if suffix == ".jpg" else []
    assert cv2.imwrite(str(path), np.zeros((size[1], size[0], 3), np.uint8), options)
    assert _read_size(path) == size


@given(st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8", b"\x89P", b"BM"]))
def test_any_bytes_have_a_size_or_are_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, magic: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    path.write_bytes(magic + data)
    try:
        width, height = _read_size(path)
    except ImageError:
        return
    assert isinstance(width, int)
    assert isinstance(height, int)
