"""Credit, back-pressure, and what the flow rule refuses."""

from __future__ import annotations

import re

import pytest
from flow_kit import TASK, frame, labels, opened, ready

from vdag.errors import ConfigError, InvalidTransition
from vdag.transport.flow import Flow
from vdag.transport.ledger import Counts

# Credit and assignment.


def test_a_frame_without_a_worker_waits_and_goes_out_on_the_first_credit():
    flow = opened()
    assert flow.submit(frame("a", 0), 0) == []
    assert labels(ready(flow, "w")) == ["w<a/0"]
    assert flow.stats().tasks[TASK].counts == Counts(submitted=1, outstanding=1)


def test_a_frame_goes_out_at_once_while_a_worker_has_credit_and_not_beyond():
    flow = opened()
    ready(flow, "w", credit=2)
    assert [labels(flow.submit(frame("a", seq), 0)) for seq in range(3)] == [
        ["w<a/0"],
        ["w<a/1"],
        [],
    ]
    assert flow.stats().tasks[TASK].credit == 0


def test_credit_adds_up_over_announcements():
    flow = opened()
    ready(flow, "w", credit=2)
    ready(flow, "w", credit=3, max_batch=8)
    assert flow.stats().tasks[TASK].credit == 5


def test_credit_that_comes_with_an_answer_is_used_at_once():
    flow = opened()
    items = [frame("a", seq) for seq in range(3)]
    ready(flow, "w", credit=2)
    for item in items:
        flow.submit(item, 0)
    assert labels(flow.worker_done("w", items[:1], 0)) == []
    assert labels(flow.worker_done("w", items[1:2], 0, credit=2)) == ["w<a/2"]
    assert flow.stats().tasks[TASK].credit == 1
    assert flow.worker_done("w", [], 0, credit=3) == []
    assert flow.stats().tasks[TASK].credit == 4
    flow.check()


def test_credit_with_an_answer_never_exceeds_the_limit_and_none_is_given_to_the_retired():
    flow = opened()
    item = frame("a", 0)
    ready(flow, "w", credit=4096)
    flow.submit(item, 0)
    flow.worker_done("w", [], 0, credit=4096)
    assert flow.stats().tasks[TASK].credit == 4095  # with the frame it holds, as many as it may
    flow.worker_retired("w", 0)
    flow.worker_done("w", [], 0, credit=1)
    assert flow.stats().tasks[TASK].credit == 0
    assert labels(flow.worker_done("w", [item], 0, credit=1)) == ["w released"]
    flow.check()


def test_a_batch_is_no_larger_than_the_worker_wants_nor_than_its_credit():
    flow = opened()
    for seq in range(9):
        flow.submit(frame("a", seq), 0)
    assert labels(ready(flow, "w", credit=5, max_batch=4)) == ["w<a/0 a/1 a/2 a/3", "w<a/4"]


def test_an_idle_worker_is_served_before_a_busy_one_gets_more_to_hold():
    flow = opened()
    ready(flow, "busy", credit=2)
    flow.submit(frame("a", 0), 0)
    ready(flow, "idle", credit=2)
    assert labels(flow.submit(frame("a", 1), 0)) == ["idle<a/1"]


def test_workers_that_hold_equally_few_take_turns():
    flow = opened()
    for worker in "uvw":
        ready(flow, worker, credit=3)
    order = [labels(flow.submit(frame("a", seq), 0))[0][0] for seq in range(6)]
    assert order == list("uvwuvw")


def test_outstanding_lists_a_workers_frames_oldest_first():
    flow = opened()
    ready(flow, "w", credit=3)
    frames = [frame("a", seq) for seq in range(3)]
    for item in frames:
        flow.submit(item, 0)
    flow.worker_done("w", [frames[1]], 0)
    assert flow.outstanding("w") == (frames[0], frames[2])
    assert flow.outstanding("nobody") == ()


# Back-pressure.


def test_block_grants_the_free_places_and_no_more():
    flow = opened("block", limit=3)
    assert labels(flow.producer_ready(TASK, "cam", wanted=5, now_ns=0)) == ["cam+3"]
    for seq in range(3):
        assert flow.submit(frame("a", seq, producer="cam"), 0) == []
    assert labels(ready(flow, "w", credit=2, max_batch=2)) == ["w<a/0 a/1", "cam+2"]


