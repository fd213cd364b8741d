"""The exchange, with workers and jobs that are sockets of the test: every message is its own."""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import zmq

from vdag._native import header as native_header
from vdag._native.ring import Arena
from vdag.errors import ChannelClosed, ConfigError, InvalidTransition, TransportError
from vdag.transport import codec, messages
from vdag.transport import context as wire_context
from vdag.transport.books import REASONS, ExchangeStats
from vdag.transport.exchange import Exchange
from vdag.transport.poison import PoisonStore

TIMEOUT_MS = 10_000
TASK, NEXT = "brightness", "colour"
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
        header = native_header.Header(
            **{
                "kind": native_header.KIND_SLOT,
                "dtype": 1,
                "shape": pixels.shape,
                "payload_nbytes": pixels.nbytes,
                "slot": ref.slot,
                "generation": ref.generation,
                "arena": ref.arena_id,
                "offset": ref.offset,
                "seq": seq,
                "stream": 7,
                **fields,
            }
        )
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
def node(exchange: Exchange, sockets: Sockets) -> Iterator[Node]:
    yield Node(exchange, sockets)
    # Whatever happened, no lease is left once all frames have left.
    stats = exchange.stats()
    if not stats.waiting and not stats.outstanding:
        assert stats.arena.leases == 0
        exchange.arena.check()


# The way of a frame.


def test_a_frame_goes_to_a_worker_and_comes_home_with_what_was_found(node: Node):
    home, worker = node.join(), node.worker().hello().ready()
    node.inbox.send(node.frame(5, plan=3, cam_frame_id=11))
    batch = worker.take()
    assert worker.answer(batch) == [5]
    descriptor = home.take()
    header = descriptor.header
    assert descriptor.context == {TASK: {"sample": 5}}
    assert (header.seq, header.plan, header.cam_frame_id) == (5, 3, 11)
    assert header.kind == native_header.KIND_NONE
    assert descriptor.here == codec.Hop("home", node.exchange.address)
    stats = node.until(lambda stats: stats.home == 1)
    assert (stats.received, stats.waiting, stats.outstanding) == (1, 0, 0)
    report = stats.workers["w"]
    assert (report.frames, report.batches, report.holds) == (1, 1, 0)
    assert report.busy_s == pytest.approx(2e-6)
    times = stats.tasks[TASK]
    assert (times.wait.count, times.compute.count, times.hop.count) == (1, 1, 1)
    assert times.compute.max_s == pytest.approx(2e-6)


def test_a_frame_waits_until_a_worker_has_credit_and_its_batch_is_bounded(node: Node):
    home = node.join()
    for seq in range(5):
        node.inbox.send(node.frame(seq))
    node.until(lambda stats: stats.waiting == 5)
    worker = node.worker().hello().ready(credit=4, max_batch=3)
    first, second = worker.take(), worker.take()
    assert [len(batch.frames) for batch in (first, second)] == [3, 1]
    stats = node.until(lambda stats: stats.outstanding == 4)
    assert stats.waiting == 1
    assert stats.workers["w"].holds == 4
    worker.ready(credit=1, max_batch=3)
    seen = [worker.answer(batch) for batch in (second, first, worker.take())]
    assert seen == [[3], [0, 1, 2], [4]]
    assert [home.take().header.seq for _ in range(5)] == [3, 0, 1, 2, 4]


def test_a_frame_goes_on_to_its_next_task_with_its_context_and_pixels(node: Node):
    home = node.join()
    node.exchange.open_task(NEXT, policy="fifo")
    first = node.worker("a").hello().ready()
    second = node.worker("b", NEXT).hello().ready()
    node.inbox.send(node.frame(9, TASK, NEXT))
    first.answer(first.take())
    batch = second.take()
    assert codec.decode(batch.frames).context == {TASK: {"sample": 9}}
    assert second.answer(batch) == [9]
    assert home.take().context == {TASK: {"sample": 9}, NEXT: {"sample": 9}}


