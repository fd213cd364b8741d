"""Descriptors as message parts: what is sent arrives, what was not sent by us is refused."""

from __future__ import annotations

import re
import struct
import tracemalloc
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vdag._native import header as native_header
from vdag.errors import FrameFormatError
from vdag.transport.codec import (
    INLINE_NBYTES,
    Descriptor,
    Envelope,
    Hop,
    advance,
    decode,
    decode_head,
    decode_header,
    encode,
)

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


@given(descriptors())
def test_any_descriptor_arrives_as_it_was(sent):
    parts = encode(sent)
    assert len(parts) == (1 if len(sent.payload or b"") <= INLINE_NBYTES else 2)
    arrived = decode(parts)
    assert_same(sent, arrived)
    head = decode_head(parts)
    assert (head.header, head.job, head.name, head.route, head.here) == (
        arrived.header,
        arrived.job,
        arrived.name,
        arrived.route,
        arrived.here,
    )
    assert decode_header(parts) == arrived.header


@given(descriptors())
def test_an_envelope_writes_what_encode_writes(sent):
    bare = msgspec.structs.replace(sent, context={})
    envelope = Envelope(sent.job, sent.name, sent.route)
    assert (envelope.job, envelope.name, envelope.route) == (sent.job, sent.name, sent.route)
    if sent.payload is None:
        header = sent.header.replace(route_nbytes=8, context_nbytes=77)
        assert envelope.seal(header) == envelope.seal(sent.header) == encode(bare)[0]
        return
    kind = native_header.KINDS[sent.header.kind]
    with pytest.raises(FrameFormatError, match=f"^no payload does not go with kind {kind}$"):
        envelope.seal(sent.header)


def test_an_envelope_refuses_what_could_not_be_read():
    envelope = Envelope("job-17", "cam", ROUTE)
    with pytest.raises(FrameFormatError, match=r"^hop 4 exceeds the 3 hops of the route$"):
        envelope.seal(in_a_slot(hop=4))
    with pytest.raises(FrameFormatError, match=r"^job of 256 bytes exceeds limit 255$"):
        Envelope("j" * 256, "cam", ROUTE)


def test_a_descriptor_of_a_slot_is_one_small_part():
    (part,) = encode(descriptor(context={}))
    assert len(part) < 300


def test_a_payload_up_to_the_limit_travels_in_the_same_part():
    (part,) = encode(with_payload(bytes(INLINE_NBYTES)))
    payload = decode([part]).payload
    assert isinstance(payload, memoryview)
    assert payload.readonly
    assert np.shares_memory(np.asarray(payload), np.frombuffer(part, np.uint8))


def test_a_longer_payload_is_the_second_part_and_is_not_copied():
    payload = bytes(INLINE_NBYTES + 1)
    first, second = encode(with_payload(payload))
    assert second is payload
    assert decode([first, second]).payload == payload


def test_parts_may_be_any_contiguous_buffers():
    first, second = encode(with_payload(bytes(5000)))
    for kind in (bytearray, memoryview, lambda part: np.frombuffer(part, np.uint32)):
        padded = kind(second)
        assert_same(decode([bytearray(first), padded]), decode([first, second]))


def test_a_frame_goes_home_with_what_every_task_has_found():
    frame = descriptor(in_a_slot(hop=0), context={})
    for task in ("face_detection", "face_alignment"):
        assert frame.here is not None
        assert frame.here.task == task
        frame = decode(encode(advance(frame, {"prob": np.ones(2, np.float32)})))
    assert frame.here == ROUTE[2]
    assert frame.context.keys() == {"face_detection", "face_alignment"}
    assert frame.header.slot == 3


def test_advancing_leaves_the_frame_itself_as_it_was():
    frame = descriptor(in_a_slot(hop=1))
    ahead = advance(frame, {"head_pose": 1})
    assert (frame.header.hop, ahead.header.hop) == (1, 2)
    assert frame.context == CONTEXT
    assert ahead.context == CONTEXT | {"face_alignment": {"head_pose": 1}}


def test_nothing_is_behind_the_last_hop():
    frame = advance(descriptor(in_a_slot(hop=2)), {})
    assert frame.here is None
    assert decode_head(encode(frame)).here is None
    with pytest.raises(FrameFormatError, match=r"^hop 3 is the end of the route$"):
        advance(frame, {})


