"""An exchange, with workers and jobs that are sockets of the test: every message is its own."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import zmq
from frames_kit import in_slot

from vdag._native.ring import Arena
from vdag.transport import codec, messages
from vdag.transport import context as wire_context
from vdag.transport.books import ExchangeStats
from vdag.transport.exchange import Exchange
from vdag.transport.poison import PoisonStore

TIMEOUT_MS = 10_000
TASK = "brightness"
WIDTH, HEIGHT = 32, 16
NBYTES = WIDTH * HEIGHT * 3


class Sockets:
    """Makes the sockets of a test, and closes them at its end."""

    def __init__(self) -> None:
        self.context = zmq.Context()
        self.made: list[zmq.Socket] = []

    def socket(self, kind: int) -> zmq.Socket:
        self.made.append(self.context.socket(kind))
        return self.made[-1]

    def close(self) -> None:
        for socket in self.made:
            socket.close(linger=0)
        self.context.term()


class Inbox:
    """A bound PULL; messages come decoded."""

    def __init__(self, sockets: Sockets, address: str) -> None:
        self.address = address
        self.socket = sockets.socket(zmq.PULL)
        self.socket.rcvtimeo = TIMEOUT_MS
        self.socket.bind(address)

    def take(self):
        part = self.socket.recv()
        return messages.decode(part) if messages.is_control(part) else codec.decode([part])

    def dropped(self) -> messages.Dropped:
        notice = self.take()
        assert isinstance(notice, messages.Dropped)
        return notice

    def is_empty(self) -> bool:
        return not self.socket.poll(0)


class Node:
    """An exchange, and what speaks to it."""

    def __init__(self, exchange: Exchange, sockets: Sockets) -> None:
        self.exchange = exchange
        self.sockets = sockets
        self.inbox = sockets.socket(zmq.PUSH)
        self.inbox.sndtimeo = TIMEOUT_MS
        self.inbox.connect(exchange.address)
        self.notices: deque[tuple[str, str]] = deque()
        self.noticed = threading.Condition()

    def send(self, message: messages.Message) -> None:
        self.inbox.send(messages.encode(message))

    def join(self, job: str = "job", graph: bytes = b"") -> Inbox:
        home = Inbox(self.sockets, f"ipc://{self.exchange.folder}/job-{job}")
        self.send(messages.Join(job, home.address, graph))
        return home

    def worker(self, name: str = "w", task: str = TASK, **options) -> Worker:
        return Worker(self, name, task, **options)

    def frame(self, seq: int, *tasks: str, **fields) -> bytes:
        """A descriptor whose slot is filled with `seq`."""
        job = fields.pop("job", "job")
        pixels = np.full((HEIGHT, WIDTH, 3), seq % 256, np.uint8)
        ref = self.exchange.arena.put(pixels)
        assert ref is not None
        hops = [codec.Hop(task, self.exchange.address) for task in tasks or (TASK,)]
        route = (*hops, codec.Hop("home", fields.pop("home", self.exchange.address)))
        header = in_slot(ref, pixels.shape, **{"seq": seq, "stream": 7, **fields})
        return codec.encode(codec.Descriptor(header, job, "camera", route))[0]

    def notify(self, worker: str, notice: str) -> None:
        with self.noticed:
            self.notices.append((worker, notice))
            self.noticed.notify_all()

    def expect(self, worker: str, notice: str) -> None:
        with self.noticed:
            told = self.noticed.wait_for(lambda: (worker, notice) in self.notices, 10.0)
        assert told, f"{worker} {notice} not among {self.notices}"

    def until(self, holds: Callable[[ExchangeStats], bool]) -> ExchangeStats:
        """Ask for the stats until they are as they should be: each answer comes from its thread."""
        deadline_s = time.monotonic() + TIMEOUT_MS / 1000
        while not holds(stats := self.exchange.stats()):
            assert time.monotonic() < deadline_s, stats
        assert stats.balance == 0
        self.exchange.check()
        return stats


class Worker:
    """A worker by hand."""

    def __init__(self, node: Node, name: str, task: str, *, hang_timeout_s: float = 60.0) -> None:
        self.node, self.name, self.token = node, name, f"secret of {name}"
        self.inbox = Inbox(node.sockets, f"ipc://{node.exchange.folder}/worker-{name}")
        self.arena = Arena.attach(node.exchange.arena.name)
        node.exchange.enlist(
            name,
            task,
            token=self.token,
            address=self.inbox.address,
            hang_timeout_s=hang_timeout_s,
            notify=node.notify,
        )

    def hello(self) -> Worker:
        self.node.send(messages.Hello(self.name, self.token, os.getpid()))
        return self

    def ready(self, credit: int = 1, max_batch: int = 1) -> Worker:
        self.node.send(messages.Ready(self.name, self.token, credit, max_batch))
        return self

    def look(self, part: bytes) -> int:
        """Read a frame's first sample, as a worker reads pixels."""
        header = codec.decode_head([part]).header
        with self.arena.acquire(header.slot, header.generation) as view:
            return int(np.frombuffer(view, np.uint8).reshape(header.shape)[0, 0, 0])

    def answer(self, batch: messages.Batch, **outputs) -> list[int]:
        """Look at the pixels, and say what was found."""
        seen, found = [], []
        for part in batch.frames:
            descriptor = codec.decode([part])
            seen.append(self.look(part))
            assert descriptor.here is not None
            context = {**descriptor.context, descriptor.here.task: outputs or {"sample": seen[-1]}}
            found.append(messages.Found(b"".join(wire_context.pack(context))))
        self.done(batch.id, found)
        return seen

    def done(self, batch: int, frames: list[messages.Found | messages.Failure]) -> None:
        self.node.send(messages.Done(self.name, self.token, batch, frames, 1_000, 3_000))

    def take(self) -> messages.Batch:
        message = self.inbox.take()
        assert isinstance(message, messages.Batch)
        return message


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "n"


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    sockets = Sockets()
    yield sockets
    sockets.close()


@pytest.fixture
def exchange(folder: Path) -> Iterator[Exchange]:
    fds = psutil.Process().num_fds()
    store = PoisonStore(folder.parent / "poison", limit=2)
    with Exchange(folder, classes=[(NBYTES, 64)], poison=store) as exchange:
        exchange.open_task(TASK, policy="fifo", limit=16)
        yield exchange
        stats = exchange.stats()
        assert stats.balance == 0
        exchange.check()
    assert [path.name for path in folder.iterdir() if path.name.startswith("exchange")] == []
    assert not Path("/dev/shm", exchange.arena.name).exists()
    assert psutil.Process().num_fds() <= fds


@pytest.fixture
def plug(sockets: Sockets) -> Callable[[Exchange], Node]:
    """For a test that makes its own exchange."""
    return lambda exchange: Node(exchange, sockets)


@pytest.fixture
def node(exchange: Exchange, sockets: Sockets) -> Iterator[Node]:
    node = Node(exchange, sockets)
    yield node
    stats = exchange.stats()
    if not stats.waiting and not stats.outstanding:  # then no lease is left, whatever happened
        node.until(lambda stats: stats.arena.leases == 0)  # a poisoned frame may yet be written
        exchange.arena.check()
