"""A job and an exchange of one process: no socket between them, and the same rules."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zmq

from vdag.errors import TransportError
from vdag.graph import Edge, Graph
from vdag.job import Job
from vdag.sources import SingleFrameGenerator
from vdag.transport import codec, inside, messages
from vdag.transport import context as wire_context
from vdag.transport.exchange import Exchange

WAIT_S = 20.0
SHAPE = (4, 8, 3)
GRAPH = Graph(
    "SingleFrameGenerator", ("faces",), {"faces": (Edge("image", "SingleFrameGenerator", "image"),)}
)


class Hand:
    """A worker by hand, over sockets as always."""

    def __init__(self, exchange: Exchange) -> None:
        self.arena = exchange.arena
        self.context = zmq.Context()
        self.inbox = self.context.socket(zmq.PULL)
        self.inbox.rcvtimeo = int(WAIT_S * 1e3)
        address = f"ipc://{exchange.folder}/worker-w"
        self.inbox.bind(address)
        self.outlet = self.context.socket(zmq.PUSH)
        self.outlet.connect(exchange.address)
        exchange.enlist(
            "w",
            "faces",
            token="t",
            address=address,
            hang_timeout_s=60.0,
            notify=lambda name, notice: None,
        )
        self.say(messages.Hello("w", "t", os.getpid()))
        self.say(messages.Ready("w", "t", 2, 1))

    def say(self, message: messages.Message) -> None:
        self.outlet.send(messages.encode(message))

    def answer(self) -> None:
        batch = messages.decode(self.inbox.recv())
        assert isinstance(batch, messages.Batch)
        (descriptor,) = [codec.decode([part]) for part in batch.frames]
        fixed = descriptor.header
        with self.arena.acquire(fixed.slot, fixed.generation) as view:
            context = {"faces": {"seq": fixed.seq, "value": bytes(view)[0]}}
        found = messages.Found(b"".join(wire_context.pack(context)))
        self.say(messages.Done("w", "t", batch.id, [found], 1, 2, credit=1))

    def close(self) -> None:
        self.context.destroy(linger=0)


@pytest.fixture
def exchange(tmp_path: Path):
    with Exchange(tmp_path / "n", classes=[(int(np.prod(SHAPE)), 8)]) as exchange:
        exchange.open_task("faces", policy="block", limit=16)
        yield exchange
        exchange.check()
        assert exchange.arena.stats().leases == 0


@pytest.fixture
def hand(exchange: Exchange):
    hand = Hand(exchange)
    yield hand
    hand.close()
    exchange.dismiss("w", "the end")


def job_of(exchange: Exchange, count: int, **options) -> Job:
    source = SingleFrameGenerator([np.full(SHAPE, n, np.uint8) for n in range(count)])
    return Job(
        GRAPH, source, exchange.address, exchange.arena, **{"frame_timeout_s": WAIT_S, **options}
    )


def test_frames_go_out_and_come_home_without_a_socket_of_the_job(exchange, hand):
    answering = threading.Thread(target=lambda: [hand.answer() for _ in range(40)])
    answering.start()
    with job_of(exchange, 40, max_in_flight=4, places=8) as job:
        results = iter(job)
        first = next(results)
        assert not list(exchange.folder.glob("job-*"))
        rest = list(results)
        assert exchange.stats().jobs == 1
    answering.join(WAIT_S)
    found = [result["faces"] for result in (first, *rest)]
    assert found == [{"seq": n, "value": n} for n in range(40)]
    stats = job.stats()
    assert (stats.frames.delivered, dict(stats.frames.dropped), stats.late) == (40, {}, 0)
    assert inside.find(f"ipc://{exchange.folder}/job-{job.id}") is None
    assert exchange.stats().jobs == 0
    assert exchange.stats().tasks["faces"].flow.credit == 2


def test_frames_that_the_exchange_drops_leave_the_job_at_once(exchange):
    with job_of(exchange, 2, max_in_flight=2) as job:
        found: list[object] = []
        thread = threading.Thread(target=lambda: found.extend(job))
        thread.start()
        deadline_s = time.monotonic() + WAIT_S
        while exchange.stats().waiting < 2:  # an answer comes from the exchange's own thread
            assert time.monotonic() < deadline_s
        exchange.close_task("faces")
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert found == []
    assert job.stats().frames.dropped == {"closed": 2}


def test_a_closed_exchange_takes_nothing_from_any_thread(tmp_path):
    exchange = Exchange(tmp_path / "n", classes=[(64, 2)])
    take = inside.find(exchange.address)
    assert take is not None
    exchange.close()
    assert inside.find(exchange.address) is None
    assert not take(b"x")
    assert ThreadPoolExecutor(1).submit(take, b"x").result(WAIT_S) is False


def test_a_fault_in_a_job_s_thread_is_the_exchange_s(tmp_path, monkeypatch, caplog):
    exchange = Exchange(tmp_path / "n", classes=[(64, 2)])
    monkeypatch.setattr(exchange._router, "receive", lambda parts, now_ns: 1 // 0)
    take = inside.find(exchange.address)
    assert take is not None
    assert ThreadPoolExecutor(1).submit(take, b"x").result(WAIT_S) is False
    exchange._thread.join(WAIT_S)
    with pytest.raises(TransportError, match=f"exchange {exchange.address} has failed") as info:
        exchange.stats()
    assert isinstance(info.value.__cause__, ZeroDivisionError)
    exchange.close()
    assert "has failed" in caplog.text


def test_what_the_main_thread_leaves_is_taken_before_what_comes_after(exchange):
    """Python's signal handlers run there: it must not be in the middle of the router's work."""
    take = inside.find(exchange.address)
    assert take is not None
    assert take(b"nonsense")
    assert ThreadPoolExecutor(1).submit(take, b"VCTL nonsense").result(WAIT_S)
    assert exchange.stats().malformed == 2
