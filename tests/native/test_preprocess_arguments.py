from __future__ import annotations

import os
import re
import subprocess
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from vdag._native import preprocess, reference_preprocess
from vdag.errors import ConfigError, ImageError

PICTURE = np.zeros((4, 6, 3), np.uint8)


@pytest.fixture(params=[preprocess, reference_preprocess], ids=["compiled", "reference"])
def kernel(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


def tensor(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.full(shape, -7, dtype)


def read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


BAD_PICTURES = {
    "a list": ([1, 2, 3], "src of type list gives no access to samples"),
    "times": (np.zeros((4, 6, 3), "M8[s]"), "src of type ndarray gives no access to samples"),
    "grey": (PICTURE[:, :, 0], "src of shape (4, 6) is not (H, W, 3)"),
    "with alpha": (np.zeros((4, 6, 4), np.uint8), "src of shape (4, 6, 4) is not (H, W, 3)"),
    "bytes": (b"123", "src of shape (3,) is not (H, W, 3)"),
    "floats": (PICTURE.astype(np.float32), "src has samples of format 'f', not 'B'"),
    "signed": (PICTURE.view(np.int8), "src has samples of format 'b', not 'B'"),
    "no rows": (PICTURE[:0], "src height 0 is outside 1..65535"),
    "no columns": (PICTURE[:, :0], "src width 0 is outside 1..65535"),
    "too wide": (np.zeros((1, 65536, 3), np.uint8), "src width 65536 is outside 1..65535"),
    "too high": (np.zeros((65536, 1, 3), np.uint8), "src height 65536 is outside 1..65535"),
    "every second": (PICTURE[:, ::2], "src with strides (18, 6, 1) has gaps inside its rows"),
    "mirrored": (PICTURE[:, ::-1], "src with strides (18, -3, 1) has gaps inside its rows"),
    "as rgb": (PICTURE[:, :, ::-1], "src with strides (18, 3, -1) has gaps inside its rows"),
}


@pytest.mark.parametrize("case", BAD_PICTURES)
@pytest.mark.parametrize("mode", ["letterbox", "stretch"])
def test_what_is_no_picture_is_refused(kernel: ModuleType, mode: str, case: str) -> None:
    src, text = BAD_PICTURES[case]
    dst = tensor(3, 8, 8)
    with pytest.raises(ImageError, match=f"^{re.escape(text)}$"):
        getattr(kernel, mode)(src, dst)
    assert (dst == -7).all()


def test_a_batch_names_the_picture_it_refuses(kernel: ModuleType) -> None:
    dst = tensor(2, 3, 8, 8)
    with pytest.raises(ImageError, match=r"^srcs\[1\] height 0 is outside 1\.\.65535$"):
        kernel.fill_batch([PICTURE, PICTURE[:0]], dst, mode="stretch")
    assert (dst == -7).all()


BAD_TENSORS = {
    "a string": ("tensor", "dst of type str gives no access to samples"),
    "a batch": (tensor(1, 3, 8, 8), "dst of shape (1, 3, 8, 8) is not (3, h, w)"),
    "channels last": (tensor(8, 8, 3), "dst of shape (8, 8, 3) is not (3, h, w)"),
    "doubles": (tensor(3, 8, 8, dtype=np.float64), "dst has samples of format 'd', not 'f' or 'e'"),
    "big-endian": (tensor(3, 8, 8, dtype=">f4"), "dst has samples of format '>f', not 'f' or 'e'"),
    "unaligned": (
        np.zeros(3 * 64 * 4 + 1, np.uint8)[1:].view(np.float32).reshape(3, 8, 8),
        "dst has samples of format '=f', not 'f' or 'e'",
    ),
    "read-only": (read_only(tensor(3, 8, 8)), "dst is read-only"),
    "no width": (tensor(3, 8, 0), "dst width 0 is outside 1..65535"),
    "too high": (tensor(3, 65536, 1, dtype=np.float16), "dst height 65536 is outside 1..65535"),
    "turned": (
        tensor(3, 8, 9).transpose(0, 2, 1),
        "dst with strides (288, 4, 36) is not C-contiguous",
    ),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_what_is_no_tensor_is_refused(kernel: ModuleType, case: str) -> None:
    dst, text = BAD_TENSORS[case]
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
        kernel.letterbox(PICTURE, dst)


BAD_ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "norm": ({"norm": {}}, "norm is a dict, not a Normalization"),
    "mode": ({"mode": "crop"}, "mode 'crop' is not letterbox or stretch"),
    "no threads": ({"threads": 0}, "threads 0 is outside 1..64"),
    "many threads": ({"threads": 65}, "threads 65 is outside 1..64"),
    "many pictures": ({"srcs": [PICTURE] * 3}, "batch of 3 exceeds dst of 2"),
    "no batch": ({"dst": tensor(3, 8, 8)}, "dst of shape (3, 8, 8) is not (N, 3, h, w)"),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_a_batch_without_meaning_is_refused(kernel: ModuleType, case: str) -> None:
    changed, text = BAD_ARGUMENTS[case]
    dst = tensor(2, 3, 8, 8)
    arguments = {"srcs": [PICTURE], "dst": dst, "mode": "stretch"} | changed
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
        kernel.fill_batch(arguments.pop("srcs"), arguments.pop("dst"), **arguments)
    assert (dst == -7).all()


BAD_REGIONS = {
    (0, 0, 7, 4): "region (0, 0, 7, 4) is not inside the 6x4 src",
    (0, 0, 6, 5): "region (0, 0, 6, 5) is not inside the 6x4 src",
    (-1, 0, 6, 4): "region (-1, 0, 6, 4) is not inside the 6x4 src",
    (0, 2, 6, 2): "region (0, 2, 6, 2) is not inside the 6x4 src",
    (4, 0, 2, 4): "region (4, 0, 2, 4) is not inside the 6x4 src",
    (2**70, 0, 2**71, 4): f"region ({2**70}, 0, {2**71}, 4) is not inside the 6x4 src",
    (0, 0, 6): "region (0, 0, 6) is not four integers",
    (0, 0, 1.5, 4): "region (0, 0, 1.5, 4) is not four integers",
}


@pytest.mark.parametrize("region", BAD_REGIONS, ids=str)
def test_a_region_must_be_inside_the_frame(
    kernel: ModuleType, region: tuple[int, int, int, int]
) -> None:
    dst = tensor(3, 8, 8)
    with pytest.raises(ConfigError, match=f"^{re.escape(BAD_REGIONS[region])}$"):
        kernel.letterbox(PICTURE, dst, region=region)
    assert (dst == -7).all()


def test_region_takes_numpys_integers(kernel: ModuleType) -> None:
    placement = kernel.stretch(PICTURE, tensor(3, 4, 4), region=np.array([2, 0, 6, 4]))
    assert placement == (1, 1, -2, 0)


def test_no_buffer_is_held_after_a_call_or_an_error(kernel: ModuleType) -> None:
    src, dst = bytearray(36), bytearray(3 * 4 * 4 * 4)
    kernel.stretch(memoryview(src).cast("B", (4, 3, 3)), memoryview(dst).cast("f", (3, 4, 4)))
    with pytest.raises(ConfigError):
        kernel.stretch(memoryview(src).cast("B", (4, 3, 3)), memoryview(dst).cast("d", (3, 4, 2)))
    with pytest.raises(ImageError):
        kernel.stretch(memoryview(src).cast("b", (4, 3, 3)), memoryview(dst).cast("f", (3, 4, 4)))
    src.append(0)  # BufferError while anybody looks at it
    dst.append(0)


# ---- instruction sets ----


def test_the_best_level_is_chosen_and_named() -> None:
    preprocess._set_simd(None)
    assert preprocess.simd() == preprocess._simd_levels()[-1]
    assert preprocess._simd_levels()[0] == "plain"
    assert reference_preprocess.simd() == "numpy"


def test_an_unknown_level_is_refused_and_the_last_one_stays() -> None:
    text = r"^VDAG_SIMD 'mmx' is not one of plain, neon, avx2, avx512$"
    with pytest.raises(ConfigError, match=text):
        preprocess._set_simd("mmx")
    assert preprocess.simd() == preprocess._simd_levels()[-1]


def test_a_level_of_another_cpu_is_refused() -> None:
    (other, *_) = {"neon", "avx2"} - set(preprocess._simd_levels())
    levels = ", ".join(preprocess._simd_levels())
    with pytest.raises(ConfigError, match=f"^VDAG_SIMD '{other}' is not in this CPU: {levels}$"):
        preprocess._set_simd(other)


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ("plain", "plain"),
        ("", preprocess._simd_levels()[-1]),
        ("sse9", "VDAG_SIMD 'sse9' is not one of plain, neon, avx2, avx512"),
    ],
)
def test_the_environment_lowers_the_level_when_first_used(value: str, answer: str) -> None:
    program = (
        "from vdag._native import preprocess\n"
        "try:\n    print(preprocess.simd())\n"
        "except ValueError as err:\n    print(err)\n"
    )
    environment = os.environ | {"VDAG_SIMD": value}
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert run.stdout.strip() == answer
