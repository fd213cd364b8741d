"""Which frame is next, and which is dropped, under every policy."""

from __future__ import annotations

import itertools

from flow_kit import TASK, frame, labels, opened, ready

from vdag.transport.flow import Flow


def served(flow: Flow, count: int) -> list[str]:
    """Streams in the order in which one worker is handed `count` frames, one by one."""
    order = []
    for _ in range(count):
        (deliver,) = ready(flow, "w")
        flow.worker_done("w", deliver.items, 0)
        order.append(deliver.items[0].stream)
    return order


# Order and fairness.


def test_streams_take_turns_however_many_frames_one_of_them_has_waiting():
    flow = opened()
    for seq in range(6):
        flow.submit(frame("hog", seq), 0)
    for seq in range(3):
        flow.submit(frame("b", seq), 0)
    assert served(flow, 9) == ["hog", "b", "hog", "b", "hog", "b", "hog", "hog", "hog"]


def test_a_streams_share_is_its_weight():
    flow = opened()
    flow.weigh("heavy", 3)
    for seq in range(12):
        flow.submit(frame("heavy", seq), 0)
        flow.submit(frame("light", seq), 0)
    assert served(flow, 8).count("heavy") == 6


def test_a_quiet_stream_comes_back_without_credit_from_the_past():
    flow = opened()
    for seq in range(9):
        flow.submit(frame("a", seq), 0)
    served(flow, 5)
    for seq in range(4):
        flow.submit(frame("late", seq), 0)
    order = served(flow, 8)
    assert max(len(list(run)) for _, run in itertools.groupby(order)) <= 2


def test_a_weight_of_one_is_not_remembered():
    flow = opened()
    flow.weigh("a", 5)
    flow.weigh("a", 1)
    for seq in range(6):
        flow.submit(frame("a", seq), 0)
        flow.submit(frame("b", seq), 0)
    assert served(flow, 6).count("a") == 3


# Policies.


def test_fifo_drops_the_frame_that_arrives_at_a_full_queue():
    flow = opened("fifo", limit=2)
    flow.submit(frame("a", 0), 0)
    flow.submit(frame("a", 1), 0)
    assert labels(flow.submit(frame("a", 2), 0)) == ["a/2 full"]


def test_a_full_queue_drops_the_newest_frame_of_the_stream_that_is_furthest_ahead():
    flow = opened("fifo", limit=4)
    for seq in range(4):
        flow.submit(frame("hog", seq), 0)
    assert labels(flow.submit(frame("b", 0), 0)) == ["hog/3 full"]
    assert labels(flow.submit(frame("b", 1), 0)) == ["hog/2 full"]
    assert labels(flow.submit(frame("b", 2), 0)) == ["b/2 full"]
    assert labels(flow.submit(frame("hog", 4), 0)) == ["hog/4 full"]
    assert served(flow, 4) == ["hog", "b", "hog", "b"]


def test_a_stream_whose_frames_were_dropped_keeps_its_share_of_what_follows():
    flow = opened("fifo", limit=4)
    for seq in range(100):
        flow.submit(frame("hog", seq), 0)
    order = []
    for seq in range(40):
        flow.submit(frame("hog", 100 + seq), 0)
        flow.submit(frame("b", seq), 0)
        order += served(flow, 1)
    assert 18 <= order.count("b") <= 22


def test_the_bytes_that_wait_are_limited_too():
    flow = opened("fifo", limit_nbytes=100)
    assert flow.submit(frame("a", 0, nbytes=60), 0) == []
    assert labels(flow.submit(frame("a", 1, nbytes=60), 0)) == ["a/1 full"]
    assert labels(flow.submit(frame("b", 0, nbytes=101), 0)) == ["b/0 full"]
    assert flow.stats().tasks[TASK].waiting_nbytes == 60


def test_a_frame_too_large_for_the_queue_pushes_nobody_out():
    flow = opened("fifo", limit_nbytes=100)
    for seq in range(3):
        flow.submit(frame("a", seq, nbytes=30), 0)
    assert labels(flow.submit(frame("b", 0, nbytes=101), 0)) == ["b/0 full"]


