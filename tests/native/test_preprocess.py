from __future__ import annotations

import ctypes
import mmap
import os
import sys
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vdag._native import preprocess, reference_preprocess
from vdag._native.placement import TO_UNIT, Normalization, Placement

UInt8 = NDArray[np.uint8]

IMAGENET = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
RAW = Normalization(scale=1.0, rgb=False)
TOLERANCE = 1e-5  # of full scale, between a kernel and the reference
HALF_ULP = 2**-10  # of the value: float16 may round a hair's difference either way


@pytest.fixture(scope="module", params=["reference", *preprocess._simd_levels()])
def kernel(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """The reference, and the compiled module on each instruction set of this CPU."""
    if request.param == "reference":
        yield reference_preprocess
        return
    preprocess._set_simd(request.param)
    yield preprocess
    preprocess._set_simd(None)


def picture(height: int, width: int, seed: int = 0) -> UInt8:
    random = np.random.default_rng((seed, height, width))
    return random.integers(0, 256, (height, width, 3), dtype=np.uint8)


def tensor(*shape: int, dtype: Any = np.float32) -> NDArray[Any]:
    """A tensor full of what no kernel writes, so that samples left out are seen."""
    return np.full(shape, -7, dtype)


def grey(norm: Normalization) -> NDArray[np.float64]:
    """The border of every channel."""
    return np.array([norm.pad * gain + bias for gain, bias in norm.affine()])[:, None, None]


# ---- what is computed ----


@pytest.mark.parametrize("width", [1, 2, 7, 8, 15, 16, 17, 640])
def test_a_picture_of_the_tensors_size_is_only_normalised(kernel: ModuleType, width: int) -> None:
    src, dst = picture(3, width), tensor(3, 3, width)
    placement = kernel.letterbox(src, dst, IMAGENET)
    assert placement == Placement(1, 1, 0, 0)
    expected = (src[:, :, ::-1] / 255 - IMAGENET.mean) / IMAGENET.std
    np.testing.assert_allclose(dst, expected.transpose(2, 0, 1), atol=1e-5)


def test_channels_stay_in_order_if_rgb_is_off(kernel: ModuleType) -> None:
    src, dst = picture(5, 20), tensor(3, 5, 20)
    kernel.stretch(src, dst, RAW)
    np.testing.assert_array_equal(dst, src.transpose(2, 0, 1))


def test_an_odd_whole_ratio_takes_the_middle_pixels(kernel: ModuleType) -> None:
    src, dst = picture(1080, 1920), tensor(3, 640, 640)
    placement = kernel.letterbox(src, dst, RAW)
    assert placement == Placement(1 / 3, 1 / 3, 0, 140)
    np.testing.assert_array_equal(dst[:, 140:500], src[1::3, 1::3].transpose(2, 0, 1))
    np.testing.assert_array_equal(dst[:, :140], 114)
    np.testing.assert_array_equal(dst[:, 500:], 114)


def test_half_size_is_the_mean_of_four_pixels(kernel: ModuleType) -> None:
    src, dst = picture(36, 64), tensor(3, 18, 32)
    kernel.stretch(src, dst, RAW)
    mean = src.reshape(18, 2, 32, 2, 3).mean(axis=(1, 3))
    np.testing.assert_array_equal(dst, mean.transpose(2, 0, 1))


def test_an_odd_border_is_larger_below_and_right(kernel: ModuleType) -> None:
    dst = tensor(3, 9, 4)
    assert kernel.letterbox(picture(4, 4), dst, RAW) == Placement(1, 1, 0, 2)
    np.testing.assert_array_equal(dst[:, :2], 114)
    np.testing.assert_array_equal(dst[:, 6:], 114)
    dst = tensor(3, 4, 9)
    assert kernel.letterbox(picture(4, 4), dst, IMAGENET) == Placement(1, 1, 2, 0)
    border = np.broadcast_to(grey(IMAGENET), (3, 4, 5))
    np.testing.assert_allclose(dst[:, :, [0, 1, 6, 7, 8]], border, atol=1e-6)


def test_a_sliver_keeps_at_least_one_pixel(kernel: ModuleType) -> None:
    src, dst = picture(1, 1000), tensor(3, 16, 16)
    assert kernel.letterbox(src, dst) == Placement(0.016, 1, 0, 7)


@pytest.mark.parametrize("mode", ["letterbox", "stretch"])
def test_one_pixel_fills_everything_it_may(kernel: ModuleType, mode: str) -> None:
    src, dst = np.array([[[10, 20, 30]]], np.uint8), tensor(3, 33, 33)
    getattr(kernel, mode)(src, dst, RAW)
    np.testing.assert_array_equal(
        dst, np.broadcast_to(np.reshape([10, 20, 30], (3, 1, 1)), dst.shape)
    )


# ---- against OpenCV ----


def opencv_letterbox(src: UInt8, width: int, height: int) -> tuple[UInt8, tuple[int, int]]:
    scale = min(width / src.shape[1], height / src.shape[0])
    size = round(src.shape[1] * scale), round(src.shape[0] * scale)
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    resized = cv2.resize(src, size, interpolation=cv2.INTER_LINEAR)
    edges = (top, height - size[1] - top, left, width - size[0] - left)
    grey_border = cv2.copyMakeBorder(resized, *edges, cv2.BORDER_CONSTANT, value=(114, 114, 114))
    return np.asarray(grey_border, np.uint8), (left, top)


@pytest.mark.parametrize(
    ("height", "width"), [(1080, 1920), (720, 1280), (900, 1600), (481, 333), (64, 48), (37, 101)]
)
def test_the_result_is_opencvs_to_one_grey_level(
    kernel: ModuleType, height: int, width: int
) -> None:
    # Noise is the hardest case for rounding; the geometry shows in every pixel.
    src, dst = picture(height, width), tensor(3, 320, 416)
    placement = kernel.letterbox(src, dst)
    boxed, corner = opencv_letterbox(src, 416, 320)
    expected = cv2.dnn.blobFromImage(boxed, 1 / 255, swapRB=True)[0]
    np.testing.assert_allclose(dst, expected, atol=1 / 255)
    assert (placement.pad_x, placement.pad_y) == corner
    kernel.stretch(src, dst)
    expected = cv2.dnn.blobFromImage(src, 1 / 255, (416, 320), swapRB=True)[0]
    np.testing.assert_allclose(dst, expected, atol=1 / 255)


# ---- against the reference ----

sides = st.one_of(st.integers(1, 40), st.sampled_from([63, 64, 65, 128, 200]))


@st.composite
def pictures(draw: st.DrawFn) -> UInt8:
    """Pictures whose rows are apart, upside down, or all the same one."""
    height, width = draw(sides), draw(sides)
    gap = draw(st.sampled_from([0, 1, 5]))
    src = picture(height, width + gap)[:, :width]
    form = draw(st.sampled_from(["as is", "upside down", "one row", "read only"]))
    if form == "one row":
        return np.broadcast_to(src[:1], src.shape)
    src = src[::-1] if form == "upside down" else src
    src.flags.writeable = form != "read only"
    return src


@st.composite
def regions(draw: st.DrawFn, src: UInt8) -> tuple[int, int, int, int]:
    x1, y1 = draw(st.integers(0, src.shape[1] - 1)), draw(st.integers(0, src.shape[0] - 1))
    return (
        x1,
        y1,
        draw(st.integers(x1 + 1, src.shape[1])),
        draw(st.integers(y1 + 1, src.shape[0])),
    )


@settings(max_examples=150, deadline=None)
@given(data=st.data(), src=pictures(), height=sides, width=sides)
def test_every_kernel_equals_the_reference(
    kernel: ModuleType, data: st.DataObject, src: UInt8, height: int, width: int
) -> None:
    mode = data.draw(st.sampled_from(["letterbox", "stretch"]))
    norm = data.draw(st.sampled_from([TO_UNIT, IMAGENET, RAW]))
    dtype = data.draw(st.sampled_from([np.float32, np.float16]))
    region = data.draw(st.none() | regions(src))
    # An odd offset: tensors need not be aligned to more than a sample.
    flat = tensor(3 * height * width + 1, dtype=dtype)
    dst, expected = flat[1:].reshape(3, height, width), tensor(3, height, width)
    placement = getattr(kernel, mode)(src, dst, norm, region=region)
    assert placement == getattr(reference_preprocess, mode)(src, expected, norm, region=region)
    full_scale = 255 * max(gain for gain, _ in norm.affine())
    np.testing.assert_allclose(
        dst, expected, atol=TOLERANCE * full_scale, rtol=HALF_ULP if dtype == np.float16 else 0
    )
    assert flat[0] == -7


def test_a_region_is_the_same_as_a_slice(kernel: ModuleType) -> None:
    src, dst, expected = picture(60, 80), tensor(3, 32, 32), tensor(3, 32, 32)
    placement = kernel.letterbox(src, dst, region=(10, 20, 74, 52))
    sliced = kernel.letterbox(src[20:52, 10:74], expected)
    np.testing.assert_array_equal(dst, expected)
    box = np.array([0, 8, 32, 24], np.float32)
    assert sliced.to_frame(box).tolist() == [0, 0, 64, 32]
    assert placement.to_frame(box).tolist() == [10, 20, 74, 52]


def check_float16(kernel: ModuleType, scale: float, width: int) -> None:
    values = np.arange(256, dtype=np.uint8)
    src = np.repeat(values.reshape(-1, width, 1), 3, axis=2)
    dst = tensor(3, 256 // width, width, dtype=np.float16)
    kernel.stretch(src, dst, Normalization(scale=scale))
    with np.errstate(over="ignore"):
        expected = (values.astype(np.float32) * np.float32(scale)).astype(np.float16)
    np.testing.assert_array_equal(dst[0].ravel(), expected)


@settings(deadline=None)
@given(scale=st.floats(2**-26, 2**12, width=32), width=st.sampled_from([1, 256]))
def test_float16_rounds_to_nearest(kernel: ModuleType, scale: float, width: int) -> None:
    check_float16(kernel, scale, width)


# 9: above 2048, odd products are half way between two values. 2^-25: half way, among subnormals.
@pytest.mark.parametrize("scale", [9.0, 2**-25, 2**-24, 2**-15 / 255, 65504 / 255, 65520 / 255])
@pytest.mark.parametrize("width", [1, 256])
def test_float16_rounds_halves_to_even(kernel: ModuleType, scale: float, width: int) -> None:
    check_float16(kernel, scale, width)


# ---- memory ----


def guarded(nbytes: int, *, at_end: bool) -> UInt8:
    """Bytes that begin, or end, exactly where touching memory kills the process."""
    page = mmap.PAGESIZE
    pages = -(-nbytes // page)
    region = mmap.mmap(-1, (pages + 2) * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(region))
    mprotect = ctypes.CDLL(None, use_errno=True).mprotect
    for guard in (start, start + (pages + 1) * page):
        if mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(page), 0) != 0:
            raise OSError(ctypes.get_errno(), "mprotect failed")
    offset = page + (pages * page - nbytes if at_end else 0)
    return np.frombuffer(region, np.uint8, nbytes, offset)


@pytest.mark.parametrize("at_end", [True, False])
@pytest.mark.parametrize("size", [(8, 8), (16, 40), (17, 3), (64, 64), (5, 1)])
def test_no_byte_outside_the_picture_is_read(
    kernel: ModuleType, size: tuple[int, int], at_end: bool
) -> None:
    for width in (1, 2, 3, 4, 5, 8, 15, 16, 17, 31, 33, 48, 64, 65):
        for height in (1, 2, 3, 5):
            src = guarded(3 * width * height, at_end=at_end).reshape(height, width, 3)
            src[:] = picture(height, width)
            for frame in (src, src[::-1]):
                dst, expected = tensor(3, *size), tensor(3, *size)
                kernel.stretch(frame, dst, RAW)
                reference_preprocess.stretch(frame.copy(), expected, RAW)
                np.testing.assert_allclose(dst, expected, atol=255 * TOLERANCE)


def test_no_byte_outside_the_tensor_is_written(kernel: ModuleType) -> None:
    src, room = picture(50, 50), tensor(5, 3, 21, 19)
    kernel.fill_batch([src] * 3, room[1:4], mode="stretch")
    np.testing.assert_array_equal(room[[0, 4]], -7)
    assert (room[1:4] != -7).all()


def test_any_object_with_the_right_buffer_will_do(kernel: ModuleType) -> None:
    src, dst, expected = picture(6, 4), bytearray(3 * 6 * 4 * 4), tensor(3, 6, 4)
    shaped = memoryview(dst).cast("f", (3, 6, 4))
    kernel.stretch(memoryview(src.tobytes()).cast("B", (6, 4, 3)), shaped)
    kernel.stretch(src, expected)
    np.testing.assert_array_equal(np.asarray(shaped), expected)


# ---- batches and threads ----


@pytest.mark.parametrize("mode", ["letterbox", "stretch"])
@pytest.mark.parametrize("threads", [1, 2, 3, 64])
def test_a_batch_is_its_pictures_one_by_one(kernel: ModuleType, mode: str, threads: int) -> None:
    sizes = [(90, 120), (90, 120), (48, 48), (7, 300), (90, 120), (1, 1)]
    srcs = [picture(*size, seed) for seed, size in enumerate(sizes)]
    dst, single = tensor(8, 3, 48, 80), tensor(3, 48, 80)
    placements = kernel.fill_batch(srcs, dst, IMAGENET, mode=mode, threads=threads)
    for src, filled, placement in zip(srcs, dst, placements, strict=False):
        assert placement == getattr(kernel, mode)(src, single, IMAGENET)
        np.testing.assert_array_equal(filled, single)
    assert len(placements) == len(srcs)
    np.testing.assert_array_equal(dst[6:], -7)


def test_an_empty_batch_is_no_work(kernel: ModuleType) -> None:
    dst = tensor(2, 3, 4, 4)
    assert kernel.fill_batch([], dst, mode="stretch", threads=4) == []
    np.testing.assert_array_equal(dst, -7)


def test_threads_are_gone_when_the_batch_is_done() -> None:
    before = sorted(os.listdir("/proc/self/task"))
    for _ in range(20):
        preprocess.fill_batch(
            [picture(64, 64)] * 4, tensor(4, 3, 64, 64), mode="stretch", threads=8
        )
    assert sorted(os.listdir("/proc/self/task")) == before


def test_other_python_threads_run_meanwhile() -> None:
    # With this interval nobody is asked to hand over the GIL: the other thread gets it only if the
    # kernel lets go of it.
    src, dst = picture(64, 64), tensor(3, 1024, 1024)
    go, ran = threading.Event(), threading.Event()

    def wait_and_run() -> None:
        go.wait(30)
        ran.set()

    other = threading.Thread(target=wait_and_run)
    interval = sys.getswitchinterval()
    other.start()
    sys.setswitchinterval(1000)
    try:
        go.set()
        for _ in range(1000):
            preprocess.stretch(src, dst)
            if ran.is_set():
                break
        progress = ran.is_set()
    finally:
        sys.setswitchinterval(interval)
        other.join()
    assert progress
