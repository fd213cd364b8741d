from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vdag._native.placement import Normalization, Placement

__all__ = ["fill_batch", "letterbox", "simd", "stretch"]

def letterbox(
    src: NDArray[np.uint8],
    dst: NDArray[Any],
    norm: Normalization = ...,
    *,
    region: tuple[int, int, int, int] | None = None,
) -> Placement: ...
def stretch(
    src: NDArray[np.uint8],
    dst: NDArray[Any],
    norm: Normalization = ...,
    *,
    region: tuple[int, int, int, int] | None = None,
) -> Placement: ...
def fill_batch(
    srcs: Sequence[NDArray[np.uint8]],
    dst: NDArray[Any],
    norm: Normalization = ...,
    *,
    mode: Literal["letterbox", "stretch"],
    threads: int = 1,
) -> list[Placement]: ...
def simd() -> str: ...
def _set_simd(name: str | None) -> None: ...
def _simd_levels() -> list[str]: ...