def test_block_shares_places_between_producers_that_wait():
    flow = opened("block", limit=2)
    flow.producer_ready(TASK, "u", wanted=2, now_ns=0)
    for producer in ("u", "v", "w"):
        assert flow.producer_ready(TASK, producer, wanted=2, now_ns=0) == []
    for seq in range(2):
        flow.submit(frame("a", seq, producer="u"), 0)
    assert labels(ready(flow, "x", credit=2, max_batch=2))[1:] == ["u+1", "v+1"]


def test_block_never_drops_a_frame_that_was_granted_a_place():
    flow = opened("block", limit=2)
    flow.producer_ready(TASK, "cam", wanted=2, now_ns=0)
    assert labels(flow.submit(frame("b", 0, producer="rude"), 0)) == ["b/0 full"]
    assert flow.submit(frame("a", 0, producer="cam"), 0) == []
    assert flow.submit(frame("a", 1, producer="cam"), 0) == []
    assert labels(flow.submit(frame("a", 2, producer="cam"), 0)) == ["a/2 full"]


def test_block_takes_a_frame_without_a_grant_while_places_are_promised_to_nobody():
    flow = opened("block", limit=2)
    flow.producer_ready(TASK, "cam", wanted=1, now_ns=0)
    assert flow.submit(frame("b", 0, producer="rude"), 0) == []
    assert labels(flow.submit(frame("b", 1, producer="rude"), 0)) == ["b/1 full"]


def test_the_places_of_a_lost_producer_go_to_others():
    flow = opened("block", limit=2)
    flow.producer_ready(TASK, "dead", wanted=3, now_ns=0)
    assert flow.producer_ready(TASK, "cam", wanted=1, now_ns=0) == []
    assert labels(flow.producer_lost("dead", 0)) == ["cam+1"]
    assert labels(flow.producer_ready(TASK, "cam", wanted=9, now_ns=0)) == ["cam+1"]


@pytest.mark.parametrize("policy", ["fifo", "latest", "deadline"])
def test_other_policies_grant_whatever_is_asked_for(policy):
    flow = opened(policy, limit=1)
    assert labels(flow.producer_ready(TASK, "cam", wanted=9, now_ns=0)) == ["cam+9"]


# What is illegal changes nothing and says how it came to it.


def story_of(flow: Flow, action) -> str:
    before = flow.stats()
    with pytest.raises(InvalidTransition) as caught:
        action()
    assert flow.stats() == before
    return str(caught.value)


def test_a_frame_cannot_be_submitted_twice():
    flow = opened()
    item = frame("a", 7)
    flow.submit(item, 12)
    assert story_of(flow, lambda: flow.submit(item, 13)) == (
        f"frame a/7: state inside {TASK} takes no submit\n  12 submit {TASK} a 7"
    )


def test_a_worker_cannot_finish_a_frame_that_it_does_not_hold():
    flow = opened()
    ready(flow, "w", now_ns=5)
    item = frame("a", 0)
    flow.submit(item, 6)
    other = frame("b", 1)
    assert story_of(flow, lambda: flow.worker_done("w", [item, other], 7)) == (
        "worker w: state holding 1 frames takes no worker_done of a/0, b/1\n"
        f"  5 worker_ready {TASK} w 1"
    )


def test_a_worker_cannot_finish_a_frame_twice_at_once():
    flow = opened()
    ready(flow, "w")
    item = frame("a", 0)
    flow.submit(item, 0)
    text = story_of(flow, lambda: flow.worker_failed("w", [item, item], 7))
    assert text.startswith("worker w: state holding 1 frames takes no worker_failed of a/0, a/0\n")


