"""Workers and tasks that come and go: where their frames end up."""

from __future__ import annotations

import pytest
from flow_kit import TASK, frame, labels, opened, ready

from vdag.errors import ConfigError
from vdag.transport.flow import Drop, Item, Release
from vdag.transport.ledger import MAX_STREAMS, Counts

# Workers that go.


def test_the_frames_of_a_lost_worker_are_tried_once_more_before_all_that_wait():
    flow = opened()
    ready(flow, "u", credit=1)
    flow.submit(frame("a", 0), 0)
    flow.submit(frame("a", 1), 0)
    assert flow.worker_lost("u", 0) == []
    assert labels(ready(flow, "v", credit=2, max_batch=2)) == ["v<a/0"]
    assert labels(flow.worker_done("v", flow.outstanding("v"), 0)) == ["v<a/1"]
    assert flow.stats().tasks[TASK].counts == Counts(
        submitted=2, completed=1, outstanding=1, retried=1
    )


def test_a_frame_that_costs_two_workers_is_poison_and_its_neighbours_arrive():
    flow = opened()
    frames = [frame("a", seq) for seq in range(3)]
    for item in frames:
        flow.submit(item, 0)
    assert labels(ready(flow, "u", credit=3, max_batch=3)) == ["u<a/0 a/1 a/2"]
    flow.worker_lost("u", 0)
    assert labels(ready(flow, "v", credit=8, max_batch=8)) == ["v<a/0"]
    assert labels(flow.worker_done("v", frames[:1], 0)) == ["v<a/1"]
    assert flow.worker_lost("v", 0) == [Drop(frames[1], "poison", TASK)]
    assert labels(ready(flow, "w", credit=8, max_batch=8)) == ["w<a/2"]
    assert flow.worker_done("w", frames[2:], 0) == []
    assert flow.stats().tasks[TASK].counts == Counts(
        submitted=3, completed=2, retried=3, dropped={"poison": 1}
    )


def test_a_suspect_waits_for_a_worker_that_holds_nothing():
    flow = opened()
    ready(flow, "u", credit=1)
    ready(flow, "v", credit=4)
    suspect, innocent = frame("a", 0), frame("a", 1)
    flow.submit(suspect, 0)
    flow.submit(innocent, 0)
    assert flow.worker_lost("u", 0) == []  # v still holds a/1
    assert flow.submit(frame("a", 2), 0) == []  # and gets nothing more before the suspect
    assert labels(flow.worker_done("v", [innocent], 0)) == ["v<a/0"]
    assert labels(flow.worker_done("v", [suspect], 0)) == ["v<a/2"]


def test_other_workers_go_on_while_one_tries_a_suspect():
    flow = opened()
    ready(flow, "u", credit=1)
    flow.submit(frame("a", 0), 0)
    ready(flow, "v", credit=2)
    ready(flow, "w", credit=2)
    assert labels(flow.worker_lost("u", 0)) == ["v<a/0"]
    assert [labels(flow.submit(frame("a", seq), 0)) for seq in (1, 2, 3)] == [
        ["w<a/1"],
        ["w<a/2"],
        [],
    ]


def test_suspects_are_not_tried_by_a_worker_that_retires():
    flow = opened()
    frames = [frame("a", seq) for seq in range(2)]
    for item in frames:
        flow.submit(item, 0)
    ready(flow, "u", credit=2, max_batch=2)
    flow.worker_lost("u", 0)
    assert labels(ready(flow, "v", credit=2)) == ["v<a/0"]
    assert flow.worker_retired("v", 0) == []
    assert labels(ready(flow, "w", credit=1)) == ["w<a/1"]
    assert labels(flow.worker_done("v", frames[:1], 0)) == ["v released"]


def test_no_more_suspects_wait_than_frames_may():
    flow = opened("fifo", limit=2)
    ready(flow, "u", credit=3, max_batch=3)
    for seq in range(3):
        flow.submit(frame("a", seq), 0)
    assert labels(flow.worker_lost("u", 0)) == ["a/2 full"]


def test_a_suspect_is_superseded_like_any_waiting_frame_of_latest():
    flow = opened("latest")
    ready(flow, "u", credit=2)
    flow.submit(frame("a", 0), 0)
    flow.submit(frame("a", 1), 0)
    assert labels(flow.worker_lost("u", 0)) == ["a/0 superseded"]
    assert labels(flow.submit(frame("a", 2), 0)) == ["a/1 superseded"]
    ready(flow, "v")
    flow.submit(frame("a", 3), 0)
    assert labels(flow.worker_lost("v", 0)) == ["a/2 superseded"]


def test_a_suspect_is_dropped_at_its_dead_line():
    flow = opened("deadline", cost_ns=10)
    ready(flow, "u", credit=2)
    flow.submit(frame("a", 0, deadline_ns=100), 0)
    flow.submit(frame("a", 1, deadline_ns=200), 0)
    assert labels(flow.worker_lost("u", 91)) == ["a/0 deadline"]
    assert flow.next_due_ns() == 191
    assert labels(flow.tick(191)) == ["a/1 deadline"]


