"""The kernel for GPUs, compiled for the CPU, against the CPU's own kernel."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import gpu_kit
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vdag import _native as native
from vdag.engines.gpu.pictures import ITEM, Launch, Preparation, place, size_of
from vdag.errors import ConfigError, ImageError

NORMS = (
    native.Normalization(),
    native.Normalization(
        scale=1.0, mean=(103.5, 116.3, 123.7), std=(57.4, 57.1, 58.4), rgb=False, pad=0
    ),
)
sides = st.integers(1, 70)


def fill(
    device: gpu_kit.HostDevice,
    pictures: Sequence[np.ndarray],
    preparation: Preparation,
    dtype: str = "float32",
) -> tuple[np.ndarray, list[native.Placement]]:
    width, height = preparation.size
    tensor = np.full((len(pictures), 3, height, width), np.nan, dtype)
    items = np.zeros(len(pictures), ITEM)
    placements = []
    for item, picture in zip(items, pictures, strict=True):
        placements.append(place(item, picture.shape[1], picture.shape[0], preparation))
        item["src"], item["stride"] = picture.ctypes.data, picture.strides[0]
    launch = Launch(items.ctypes.data, tensor.ctypes.data, len(pictures), dtype, preparation)
    with device.active():
        device.fill_pictures(launch, device.stream())
    return tensor, placements


def grey_levels(found: np.ndarray, expected: np.ndarray, norm: native.Normalization) -> float:
    gains = np.array([gain for gain, _ in norm.affine()]).reshape(3, 1, 1)
    rounding = np.abs(expected) / 1024 if found.dtype == np.float16 else 0.0
    off = np.abs(found.astype(np.float64) - expected) - rounding
    return float((off / gains).max())


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    sizes=st.lists(st.tuples(sides, sides), min_size=1, max_size=4),
    target=st.tuples(sides, sides),
    mode=st.sampled_from(["letterbox", "stretch"]),
    norm=st.sampled_from(NORMS),
    dtype=st.sampled_from(["float32", "float16"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_it_computes_what_the_cpu_computes(
    host, sizes: list[tuple[int, int]], target, mode, norm, dtype: str, seed: int
):
    random = np.random.default_rng(seed)
    pictures = [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    preparation = Preparation("x", target, norm, mode)
    expected = np.empty((len(pictures), 3, target[1], target[0]), np.float32)
    where = native.preprocess.fill_batch(pictures, expected, norm, mode=mode)
    found, placements = fill(host, pictures, preparation, dtype)
    assert placements == where
    assert np.isfinite(found).all()
    assert grey_levels(found, expected, norm) <= 1


@pytest.mark.parametrize("mode", ["letterbox", "stretch"])
def test_a_camera_picture_is_within_a_tenth_of_a_level(host, mode):
    random = np.random.default_rng(5)
    picture = random.integers(0, 256, (1080, 1920, 3), dtype=np.uint8)
    preparation = Preparation("x", (640, 384), NORMS[0], mode)
    expected = np.empty((3, 384, 640), np.float32)
    getattr(native.preprocess, mode)(picture, expected, NORMS[0])
    found, _ = fill(host, [picture], preparation)
    assert grey_levels(found[0], expected, NORMS[0]) <= 0.1


def test_the_descriptor_is_laid_out_as_in_the_kernel():
    assert ITEM.itemsize == 40
    assert [ITEM.fields[name][1] for name in ("src", "stride", "src_width", "top")] == [
        0,
        8,
        16,
        36,
    ]


def test_blocks_cover_a_tensor_that_they_do_not_divide():
    preparation = Preparation("x", (33, 9), NORMS[0], "stretch")
    assert Launch(0, 0, 5, "float32", preparation).grid == (2, 2, 5)


@pytest.mark.parametrize(
    ("size", "mode", "problem"),
    [
        ((0, 4), "stretch", "tensor width 0 is outside 1..65535"),
        ((4, 65536), "stretch", "tensor height 65536 is outside 1..65535"),
        ((4, 4), "crop", "mode 'crop' is not letterbox or stretch"),
    ],
)
def test_a_preparation_without_meaning_is_refused(size: Any, mode: Any, problem: str):
    with pytest.raises(ConfigError) as caught:
        Preparation("x", size, NORMS[0], mode)
    assert str(caught.value) == problem


@pytest.mark.parametrize(
    ("picture", "problem"),
    [
        (np.zeros((4, 4), np.uint8), "picture of shape (4, 4) is not (H, W, 3)"),
        (np.zeros((4, 4, 4), np.uint8), "picture of shape (4, 4, 4) is not (H, W, 3)"),
        (np.zeros((4, 4, 3), np.int8), "picture has samples of int8, not uint8"),
        (np.zeros((0, 4, 3), np.uint8), "picture height 0 is outside 1..65535"),
        (b"bytes", "picture of shape None is not (H, W, 3)"),
    ],
)
def test_what_is_no_picture_is_refused(picture: Any, problem: str):
    with pytest.raises(ImageError) as caught:
        size_of("picture", picture)
    assert str(caught.value) == problem


def test_gaps_inside_rows_are_refused():
    picture = np.zeros((4, 8, 3), np.uint8)[:, ::2]
    with pytest.raises(ImageError, match=r"picture with strides \(24, 6, 1\) has gaps inside"):
        size_of("picture", picture)


def test_the_kernels_are_found_under_their_names(kernels: ctypes.CDLL):
    assert kernels.run_vdag_pictures_float32
    assert kernels.run_vdag_pictures_float16
