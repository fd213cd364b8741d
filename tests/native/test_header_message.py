"""Headers changed on their way, and compared with the lengths of what follows them."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vdag.errors import FrameFormatError

KERNELS = ("header", "reference_header")
PIXELS: dict[str, Any] = {
    "kind": 2,
    "dtype": 1,
    "shape": (1080, 1920, 3),
    "link_nbytes": 0x80000001,
    "hop": 2,
    "plan": 17,
    "stream": 2**64 - 1,
    "seq": 41,
    "cam_frame_id": 57,
    "capture_ns": 0x0102030405060708,
    "deadline_ns": 0x1112131415161718,
    "pts_ns": -2,
    "payload_nbytes": 1080 * 1920 * 3,
    "arena": 0x0123456789ABCDEF,
    "slot": 3,
    "generation": 2**63,
    "offset": 1 << 40,
    "route_nbytes": 0,
    "context_nbytes": 0,
}


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(f"vdag._native.{request.param}")


def both() -> tuple[ModuleType, ModuleType]:
    compiled, reference = (importlib.import_module(f"vdag._native.{name}") for name in KERNELS)
    return compiled, reference


@pytest.mark.parametrize("name", PIXELS)
def test_every_field_can_be_replaced(kernel: ModuleType, name: str) -> None:
    # Of the kind jpeg, which does not tie the fields to each other.
    jpeg = {**PIXELS, "kind": 3}
    other = {
        **{field: 1 for field in PIXELS if field not in ("shape", "kind")},
        "kind": 4,
        "dtype": 2,
        "shape": (7, 5),
    }
    changed = kernel.Header(**jpeg).replace(**{name: other[name]})
    assert getattr(changed, name) == other[name]
    assert changed == kernel.Header(**{**jpeg, name: other[name]})


def test_replace_leaves_nothing_of_a_longer_shape(kernel: ModuleType) -> None:
    bare = kernel.Header(**PIXELS).replace(kind=0, dtype=0, shape=(), payload_nbytes=0)
    assert bare == kernel.Header(
        **{**PIXELS, "kind": 0, "dtype": 0, "shape": (), "payload_nbytes": 0}
    )
    assert kernel.unpack(kernel.pack(bare)) == bare
    assert bare.replace(pts_ns=None).pts_ns is None


def test_pack_can_say_other_lengths(kernel: ModuleType) -> None:
    header = kernel.Header(**PIXELS)
    lengths: dict[str, Any]
    for lengths in (
        {"route_nbytes": 0},
        {"context_nbytes": 1 << 24},
        {"route_nbytes": np.uint64(1 << 16), "context_nbytes": 7},
    ):
        assert kernel.unpack(kernel.pack(header, **lengths)) == header.replace(**lengths)
    assert kernel.pack(header) == kernel.pack(header, route_nbytes=None)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ({"route_nbytes": (1 << 16) + 1}, "route_nbytes 65537 exceeds limit 65536"),
        ({"context_nbytes": (1 << 24) + 1}, "context_nbytes 16777217 exceeds limit 16777216"),
        ({"route_nbytes": -1}, "route_nbytes -1 outside 0..4294967295"),
        ({"context_nbytes": 1 << 40}, f"context_nbytes {1 << 40} outside 0..4294967295"),
    ],
)
def test_pack_refuses_lengths_that_could_not_be_read(
    kernel: ModuleType, lengths: dict[str, int], message: str
) -> None:
    with pytest.raises(FrameFormatError) as caught:
        kernel.pack(kernel.Header(**PIXELS), **lengths)
    assert str(caught.value) == message


def message_of(kernel: ModuleType, kind: int, payload_nbytes: int) -> list[bytes]:
    """A message with 8 bytes of route and 5 of context."""
    header = kernel.Header(
        kind=kind, payload_nbytes=payload_nbytes, route_nbytes=8, context_nbytes=5
    )
    first, payload = kernel.pack(header) + bytes(13), bytes(payload_nbytes)
    return [first + payload] if payload_nbytes <= 4096 else [first, payload]


@pytest.mark.parametrize("payload_nbytes", [0, 1, 4096, 4097])
def test_a_message_whose_parts_are_as_long_as_announced_is_read(
    kernel: ModuleType, payload_nbytes: int
) -> None:
    parts = message_of(kernel, kernel.KIND_JPEG, payload_nbytes)
    header = kernel.unpack(parts[0])
    assert kernel.unpack_message(parts) == header
    assert kernel.unpack_message(tuple(map(bytearray, parts))) == header


def test_pixels_in_a_slot_are_not_in_the_message(kernel: ModuleType) -> None:
    header = kernel.Header(**PIXELS)
    assert kernel.unpack_message([kernel.pack(header)]) == header


@settings(deadline=None)
@given(data=st.data(), kind=st.integers(0, 4), size=st.sampled_from([0, 9, 4096, 4097]))
def test_other_parts_are_refused_by_both_with_one_text(
    data: st.DataObject, kind: int, size: int
) -> None:
    compiled, reference = both()
    parts = message_of(reference, kind if kind > 2 else 3, size)
    parts = [bytearray(part) for part in parts]
    change = data.draw(st.sampled_from(["flip", "cut", "grow", "add", "leave"]))
    part = data.draw(st.sampled_from(parts))
    if change == "flip":
        part[data.draw(st.integers(0, min(len(part), 140) - 1))] ^= data.draw(st.integers(1, 255))
    elif change == "cut":
        del part[data.draw(st.integers(0, len(part))) :]
    elif change == "grow":
        part += bytes(data.draw(st.integers(1, 9)))
    elif change == "add":
        parts += [bytearray(3)] * data.draw(st.integers(1, 2))
    outcomes = []
    for kernel in (compiled, reference):
        try:
            outcomes.append(repr(kernel.unpack_message(parts)))
        except FrameFormatError as err:
            outcomes.append(str(err))
    assert outcomes[0] == outcomes[1]


def test_parts_that_are_not_contiguous_are_refused(kernel: ModuleType) -> None:
    long = message_of(kernel, kernel.KIND_JPEG, 5000)
    for parts in ([np.zeros((200, 2), np.uint8)[:, 0]], [long[0], np.zeros((5000, 2), "u1")[:, 0]]):
        with pytest.raises(FrameFormatError) as caught:
            kernel.unpack_message(parts)
        assert str(caught.value) == "part is not contiguous"