def test_branches_of_a_frame_share_one_slot(node: Node):
    home = node.join()
    node.exchange.open_task(NEXT, policy="fifo")
    first = node.worker("a").hello().ready()
    second = node.worker("b", NEXT).hello().ready()
    left = node.frame(3)
    header = codec.decode_head([left]).header
    node.exchange.arena.share(header.slot, header.generation)
    route = (codec.Hop(NEXT, node.exchange.address), codec.Hop("home", node.exchange.address))
    node.inbox.send(left)
    node.inbox.send(codec.encode(codec.Descriptor(header, "job", "camera", route))[0])
    assert first.answer(first.take()) + second.answer(second.take()) == [3, 3]
    assert {tuple(home.take().context) for _ in range(2)} == {(TASK,), (NEXT,)}


def test_a_payload_that_travels_inline_reaches_the_worker(node: Node):
    home, worker = node.join(), node.worker().hello().ready()
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    header = native_header.Header(
        kind=native_header.KIND_INLINE, dtype=1, shape=pixels.shape, payload_nbytes=pixels.nbytes
    )
    route = (codec.Hop(TASK, node.exchange.address), codec.Hop("home", node.exchange.address))
    descriptor = codec.Descriptor(header, "job", "camera", route, payload=pixels.tobytes())
    node.inbox.send(codec.encode(descriptor)[0])
    batch = worker.take()
    received = codec.decode(batch.frames)
    assert bytes(received.payload) == pixels.tobytes()
    worker.done(batch.id, [messages.Found(b"")])
    assert home.take().header.kind == native_header.KIND_NONE


def test_a_worker_is_told_a_graph_once_and_that_its_job_has_ended(node: Node):
    home, other = node.join(graph=b"{}"), node.join("other", graph=b"[]")
    worker = node.worker().hello().ready(credit=4)
    told = []
    for seq, job in enumerate(["job", "job", "other"]):
        node.inbox.send(node.frame(seq, job=job))
        batch = worker.take()
        told.append((batch.graphs, batch.ended))
        worker.answer(batch)
    home.take(), home.take(), other.take()
    node.send(messages.Leave("other"))
    node.until(lambda stats: stats.jobs == 1)
    node.inbox.send(node.frame(3))
    batch = worker.take()
    worker.answer(batch)
    assert told == [({"job": b"{}"}, []), ({}, []), ({"other": b"[]"}, [])]
    assert (batch.graphs, batch.ended) == ({}, ["other"])
    home.take()


def test_a_graph_that_is_replaced_is_told_anew(node: Node):
    home, worker = node.join(graph=b"{}"), node.worker().hello().ready(credit=2)
    node.inbox.send(node.frame(0))
    worker.answer(worker.take())
    node.send(messages.Join("job", home.address, b"[]"))
    node.inbox.send(node.frame(1))
    batch = worker.take()
    assert batch.graphs == {"job": b"[]"}
    worker.answer(batch)
    home.take(), home.take()


# Frames that do not arrive.


def dropped(home: Inbox) -> messages.Dropped:
    notice = home.take()
    assert isinstance(notice, messages.Dropped)
    return notice


def test_a_frame_on_which_the_task_raised_is_dropped_with_its_error(node: Node):
    home, worker = node.join(), node.worker().hello().ready(credit=2, max_batch=2)
    node.inbox.send(node.frame(1, plan=4))
    batch = worker.take()
    worker.done(batch.id, [messages.Failure("ValueError: no", "Traceback\n")])
    notice = dropped(home)
    assert notice == messages.Dropped(
        job="job",
        stream=7,
        seq=1,
        plan=4,
        task=TASK,
        reason="failed",
        where=node.exchange.address,
        detail="ValueError: no\nTraceback",
    )
    stats = node.until(lambda stats: stats.dropped == {"failed": 1})
    assert stats.workers["w"].failures == 1
    assert stats.arena.leases == 0  # though the worker has not even acquired its own


def test_a_full_queue_drops_and_says_so(node: Node):
    home = node.join()
    for seq in range(17):
        node.inbox.send(node.frame(seq))
    assert dropped(home).reason == "full"
    node.until(lambda stats: stats.waiting == 16)


