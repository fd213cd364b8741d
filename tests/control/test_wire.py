"""Messages of the plan channel: what is written is read, and nothing else is."""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_kit import MESSAGE

from vdag.control import wire
from vdag.errors import FrameFormatError
from vdag.plan import Placement, Plan, VideoConf

PREFIX = wire.encode(wire.Orders())[:5]
PLAN = Plan(7, VideoConf("480p", 10, "JPEG"), {"car_detection": Placement("10.0.0.1")})
JOIN = wire.Join("10.0.0.1:5001", "0123456789abcdef", "gate-3", "edge")
AWAIT = wire.Await("10.0.0.1:5001", "0123456789abcdef", "fedcba9876543210", 0)
RESULT = wire.Result("GLOBAL_ID_1", "0123456789abcdef", 1, b"{}")


def part_of(body: object) -> bytes:
    return PREFIX + msgspec.msgpack.encode(body)


@settings(max_examples=100)
@given(MESSAGE)
def test_what_is_written_is_read(message: wire.Message):
    part = wire.encode(message)
    assert wire.decode(part) == message
    assert wire.decode(memoryview(bytearray(part))) == message


@settings(max_examples=100)
@given(MESSAGE, st.data())
def test_a_message_that_was_damaged_is_another_one_or_refused(message, data):
    part = bytearray(wire.encode(message))
    index = data.draw(st.integers(0, len(part) - 1))
    part[index] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(part)))
    for damaged in (bytes(part), bytes(part[:cut]), bytes(part) + b"\0"):
        try:
            found = wire.decode(damaged)
        except FrameFormatError:
            continue
        assert wire.decode(wire.encode(found)) == found


@given(st.binary(max_size=200))
def test_bytes_are_refused(data: bytes):
    for part in (data, PREFIX + data):
        try:
            wire.decode(part)
        except FrameFormatError:
            continue


def test_a_plan_keeps_the_documents_it_was_read_from():
    plan = Plan.from_documents(
        ["car_detection"],
        {"reso": "480p", "fps": 10, "encoder": "JEPG"},
        {"car_detection": {"node_ip": "10.0.0.1"}},
        number=3,
        keep=True,
    )
    found = wire.decode(wire.encode(wire.Orders([wire.SendPlan(1, "GLOBAL_ID_1", plan)])))
    assert found.orders[0].plan.echo() == plan.echo()


# What is refused, and how that is said


@pytest.mark.parametrize(
    ("part", "error"),
    [
        (b"", "magic b'' is not b'VPLN'"),
        (b"VPLN", "version none of the plan channel is not 4"),
        (b"VCTL\x01\x90", "magic b'VCTL' is not b'VPLN'"),
        (b"VPLN\x01\x90", "version 1 of the plan channel is not 4"),
        (b"VPLN\x00\x90", "version 0 of the plan channel is not 4"),
        (part_of(["shutdown"]), "message is malformed: Invalid value 'shutdown' - at `$[0]`"),
        (part_of([]), "message is malformed: Expected `array` of at least length 1, got 0"),
        (part_of({}), "message is malformed: Expected `array`, got `object`"),
        (PREFIX, "message is malformed: Input data was truncated"),
        (
            part_of(["orders", [], 1]),
            "message is malformed: Expected `array` of at most length 1, got 2",
        ),
    ],
)
def test_what_is_no_message_of_this_version_is_refused(part: bytes, error: str):
    with pytest.raises(FrameFormatError, match=f"^{re.escape(error)}"):
        wire.decode(part)


