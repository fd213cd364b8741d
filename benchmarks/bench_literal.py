"""The text form of bytes in JSON fields against Python's own.

The bytes are a 1080p JPEG at quality 95, OpenCV's default, some 800 kB that become 2.5 MB of text.
`eval` is what such fields are commonly read with, `ast.literal_eval` what it should have been.
Measured: from the `str` to the `bytes` and back. Outside: making the picture, and asserting that
both sides agree.
"""

from __future__ import annotations

import ast

import cv2
import numpy as np
import pytest

from vdag import _native as native

MAX_NBYTES = 32 << 20


@pytest.fixture(scope="module")
def picture() -> bytes:
    """Patches, texture and the noise of a sensor: about the size of a camera's frame."""
    random = np.random.default_rng(2026)
    patches = random.integers(0, 256, (27, 48, 3), np.uint8)
    scene = cv2.resize(patches, (1920, 1080), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    texture = random.normal(0, 12, (270, 480, 3)).astype(np.float32)
    scene += cv2.resize(texture, (1920, 1080)) + random.normal(0, 4, scene.shape)
    pixels = scene.clip(0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def decode_against(compare, picture: bytes, name: str, label: str, theirs) -> None:
    text = repr(picture)

    def ours() -> bytes:
        return native.literal.decode(text, max_nbytes=MAX_NBYTES)

    assert ours() == theirs(text) == picture
    compare(name=name, subject=("decode", ours), against=(label, lambda: theirs(text)))


def bench_decode_1080p(compare, picture: bytes) -> None:
    decode_against(compare, picture, "literal.decode_1080p", "eval", eval)


def bench_decode_1080p_literal_eval(compare, picture: bytes) -> None:
    name = "literal.decode_1080p_literal_eval"
    decode_against(compare, picture, name, "ast.literal_eval", ast.literal_eval)


def bench_encode_1080p(compare, picture: bytes) -> None:
    def ours() -> str:
        return native.literal.encode(picture)

    assert ours() == repr(picture)
    compare(
        name="literal.encode_1080p",
        subject=("encode", ours),
        against=("repr", lambda: repr(picture)),
    )