def test_a_frame_of_an_unknown_job_or_task_is_a_stray(node: Node):
    node.inbox.send(node.frame(1, job="nobody"))
    stats = node.until(lambda stats: stats.received == 1)
    assert (stats.dropped, stats.unsent) == ({"stray": 1}, 1)
    home = node.join()
    node.inbox.send(node.frame(2, "unheard_of"))
    assert (dropped(home).reason, node.exchange.stats().dropped) == ("stray", {"stray": 2})


def test_a_descriptor_whose_lease_is_used_up_is_stale(node: Node):
    home, worker = node.join(), node.worker().hello().ready(credit=2)
    part = node.frame(1)
    node.inbox.send(part)
    worker.answer(worker.take())
    assert home.take().header.seq == 1
    node.inbox.send(part)
    notice = dropped(home)
    assert (notice.reason, notice.seq) == ("stale", 1)
    assert re.fullmatch(r"generation \d+ of slot \d+ is over", notice.detail)


@pytest.mark.parametrize(
    ("fields", "reason", "detail"),
    [
        ({"arena": 77}, "stale", "slot 0 is in arena 000000000000004d, not in this one"),
        ({"slot": 64}, "unreadable", "slot 64 is none of the 64"),
        (
            {"shape": (16, 31, 3), "payload_nbytes": 1488},
            "stale",
            "slot 0 holds 1536 bytes, not 1488",
        ),
    ],
)
def test_a_descriptor_that_lies_about_its_pixels_is_dropped(node: Node, fields, reason, detail):
    home = node.join()
    honest = codec.decode([node.frame(1)])
    header = honest.header
    liar = codec.Descriptor(header.replace(**fields), "job", "camera", honest.route)
    node.inbox.send(codec.encode(liar)[0])
    notice = dropped(home)
    assert (notice.reason, notice.detail) == (reason, detail)
    # The lease is used up if it was found, else still the sender's.
    was_found = "payload_nbytes" in fields
    assert node.exchange.arena.drop(header.slot, header.generation) is not was_found


def test_a_payload_that_workers_do_not_decode_is_dropped(node: Node):
    home = node.join()
    header = native_header.Header(kind=native_header.KIND_JPEG, payload_nbytes=4)
    route = (codec.Hop(TASK, node.exchange.address), codec.Hop("home", node.exchange.address))
    descriptor = codec.Descriptor(header, "job", "camera", route, payload=b"\xff\xd8\xff\xd9")
    node.inbox.send(codec.encode(descriptor)[0])
    notice = dropped(home)
    assert notice.reason == "unreadable"
    assert notice.detail == "workers read no payload of kind jpeg"


def test_a_frame_for_another_node_goes_to_its_edge_with_its_lease(folder, sockets):
    taken = []

    class Edge:
        room = 1

        def send(self, part, view):
            if not self.room:
                return False
            self.room -= 1
            taken.append((part, view))
            return True

        def close(self):
            pass

    there = "tcp://192.0.2.1:9000"
    with Exchange(folder, classes=[(NBYTES, 4)], edges={there: Edge()}) as exchange:
        node = Node(exchange, sockets)
        home = node.join()
        for seq in range(2):
            honest = codec.decode([node.frame(seq)])
            route = (codec.Hop(TASK, there), honest.route[-1])
            node.inbox.send(codec.encode(codec.Descriptor(honest.header, "job", "c", route))[0])
        assert dropped(home).reason == "peer_full"
        part, view = taken.pop()
        assert codec.decode_head([part]).here == codec.Hop(TASK, there)
        assert bytes(memoryview(view)) == bytes(NBYTES)
        stats = node.until(lambda stats: stats.peer == 1)
        assert (stats.dropped, stats.arena.leases) == ({"peer_full": 1}, 1)
        view.release()
        assert exchange.stats().arena.leases == 0


