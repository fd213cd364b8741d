"""Frames whose pixels are in a slot of shared memory, as a job would send them."""

from __future__ import annotations

from typing import Any

from vdag._native import header as native_header
from vdag._native.header import Header
from vdag._native.ring import SlotRef

__all__ = ["in_slot"]


def in_slot(ref: SlotRef, shape: tuple[int, ...], **fields: Any) -> Header:
    """Return the header of a frame of bytes; `fields` are more of it, or others in their place."""
    return native_header.Header(
        **{
            "kind": native_header.KIND_SLOT,
            "dtype": native_header.DTYPES.index("uint8"),
            "shape": shape,
            "payload_nbytes": ref.nbytes,
            "arena": ref.arena_id,
            "slot": ref.slot,
            "generation": ref.generation,
            "offset": ref.offset,
            **fields,
        }
    )
