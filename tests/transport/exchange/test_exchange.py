"""The exchange itself: what it ignores, its books, its beginning and its end."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import psutil
import pytest
import zmq

from vdag.errors import ChannelClosed, ConfigError, TransportError
from vdag.transport import codec, messages
from vdag.transport.books import REASONS
from vdag.transport.exchange import Exchange

TASK, NEXT = "brightness", "colour"
NBYTES = 32 * 16 * 3


# Messages that have no meaning.


def test_strangers_and_nonsense_are_counted_and_change_nothing(node):
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


def test_a_worker_without_a_hello_gets_no_credit(node):
    node.worker().ready()
    node.until(lambda stats: stats.refused == 1)


@pytest.mark.parametrize("answers", [0, 2])
def test_a_worker_that_answers_wrongly_is_reported_as_broken(node, answers):
    node.join()
    worker = node.worker().hello().ready()
    node.inbox.send(node.frame(0))
    batch = worker.take()
    worker.done(batch.id + (not answers), [messages.Found(b"")] * max(answers, 1))
    node.expect("w", "broken")
    stats = node.exchange.stats()
    assert (stats.refused, stats.outstanding) == (1, 1)
    worker.answer(batch)


def test_an_oversize_message_is_counted(node):
    node.inbox.send(messages.MAGIC + bytes(messages.MAX_NBYTES))
    node.until(lambda stats: stats.malformed == 1)


def test_the_exchange_survives_whatever_comes(node):
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


def test_the_accounts_hold_while_workers_come_and_die_at_random(node):
    """Every frame is accounted for, and no lease is left, whatever workers do."""
    home = node.join()
    node.exchange.open_task(NEXT, policy="latest")
    rng = random.Random(5)
    workers: dict[str, Any] = {}
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


def test_close_drops_every_frame_and_tells_its_job(folder, plug):
    with Exchange(folder, classes=[(NBYTES, 8)]) as exchange:
        exchange.open_task(TASK, policy="fifo")
        node = plug(exchange)
        home, worker = node.join(), node.worker().hello().ready()
        for seq in range(3):
            node.inbox.send(node.frame(seq))
        worker.take()
        node.until(lambda stats: stats.received == 3)
    assert sorted(home.dropped().seq for _ in range(3)) == [0, 1, 2]
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


def test_a_fault_is_raised_at_the_next_call(folder, monkeypatch, plug, caplog):
    exchange = Exchange(folder, classes=[(64, 2)])
    monkeypatch.setattr(exchange._router, "receive", lambda parts, now_ns: 1 // 0)
    node = plug(exchange)
    node.send(messages.Stop())
    exchange._thread.join(10.0)
    with pytest.raises(TransportError, match=f"exchange {exchange.address} has failed") as info:
        exchange.stats()
    assert isinstance(info.value.__cause__, ZeroDivisionError)
    exchange.close()
    assert "has failed" in caplog.text