def test_an_edge_that_fails_takes_nothing_down_with_it(folder, sockets):
    class Edge:
        def send(self, part, view):
            raise ChannelClosed("edge is closed")

        def close(self):
            pass

    there = "tcp://192.0.2.1:9000"
    with Exchange(folder, classes=[(NBYTES, 4)], edges={there: Edge()}) as exchange:
        node = Node(exchange, sockets)
        exchange.open_task(TASK)
        home = node.join()
        honest = codec.decode([node.frame(0)])
        route = (codec.Hop(TASK, there), honest.route[-1])
        node.inbox.send(codec.encode(codec.Descriptor(honest.header, "job", "c", route))[0])
        notice = dropped(home)
        assert notice.reason == "unreachable"
        assert notice.detail == f"edge to {there}: edge is closed"
        worker = node.worker().hello().ready()
        node.inbox.send(node.frame(1, job="elsewhere", home=there))
        worker.answer(worker.take())
        stats = node.until(lambda stats: stats.dropped == {"unreachable": 2})
        assert (stats.peer, stats.unsent, stats.arena.leases) == (0, 1, 0)


def test_a_frame_from_another_node_goes_home_through_its_edge(folder, sockets):
    taken = []

    class Edge:
        def send(self, part, view):
            taken.append((part, view))
            return True

        def close(self):
            pass

    there = "tcp://192.0.2.1:9000"
    with Exchange(folder, classes=[(NBYTES, 4)], edges={there: Edge()}) as exchange:
        node = Node(exchange, sockets)
        exchange.open_task(TASK)
        worker = node.worker().hello().ready(credit=2)
        node.inbox.send(node.frame(1, home=there))
        worker.answer(worker.take())
        node.until(lambda stats: stats.peer == 1)
        node.inbox.send(node.frame(2, home=there))
        worker.done(worker.take().id, [messages.Failure("ValueError")])
        node.until(lambda stats: stats.dropped == {"failed": 1})
    (result, no_view), (notice, _) = taken
    assert no_view is None
    assert codec.decode([result]).context == {TASK: {"sample": 1}}
    assert messages.decode(notice).reason == "failed"


def test_a_result_and_a_notice_of_another_node_reach_the_job_here(folder, sockets):
    mine = "tcp://192.0.2.7:9000"
    with Exchange(folder, classes=[(NBYTES, 4)], aliases=[mine]) as exchange:
        node = Node(exchange, sockets)
        home = node.join()
        descriptor = codec.decode([node.frame(1, home=mine)])
        through = codec.advance(descriptor, {"sample": 8})
        node.inbox.send(codec.encode(through)[0])
        assert home.take().context == {TASK: {"sample": 8}}
        notice = messages.Dropped("job", 7, 2, 0, TASK, "failed", "tcp://192.0.2.1:9000")
        node.send(notice)
        assert home.take() == notice


def test_a_hop_to_a_node_without_an_edge_is_unreachable(node: Node):
    home = node.join()
    honest = codec.decode([node.frame(1)])
    route = (codec.Hop(TASK, "tcp://192.0.2.1:9000"), honest.route[-1])
    node.inbox.send(codec.encode(codec.Descriptor(honest.header, "job", "c", route))[0])
    notice = dropped(home)
    assert notice.reason == "unreachable"
    assert notice.detail == "no edge leads to tcp://192.0.2.1:9000"


def test_a_job_that_does_not_read_loses_its_results_and_nobody_else_does(node: Node):
    node.send(messages.Join("deaf", f"ipc://{node.exchange.folder}/job-deaf"))
    home, worker = node.join("job"), node.worker().hello().ready(credit=4096)
    for seq in range(1100):
        node.inbox.send(node.frame(seq, job="deaf"))
        worker.answer(worker.take())
    stats = node.until(lambda stats: stats.home + stats.dropped.get("peer_full", 0) == 1100)
    assert stats.dropped["peer_full"] >= 50
    node.inbox.send(node.frame(5000))
    worker.answer(worker.take())
    assert home.take().header.seq == 5000


# Jobs come and go.


def test_frames_of_a_job_that_leaves_are_dropped_where_they_are(node: Node):
    node.join()
    worker = node.worker().hello().ready()
    for seq in range(3):
        node.inbox.send(node.frame(seq))
    batch = worker.take()
    node.send(messages.Leave("job"))
    node.until(lambda stats: stats.dropped == {"cancelled": 2})
    worker.answer(batch)
    stats = node.until(lambda stats: stats.dropped == {"cancelled": 3})
    assert (stats.jobs, stats.outstanding) == (0, 0)