@pytest.mark.parametrize(
    "message",
    [
        msgspec.structs.replace(JOIN, node_addr=""),
        msgspec.structs.replace(JOIN, node_addr="x" * 256),
        msgspec.structs.replace(JOIN, session="short"),
        msgspec.structs.replace(JOIN, role="king"),
        msgspec.structs.replace(JOIN, port=65536),
        msgspec.structs.replace(JOIN, videos={-1: wire.Video()}),
        msgspec.structs.replace(JOIN, videos=dict.fromkeys(range(1025), wire.Video())),
        msgspec.structs.replace(JOIN, services={"a": wire.Offer(cpu_util_limit=1.5)}),
        msgspec.structs.replace(JOIN, services={"a": wire.Offer(cpu_util_limit=float("nan"))}),
        msgspec.structs.replace(JOIN, jobs=[wire.Work("GLOBAL_ID_1", 5)]),
        msgspec.structs.replace(AWAIT, last_order=-1),
        msgspec.structs.replace(AWAIT, last_order=2**63),
        wire.Report("a:1", "0" * 8, "0" * 8, 0, 0, 0),
        wire.Report("a:1", "0" * 8, "0" * 8, 1, 0, 0, bandwidth={"b:1": float("inf")}),
        wire.Report("a:1", "0" * 8, "0" * 8, 1, 0, 0, results=[RESULT] * 4097),
        wire.Report(
            "a:1", "0" * 8, "0" * 8, 1, 0, 0,
            results=[msgspec.structs.replace(RESULT, run="#1")],
        ),
        wire.Report(
            "a:1", "0" * 8, "0" * 8, 1, 0, 0,
            results=[msgspec.structs.replace(RESULT, run="run-1\n")],
        ),
        wire.Joined("0" * 8, 0.0, 1.0, wire.View(0, [])),
    ],
    ids=str,
)  # fmt: skip
def test_a_field_out_of_its_limits_is_refused(message: wire.Message):
    part = wire.encode(message)
    with pytest.raises(FrameFormatError, match=r"^message is malformed: "):
        wire.decode(part)


def test_a_plan_that_makes_no_sense_is_refused():
    part = wire.encode(wire.Orders([wire.SendPlan(1, "GLOBAL_ID_1", PLAN)]))
    error = (
        "message is malformed: encoder 'JPEX' is unknown, expected JPEG, H264, raw"
        " - at `$[1][0][3].video_conf`"
    )
    with pytest.raises(FrameFormatError, match=f"^{re.escape(error)}$"):
        wire.decode(part.replace(b"JPEG", b"JPEX"))


@pytest.mark.parametrize(
    "opening", [b"\x91", b"\xdd\xff\xff\xff\xff", b"\x81\xa0", b"\xdf\xff\xff"]
)
def test_depth_and_announced_lengths_take_no_memory(opening: bytes):
    inside = PREFIX + b"\x92\xa6orders" + opening * 100_000
    with pytest.raises(FrameFormatError, match=r"^message is malformed: "):
        wire.decode(inside)


def test_a_message_beyond_the_limit_is_neither_written_nor_read():
    much = wire.Report(
        "a:1", "0" * 8, "0" * 8, 1, 0, 0,
        results=[msgspec.structs.replace(RESULT, document=bytes(1 << 20))] * 5,
    )  # fmt: skip
    with pytest.raises(FrameFormatError, match=r"^Report of 5243\d+ bytes exceeds limit 4194304$"):
        wire.encode(much)
    with pytest.raises(FrameFormatError, match=r"^message of 4194305 bytes exceeds limit 4194304$"):
        wire.decode(bytes(wire.MAX_NBYTES + 1))


def test_a_text_that_is_none_cannot_travel():
    with pytest.raises(FrameFormatError, match=r"^Refused cannot travel: "):
        wire.encode(wire.Refused("\ud800"))


# Documents


def test_a_document_is_an_object_or_nothing():
    assert wire.read_document(b"") == {}
    assert wire.read_document(wire.write_document({"a": [1, None]})) == {"a": [1, None]}
    for text in (b"[]", b"1", b"null", b"{", b'{"a":}', b"\xff", b"[" * 100_000):
        with pytest.raises(FrameFormatError, match=r"^document is malformed: "):
            wire.read_document(text)


def test_a_document_that_cannot_be_written_is_an_error():
    with pytest.raises(FrameFormatError, match=r"^document cannot travel: "):
        wire.write_document({"a": object()})
    error = "document of 1048585 bytes exceeds limit 1048576"
    with pytest.raises(FrameFormatError, match=f"^{error}$"):
        wire.write_document({"a": "x" * ((1 << 20) + 1)})