def test_latest_keeps_only_the_newest_frame_of_each_stream():
    flow = opened("latest")
    flow.submit(frame("a", 0), 0)
    flow.submit(frame("b", 0), 0)
    assert labels(flow.submit(frame("a", 1), 0)) == ["a/0 superseded"]
    assert labels(flow.submit(frame("a", 3), 0)) == ["a/1 superseded"]
    assert labels(flow.submit(frame("a", 2), 0)) == ["a/2 superseded"]
    assert labels(ready(flow, "w", credit=4, max_batch=4)) == ["w<a/3 b/0"]


def test_latest_drops_a_further_stream_when_its_queue_is_full_of_others():
    flow = opened("latest", limit=2)
    flow.submit(frame("a", 0), 0)
    flow.submit(frame("b", 0), 0)
    assert labels(flow.submit(frame("c", 0), 0)) == ["c/0 full"]
    assert labels(flow.submit(frame("b", 1), 0)) == ["b/0 superseded"]


def test_a_newer_frame_that_is_too_large_for_the_queue_still_supersedes():
    flow = opened("latest", limit_nbytes=100)
    flow.submit(frame("a", 0, nbytes=60), 0)
    flow.submit(frame("b", 0, nbytes=40), 0)
    dropped = labels(flow.submit(frame("a", 1, nbytes=90), 0))
    assert dropped == ["a/0 superseded", "b/0 full"]
    flow.check()


def test_deadline_serves_the_earliest_dead_line_first_and_frames_without_one_last():
    flow = opened("deadline")
    for seq, deadline_ns in enumerate([0, 300, 100, 200]):
        flow.submit(frame("a", seq, deadline_ns=deadline_ns), 0)
    assert labels(ready(flow, "w", credit=4, max_batch=4)) == ["w<a/2 a/3 a/1 a/0"]


def test_deadline_is_fair_between_streams_with_equal_dead_lines():
    flow = opened("deadline")
    for seq in range(4):
        flow.submit(frame("hog", seq, deadline_ns=100), 0)
    for seq in range(2):
        flow.submit(frame("b", seq, deadline_ns=100), 0)
    assert served(flow, 6) == ["hog", "b", "hog", "b", "hog", "hog"]


def test_deadline_drops_a_frame_that_arrives_too_late_to_be_finished():
    flow = opened("deadline", cost_ns=50)
    assert flow.submit(frame("a", 0, deadline_ns=150), 100) == []
    assert labels(flow.submit(frame("a", 1, deadline_ns=149), 100)) == ["a/1 deadline"]


def test_deadline_drops_waiting_frames_when_their_time_has_come_and_says_when():
    flow = opened("deadline", cost_ns=50)
    assert flow.next_due_ns() is None
    flow.submit(frame("a", 0, deadline_ns=200), 0)
    flow.submit(frame("a", 1, deadline_ns=300), 0)
    assert flow.next_due_ns() == 151
    assert flow.tick(150) == []
    assert labels(flow.tick(151)) == ["a/0 deadline"]
    assert flow.next_due_ns() == 251
    assert labels(ready(flow, "w", now_ns=251)) == ["a/1 deadline"]
    assert flow.next_due_ns() is None


def test_what_a_task_is_expected_to_take_can_change():
    flow = opened("deadline")
    flow.submit(frame("a", 0, deadline_ns=200), 0)
    flow.expect(TASK, 150)
    assert flow.next_due_ns() == 51
    assert labels(flow.tick(51)) == ["a/0 deadline"]


def test_a_full_deadline_queue_drops_the_least_urgent_frame():
    flow = opened("deadline", limit=2)
    flow.submit(frame("a", 0, deadline_ns=100), 0)
    flow.submit(frame("a", 1, deadline_ns=300), 0)
    assert labels(flow.submit(frame("b", 0, deadline_ns=200), 0)) == ["a/1 full"]
    assert labels(flow.submit(frame("b", 1, deadline_ns=250), 0)) == ["b/1 full"]