def test_the_job_silent_for_longest_makes_place_for_the_257th(node: Node):
    for number in range(258):
        home = f"ipc://{node.exchange.folder}/job-{number}"
        node.send(messages.Join(str(number), home))
    node.until(lambda stats: stats.jobs == 256)
    node.inbox.send(node.frame(0, job="0"))
    node.until(lambda stats: stats.dropped == {"stray": 1})
    node.inbox.send(node.frame(0, job="2"))
    node.until(lambda stats: stats.waiting == 1)


def test_a_producer_is_granted_places_of_a_blocking_task(node: Node):
    node.exchange.open_task(NEXT, policy="block", limit=2)
    home = node.join()
    node.send(messages.CreditWanted("job", NEXT, 3))
    grants = [home.take()]
    assert grants == [messages.Grant(NEXT, 2)]
    worker = node.worker("b", NEXT).hello().ready()
    node.inbox.send(node.frame(0, NEXT))
    worker.answer(worker.take())
    assert home.take() == messages.Grant(NEXT, 1)
    assert home.take().header.seq == 0


# Workers that end badly.


def test_frames_of_a_lost_worker_are_tried_once_more_and_then_are_poison(node: Node):
    home, first = node.join(), node.worker("a").hello().ready(credit=2, max_batch=2)
    second = node.worker("b").hello()
    for seq in range(2):
        node.inbox.send(node.frame(seq))
    acquired = first.take()  # one frame is held by the worker when it dies, the other is in flight
    header = codec.decode_head(acquired.frames).header
    node.until(lambda stats: stats.outstanding == 2)
    view = first.arena.acquire(header.slot, header.generation)
    first.arena._die()  # as if its process had been killed
    assert node.exchange.dismiss("a", "killed") == 0
    stats = node.until(lambda stats: stats.waiting == 2)
    assert stats.tasks[TASK].flow.counts.retried == 2
    assert stats.arena.leases == 2  # those of the exchange, and no others
    second.ready(credit=2, max_batch=2)
    alone = second.take()
    assert len(alone.frames) == 1
    second.arena._die()
    node.exchange.dismiss("b", "killed too\ntraceback")
    notice = dropped(home)
    assert (notice.reason, notice.seq, notice.detail) == ("poison", 0, "killed too\ntraceback")
    third = node.worker("c").hello().ready()
    assert third.answer(third.take()) == [1]
    assert home.take().header.seq == 1
    del view


def test_a_poisoned_frame_is_kept_for_replay_and_the_oldest_goes(node: Node, tmp_path):
    home = node.join()
    for seq in range(3):
        node.inbox.send(node.frame(seq))
        for name in "ab":
            worker = node.worker(f"{name}{seq}").hello().ready()
            worker.take()
            worker.arena._die()
            node.exchange.dismiss(worker.name, f"end of {worker.name}")
        assert dropped(home).reason == "poison"
    store = PoisonStore(tmp_path / "poison")
    node.until(lambda stats: stats.arena.leases == 0)  # all three are written
    kept = [store.load(folder) for folder in store.frames()]
    assert [frame.descriptor.header.seq for frame in kept] == [1, 2]
    assert kept[0].descriptor.here == codec.Hop(TASK, node.exchange.address)
    assert kept[0].pixels is not None
    np.testing.assert_array_equal(kept[0].pixels, np.full((HEIGHT, WIDTH, 3), 1, np.uint8))
    assert re.search(r"task brightness\nend of b1\n$", kept[0].report)