def test_an_exchange_can_pass_on_a_frame_whose_context_it_does_not_look_at():
    (part,) = encode(descriptor())
    broken = bytearray(part)
    start = native_header.HEADER_NBYTES + decode_head([part]).header.route_nbytes
    broken[start : start + 4] = b"\xff" * 4
    assert decode_head([broken]).here == ROUTE[1]
    with pytest.raises(FrameFormatError, match=r"^plain values of 4294967295 bytes exceed limit"):
        decode([broken])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"payload": b"x"}, "a payload does not go with kind slot"),
        ({"header": Header(kind=KIND_JPEG)}, "no payload does not go with kind jpeg"),
        (
            {"header": Header(kind=KIND_H264, payload_nbytes=3), "payload": b"four"},
            "payload of 4 bytes is not 3 bytes long",
        ),
        ({"header": in_a_slot(hop=4)}, "hop 4 exceeds the 3 hops of the route"),
        ({"route": ROUTE * 22}, "route of 66 hops exceeds limit 64"),
        ({"job": "j" * 256}, "job of 256 bytes exceeds limit 255"),
        ({"name": "\u00e4" * 128}, "name of 256 bytes exceeds limit 255"),
        ({"name": "\ud800"}, "name '\\ud800' is not valid text"),
        ({"route": (Hop("", "ipc://x"),)}, "route[0].task is empty"),
        (
            {"route": (ROUTE[0], Hop("t" * 256, "ipc://x"))},
            "route[1].task of 256 bytes exceeds limit 255",
        ),
        ({"route": (Hop("t", "ipc://x", 100),)}, "route[0].model 100 is not between 0 and 99"),
        ({"route": (Hop("t", "ipc://x", -1),)}, "route[0].model -1 is not between 0 and 99"),
        (
            {"route": (Hop("t", "ipc://" + "x" * 250),)},
            "route[0].endpoint of 256 characters exceeds limit 255",
        ),
        ({"context": {"t": {"x": {1}}}}, "t.x is a set, which cannot travel"),
    ],
)
def test_a_descriptor_that_cannot_travel_is_refused_before_it_leaves(change, text):
    sent = msgspec.structs.replace(descriptor(in_a_slot(hop=0)), **change)
    with pytest.raises(FrameFormatError, match=f"^{re.escape(text)}$"):
        encode(sent)


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "tcp",
        "tcp://",
        "ftp://host",
        "ipc:///a b",
        "ipc:///a\n",
        "TCP://host",
        "tcp://h\u00f6st",
    ],
)
def test_an_endpoint_is_an_address_of_a_known_scheme(endpoint):
    sent = descriptor(in_a_slot(hop=0), route=(Hop("t", endpoint),))
    text = f"^{re.escape(f'route[0].endpoint {endpoint!r} is no address')}$"
    with pytest.raises(FrameFormatError, match=text):
        encode(sent)


def with_route(section: bytes, **fields: Any) -> bytes:
    header = Header(kind=0, route_nbytes=len(section), **fields)
    return native_header.pack(header) + section


def route_section(value: Any) -> bytes:
    text = msgspec.msgpack.encode(value)
    return struct.pack("<I", len(text)) + text + bytes(-(4 + len(text)) % 8)


