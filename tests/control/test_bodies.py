"""Literals are taken out of bodies before JSON is parsed, which nobody may notice."""

from __future__ import annotations

import json

import numpy as np
import pytest

from vdag import _native as native
from vdag.control.service.bodies import LIFTED_NBYTES, lift
from vdag.control.service.images import Bounds
from vdag.control.service.schemas import JSON, RequestReader
from vdag.errors import ConfigError, ImageError
from vdag.graph import Signature

READER = RequestReader(
    "look",
    Signature(frozenset({"image"}), frozenset({"seen"}), optional=frozenset({"prob"})),
    Bounds(),
)
NOISE = np.random.default_rng(3).integers(0, 256, (120, 160, 3), np.uint8)
FILE = bytes(native.jpeg.encode(NOISE, quality=95))
TEXT = native.literal.encode(FILE)


def pixels(body: bytes) -> np.ndarray:
    (picture,) = READER.read(body, JSON).works[0].pictures
    out = np.empty((picture.height, picture.width, 3), np.uint8)
    picture.write(out)
    return out


def test_a_literal_is_taken_out_and_the_other_fields_are_read():
    body = json.dumps({"image": TEXT, "prob": [0.5], "task_conf": {"fps": 30}}).encode()
    assert len(body) > LIFTED_NBYTES
    text, rest = lift(body)
    assert text == TEXT.encode()
    assert json.loads(rest) == {"image": "", "prob": [0.5], "task_conf": {"fps": 30}}
    order = READER.read(body, JSON)
    assert order.conf == {"fps": 30}
    assert order.works[0].fields["prob"].tolist() == [0.5]
    assert (pixels(body) == native.jpeg.decode(FILE)).all()


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"prob": [0.5], "image": TEXT}),
        json.dumps({"image": TEXT}).replace("JFIF", "\\u004aFIF"),
        json.dumps({"image": "x"})[:-1] + ", " + json.dumps({"image": TEXT})[1:],
        " " + json.dumps({"image": "x", "i": 1})[:-1] + ", " + json.dumps({"image": TEXT})[1:],
    ],
)
def test_a_body_of_another_form_means_the_same(body):
    assert lift(body.encode()) == (None, body.encode())
    assert (pixels(body.encode()) == pixels(json.dumps({"image": TEXT}).encode())).all()


def test_the_last_of_two_pictures_counts():
    body = json.dumps({"image": TEXT})[:-1] + ', "image": "b\'x\'"}'
    assert lift(body.encode())[0] == TEXT.encode()
    with pytest.raises(
        ImageError, match=r"^field image: picture is neither JPEG nor PNG: it begins"
    ):
        READER.read(body.encode(), JSON)


@pytest.mark.parametrize(
    ("body", "kind", "error"),
    [
        (json.dumps({"image": TEXT[:-1]}), ImageError, "field image: literal is not closed before"),
        (json.dumps({"image": TEXT})[:-1], ConfigError, "body is malformed: input data was trunc"),
        (json.dumps({"image": TEXT}) + "x", ConfigError, "body is malformed: JSON is malformed"),
    ],
)
def test_what_is_wrong_is_said_as_ever(body, kind, error):
    with pytest.raises(kind, match=f"^{error}"):
        READER.read(body.encode(), JSON)
