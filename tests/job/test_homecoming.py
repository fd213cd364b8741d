from __future__ import annotations

import pytest

from vdag.errors import ConfigError
from vdag.job.homecoming import Homecoming


def homecoming(*, branches=1, max_in_flight=2, policy="block", timeout_ns=100):
    return Homecoming(
        branches=branches, max_in_flight=max_in_flight, policy=policy, timeout_ns=timeout_ns
    )


def sent(job, *seqs, now_ns=0):
    for seq in seqs:
        job.admit(seq)
        assert job.depart(now_ns) == seq
    return job


def test_a_frame_leaves_when_its_branch_is_home():
    job = sent(homecoming(), 0)
    assert job.next_turn() is None
    assert job.arrive(0, 0)
    assert job.next_turn() == 0
    assert job.leave(0)
    assert (job.admitted, job.delivered, job.in_flight) == (1, 1, 0)


def test_a_frame_waits_for_all_of_its_branches():
    job = sent(homecoming(branches=2), 0)
    job.arrive(0, 1)
    assert job.next_turn() is None
    job.arrive(0, 0)
    assert job.next_turn() == 0


def test_younger_frames_wait_for_their_turn():
    job = sent(homecoming(), 0, 1)
    job.arrive(1, 0)
    assert job.next_turn() is None
    job.arrive(0, 0)
    assert job.next_turn() == 0


def test_a_dropped_frame_is_skipped():
    job = sent(homecoming(), 0, 1)
    job.arrive(1, 0)
    assert job.drop(0, "poison")
    assert job.next_turn() == 1
    assert job.dropped == {"poison": 1}


def test_a_failed_frame_is_counted_at_its_turn():
    job = sent(homecoming(), 0, 1)
    assert job.fail(1, "error")
    assert (job.next_turn(), job.in_flight) == (None, 2)
    job.arrive(0, 0)
    assert job.leave(0)
    assert job.next_turn() == 1
    assert not job.leave(1)
    assert (job.delivered, job.dropped, job.in_flight) == (1, {"error": 1}, 0)


def test_a_frame_waits_while_too_many_are_in_flight():
    job = sent(homecoming(max_in_flight=2), 0, 1)
    job.admit(2)
    assert not job.has_room()
    assert job.depart(0) is None
    job.arrive(0, 0)
    assert job.depart(0) is None  # the caller has not taken it yet
    job.leave(0)
    assert job.depart(0) == 2
    assert job.has_room()


def test_latest_drops_the_waiting_frame_for_a_newer_one():
    job = sent(homecoming(max_in_flight=1, policy="latest"), 0)
    assert job.admit(1) is None
    assert job.has_room()
    assert job.admit(2) == 1
    assert job.dropped == {"superseded": 1}
    job.drop(0, "poison")
    assert job.depart(0) == 2


def test_a_frame_times_out_once_and_what_comes_later_changes_nothing():
    job = sent(homecoming(branches=2, timeout_ns=100), 0, now_ns=10)
    job.arrive(0, 0)
    assert job.next_due_ns() == 110
    assert job.expire(109) == []
    assert job.expire(110) == [0]
    assert not job.arrive(0, 1)
    assert not job.drop(0, "failed")
    assert (job.dropped, job.late, job.in_flight) == ({"timeout": 1}, 1, 0)
    assert job.next_due_ns() is None


def test_a_frame_that_is_home_or_failed_cannot_time_out():
    job = sent(homecoming(), 0, 1)
    job.arrive(0, 0)
    job.fail(1, "error")
    assert job.next_due_ns() is None
    assert job.expire(1 << 60) == []


def test_a_waiting_frame_does_not_time_out():
    job = homecoming()
    job.admit(0)
    assert (job.next_due_ns(), job.expire(1 << 60), job.next_turn()) == (None, [], None)


def test_a_frame_that_is_granted_no_place_times_out_from_when_it_had_room():
    job = homecoming(timeout_ns=100)
    job.admit(0)
    assert job.depart(7, granted=False) is None
    assert job.depart(50, granted=False) is None
    assert job.next_due_ns() == 107
    assert job.expire(107) == [0]
    assert job.dropped == {"timeout": 1}
    assert job.has_room()


def test_the_time_of_a_frame_begins_anew_when_it_departs():
    job = homecoming(timeout_ns=100)
    job.admit(0)
    job.depart(7, granted=False)
    assert job.depart(90) == 0
    assert job.expire(107) == []
    assert job.next_due_ns() == 190


def test_a_branch_that_comes_home_twice_is_late_the_second_time():
    job = sent(homecoming(branches=2), 0)
    assert job.arrive(0, 1)
    assert not job.arrive(0, 1)
    assert job.late == 1
    assert job.next_turn() is None


def test_a_frame_lost_in_both_branches_is_dropped_once():
    job = sent(homecoming(branches=2), 0)
    assert job.drop(0, "full")
    assert not job.drop(0, "superseded")
    assert job.dropped == {"full": 1}


def test_a_refused_frame_is_in_the_books():
    job = homecoming()
    job.refuse("arena_full")
    assert (job.admitted, job.dropped, job.in_flight) == (1, {"arena_full": 1}, 0)


def test_closing_drops_every_frame_whatever_its_state():
    job = sent(homecoming(max_in_flight=3), 0, 1, 2)
    job.admit(3)
    job.arrive(0, 0)
    job.fail(1, "error")
    assert job.drop_all("closed") == [0, 1, 2, 3]
    assert (job.dropped, job.in_flight, job.depart(0)) == ({"closed": 4}, 0, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policy": "newest"}, "policy is 'newest', expected block or latest"),
        ({"max_in_flight": 0}, "max_in_flight is 0, expected at least 1"),
        ({"timeout_ns": 0}, "frame_timeout_s is 0.0, expected above 0"),
    ],
)
def test_arguments_without_meaning_are_refused(arguments, message):
    with pytest.raises(ConfigError) as caught:
        homecoming(**arguments)
    assert str(caught.value) == message