def test_a_lease_in_flight_is_not_taken_from_another_worker_on_the_same_slot(node: Node):
    node.join()
    node.exchange.open_task(NEXT, policy="fifo")
    first = node.worker("a").hello().ready()
    second = node.worker("b", NEXT).hello().ready()
    left = node.frame(3)
    header = codec.decode_head([left]).header
    node.exchange.arena.share(header.slot, header.generation)
    route = (codec.Hop(NEXT, node.exchange.address), codec.Hop("home", node.exchange.address))
    node.inbox.send(left)
    node.inbox.send(codec.encode(codec.Descriptor(header, "job", "camera", route))[0])
    first.take()
    late = second.take()
    first.arena._die()  # before it acquired its lease
    node.exchange.dismiss("a", "killed")
    assert second.answer(late) == [3]
    third = node.worker("c").hello().ready()
    assert third.answer(third.take()) == [3]
    stats = node.until(lambda stats: stats.home == 2)
    assert stats.arena.leases == 0


def test_a_worker_that_says_nothing_is_reported_as_hung_once(node: Node):
    node.join()
    worker = node.worker(hang_timeout_s=0.05).hello().ready()
    node.inbox.send(node.frame(0))
    node.expect("w", "hung")
    worker.answer(worker.take())
    node.until(lambda stats: stats.home == 1)
    assert [notice for _, notice in node.notices] == ["hello", "hung"]


def test_a_retired_worker_finishes_what_it_holds_and_is_told_to_stop(node: Node):
    home, worker = node.join(), node.worker().hello().ready(credit=2)
    node.inbox.send(node.frame(0))
    batch = worker.take()
    node.exchange.retire("w")
    node.inbox.send(node.frame(1))
    worker.ready()  # sent before it knew
    worker.answer(batch)
    assert home.take().header.seq == 0
    assert worker.inbox.take() == messages.Stop()
    node.expect("w", "released")
    node.until(lambda stats: stats.waiting == 1)
    assert node.exchange.dismiss("w", "exit status 0") == 1
    assert node.exchange.stats().workers == {}


def test_a_worker_retired_before_its_hello_is_released_at_once(node: Node):
    worker = node.worker()
    node.exchange.retire("w")
    node.expect("w", "released")
    worker.hello().ready()
    node.join()
    node.inbox.send(node.frame(0))
    node.until(lambda stats: stats.waiting == 1)
    assert worker.inbox.is_empty()


def test_closing_a_task_drops_what_waits_and_releases_its_workers(node: Node):
    home, worker = node.join(), node.worker().hello().ready()
    idle = node.worker("idle").hello()
    for seq in range(2):
        node.inbox.send(node.frame(seq))
    batch = worker.take()
    node.exchange.close_task(TASK)
    assert dropped(home).reason == "closed"
    node.expect("idle", "released")
    assert idle.inbox.take() == messages.Stop()
    worker.answer(batch)
    assert home.take().header.seq == 0
    assert worker.inbox.take() == messages.Stop()
    with pytest.raises(ConfigError, match=f"task {TASK} of worker late is not open"):
        node.worker("late")
    with pytest.raises(InvalidTransition):
        node.exchange.close_task(TASK)
    node.exchange.open_task(TASK)
    node.worker("later")


def test_a_task_has_one_worker_of_a_name(node: Node):
    node.worker()
    with pytest.raises(ConfigError, match="worker w is known already"):
        node.exchange.enlist(
            "w", TASK, token="t", address="ipc:///x", hang_timeout_s=1.0, notify=node.notify
        )


def test_leases_of_a_job_that_died_come_back(node: Node):
    other = Arena.attach(node.exchange.arena.name, writable=True)
    assert other.put(np.zeros(NBYTES, np.uint8)) is not None
    other._die()
    assert node.until(lambda stats: stats.arena.leases == 0).arena.reclaimed == 1


# Messages that have no meaning.