GOOD = route_section(["job", "cam", [["t", "ipc://x"]]])


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([], "a message of no parts is no descriptor"),
        ([b"VDAG"], "buffer of 4 bytes has no header of 136 at offset 0"),
        ([with_route(GOOD)[:-1]], "first part of 167 bytes is not 168 bytes long"),
        ([with_route(GOOD) + b"x"], "first part of 169 bytes is not 168 bytes long"),
        ([with_route(GOOD), b""], "message of 2 parts with a payload of 0 bytes"),
        ([with_route(GOOD), b"", b""], "message of 3 parts with a payload of 0 bytes"),
        ([encode(with_payload(bytes(5000)))[0]], "message of 1 parts with a payload of 5000 bytes"),
        (
            [encode(with_payload(bytes(5000)))[0], bytes(4999)],
            "second part of 4999 bytes is not 5000 bytes long",
        ),
        ([with_route(GOOD[:-1])], "route_nbytes 31 is not a multiple of 8"),
        ([with_route(b"")], "route of 0 bytes is shorter than 4"),
        ([with_route(b"\xff" * 8)], "route of 8 bytes does not end after 4294967299"),
        ([with_route(GOOD + bytes(8))], "route of 40 bytes does not end after 25"),
        ([with_route(GOOD[:-1] + b"x")], "route of 32 bytes does not end after 25"),
        ([with_route(GOOD, hop=2)], "hop 2 exceeds the 1 hops of the route"),
        (
            [with_route(route_section(["job", "cam"]))],
            "route is malformed: Expected `array` of length 3, got 2",
        ),
        (
            [with_route(route_section([1, "cam", []]))],
            "route is malformed: Expected `str`, got `int` - at `$[0]`",
        ),
        (
            [with_route(route_section(["job", "cam", [["t", "ftp://x"]]]))],
            "route[0].endpoint 'ftp://x' is no address",
        ),
        (
            [with_route(route_section(["job", "cam", [["t", "ipc://x", 100]]]))],
            "route[0].model 100 is not between 0 and 99",
        ),
        (
            [with_route(route_section(["job", "cam", [["t", "ipc://x", "large"]]]))],
            "route is malformed: Expected `int | null`, got `str` - at `$[2][0][2]`",
        ),
        (
            [with_route(route_section(["job", "cam", [["t", "ipc://x"]] * 65]))],
            "route of 65 hops exceeds limit 64",
        ),
        (
            [with_route(struct.pack("<I", 4) + b"\x93\xa1\xff\xa0" + bytes(0))],
            "route is malformed: 'utf-8' codec can't decode byte 0xff in position 0: "
            "invalid start byte",
        ),
        ([np.zeros((200, 2), np.uint8)[:, 0]], "part is not contiguous"),
    ],
)
def test_parts_that_are_no_descriptor_are_refused(parts, text):
    for read in (decode, decode_head):
        with pytest.raises(FrameFormatError, match=f"^{re.escape(text)}$"):
            read(parts)


def test_a_receiver_of_pixels_does_not_look_at_route_and_context():
    (part,) = encode(descriptor())
    start = native_header.HEADER_NBYTES
    broken = bytearray(part)
    broken[start:] = b"\xff" * (len(part) - start)
    assert decode_header([broken]) == decode_header([part])
    with pytest.raises(FrameFormatError, match=r"^first part of \d+ bytes is not \d+ bytes long$"):
        decode_header([broken[:-1]])


def test_a_model_costs_a_hop_one_byte_and_its_lack_costs_nothing():
    routes = [(Hop("task", "ipc://x", model),) for model in (None, 0, 99)]
    texts = [msgspec.msgpack.encode(["job", "cam", [["task", "ipc://x"]]])]
    texts += [
        msgspec.msgpack.encode(["job", "cam", [["task", "ipc://x", model]]]) for model in (0, 99)
    ]
    for route, text in zip(routes, texts, strict=True):
        (part,) = encode(descriptor(in_a_slot(hop=0), job="job", route=route, context={}))
        assert text in part
        assert decode([part]).here == route[0]
    assert len(texts[1]) == len(texts[2]) == len(texts[0]) + 1


def test_a_route_too_long_to_be_remembered_is_read_all_the_same():
    route = tuple(Hop(f"task-{index}", "tcp://" + "x" * 100) for index in range(64))
    assert decode(encode(descriptor(route=route))).route == route


@pytest.mark.parametrize("field", ["route_nbytes", "context_nbytes", "payload_nbytes"])
def test_lengths_are_compared_with_the_bytes_before_memory_is_taken(field):
    limits = {"route_nbytes": 1 << 16, "context_nbytes": 1 << 24, "payload_nbytes": 1 << 30}
    header = Header(**{"kind": KIND_JPEG, field: limits[field]})
    tracemalloc.start()
    try:
        with pytest.raises(FrameFormatError):
            decode([native_header.pack(header)])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8192


@given(descriptors(), st.data())
@settings(max_examples=300)
def test_a_changed_message_is_read_or_refused(sent, data):
    parts = [bytearray(part) for part in encode(sent)]
    part = data.draw(st.sampled_from(parts))
    assume(part)
    for _ in range(data.draw(st.integers(1, 4))):
        part[data.draw(st.integers(0, len(part) - 1))] ^= data.draw(st.integers(1, 255))
    if data.draw(st.booleans()):
        del part[data.draw(st.integers(0, len(part))) :]
    try:
        arrived = decode(parts)
    except FrameFormatError:
        return
    assert_same(arrived, decode(encode(arrived)))


@given(st.lists(st.binary(max_size=400), max_size=3))
def test_any_parts_are_read_or_refused(parts):
    with pytest.raises(FrameFormatError):
        decode(parts)
