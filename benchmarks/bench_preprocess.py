"""Frames into a detector's batch tensor, against OpenCV's way and numpy's.

Measured: from 8 decoded BGR frames to a full float32 tensor `(8, 3, 640, 640)`, RGB in 0..1.
Outside: making the frames, and vdag's and numpy's tensor, which a program allocates once; OpenCV
gives out a new one per call and cannot do otherwise. One thread on each side unless the name says
more. That both sides agree to one grey level is asserted first.
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from vdag import _native as native

SIDE, BATCH = 640, 8
GREY = (114, 114, 114)


@pytest.fixture(autouse=True)
def one_thread():
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(threads)


def frames(height: int, width: int) -> list[np.ndarray]:
    """Different frames, so that the batch does not come out of a small cache."""
    random = np.random.default_rng(1)
    return [random.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(BATCH)]


def batch() -> np.ndarray:
    """A tensor whose memory is there already, as in the second and every later batch."""
    return np.ones((BATCH, 3, SIDE, SIDE), np.float32)


def vdag(srcs: list[np.ndarray], mode: str, threads: int = 1):
    """Prepare what is measured: filling a tensor of its own."""
    dst = batch()

    def ours() -> np.ndarray:
        native.preprocess.fill_batch(srcs, dst, mode=mode, threads=threads)
        return dst

    return ours


def blob(srcs: list[np.ndarray]) -> np.ndarray:
    """OpenCV's call for exactly this: resize if needed, scale, swap, reorder."""
    return cv2.dnn.blobFromImages(srcs, 1 / 255, (SIDE, SIDE), swapRB=True)


def boxed(src: np.ndarray) -> np.ndarray:
    """OpenCV's letterbox."""
    scale = min(SIDE / src.shape[1], SIDE / src.shape[0])
    width, height = round(src.shape[1] * scale), round(src.shape[0] * scale)
    left, top = (SIDE - width) // 2, (SIDE - height) // 2
    edges = (top, SIDE - height - top, left, SIDE - width - left)
    resized = cv2.resize(src, (width, height))
    return cv2.copyMakeBorder(resized, *edges, cv2.BORDER_CONSTANT, value=GREY)


def agree(ours, theirs) -> None:
    np.testing.assert_allclose(ours(), theirs(), atol=1 / 255)


def bench_letterbox(compare):
    srcs = frames(1080, 1920)
    ours = vdag(srcs, "letterbox")

    def theirs() -> np.ndarray:
        return cv2.dnn.blobFromImages([boxed(src) for src in srcs], 1 / 255, swapRB=True)

    agree(ours, theirs)
    compare(
        "preprocess.letterbox_1080p_640_b8",
        subject=("vdag", ours),
        against=("cv2.resize + copyMakeBorder + blobFromImages", theirs),
    )


def bench_letterbox_of_an_uneven_ratio(compare):
    # 1080p is exactly three times as wide as the tensor, which spares the blending; this is not.
    srcs = frames(900, 1600)
    ours = vdag(srcs, "letterbox")

    def theirs() -> np.ndarray:
        return cv2.dnn.blobFromImages([boxed(src) for src in srcs], 1 / 255, swapRB=True)

    agree(ours, theirs)
    compare(
        "preprocess.letterbox_900p_640_b8",
        subject=("vdag", ours),
        against=("cv2.resize + copyMakeBorder + blobFromImages", theirs),
    )


def bench_stretch(compare):
    srcs = frames(1080, 1920)
    ours = vdag(srcs, "stretch")
    agree(ours, lambda: blob(srcs))
    compare(
        "preprocess.stretch_1080p_640_b8",
        subject=("vdag", ours),
        against=("cv2.dnn.blobFromImages", lambda: blob(srcs)),
    )


def bench_plain(compare):
    srcs = frames(SIDE, SIDE)
    ours = vdag(srcs, "stretch")
    agree(ours, lambda: blob(srcs))
    compare(
        "preprocess.plain_640_b8",
        subject=("vdag", ours),
        against=("cv2.dnn.blobFromImages", lambda: blob(srcs)),
    )


def bench_plain_against_numpy(compare):
    # numpy at its best: one pass per channel, straight into the tensor.
    srcs = frames(SIDE, SIDE)
    ours, dst = vdag(srcs, "stretch"), batch()

    def theirs() -> np.ndarray:
        for src, out in zip(srcs, dst, strict=True):
            for channel in range(3):
                np.multiply(src[:, :, 2 - channel], np.float32(1 / 255), out=out[channel])
        return dst

    agree(ours, theirs)
    compare(
        "preprocess.plain_640_b8_numpy",
        subject=("vdag", ours),
        against=("numpy, per channel into a kept tensor", theirs),
    )


@pytest.mark.parametrize("mode", ["letterbox", "stretch"])
def bench_two_threads(compare, mode):
    srcs = frames(1080, 1920)
    ours, alone = vdag(srcs, mode, threads=2), vdag(srcs, mode)
    np.testing.assert_array_equal(ours(), alone())
    compare(
        f"preprocess.{mode}_1080p_640_b8_2threads",
        subject=("vdag, 2 threads", ours),
        against=("vdag, 1 thread", alone),
    )
