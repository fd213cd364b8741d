"""Requests with pictures in every encoding, as callers send them: what fuzzers start from."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from vdag import _native as native
from vdag.control.service.images import Bounds, Picture
from vdag.control.service.schemas import FORM, JSON, MSGPACK, Order, RequestReader
from vdag.errors import VdagError
from vdag.tasks import find

BOUNDARY = "XX"
KINDS = (JSON, MSGPACK, f"{FORM}; boundary={BOUNDARY}", "image/jpeg", "image/png")
BOUNDS = Bounds(max_pixels=128 * 128, max_pictures=8, max_nbytes=1 << 16)
PIXELS = np.random.default_rng(5).integers(0, 256, (9, 12, 3), np.uint8)
JPEG = bytes(native.jpeg.encode(PIXELS, quality=80))
PNG = cv2.imencode(".png", PIXELS)[1].tobytes()
TASKS = ("face_detection", "face_alignment", "helmet_detection")


def readers() -> list[RequestReader]:
    """Return a reader for a task of each kind: of pictures, of faces and boxes, of clips."""
    return [RequestReader(task, find(task).signature, BOUNDS) for task in TASKS]


def requests() -> Iterator[tuple[int, bytes]]:
    """Yield good requests: number of the kind, and body."""
    text = native.literal.encode(JPEG)
    boxes = {"bbox": [[1, 2, 8, 9]], "prob": [0.5]}
    encoded = base64.b64encode(PNG).decode()
    for fields in (
        {"image": text, "task_conf": {"fps": 30}},
        {"image": encoded, **boxes},
        {"image": f"data:image/png;base64,{encoded}"},
        {"image": PIXELS.tolist()},
        {"image": PIXELS[..., 0].tolist()},
        {"image_list": [text, encoded]},
        {"image_list": [PIXELS[:2].tolist(), PIXELS[:2, :, 0].tolist()]},
        {"faces": [text], **boxes},
        {"clip": [text, text]},
    ):
        yield 0, json.dumps(fields).encode()
    shaped = {"shape": list(PIXELS.shape), "data": PIXELS.tobytes()}
    for found in ({"image": JPEG}, {"image": shaped, **boxes}, {"image_list": [PNG, text, shaped]}):
        yield 1, msgspec.msgpack.encode(found)
    yield 2, form(image=JPEG)
    yield 2, form(faces=text.encode(), bbox=b"[[1, 2, 3, 4]]", prob=b"[1]")
    yield 3, JPEG
    yield 3, cv2.imencode(".jpg", PIXELS, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    yield 4, PNG


def form(**fields: bytes) -> bytes:
    """Return a body of `multipart/form-data`."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for name, content in fields.items()
    ]
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def look(reader: RequestReader, body: bytes, kind: str, *, is_list: bool) -> Order | None:
    """Read a request and decode its pictures as far as they can be; None if it is refused.

    What can be read must be within the bounds, and must be what other parsers make of it.
    """
    try:
        order = reader.read(body, kind, is_list=is_list)
    except VdagError as err:
        if not 400 <= err.status < 500:
            raise
        return None
    decoded = [
        pixels
        for work in order.works
        for picture in (*work.pictures, *(work.faces or ()))
        if (pixels := _decode(picture)) is not None
    ]
    if kind == JSON and len(order.works) == 1 and len(decoded) == 1:
        _compare(json.loads(body).get("image"), decoded[0])
    return order


def _decode(picture: Picture) -> NDArray[np.uint8] | None:
    assert 0 < picture.width * picture.height <= BOUNDS.max_pixels
    pixels = np.empty((picture.height, picture.width, 3), np.uint8)
    with suppress(VdagError):
        picture.write(pixels)
        return pixels
    return None


def _compare(value: Any, pixels: NDArray[np.uint8]) -> None:
    """Hold nested lists against numpy's reading of them."""
    if isinstance(value, list):
        expected = np.array(value)
        if expected.ndim == 2:
            expected = np.repeat(expected[..., None], 3, axis=2)
        np.testing.assert_array_equal(pixels, expected)
