"""What a landing makes of messages that no honest edge sends."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vdag import _native as native
from vdag._native import header as native_header
from vdag._native import ring
from vdag.errors import ChannelClosed, ConfigError, TransportError
from vdag.transport import link
from vdag.transport.channel import open_push, try_send
from vdag.transport.codec import Descriptor, Hop, encode
from vdag.transport.h264 import Encoder
from vdag.transport.landing import Landing

Header = native_header.Header
UINT8 = native_header.DTYPES.index("uint8")
KIND_INLINE, KIND_SLOT = native_header.KIND_INLINE, native_header.KIND_SLOT
KIND_JPEG, KIND_H264 = native_header.KIND_JPEG, native_header.KIND_H264
ROUTE = (Hop("face_detection", "tcp://127.0.0.1:7000"),)
SHAPE = (144, 176, 3)
TIMEOUT_S = 30.0


def parts(
    number: int, payload: bytes | None, *, edge: int = 1, since_key: int = 0, **fields: Any
) -> list[bytes]:
    """A frame as an edge would send it, with any payload."""
    values = {"kind": KIND_JPEG, "dtype": UINT8, "shape": SHAPE, "seq": number} | fields
    header = Header(**values, payload_nbytes=0 if payload is None else len(payload))
    stamp = link.Stamp(edge, number, number, since_key)
    descriptor = Descriptor(link.stamped(header, stamp), "job", "cam", ROUTE, {}, payload)
    return [bytes(part) for part in encode(descriptor)]


def jpeg_of(width: int, height: int) -> bytes:
    """A small JPEG whose header claims any size."""
    data = native.jpeg.encode(np.zeros((16, 16, 3), np.uint8))
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


class Attacker:
    """A PUSH to a node's landing that sends what it likes, and can tell when that was handled."""

    def __init__(self, node: Any) -> None:
        self.node = node
        self.context: zmq.Context[Any] = zmq.Context()
        self.socket = open_push(node.landing.address, context=self.context, depth=1000)
        self.number = 1 << 40  # beyond those of the messages under test
        self.picture = native.jpeg.encode(np.full(SHAPE, 90, np.uint8))

    def send(self, message: list[bytes]) -> None:
        assert self.socket.poll(TIMEOUT_S * 1e3, zmq.POLLOUT)
        assert try_send(self.socket, message)

    def settle(self) -> None:
        """Send an honest frame and wait until it has come: so has all before it."""
        self.number += 1
        self.send(parts(self.number, self.picture, edge=99))
        while self.node.frames.get(timeout=TIMEOUT_S)[0].header.seq != self.number:
            pass


@pytest.fixture
def attacker(node: Any) -> Iterator[Attacker]:
    attacker = Attacker(node)
    yield attacker
    attacker.socket.close(linger=0)
    attacker.context.term()


HOSTILE = {
    "nothing": [b""],
    "noise": [b"GET / HTTP/1.1\r\n\r\n"],
    "three parts": [*parts(1, bytes(6000)), b""],
    "many parts": [b"x"] * 500,
    "half a header": [parts(1, None, kind=0, dtype=0, shape=())[0][:70]],
    "truncated": [parts(1, b"abc")[0][:-1]],
    "a payload too short": [parts(1, bytes(6000))[0], bytes(5999)],
    "no payload": parts(1, bytes(6000))[:1],
    "no stamp": [
        bytes(part)
        for part in encode(Descriptor(Header(kind=KIND_JPEG, payload_nbytes=1), payload=b"x"))
    ],
    "a slot of another host": [
        bytes(part)
        for part in encode(
            Descriptor(
                Header(
                    kind=KIND_SLOT,
                    dtype=UINT8,
                    shape=(4,),
                    payload_nbytes=4,
                    arena=1,
                    generation=1,
                )
            )
        )
    ],
    "no link message": [link.MAGIC + b"\xff\xff"],
    "an endless link message": [link.MAGIC + b"\x93\xa6notice\x01\xc6\xff\xff\xff\xff"],
    "a hello from nowhere": [link.encode(link.Hello(1, 1, "nowhere", 0))],
    "a hello of a local socket": [link.encode(link.Hello(1, 1, "ipc:///run/exchange", 0))],
    "a hello beyond loopback": [link.encode(link.Hello(1, 1, "tcp://192.0.2.1:80", 0))],
    "a receipt of crossed ranges": [link.encode(link.Receipt(1, [(5, 4)], 0, 0, 0))],
}