def test_strangers_and_nonsense_are_counted_and_change_nothing(node: Node):
    home, worker = node.join(), node.worker().hello().ready()
    good = node.frame(0)
    for part in (b"", b"VDAG", b"VCTL", b"VCTL\x91\xa4stop\x00", good[:-1], good + b"\0"):
        node.inbox.send(part)
    node.inbox.send_multipart([good, b"second"])
    end = codec.decode([node.frame(1)])
    header = end.header.replace(hop=len(end.route))
    node.inbox.send(codec.encode(codec.Descriptor(header, "job", "c", end.route))[0])
    assert node.until(lambda stats: stats.malformed == 8).received == 0
    assert node.exchange.arena.drop(end.header.slot, end.header.generation)
    for message in (
        messages.Stop(),
        messages.Grant(TASK, 1),
        messages.Batch(0, [b"x"]),
        messages.Hello("w", "guess", 1),
        messages.Hello("x", "secret of w", 1),
        messages.Ready("w", "guess", 1, 1),
        messages.Ready("w", worker.token, 4096, 1),  # more than may be announced in all
        messages.Done("w", "guess", 0, [messages.Failure("no")], 1, 1),
        messages.Leave("nobody"),
        messages.CreditWanted("nobody", TASK, 1),
        messages.CreditWanted("job", "unheard_of", 1),
        messages.Dropped("nobody", 0, 0, 0, TASK, "full", "ipc:///x"),
        messages.Join("job", "ipc:///tmp/elsewhere"),
        messages.Join("job", "tcp://127.0.0.1:1"),
        messages.Join("job", f"ipc://{node.exchange.folder}/../job-x"),
    ):
        node.send(message)
    stats = node.until(lambda stats: stats.refused == 15)
    assert node.notices == deque([("w", "hello")])
    assert (stats.received, stats.jobs) == (0, 1)
    node.inbox.send(good)
    worker.answer(worker.take())
    assert home.take().header.seq == 0


def test_a_worker_without_a_hello_gets_no_credit(node: Node):
    node.worker().ready()
    node.until(lambda stats: stats.refused == 1)


@pytest.mark.parametrize("answers", [0, 2])
def test_a_worker_that_answers_wrongly_is_reported_as_broken(node: Node, answers):
    node.join()
    worker = node.worker().hello().ready()
    node.inbox.send(node.frame(0))
    batch = worker.take()
    worker.done(batch.id + (not answers), [messages.Found(b"")] * max(answers, 1))
    node.expect("w", "broken")
    stats = node.exchange.stats()
    assert (stats.refused, stats.outstanding) == (1, 1)
    worker.answer(batch)


def test_an_oversize_message_is_counted(node: Node):
    node.inbox.send(messages.MAGIC + bytes(messages.MAX_NBYTES))
    node.until(lambda stats: stats.malformed == 1)


def test_the_exchange_survives_whatever_comes(node: Node):
    home, worker = node.join(), node.worker().hello().ready(credit=100, max_batch=4)
    rng = random.Random(20)
    genuine = [
        node.frame(1000, job="nobody"),
        messages.encode(messages.Join("job", home.address)),
        messages.encode(messages.Ready("w", "x", 1, 1)),
        messages.encode(messages.Done("w", "x", 0, [messages.Found(b"")], 0, 1)),
    ]
    for _ in range(2000):
        part = bytearray(rng.choice(genuine))
        for _ in range(rng.randint(1, 4)):
            part[rng.randrange(len(part))] = rng.randrange(256)
        node.inbox.send(bytes(part))
    node.inbox.send(node.frame(7))
    batch = worker.take()
    while codec.decode_head(batch.frames[-1:]).header.seq != 7:
        batch = worker.take()
    worker.answer(batch)
    node.exchange.check()


# The exchange itself.


