"""Two nodes in one process, the frames of real clips, and both ends of questions and answers."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import zmq
from rpc_kit import LOOPBACK

from vdag._native import header as native_header
from vdag._native import ring
from vdag.transport.codec import Descriptor, Hop, decode, encode
from vdag.transport.edge import Edge
from vdag.transport.landing import Landing
from vdag.transport.rpc import Replier, Requester

TIMEOUT_S = 30.0
ROUTE = (Hop("face_detection", "tcp://127.0.0.1:7000"), Hop("home", "tcp://127.0.0.1:7001"))
LARGE_NBYTES = 272 * 640 * 3


def read(path: Path, count: int | None = None) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [f.to_ndarray(format="bgr24") for f in islice(container.decode(video=0), count)]


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    error = np.mean((one.astype(np.float64) - other) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def message(shape: tuple[int, ...], seq: int, **fields: Any) -> bytes:
    """The descriptor of a frame in a slot, as it is on the sending node."""
    context = fields.pop("context", {})
    values = {
        "kind": native_header.KIND_SLOT,
        "dtype": native_header.DTYPES.index("uint8"),
        "shape": shape,
        "payload_nbytes": int(np.prod(shape)),
        "arena": 5,
        "slot": 3,
        "generation": 9,
        "stream": 7,
        "seq": seq,
        "capture_ns": time.monotonic_ns(),
    } | fields
    return bytes(
        encode(Descriptor(native_header.Header(**values), "job", "cam", ROUTE, context))[0]
    )


class Node:
    """The receiving side: an arena, a landing, and what came out of it."""

    def __init__(self, address: str = "tcp://127.0.0.1:0", slots: int = 8, **options: Any) -> None:
        self.arena = ring.Arena.create("test", [(LARGE_NBYTES, slots)])
        self.frames: queue.Queue[tuple[Descriptor, np.ndarray | None]] = queue.Queue()
        self.dropped: queue.Queue[tuple[int, str]] = queue.Queue()
        self.notices: queue.Queue[bytes] = queue.Queue()
        self.take_over: Callable[[bytes], bool] = self.keep  # what the exchange does with a frame
        self.landing = Landing(
            address,
            arena=self.arena,
            deliver=lambda part: self.take_over(part),
            dropped=lambda head, reason: self.dropped.put((head.header.seq, reason)),
            notice=lambda body, key: self.notices.put(body),
            **options,
        )

    def keep(self, part: bytes) -> bool:
        descriptor = decode([part])
        header, pixels = descriptor.header, None
        if header.kind == native_header.KIND_SLOT:
            with self.arena.acquire(header.slot, header.generation) as view:
                data = np.asarray(view)[: header.payload_nbytes]
                dtype = native_header.DTYPES[header.dtype]
                pixels = data.copy().view(dtype).reshape(header.shape)
        self.frames.put((descriptor, pixels))
        return True

    def take(self) -> tuple[Descriptor, np.ndarray]:
        descriptor, pixels = self.frames.get(timeout=TIMEOUT_S)
        assert pixels is not None
        return descriptor, pixels

    def close(self) -> None:
        self.landing.close()
        stats = self.landing.stats()
        assert stats.balance == 0
        usage = self.arena.stats()
        assert (usage.free, usage.leases) == (usage.slots, 0)
        self.arena.close()


class Sender:
    """An edge of policy `block`, and waiting for room at it."""

    def __init__(self, node: Node, inbox: Landing, **options: Any) -> None:
        self.room = threading.Event()
        self.dropped: queue.Queue[Any] = queue.Queue()
        options = {
            "policy": "block",
            "has_room": self.room.set,
            "dropped": self.dropped.put,
        } | options
        self.edge = Edge(node.landing.address, inbox=inbox, **options)

    def send(self, part: bytes, pixels: np.ndarray | None = None) -> None:
        while not self.edge.offer(part, pixels):
            assert self.room.wait(TIMEOUT_S)
            self.room.clear()

    def send_all(self, pictures: list[np.ndarray], **fields: Any) -> None:
        for seq, picture in enumerate(pictures):
            self.send(message(picture.shape, seq, **fields), picture)

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *exc: object) -> None:
        self.edge.close()


@contextmanager
def home() -> Iterator[Landing]:
    """The landing of the sending node, which takes no frames."""
    with (
        ring.Arena.create("home", [(4096, 1)]) as arena,
        Landing("tcp://127.0.0.1:0", arena=arena, deliver=lambda part: False) as landing,
    ):
        yield landing


@pytest.fixture(name="message")
def message_fixture() -> Callable[..., bytes]:
    return message


@pytest.fixture(name="psnr")
def psnr_fixture() -> Callable[[np.ndarray, np.ndarray], float]:
    """Likeness of two pictures in decibels, at most about 138."""
    return psnr


@pytest.fixture(scope="session")
def open_node() -> type[Node]:
    return Node


@pytest.fixture(scope="session")
def open_sender() -> type[Sender]:
    return Sender


@pytest.fixture
def inbox() -> Iterator[Landing]:
    with home() as landing:
        yield landing


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node()
    yield node
    node.close()


@pytest.fixture(scope="session")
def small(clips: Path) -> list[np.ndarray]:
    return read(clips / "carphone_pristine.mp4")


@pytest.fixture(scope="session")
def large(clips: Path) -> list[np.ndarray]:
    return read(clips / "bikes.mp4", 30)


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture
def replier(context) -> Iterator[Replier]:
    with Replier(LOOPBACK, context=context) as replier:
        yield replier


@pytest.fixture
def requester(context, replier) -> Iterator[Requester]:
    with Requester(replier.bound, context=context) as requester:
        yield requester
