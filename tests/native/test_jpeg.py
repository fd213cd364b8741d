from __future__ import annotations

from types import ModuleType

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from vdag._native import reference_jpeg as reference
from vdag.errors import ConfigError, ImageError

UInt8Image = NDArray[np.uint8]
SIZES = [(1, 1), (8, 8), (17, 9), (64, 48), (161, 121)]


def photo(width: int, height: int, seed: int = 0) -> UInt8Image:
    """Smooth colours with a little noise, so that JPEG has something to work with."""
    random = np.random.default_rng(seed)
    rough = random.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), np.uint8)
    smooth = cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)
    noisy = smooth.astype(np.int16) + random.integers(-4, 5, smooth.shape)
    return noisy.clip(0, 255).astype(np.uint8)


def psnr(a: UInt8Image, b: UInt8Image) -> float:
    error = np.mean((a.astype(float) - b.astype(float)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def levels_apart(a: UInt8Image, b: UInt8Image) -> int:
    assert a.shape == b.shape
    return int(np.abs(a.astype(np.int16) - b.astype(np.int16)).max())


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("subsampling", ["444", "422", "420", "gray"])
def test_what_was_encoded_is_decoded(
    codec: ModuleType, width: int, height: int, subsampling: str
) -> None:
    picture = photo(width, height)
    if subsampling == "gray":
        picture = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    data = codec.encode(picture, quality=95, subsampling=subsampling)
    components = 1 if subsampling == "gray" else 3
    assert codec.read_header(data) == (width, height, components, subsampling)
    assert len(data) <= codec.max_nbytes(width, height, subsampling)
    assert psnr(codec.decode(data), picture) > 30


def test_the_same_jpeg_gives_the_pixels_that_opencv_gives(codec: ModuleType) -> None:
    for subsampling in ("444", "422", "420", "gray"):
        data = codec.encode(photo(161, 121), subsampling=subsampling)
        theirs = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert levels_apart(codec.decode(data), theirs) <= 1
        assert levels_apart(codec.decode(data, rgb=True), theirs[..., ::-1]) <= 1


def test_rgb_pixels_become_the_same_jpeg(codec: ModuleType) -> None:
    picture = photo(40, 30)
    swapped = np.ascontiguousarray(picture[..., ::-1])
    for subsampling in ("420", "gray"):
        data = codec.encode(picture, subsampling=subsampling)
        assert codec.encode(swapped, subsampling=subsampling, rgb=True) == data


def test_gray_pixels_stay_gray_and_come_back_as_three_equal_channels(codec: ModuleType) -> None:
    gray = np.ascontiguousarray(photo(50, 20)[..., 1])
    data = codec.encode(gray, quality=95)
    assert codec.read_header(data) == (50, 20, 1, "gray")
    decoded = codec.decode(data)
    assert (decoded[..., 0] == decoded[..., 1]).all()
    assert (decoded[..., 0] == decoded[..., 2]).all()
    assert psnr(decoded[..., 0], gray) > 30


def test_higher_quality_takes_more_bytes(codec: ModuleType) -> None:
    lengths = [len(codec.encode(photo(64, 64), quality=quality)) for quality in (1, 50, 90, 100)]
    assert lengths == sorted(set(lengths))


def test_noise_at_the_best_quality_stays_within_the_bound(codec: ModuleType) -> None:
    noise = np.random.default_rng(0).integers(0, 2, (33, 47, 3), np.uint8) * np.uint8(255)
    for subsampling in ("444", "422", "420", "gray"):
        data = codec.encode(noise, quality=100, subsampling=subsampling)
        assert len(data) <= codec.max_nbytes(47, 33, subsampling)


@pytest.mark.parametrize(
    "view",
    [
        lambda frame: frame[10:42, 20:60],
        lambda frame: frame[10:42:2, 20:60],
        lambda frame: frame[41:9:-1, 20:60],
        lambda frame: frame[10:11, 20:60],
        lambda frame: frame[10:42, 20:21],
    ],
    ids=["region", "every second row", "upside down", "one row", "one column"],
)
def test_views_of_a_frame_are_read_and_written_in_place(codec: ModuleType, view) -> None:
    frame = photo(90, 70)
    dense = np.ascontiguousarray(view(frame))
    data = codec.encode(view(frame))
    assert data == codec.encode(dense)
    target = np.full_like(frame, 7)
    out = view(target)
    assert codec.decode(data, out) is out
    assert (out == codec.decode(data)).all()
    view(target)[...] = 7
    assert (target == 7).all()  # nothing was written beside the view


def test_read_only_pixels_are_encoded(codec: ModuleType) -> None:
    picture = photo(20, 20)
    data = codec.encode(picture)
    picture.flags.writeable = False
    assert codec.encode(picture) == data


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("reduce", [1, 2, 4, 8])
def test_reduced_sides_are_rounded_up(
    codec: ModuleType, width: int, height: int, reduce: int
) -> None:
    data = reference.encode(photo(width, height), subsampling="444")
    shape = (-(-height // reduce), -(-width // reduce), 3)
    out = np.zeros(shape, np.uint8)
    codec.decode(data, out, reduce=reduce)
    assert codec.decode(data, reduce=reduce).shape == shape
    if min(shape[:2]) > 2:  # the older calls may take another factor for the same small size
        assert levels_apart(out, reference.decode(data, reduce=reduce)) <= 2


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, "array"])
def test_data_may_be_any_contiguous_buffer(codec: ModuleType, kind) -> None:
    data = codec.encode(photo(30, 20))
    source = np.frombuffer(data, np.uint8) if kind == "array" else kind(data)
    assert (codec.decode(source) == codec.decode(data)).all()
    assert codec.read_header(source) == (30, 20, 3, "420")
    with pytest.raises(ImageError, match=r"^data is not contiguous$"):
        codec.decode(memoryview(data)[::2])
    with pytest.raises(TypeError):
        codec.decode([1, 2, 3])


def test_bytes_after_the_picture_are_ignored(codec: ModuleType) -> None:
    data = codec.encode(photo(30, 20))
    assert (codec.decode(data + bytes(100)) == codec.decode(data)).all()


def test_progressive_pictures_and_restart_markers_are_read(codec: ModuleType) -> None:
    for option in (cv2.IMWRITE_JPEG_PROGRESSIVE, cv2.IMWRITE_JPEG_RST_INTERVAL):
        data = cv2.imencode(".jpg", photo(100, 60), [option, 1])[1].tobytes()
        theirs = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert levels_apart(codec.decode(data), theirs) <= 1


def test_exif_does_not_turn_the_picture(codec: ModuleType) -> None:
    data = codec.encode(photo(40, 20))
    quarter_turn = b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00"
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + quarter_turn + bytes(4)
    turned = data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape == (40, 20, 3)
    assert (codec.decode(turned) == codec.decode(data)).all()


def test_encode_writes_into_out_in_place_or_by_a_copy(codec: ModuleType) -> None:
    picture = photo(64, 48)
    data = codec.encode(picture)
    for room in (codec.max_nbytes(64, 48), len(data) + 1, len(data)):
        out = bytearray(b"\xaa" * room)
        assert codec.encode(picture, out=out) == len(data)
        assert out[: len(data)] == data
        out.append(0)  # nobody holds the buffer any more
    short = bytearray(b"\xaa" * (len(data) - 1))
    with pytest.raises(ImageError) as error:
        codec.encode(picture, out=short)
    n = len(data)
    assert str(error.value) == f"JPEG of {n} bytes does not fit in out of {n - 1} bytes"
    assert short == b"\xaa" * (n - 1)
    short.append(0)


def test_out_that_does_not_fit_is_refused_and_untouched(codec: ModuleType) -> None:
    data = codec.encode(photo(30, 20))
    wrong = np.full((20, 31, 3), 7, np.uint8)
    with pytest.raises(ImageError) as error:
        codec.decode(data, wrong)
    assert str(error.value) == (
        "out of shape (20, 31, 3) does not fit a picture of shape (20, 30, 3)"
    )
    assert (wrong == 7).all()
    with pytest.raises(ImageError, match=r"^out of shape \(20, 30\) does not fit a picture"):
        codec.decode(data, np.zeros((20, 30), np.uint8))
    with pytest.raises(ImageError, match=r"^out has samples of format 'b', not uint8$"):
        codec.decode(data, np.zeros((20, 30, 3), np.int8))
    with pytest.raises(ImageError, match=r"^samples within a row of out are not contiguous$"):
        codec.decode(data, np.zeros((20, 60, 3), np.uint8)[:, ::2])
    fixed = np.zeros((20, 30, 3), np.uint8)
    fixed.flags.writeable = False
    with pytest.raises(ImageError, match=r"^out is read-only$"):
        codec.decode(data, fixed)
    with pytest.raises(ImageError, match=r"^out is read-only$"):
        codec.encode(fixed, out=bytes(10000))


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "picture has samples of format 'f', not uint8"),
        (np.zeros((4, 4, 4), np.uint8), "picture of shape (4, 4, 4) is neither "
         "(height, width, 3) nor (height, width)"),
        (np.zeros(4, np.uint8), "picture of shape (4,) is neither "
         "(height, width, 3) nor (height, width)"),
        (np.zeros((0, 4, 3), np.uint8), "picture of 4 x 0 pixels is empty"),
        (np.zeros((1, 65501), np.uint8), "picture of 65501 x 1 pixels exceeds side 65500"),
        (np.zeros((4, 3, 4), np.uint8).transpose(0, 2, 1), "samples within a row of picture "
         "are not contiguous"),
        (np.zeros((4, 8), np.uint8)[:, ::2], "samples within a row of picture are not contiguous"),
        (np.broadcast_to(np.zeros((1, 5, 3), np.uint8), (4, 5, 3)),
         "picture has rows of 15 bytes at a stride of 0"),
    ],
)  # fmt: skip
def test_pixels_that_cannot_be_encoded_say_why(
    codec: ModuleType, pixels: UInt8Image, message: str
) -> None:
    with pytest.raises(ImageError) as error:
        codec.encode(pixels)
    assert str(error.value) == message
    with pytest.raises(ImageError) as error:
        codec.encode_batch([np.zeros((8, 8), np.uint8), pixels])
    assert str(error.value) == f"item 1: {message}"


def test_options_without_meaning_are_refused(codec: ModuleType) -> None:
    picture = photo(8, 8)
    data = codec.encode(picture)
    for call, message in [
        (lambda: codec.encode(picture, quality=0), "quality of 0 is outside 1..100"),
        (lambda: codec.encode(picture, quality=101), "quality of 101 is outside 1..100"),
        (
            lambda: codec.encode(picture, subsampling="410"),
            "subsampling of '410' is none of 444, 422, 420, gray",
        ),
        (lambda: codec.decode(data, reduce=3), "reduce of 3 is none of 1, 2, 4, 8"),
        (lambda: codec.decode(data, max_pixels=0), "max_pixels of 0 is less than 1"),
        (lambda: codec.decode_batch([data], threads=0), "threads of 0 is outside 1..64"),
        (lambda: codec.encode_batch([picture], threads=65), "threads of 65 is outside 1..64"),
    ]:
        with pytest.raises(ConfigError) as error:
            call()
        assert str(error.value) == message
