"""Jobs and workers that come, go, and end badly."""

from __future__ import annotations

import re

import numpy as np
import pytest

from vdag._native.ring import Arena
from vdag.errors import ConfigError, InvalidTransition
from vdag.transport import codec, messages
from vdag.transport.poison import PoisonStore

TASK, NEXT = "brightness", "colour"
WIDTH, HEIGHT = 32, 16
NBYTES = WIDTH * HEIGHT * 3


# Jobs come and go.


def test_frames_of_a_job_that_leaves_are_dropped_where_they_are(node):
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


def test_the_job_silent_for_longest_makes_place_for_the_257th(node):
    for number in range(258):
        home = f"ipc://{node.exchange.folder}/job-{number}"
        node.send(messages.Join(str(number), home))
    node.until(lambda stats: stats.jobs == 256)
    node.inbox.send(node.frame(0, job="0"))
    node.until(lambda stats: stats.dropped == {"stray": 1})
    node.inbox.send(node.frame(0, job="2"))
    node.until(lambda stats: stats.waiting == 1)


def test_a_producer_is_granted_places_of_a_blocking_task(node):
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


def test_the_credit_of_an_answer_brings_the_next_frame_also_after_a_failure(node):
    node.join()
    worker = node.worker().hello().ready()
    for seq in range(3):
        node.inbox.send(node.frame(seq))
    for seq in range(3):
        batch = worker.take()
        assert worker.look(batch.frames[0]) == seq
        answer = [messages.Failure("no")] if seq == 1 else [messages.Found(b"")]
        node.send(messages.Done("w", worker.token, batch.id, answer, 1, 2, credit=1))
    stats = node.until(lambda stats: stats.home == 2)
    assert stats.tasks[TASK].flow.credit == 1
    assert stats.dropped == {"failed": 1}


def test_frames_of_a_lost_worker_are_tried_once_more_and_then_are_poison(node):
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
    notice = home.dropped()
    assert (notice.reason, notice.seq, notice.detail) == ("poison", 0, "killed too\ntraceback")
    third = node.worker("c").hello().ready()
    assert third.answer(third.take()) == [1]
    assert home.take().header.seq == 1
    del view


def test_a_poisoned_frame_is_kept_for_replay_and_the_oldest_goes(node, tmp_path):
    home = node.join()
    for seq in range(3):
        node.inbox.send(node.frame(seq))
        for name in "ab":
            worker = node.worker(f"{name}{seq}").hello().ready()
            worker.take()
            worker.arena._die()
            node.exchange.dismiss(worker.name, f"end of {worker.name}")
        assert home.dropped().reason == "poison"
    store = PoisonStore(tmp_path / "poison")
    node.until(lambda stats: stats.arena.leases == 0)  # all three are written
    kept = [store.load(folder) for folder in store.frames()]
    assert [frame.descriptor.header.seq for frame in kept] == [1, 2]
    assert kept[0].descriptor.here == codec.Hop(TASK, node.exchange.address)
    assert kept[0].pixels is not None
    np.testing.assert_array_equal(kept[0].pixels, np.full((HEIGHT, WIDTH, 3), 1, np.uint8))
    assert re.search(r"task brightness\nend of b1\n$", kept[0].report)


def test_a_lease_in_flight_is_not_taken_from_another_worker_on_the_same_slot(node):
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


def test_a_worker_that_says_nothing_is_reported_as_hung_once(node):
    node.join()
    worker = node.worker(hang_timeout_s=0.05).hello().ready()
    node.inbox.send(node.frame(0))
    node.expect("w", "hung")
    worker.answer(worker.take())
    node.until(lambda stats: stats.home == 1)
    assert [notice for _, notice in node.notices] == ["hello", "hung"]


def test_a_retired_worker_finishes_what_it_holds_and_is_told_to_stop(node):
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


def test_a_worker_retired_before_its_hello_is_released_at_once(node):
    worker = node.worker()
    node.exchange.retire("w")
    node.expect("w", "released")
    worker.hello().ready()
    node.join()
    node.inbox.send(node.frame(0))
    node.until(lambda stats: stats.waiting == 1)
    assert worker.inbox.is_empty()


def test_closing_a_task_drops_what_waits_and_releases_its_workers(node):
    home, worker = node.join(), node.worker().hello().ready()
    idle = node.worker("idle").hello()
    for seq in range(2):
        node.inbox.send(node.frame(seq))
    batch = worker.take()
    node.exchange.close_task(TASK)
    assert home.dropped().reason == "closed"
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


def test_a_task_has_one_worker_of_a_name(node):
    node.worker()
    with pytest.raises(ConfigError, match="worker w is known already"):
        node.exchange.enlist(
            "w", TASK, token="t", address="ipc:///x", hang_timeout_s=1.0, notify=node.notify
        )


def test_leases_of_a_job_that_died_come_back(node):
    other = Arena.attach(node.exchange.arena.name, writable=True)
    assert other.put(np.zeros(NBYTES, np.uint8)) is not None
    other._die()
    assert node.until(lambda stats: stats.arena.leases == 0).arena.reclaimed == 1
