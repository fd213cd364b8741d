"""Throw bytes at the codec until something other than `FrameFormatError` comes out.

    pip install atheris
    python tests/fuzz/fuzz_codec.py -max_total_time=600 -rss_limit_mb=512 [folder of inputs]

The options are libFuzzer's. An input is a message: u32 length of the first part, then both parts; a
length beyond the end means one part. What can be read must say the same after it was written and
read again.
"""

from __future__ import annotations

import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["vdag"]):
    from vdag._native import header as native_header
    from vdag.errors import FrameFormatError
    from vdag.transport.codec import (
        Descriptor,
        Hop,
        decode,
        decode_head,
        decode_header,
        encode,
    )

import numpy as np

LENGTH = struct.Struct("<I")
ROUTE = (Hop("face_detection", "ipc:///run/a", 2), Hop("home", "tcp://10.0.0.1:7000"))
CONTEXT = {
    "face_detection": {"bbox": np.ones((2, 4), np.float32), "found": np.array([True, False])},
    "count": {"cars": {"left": 3, "right": [1, 2.5, None, "x", b"y"]}, "faces": [np.zeros((2, 2))]},
}


def seeds() -> Iterator[bytes]:
    """Valid messages of every kind, to start from."""
    pixels = {"dtype": 1, "shape": (2, 3, 3), "payload_nbytes": 18}
    for header, payload in (
        (native_header.Header(kind=native_header.KIND_NONE), None),
        (native_header.Header(kind=native_header.KIND_INLINE, **pixels), bytes(18)),
        (native_header.Header(kind=native_header.KIND_SLOT, hop=2, slot=1, **pixels), None),
        (native_header.Header(kind=native_header.KIND_JPEG, payload_nbytes=5000), bytes(5000)),
        (native_header.Header(kind=native_header.KIND_H264, payload_nbytes=9), bytes(9)),
    ):
        for context in ({}, CONTEXT):
            first, *rest = encode(Descriptor(header, "job", "cam", ROUTE, context, payload))
            yield LENGTH.pack(len(first) if rest else 0xFFFFFFFF) + first + b"".join(rest)


def one_input(data: bytes) -> None:
    """Read one message, and write and read again what could be read."""
    if len(data) < LENGTH.size:
        return
    end = LENGTH.size + LENGTH.unpack_from(data)[0]
    parts = [data[LENGTH.size :]] if end > len(data) else [data[LENGTH.size : end], data[end:]]
    try:
        header = decode_header(parts)
        head = decode_head(parts)
        assert head.header == header
        descriptor = decode(parts)
    except FrameFormatError:
        return
    again = decode(encode(descriptor))
    assert again.route == descriptor.route == head.route
    assert again.header.replace(route_nbytes=0, context_nbytes=0) == head.header.replace(
        route_nbytes=0, context_nbytes=0
    )
    np.testing.assert_equal(again.context, descriptor.context)


def main() -> None:
    """Hand over to libFuzzer, with the seeds as a further folder of inputs."""
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(seeds()):
            Path(folder, f"seed-{number}").write_bytes(seed)
        # libFuzzer writes what it finds into the first folder, and never returns.
        atheris.Setup([*sys.argv, folder], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
