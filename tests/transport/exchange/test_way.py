"""The way of a frame: to its workers, from task to task, and home."""

from __future__ import annotations

import numpy as np
import pytest

from vdag._native import header as native_header
from vdag.transport import codec, messages

TASK, NEXT = "brightness", "colour"


def test_a_frame_goes_to_a_worker_and_comes_home_with_what_was_found(node):
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


def test_a_frame_waits_until_a_worker_has_credit_and_its_batch_is_bounded(node):
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


def test_a_frame_goes_on_to_its_next_task_with_its_context_and_pixels(node):
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


def test_branches_of_a_frame_share_one_slot(node):
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


def test_a_payload_that_travels_inline_reaches_the_worker(node):
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


def test_a_worker_is_told_a_graph_once_and_that_its_job_has_ended(node):
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


def test_a_graph_that_is_replaced_is_told_anew(node):
    home, worker = node.join(graph=b"{}"), node.worker().hello().ready(credit=2)
    node.inbox.send(node.frame(0))
    worker.answer(worker.take())
    node.send(messages.Join("job", home.address, b"[]"))
    node.inbox.send(node.frame(1))
    batch = worker.take()
    assert batch.graphs == {"job": b"[]"}
    worker.answer(batch)
    home.take(), home.take()