def test_a_frame_on_which_the_task_raised_is_dropped_as_failed():
    flow = opened()
    ready(flow, "w")
    item = frame("a", 0)
    flow.submit(item, 0)
    assert flow.worker_failed("w", [item], 0) == [Drop(item, "failed", TASK)]
    assert flow.stats().tasks[TASK].counts == Counts(submitted=1, dropped={"failed": 1})


def test_a_retired_worker_finishes_what_it_holds_and_is_released():
    flow = opened()
    ready(flow, "w", credit=2)
    item = frame("a", 0)
    flow.submit(item, 0)
    assert flow.worker_retired("w", 0) == []
    assert flow.submit(frame("a", 1), 0) == []
    assert ready(flow, "w", credit=5) == []  # sent before it knew
    assert flow.worker_done("w", [item], 0) == [Release("w")]
    assert flow.stats().tasks[TASK].workers == 0


def test_an_idle_worker_is_released_when_it_retires():
    flow = opened()
    ready(flow, "w")
    assert flow.worker_retired("w", 0) == [Release("w")]


# Cancelling, closing, strays.


@pytest.mark.parametrize("target", [{"stream": "a"}, {"job": "j"}])
def test_cancel_drops_what_waits_and_does_not_retry_what_is_at_a_worker(target):
    flow = opened()
    ready(flow, "w", credit=1)
    for seq in range(2):
        flow.submit(frame("a", seq, job="j"), 0)
        flow.submit(frame("b", seq, job="k"), 0)
    assert labels(flow.cancel(0, **target)) == ["a/1 cancelled"]
    assert labels(flow.worker_lost("w", 0)) == ["a/0 cancelled"]
    assert flow.stats().tasks[TASK].streams["b"].waiting == 2


def test_a_cancelled_frame_that_its_worker_finishes_is_completed():
    flow = opened()
    ready(flow, "w")
    item = frame("a", 0)
    flow.submit(item, 0)
    assert flow.cancel(0, stream="a") == []
    assert flow.worker_done("w", [item], 0) == []
    assert flow.stats().tasks[TASK].counts.completed == 1


def test_cancel_drops_suspects():
    flow = opened()
    ready(flow, "w")
    flow.submit(frame("a", 0), 0)
    flow.worker_lost("w", 0)
    assert labels(flow.cancel(0, stream="a")) == ["a/0 cancelled"]


def test_cancelling_frees_places_for_producers_that_wait():
    flow = opened("block", limit=1)
    flow.producer_ready(TASK, "cam", wanted=2, now_ns=0)
    flow.submit(frame("a", 0, producer="cam"), 0)
    assert labels(flow.cancel(0, stream="a")) == ["a/0 cancelled", "cam+1"]


@pytest.mark.parametrize("target", [{}, {"stream": "a", "job": "j"}])
def test_cancel_takes_either_a_stream_or_a_job(target):
    with pytest.raises(ConfigError, match=r"^cancel takes either a stream or a job$"):
        opened().cancel(0, **target)


def test_closing_a_task_drops_what_waits_and_releases_its_workers():
    flow = opened()
    ready(flow, "busy")
    item = frame("a", 0)
    flow.submit(item, 0)
    flow.submit(frame("a", 1), 0)
    ready(flow, "w", credit=2, max_batch=1)
    flow.submit(frame("a", 2), 0)
    flow.submit(frame("a", 3), 0)
    assert labels(flow.close_task(TASK, 0)) == ["a/3 closed"]
    assert labels(flow.submit(frame("a", 4), 0)) == ["a/4 closed"]
    assert labels(flow.worker_lost("w", 0)) == ["a/1 closed", "a/2 closed"]
    assert flow.worker_done("busy", [item], 0) == [Release("busy")]


def test_a_closed_task_can_be_opened_again_and_its_books_go_on():
    flow = opened("latest")
    flow.submit(frame("a", 0), 0)
    flow.close_task(TASK, 0)
    flow.open_task(TASK, policy="fifo")
    flow.submit(frame("a", 1), 0)
    stats = flow.stats().tasks[TASK]
    assert stats.policy == "fifo"
    assert stats.counts == Counts(submitted=2, waiting=1, dropped={"closed": 1})


def test_a_frame_for_an_unknown_task_is_a_stray():
    flow = opened()
    item = Item("a", 0, "unheard_of")
    assert flow.submit(item, 0) == [Drop(item, "stray", "unheard_of")]
    assert flow.stats().stray == 1


def test_accounts_of_idle_streams_are_closed_so_that_names_from_outside_take_no_memory():
    flow = opened()
    ready(flow, "w", credit=4000)
    kept = frame("kept", 0)
    flow.submit(kept, 0)
    for number in range(MAX_STREAMS + 100):
        item = frame(f"s{number}", 0)
        flow.submit(item, 0)
        flow.worker_done("w", [item], 0)
    stats = flow.stats().tasks[TASK]
    assert len(stats.streams) == MAX_STREAMS
    assert stats.streams["kept"].outstanding == 1
    assert stats.counts.completed == MAX_STREAMS + 100
    flow.check()
