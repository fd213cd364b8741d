"""Control messages: what is written is read back, and nothing else is read at all."""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdag._native import header
from vdag.errors import FrameFormatError
from vdag.transport import messages
from vdag.transport.messages import (
    MAX_BATCH,
    MAX_TEXT,
    Batch,
    CreditWanted,
    Done,
    Dropped,
    Failure,
    Found,
    Grant,
    Hello,
    Join,
    Leave,
    Ready,
    Stop,
)

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
numbers = st.integers(0, 2**64 - 1)
counts = st.integers(1, 4096)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
parts = st.binary(max_size=100)
anything = st.one_of(
    st.builds(Join, names, names, parts),
    st.builds(Leave, names),
    st.builds(CreditWanted, names, names, counts),
    st.builds(Grant, names, counts),
    st.builds(Dropped, names, numbers, numbers, numbers, names, names, names, texts),
    st.builds(Hello, names, names, st.integers(1, 1 << 22)),
    st.builds(Ready, names, names, counts, st.integers(1, MAX_BATCH)),
    st.builds(
        Done,
        names,
        names,
        numbers,
        st.lists(st.builds(Found, parts) | st.builds(Failure, texts, texts), min_size=1),
        numbers,
        numbers,
    ),
    st.builds(
        Batch,
        numbers,
        st.lists(parts, min_size=1, max_size=9),
        st.dictionaries(names, parts, max_size=3),
        st.lists(names, max_size=3),
    ),
    st.just(Stop()),
)


@given(anything)
def test_every_message_is_read_back_as_it_was_written(message):
    part = messages.encode(message)
    assert messages.is_control(part)
    assert messages.decode(part) == message
    assert messages.decode(memoryview(bytearray(part))) == message


@given(anything, st.data())
def test_a_message_cut_short_or_made_longer_is_none(message, data):
    part = messages.encode(message)
    end = data.draw(st.integers(0, len(part) - 1))
    for broken in (part[:end], part + b"\0"):
        with pytest.raises(FrameFormatError):
            messages.decode(broken)


@given(st.binary(max_size=64))
def test_random_bytes_are_no_message_or_one_that_writes_alike(body):
    try:
        message = messages.decode(messages.MAGIC + body)
    except FrameFormatError:
        return
    assert messages.decode(messages.encode(message)) == message


def test_a_descriptor_is_not_taken_for_a_message():
    descriptor = header.pack(header.Header())
    assert not messages.is_control(descriptor)
    with pytest.raises(FrameFormatError, match=re.escape("magic b'VDAG' is not b'VCTL'")):
        messages.decode(descriptor)


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        (["shutdown"], "Invalid value 'shutdown' - at `$[0]`"),
        (["leave"], "at least length 2, got 1"),
        (["stop", 1], "at most length 0, got 1"),
        (["leave", ""], "Expected `str` of length >= 1 - at `$[1]`"),
        (["leave", "j" * 256], "Expected `str` of length <= 255 - at `$[1]`"),
        (["grant", "t", 0], "Expected `int` >= 1 - at `$[2]`"),
        (["ready", "w", "t", 1, MAX_BATCH + 1], "Expected `int` <= 256 - at `$[4]`"),
        (["batch", 0, [], {}, []], "Expected `array` of length >= 1 - at `$[2]`"),
        (["batch", 0, [b""] * 257, {}, []], "Expected `array` of length <= 256 - at `$[2]`"),
        (["done", "w", "t", -1, [["found", b""]], 0, 0], "Expected `int` >= 0 - at `$[3]`"),
        ({"leave": 1}, "Expected `array`, got `object`"),
    ],
)
def test_a_message_out_of_its_limits_is_refused_with_the_place(fields, place):
    part = messages.MAGIC + msgspec.msgpack.encode(fields)
    with pytest.raises(FrameFormatError, match=f"^message is malformed: .*{re.escape(place)}$"):
        messages.decode(part)


def test_a_list_that_claims_to_be_endless_takes_no_memory():
    with pytest.raises(FrameFormatError, match=r"^message is malformed: .*<= 256"):
        messages.decode(messages.MAGIC + b"\x95\xa5batch\x00\xdd\xff\xff\xff\xff")


def test_an_oversize_message_is_refused_at_both_ends():
    limit = messages.MAX_NBYTES
    with pytest.raises(FrameFormatError, match=f"message of {limit + 1} bytes exceeds limit"):
        messages.decode(bytes(limit + 1))
    with pytest.raises(FrameFormatError, match=r"Batch of \d+ bytes exceeds limit 67108864"):
        messages.encode(Batch(0, [bytes(limit)]))


def test_a_text_that_is_no_text_cannot_travel():
    with pytest.raises(FrameFormatError, match=r"^Leave cannot travel: .*surrogates not allowed"):
        messages.encode(Leave("\ud800"))


def test_clip_keeps_the_end_and_makes_any_text_travel():
    assert messages.clip("short") == "short"
    clipped = messages.clip("\ud800" + "x" * 20_000 + "end")
    assert len(clipped) == MAX_TEXT
    assert clipped.startswith("...x")
    assert clipped.endswith("xend")
    assert messages.decode(messages.encode(Dropped("j", 0, 0, 0, "t", "r", "w", clipped)))
