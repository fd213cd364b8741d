"""A typical descriptor to bytes and back: ten faces with boxes, scores and head poses.

Against pickle, which may run any code on arrival, and against msgspec with the arrays as lists,
which is what one would write by hand; its side makes arrays of the lists on arrival, as tasks need
arrays. vdag's side also checks every length, shape, name and address. `decode_head` is what an
exchange does with a frame that it passes on, `decode_header` what somebody does who only wants the
pixels, `Envelope.seal` what a source does with every frame. With the crops of the faces (1.2 MB)
the arrays are views of the message.
"""

from __future__ import annotations

import pickle
from typing import Any

import msgspec
import numpy as np

from vdag._native import header as native_header
from vdag.transport.codec import (
    Descriptor,
    Envelope,
    Hop,
    decode,
    decode_head,
    decode_header,
    encode,
)

FIELDS = {
    "kind": native_header.KIND_SLOT,
    "dtype": 1,
    "shape": (1080, 1920, 3),
    "payload_nbytes": 1080 * 1920 * 3,
    "plan": 17,
    "stream": 2**63 + 5,
    "seq": 1041,
    "cam_frame_id": 2082,
    "capture_ns": 123_456_789_000_000,
    "deadline_ns": 123_457_089_000_000,
    "slot": 3,
    "generation": 77,
    "arena": 2**62 + 9,
    "hop": 1,
}
ROUTE = (
    ("face_detection", "ipc:///run/vdag/exchange"),
    ("face_alignment", "tcp://10.0.0.7:7000"),
    ("home", "ipc:///run/vdag/job-17"),
)


def context(*, crops: bool = False) -> dict[str, dict[str, Any]]:
    random = np.random.default_rng(7)
    found = {
        "face_detection": {
            "bbox": random.random((10, 4), np.float32),
            "prob": random.random(10, np.float32),
        },
        "face_alignment": {"head_pose": random.random((10, 3), np.float32)},
    }
    if crops:
        faces = random.integers(0, 256, (10, 200, 200, 3), np.uint8)
        found["face_detection"]["faces"] = list(faces)
    return found


def sent(found) -> Descriptor:
    route = tuple(Hop(*hop) for hop in ROUTE)
    return Descriptor(native_header.Header(**FIELDS), "job-17", "cam", route, found)


def vdag_side(found):
    frame = sent(found)
    return lambda: decode(encode(frame)).context


def pickle_side(found):
    frame = {"header": FIELDS, "job": "job-17", "name": "cam", "route": ROUTE, "context": found}
    return lambda: pickle.loads(pickle.dumps(frame, 5))["context"]


def msgspec_side(found):
    encoder, decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder()
    frame = {"header": FIELDS, "job": "job-17", "name": "cam", "route": ROUTE}

    def run():
        plain = {
            task: {name: array.tolist() for name, array in fields.items()}
            for task, fields in found.items()
        }
        arrived = decoder.decode(encoder.encode(frame | {"context": plain}))
        return {
            task: {name: np.array(rows, np.float32) for name, rows in fields.items()}
            for task, fields in arrived["context"].items()
        }

    return run


def bench_encode_decode_pickle(compare):
    ours, theirs = vdag_side(context()), pickle_side(context())
    np.testing.assert_equal(ours(), theirs())
    compare("codec.encode_decode", subject=("vdag", ours), against=("pickle", theirs), unit="us")


def bench_encode_decode_msgspec(compare):
    ours, theirs = vdag_side(context()), msgspec_side(context())
    np.testing.assert_equal(ours(), theirs())
    compare(
        "codec.encode_decode_vs_msgspec",
        subject=("vdag", ours),
        against=("msgspec, lists", theirs),
        unit="us",
    )


def bench_encode_decode_crops(compare):
    ours, theirs = vdag_side(context(crops=True)), pickle_side(context(crops=True))
    np.testing.assert_equal(ours(), theirs())
    compare(
        "codec.encode_decode_crops", subject=("vdag", ours), against=("pickle", theirs), unit="us"
    )


def bench_decode_head(compare):
    frame = sent(context())
    parts = encode(frame)
    assert decode_head(parts).here == frame.here
    compare(
        "codec.decode_head",
        subject=("vdag", lambda: decode_head(parts)),
        against=("decode", lambda: decode(parts)),
        unit="us",
    )


def bench_decode_header(compare):
    parts = encode(sent(context()))
    assert decode_header(parts) == decode_head(parts).header
    compare(
        "codec.decode_header",
        subject=("vdag", lambda: decode_header(parts)),
        against=("decode_head", lambda: decode_head(parts)),
        unit="us",
    )


def bench_seal(compare):
    frame = sent({})
    envelope = Envelope(frame.job, frame.name, frame.route)
    assert envelope.seal(frame.header) == encode(frame)[0]
    compare(
        "codec.seal",
        subject=("vdag", lambda: envelope.seal(frame.header)),
        against=("encode", lambda: encode(frame)),
        unit="us",
    )