def test_the_accounts_hold_while_workers_come_and_die_at_random(node: Node):
    """Every frame is accounted for, and no lease is left, whatever workers do."""
    home = node.join()
    node.exchange.open_task(NEXT, policy="latest")
    rng = random.Random(5)
    workers: dict[str, Worker] = {}
    held: dict[str, list[messages.Batch]] = {}
    for step in range(400):
        action = rng.choice(["frame", "frame", "frame", "answer", "answer", "fail", "die", "new"])
        if action == "frame" and node.exchange.arena.stats().free:
            node.inbox.send(node.frame(step, *rng.choice([(TASK,), (TASK, NEXT), (NEXT,)])))
        elif action == "new" and len(workers) < 5:
            worker = node.worker(f"w{step}", rng.choice([TASK, NEXT])).hello()
            workers[worker.name], held[worker.name] = worker.ready(4, 2), []
        elif workers:
            name = rng.choice(list(workers))
            worker = workers[name]
            node.exchange.stats()  # a round trip: what was sent before has had its effect
            while not worker.inbox.is_empty():
                held[name].append(worker.take())
            if action == "die":
                del workers[name]
                worker.arena._die()
                node.exchange.dismiss(name, "killed")
            elif held[name]:
                batch = held[name].pop(0)
                worker.ready(len(batch.frames), 2)
                if action == "answer":
                    worker.answer(batch)
                else:
                    worker.done(batch.id, [messages.Failure("no")] * len(batch.frames))
        node.exchange.check()
    for name, worker in workers.items():
        worker.arena._die()
        node.exchange.dismiss(name, "killed")
    node.exchange.close_task(TASK)
    node.exchange.close_task(NEXT)
    stats = node.until(lambda stats: stats.waiting == stats.outstanding == 0)
    node.until(lambda stats: stats.arena.leases == 0)  # poisoned frames have been written
    results = [home.take() for _ in range(stats.home + sum(stats.dropped.values()))]
    notices = [result for result in results if isinstance(result, messages.Dropped)]
    assert len(notices) == sum(stats.dropped.values())
    assert {notice.reason for notice in notices} <= set(REASONS)
    assert (
        len({(type(r), getattr(r, "seq", None) or r.header.seq) for r in results}) <= stats.received
    )
    node.exchange.open_task(TASK)


def test_close_drops_every_frame_and_tells_its_job(folder, sockets):
    with Exchange(folder, classes=[(NBYTES, 8)]) as exchange:
        exchange.open_task(TASK, policy="fifo")
        node = Node(exchange, sockets)
        home, worker = node.join(), node.worker().hello().ready()
        for seq in range(3):
            node.inbox.send(node.frame(seq))
        worker.take()
        node.until(lambda stats: stats.received == 3)
    assert sorted(dropped(home).seq for _ in range(3)) == [0, 1, 2]
    for call in (exchange.stats, exchange.check, lambda: exchange.open_task("x")):
        with pytest.raises(ChannelClosed, match=f"exchange {exchange.address} is closed"):
            call()
    exchange.close()


def test_a_folder_has_one_exchange_and_is_free_after_it(folder):
    with Exchange(folder, classes=[(64, 2)]) as exchange:
        assert folder.stat().st_mode & 0o777 == 0o700
        with pytest.raises(ConfigError, match=f"folder {folder} is in use by another exchange"):
            Exchange(folder, classes=[(64, 2)])
        assert exchange.stats().received == 0
    stale = folder / "worker-9"
    context = zmq.Context()
    socket = context.socket(zmq.PULL)
    socket.bind(f"ipc://{stale}")
    assert stale.is_socket()
    with Exchange(folder, classes=[(64, 2)]):
        assert not stale.exists()
    context.destroy(linger=0)


def test_a_folder_open_to_others_is_refused(tmp_path):
    tmp_path.chmod(0o755)
    with pytest.raises(ConfigError, match=f"folder {tmp_path} has mode 0755, not 0700"):
        Exchange(tmp_path, classes=[(64, 2)])


def test_an_exchange_that_cannot_be_made_leaves_nothing(folder):
    fds = psutil.Process().num_fds()
    with pytest.raises(ConfigError, match="0 slot classes are not between 1 and 16"):
        Exchange(folder, classes=[])
    assert psutil.Process().num_fds() == fds
    with pytest.raises(ConfigError, match="limit 107"):
        Exchange(folder / ("x" * 100), classes=[(64, 2)])
    assert psutil.Process().num_fds() == fds


def test_a_fault_is_raised_at_the_next_call(folder, monkeypatch, sockets, caplog):
    exchange = Exchange(folder, classes=[(64, 2)])
    monkeypatch.setattr(exchange._router, "receive", lambda parts, now_ns: 1 // 0)
    node = Node(exchange, sockets)
    node.send(messages.Stop())
    exchange._thread.join(10.0)
    with pytest.raises(TransportError, match=f"exchange {exchange.address} has failed") as info:
        exchange.stats()
    assert isinstance(info.value.__cause__, ZeroDivisionError)
    exchange.close()
    assert "has failed" in caplog.text
