"""Descriptors of frames in every kind of payload, and any at all for property tests."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vdag._native import header as native_header
from vdag.transport.codec import INLINE_NBYTES, Descriptor, Hop

Header = native_header.Header
KIND_INLINE, KIND_SLOT = native_header.KIND_INLINE, native_header.KIND_SLOT
KIND_JPEG, KIND_H264 = native_header.KIND_JPEG, native_header.KIND_H264
UINT8 = native_header.DTYPES.index("uint8")

ROUTE = (
    Hop("face_detection", "ipc:///run/vdag/exchange"),
    Hop("face_alignment", "tcp://10.0.0.7:7000"),
    Hop("home", "ipc:///run/vdag/job-17"),
)
CONTEXT = {"face_detection": {"bbox": np.ones((10, 4), np.float32), "count": 10}}


def in_a_slot(**fields: Any) -> Header:
    fields = {
        "kind": KIND_SLOT,
        "dtype": UINT8,
        "shape": (1080, 1920, 3),
        "payload_nbytes": 1080 * 1920 * 3,
        "slot": 3,
        "generation": 77,
        "arena": 2**63,
        "offset": 4096,
    } | fields
    return Header(**fields)


def descriptor(header: Header | None = None, **fields: Any) -> Descriptor:
    fields = {"job": "job-17", "name": "cam", "route": ROUTE, "context": CONTEXT} | fields
    return Descriptor(header or in_a_slot(stream=5, seq=12, hop=1), **fields)


def with_payload(payload: bytes, **fields: Any) -> Descriptor:
    header = Header(kind=KIND_JPEG, payload_nbytes=len(payload))
    return descriptor(header, payload=payload, **fields)


def assert_same(one: Descriptor, other: Descriptor) -> None:
    lengths = {"route_nbytes": 0, "context_nbytes": 0}
    assert one.header.replace(**lengths) == other.header.replace(**lengths)
    assert (one.job, one.name, one.route) == (other.job, other.name, other.route)
    assert (one.payload is None) == (other.payload is None)
    if one.payload is not None:
        assert bytes(one.payload) == bytes(other.payload)
    np.testing.assert_equal(other.context, one.context)


names = st.text(max_size=60)
addresses = st.builds(
    "{}://{}".format,
    st.sampled_from(["inproc", "ipc", "tcp", "shm", "http"]),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40),
)
models = st.none() | st.integers(0, 99)
hops = st.builds(Hop, st.text(min_size=1, max_size=60), addresses, models)
routes = st.lists(hops, max_size=64).map(tuple)
fields_of_a_task = st.dictionaries(
    names,
    st.one_of(
        st.integers(-(2**63), 2**63 - 1),
        st.text(),
        hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=3)),
    ),
    max_size=3,
)
numbers = st.integers(0, 2**64 - 1)
times = st.integers(-(2**63) + 1, 2**63 - 1)


@st.composite
def descriptors(draw: st.DrawFn) -> Descriptor:
    kind = draw(st.sampled_from(native_header.KINDS))
    payload = None
    fields: dict[str, Any] = {"kind": native_header.KINDS.index(kind)}
    if kind in ("inline", "slot"):
        array = draw(hnp.arrays(np.uint8, hnp.array_shapes(max_dims=4, max_side=12)))
        fields |= {"dtype": UINT8, "shape": array.shape, "payload_nbytes": array.nbytes}
        payload = array.tobytes() if kind == "inline" else None
    elif kind in ("jpeg", "h264"):
        sizes = st.sampled_from([0, 1, 100, INLINE_NBYTES, INLINE_NBYTES + 1, 3 * INLINE_NBYTES])
        payload = bytes(draw(sizes))
        fields |= {"payload_nbytes": len(payload)}
    route = draw(routes)
    fields |= {name: draw(numbers) for name in ("plan", "stream", "seq", "cam_frame_id", "arena")}
    fields |= {name: draw(times) for name in ("capture_ns", "deadline_ns", "pts_ns")}
    fields |= {
        "hop": draw(st.integers(0, len(route))),
        "link_nbytes": draw(st.integers(0, 2**32 - 1)),
    }
    fields |= {"slot": draw(st.integers(0, 2**32 - 1)), "generation": draw(numbers)}
    context = draw(st.dictionaries(names, fields_of_a_task, max_size=3))
    return Descriptor(Header(**fields), draw(names), draw(names), route, context, payload)
