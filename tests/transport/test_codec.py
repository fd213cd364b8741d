"""Descriptors as message parts: what is sent arrives, what cannot travel does not leave."""

from __future__ import annotations

import re

import msgspec
import numpy as np
import pytest
from codec_kit import (
    CONTEXT,
    KIND_H264,
    KIND_JPEG,
    ROUTE,
    Header,
    assert_same,
    descriptor,
    descriptors,
    in_a_slot,
    with_payload,
)
from hypothesis import given

from vdag._native import header as native_header
from vdag.errors import FrameFormatError
from vdag.transport.codec import (
    INLINE_NBYTES,
    Envelope,
    Hop,
    advance,
    decode,
    decode_head,
    decode_header,
    encode,
)


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