@pytest.mark.parametrize(
    ("event", "act"),
    [
        ("worker_done", lambda flow: flow.worker_done("w", [], 0)),
        ("worker_failed", lambda flow: flow.worker_failed("w", [], 0)),
        ("worker_lost", lambda flow: flow.worker_lost("w", 0)),
        ("worker_retired", lambda flow: flow.worker_retired("w", 0)),
    ],
)
def test_an_absent_worker_takes_no_event_but_worker_ready(event, act):
    flow = opened()
    assert story_of(flow, lambda: act(flow)) == f"worker w: state absent takes no {event}"


def test_what_a_lost_worker_says_later_is_illegal_for_its_frames_belong_to_others():
    flow = opened()
    ready(flow, "w", now_ns=1)
    item = frame("a", 0)
    flow.submit(item, 2)
    flow.worker_lost("w", 3)
    assert story_of(flow, lambda: flow.worker_done("w", [item], 4)) == (
        "worker w: state absent takes no worker_done\n"
        f"  1 worker_ready {TASK} w 1\n  3 worker_lost w 1"
    )


def test_a_worker_retires_once():
    flow = opened()
    ready(flow, "w")
    flow.submit(frame("a", 0), 0)
    flow.worker_retired("w", 0)
    text = story_of(flow, lambda: flow.worker_retired("w", 0))
    assert text.startswith("worker w: state retired takes no worker_retired\n")


def test_a_worker_serves_one_task():
    flow = opened()
    flow.open_task("other")
    ready(flow, "w")
    text = story_of(flow, lambda: flow.worker_ready("other", "w", credit=1, max_batch=2, now_ns=0))
    assert text.startswith(
        f"worker w: state at {TASK} takes no worker_ready of w with credit 1, max_batch 2\n"
    )


@pytest.mark.parametrize(("credit", "max_batch"), [(0, 1), (1, 0), (4097, 1)])
def test_credit_is_positive_and_limited(credit, max_batch):
    flow = opened()
    text = story_of(flow, lambda: ready(flow, "w", credit=credit, max_batch=max_batch))
    assert text == (
        f"worker w: state at {TASK} takes no worker_ready of w "
        f"with credit {credit}, max_batch {max_batch}"
    )


@pytest.mark.parametrize("wanted", [0, 4097])
def test_a_producers_wish_is_positive_and_limited(wanted):
    flow = opened("block")
    text = story_of(flow, lambda: flow.producer_ready(TASK, "cam", wanted=wanted, now_ns=0))
    assert text == f"producer cam: state any takes no wish for {wanted} frames"


def test_an_open_task_is_not_opened_and_an_absent_one_takes_no_worker():
    flow = opened()
    assert story_of(flow, lambda: flow.open_task(TASK)) == (
        f"task {TASK}: state open takes no open_task"
    )
    text = story_of(flow, lambda: flow.worker_ready("absent", "w", credit=1, now_ns=0))
    assert text == "task absent: state absent takes no worker_ready of w with credit 1, max_batch 1"
    flow.close_task(TASK, 3)
    assert story_of(flow, lambda: flow.close_task(TASK, 4)) == (
        f"task {TASK}: state closed takes no close_task\n  3 close_task {TASK}"
    )


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"policy": "random"},
            "unknown policy 'random': expected one of block, fifo, latest, deadline",
        ),
        ({"limit": 0}, "limit of 0 is not within 1 to 4096"),
        ({"limit": 5000}, "limit of 5000 is not within 1 to 4096"),
        ({"limit_nbytes": 0}, f"limit_nbytes of 0 is not within 1 to {1 << 62}"),
        ({"cost_ns": -1}, f"cost_ns of -1 is not within 0 to {1 << 62}"),
    ],
)
def test_a_task_with_settings_out_of_range_is_not_opened(settings, text):
    flow = Flow()
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
        flow.open_task(TASK, **settings)
    assert flow.stats().tasks == {}


def test_a_weight_is_positive_and_limited():
    with pytest.raises(ConfigError, match=r"^weight of 0 is not within 1 to 1000$"):
        Flow().weigh("a", 0)


def test_check_finds_books_that_do_not_balance():
    flow = opened()
    flow.submit(frame("a", 0), 0)
    flow._stations[TASK].ledger.account("a").completed += 1
    with pytest.raises(InvalidTransition, match=f"flow: state {TASK}: the books do not balance"):
        flow.check()
