"""JPEG coding against OpenCV and simplejpeg, all of which are libjpeg-turbo inside.

Measured: from bytes to BGR pixels and back, one thread unless the name says otherwise, quality 90,
4:2:0. vdag and simplejpeg decode into a buffer that is used again, as a slot of shared memory is;
`cv2.imdecode` cannot. Outside: making the picture, a mosaic of smooth patches with mild sensor
noise, about half a megabyte at 1080p, and asserting that both sides agree.
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import simplejpeg

from vdag._native import jpeg

QUALITY = 90


def photo(width: int, height: int) -> np.ndarray:
    """Shapes at three scales: patches as of a scene, texture, and the noise of a sensor."""
    random = np.random.default_rng(2024)
    patches = random.integers(0, 256, (height // 40, width // 40, 3), np.uint8)
    scene = cv2.resize(patches, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    texture = random.normal(0, 12, (height // 4, width // 4, 3)).astype(np.float32)
    scene += cv2.resize(texture, (width, height))
    scene += random.normal(0, 4, scene.shape)
    return scene.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(before)


@pytest.fixture(scope="module")
def full_hd() -> np.ndarray:
    return photo(1920, 1080)


@pytest.fixture(scope="module")
def full_hd_jpeg(full_hd: np.ndarray) -> bytes:
    return jpeg.encode(full_hd, quality=QUALITY)


def levels_apart(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(np.int16) - b.astype(np.int16)).max())


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def decode_against_opencv(compare, name: str, data: bytes, shape: tuple[int, int, int]) -> None:
    slot = np.empty(shape, np.uint8)
    array = np.frombuffer(data, np.uint8)
    assert levels_apart(jpeg.decode(data, slot), cv2.imdecode(array, cv2.IMREAD_COLOR)) <= 1
    compare(
        name=name,
        subject=("decode(out=)", lambda: jpeg.decode(data, slot)),
        against=("cv2.imdecode", lambda: cv2.imdecode(array, cv2.IMREAD_COLOR)),
    )


def test_decode_1080p(compare, full_hd_jpeg: bytes) -> None:
    decode_against_opencv(compare, "jpeg.decode_1080p", full_hd_jpeg, (1080, 1920, 3))


def test_decode_480p(compare) -> None:
    data = jpeg.encode(photo(640, 480), quality=QUALITY)
    decode_against_opencv(compare, "jpeg.decode_480p", data, (480, 640, 3))


def test_decode_1080p_simplejpeg(compare, full_hd_jpeg: bytes) -> None:
    slot, other = np.empty((2, 1080, 1920, 3), np.uint8)

    def theirs() -> np.ndarray:
        return simplejpeg.decode_jpeg(full_hd_jpeg, "BGR", buffer=other)

    assert levels_apart(jpeg.decode(full_hd_jpeg, slot), theirs()) <= 1
    compare(
        name="jpeg.decode_1080p_simplejpeg",
        subject=("decode(out=)", lambda: jpeg.decode(full_hd_jpeg, slot)),
        against=("simplejpeg.decode_jpeg(buffer=)", theirs),
    )


def test_half_1080p(compare, full_hd_jpeg: bytes) -> None:
    half = np.empty((540, 960, 3), np.uint8)
    array = np.frombuffer(full_hd_jpeg, np.uint8)

    def theirs() -> np.ndarray:
        return cv2.imdecode(array, cv2.IMREAD_REDUCED_COLOR_2)

    assert levels_apart(jpeg.decode(full_hd_jpeg, half, reduce=2), theirs()) <= 1
    compare(
        name="jpeg.half_1080p",
        subject=("decode(reduce=2)", lambda: jpeg.decode(full_hd_jpeg, half, reduce=2)),
        against=("cv2.imdecode, reduced", theirs),
    )


def test_encode_1080p(compare, full_hd: np.ndarray, full_hd_jpeg: bytes) -> None:
    options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]

    def theirs() -> np.ndarray:
        return cv2.imencode(".jpg", full_hd, options)[1]

    assert levels_apart(jpeg.decode(theirs()), jpeg.decode(full_hd_jpeg)) <= 1
    compare(
        name="jpeg.encode_1080p",
        subject=("encode", lambda: jpeg.encode(full_hd, quality=QUALITY)),
        against=("cv2.imencode", theirs),
    )


def test_encode_1080p_simplejpeg(compare, full_hd: np.ndarray, full_hd_jpeg: bytes) -> None:
    def theirs() -> bytes:
        return simplejpeg.encode_jpeg(full_hd, QUALITY, "BGR", "420")

    # simplejpeg 1.9 uses the fast, less accurate transform whatever its `fastdct` says.
    assert (
        abs(psnr(jpeg.decode(theirs()), full_hd) - psnr(jpeg.decode(full_hd_jpeg), full_hd)) < 0.1
    )
    compare(
        name="jpeg.encode_1080p_simplejpeg",
        subject=("encode", lambda: jpeg.encode(full_hd, quality=QUALITY)),
        against=("simplejpeg.encode_jpeg", theirs),
    )


def test_crops32_2threads(compare, full_hd: np.ndarray) -> None:
    """Faces cut out of a frame: views of it, 128 to 288 pixels a side, none of them copied."""
    random = np.random.default_rng(7)
    crops = []
    for side in random.integers(128, 289, 32):
        y, x = random.integers(0, 1080 - side), random.integers(0, 1920 - side)
        crops.append(full_hd[y : y + side, x : x + side])
    assert jpeg.encode_batch(crops, threads=2) == jpeg.encode_batch(crops, threads=1)
    compare(
        name="jpeg.crops32_2threads",
        subject=("encode_batch, 2 threads", lambda: jpeg.encode_batch(crops, threads=2)),
        against=("encode_batch, 1 thread", lambda: jpeg.encode_batch(crops, threads=1)),
    )