@pytest.mark.parametrize("message", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_no_edge_sends_is_counted_and_forgotten(node, attacker, message):
    attacker.send(message)
    attacker.settle()
    stats = node.landing.stats()
    assert (stats.hostile, stats.received, stats.delivered, stats.dropped) == (1, 1, 1, {})


WRONG = {
    "a JPEG that claims to be huge": ("corrupt", parts(1, jpeg_of(60_000, 60_000))),
    "a JPEG of another size": ("corrupt", parts(1, jpeg_of(16, 16))),
    "a truncated JPEG": ("corrupt", parts(1, jpeg_of(176, 144)[:-40])),
    "no JPEG": ("corrupt", parts(1, b"\xff\xd8" + bytes(5000))),
    "an empty JPEG": ("corrupt", parts(1, b"")),
    "a JPEG of no shape": ("oversize", parts(1, b"x", dtype=0, shape=())),
    "a JPEG larger than a slot": ("oversize", parts(1, b"x", shape=(15_000, 20_000, 3))),
    "H.264 larger than a slot": (
        "oversize",
        parts(1, b"x", kind=KIND_H264, shape=(15_000, 20_000, 3)),
    ),
    "H.264 of no shape": ("oversize", parts(1, b"x", kind=KIND_H264, dtype=0, shape=())),
    "H.264 garbage": ("corrupt", parts(1, b"\0\0\0\1\x65" + bytes(900), kind=KIND_H264)),
    "empty H.264": ("corrupt", parts(1, b"", kind=KIND_H264)),
    "H.264 of another size": (
        "corrupt",
        parts(
            1,
            Encoder(640, 272, bitrate=500_000).encode(np.zeros((272, 640, 3), np.uint8)).data,
            kind=KIND_H264,
        ),
    ),
    "H.264 without a key frame": ("gap", parts(1, bytes(900), kind=KIND_H264, since_key=4)),
    "an array larger than a slot": (
        "oversize",
        parts(1, bytes(1 << 20), kind=KIND_INLINE, shape=(1 << 20,)),
    ),
}


@pytest.mark.parametrize(("reason", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_frame_that_is_not_what_it_says_is_dropped_and_takes_no_slot(
    node, attacker, reason, message
):
    attacker.send(message)
    attacker.settle()
    stats = node.landing.stats()
    assert (stats.hostile, stats.received, stats.delivered, stats.dropped) == (0, 2, 1, {reason: 1})
    assert node.dropped.get_nowait() == (1, reason)


def test_frames_that_claim_to_be_huge_take_no_memory(node, attacker):
    attacker.settle()
    process = psutil.Process()
    before = process.memory_info().rss
    for number in range(1, 200):
        attacker.send(parts(number, jpeg_of(60_000, 60_000)))
    attacker.settle()
    assert process.memory_info().rss - before < 32 << 20
    assert node.landing.stats().dropped == {"corrupt": 199}


def test_a_message_over_the_limit_is_not_taken_in(open_node):
    node = open_node(max_message_nbytes=1 << 16)
    attacker, honest = Attacker(node), Attacker(node)
    monitor = attacker.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    attacker.send([b"x", bytes(1 << 24)])
    assert monitor.poll(TIMEOUT_S * 1e3)
    honest.settle()
    assert node.landing.stats().nbytes < 1 << 16
    attacker.socket.disable_monitor()
    monitor.close()
    for each in (attacker, honest):
        each.socket.close(linger=0)
        each.context.term()
    node.close()


def test_a_message_that_comes_twice_is_hostile_and_an_older_one_is_out_of_order(node, attacker):
    for number in (3, 3, 2):
        attacker.send(parts(number, attacker.picture))
    attacker.settle()
    stats = node.landing.stats()
    assert (stats.hostile, stats.received, stats.dropped) == (1, 3, {"order": 1})


def test_edges_without_end_are_not_all_remembered(node, attacker):
    for edge in range(1, 600):
        attacker.send(parts(1, None, edge=edge + 1000, kind=0, dtype=0, shape=()))
    attacker.settle()
    assert node.landing.stats().edges == 256
    assert node.landing.stats().received == 600


def test_streams_without_end_do_not_keep_all_their_decoders(node, attacker):
    encoder = Encoder(176, 144, bitrate=400_000)
    key = encoder.encode(np.zeros(SHAPE, np.uint8)).data
    for stream in range(80):
        attacker.send(parts(stream + 1, key, kind=KIND_H264, stream=stream))
        node.take()
    assert node.landing.stats().decoders == 64


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_damaged_messages_do_no_harm(node, attacker, data):
    whole = data.draw(
        st.sampled_from([*HOSTILE.values(), *(message for _, message in WRONG.values())])
    )
    message = [bytearray(part[: 1 << 14]) for part in whole[:3]]
    for part in message:
        for at, value in data.draw(
            st.lists(
                st.tuples(st.integers(0, max(len(part) - 1, 0)), st.integers(0, 255)), max_size=4
            )
        ):
            part[at : at + 1] = bytes([value])
    attacker.send([bytes(part) for part in message])
    attacker.settle()
    assert node.landing.stats().balance == 0


@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("ipc:///tmp/a", "landing at 'ipc:///tmp/a' is not at a tcp address"),
        (
            "tcp://0.0.0.0:7000",
            "nobody can answer to 'tcp://0.0.0.0:7000': advertised has to say where",
        ),
    ],
)
def test_an_address_that_cannot_serve_is_refused(open_node, address, error):
    with (
        ring.Arena.create("test", [(4096, 1)]) as arena,
        pytest.raises(ConfigError, match=f"^{re.escape(error)}$"),
    ):
        Landing(address, arena=arena, deliver=lambda part: True)


def test_beyond_loopback_a_landing_needs_keys():
    with (
        ring.Arena.create("test", [(4096, 1)]) as arena,
        pytest.raises(ConfigError, match=r"is beyond loopback and there"),
    ):
        Landing(
            "tcp://0.0.0.0:0", arena=arena, deliver=lambda part: True, advertised="tcp://10.0.0.7:1"
        )


def test_an_address_in_use_is_an_error(node):
    with (
        ring.Arena.create("test", [(4096, 1)]) as arena,
        pytest.raises(TransportError, match=r"cannot be bound: address a"),
    ):
        Landing(node.landing.bound, arena=arena, deliver=lambda part: True)


def test_an_exchange_that_raises_ends_the_landing_and_keeps_no_slot(open_node):
    node = open_node()

    def explode(part: bytes) -> bool:
        raise RuntimeError("no way")

    node.take_over = explode
    attacker = Attacker(node)
    attacker.send(parts(1, attacker.picture))
    node.landing._thread.join(TIMEOUT_S)
    with pytest.raises(ChannelClosed, match=r"^landing at tcp://127.* failed$") as caught:
        node.landing.stats()
    assert repr(caught.value.__cause__) == "RuntimeError('no way')"
    node.landing.close()
    assert node.arena.stats().free == node.arena.stats().slots
    node.arena.close()
    attacker.socket.close(linger=0)
    attacker.context.term()
