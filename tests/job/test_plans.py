"""A job whose plan changes while it runs, or whose nodes are lost."""

from __future__ import annotations

import pytest
from job_kit import (
    Paced,
    Watched,
    answer_all,
    job_of,
    pictures,
)

from vdag.errors import (
    PlanError,
)


def test_a_new_plan_begins_with_the_next_frame_that_is_read(post):
    seen = []
    source = Paced(pictures(6))

    def script(post):
        for _ in range(6):
            (descriptor,) = post.take()
            seen.append((descriptor.header.plan, descriptor.here.endpoint))
            post.bring(descriptor)

    there = "tcp://10.0.0.2:7000"
    with (
        post.playing(script),
        job_of(post, source, alias="tcp://10.0.0.1:7000", plan=1, max_in_flight=1) as job,
    ):
        plans = []
        for result in job:
            plans.append(result.plan)
            if result.seq == 1:
                job.replan(2, {"faces": there}, lambda: source.told.append(source.read))
                job.replan(3, {"faces": there}, lambda: source.told.append(source.read))
            if result.seq == 3:
                job.replan(4)
            source.go_on()
    # The frame after is read, or about to be, while the caller looks at one.
    assert plans[:2] == [1, 1]
    assert plans[3] == 3
    assert plans[5] == 4
    assert plans == sorted(plans)
    assert [plan for plan, _ in seen] == plans
    assert {endpoint for plan, endpoint in seen if plan == 3} == {there}
    assert {endpoint for plan, endpoint in seen if plan != 3} == {post.address}
    assert source.told == [plans.index(3)]  # between two frames, and once


def test_a_plan_that_does_not_fit_changes_nothing(post):
    with post.playing(answer_all(2)), job_of(post, pictures(2), plan=1, alias="tcp://a:1") as job:
        with pytest.raises(PlanError, match="placement names 'boats', which is no task"):
            job.replan(2, {"boats": "tcp://b:1"})
        assert [result.plan for result in job] == [1, 1]


def test_frames_at_a_node_that_is_lost_are_given_up_and_the_next_go_elsewhere(post):
    there = "tcp://10.0.0.2:7000"
    seen = []

    def script(post):
        post.take(2)  # as many as may be under way; they never come home
        job.replan(2)
        job.give_up({there})
        for _ in range(2):
            (descriptor,) = post.take()
            seen.append((descriptor.header.seq, descriptor.header.plan, descriptor.here.endpoint))
            post.bring(descriptor)

    with (
        job_of(
            post, pictures(4), alias="tcp://10.0.0.1:7000", plan=1, placement={"faces": there},
            max_in_flight=2,
        ) as job,
        post.playing(script),
    ):  # fmt: skip
        assert [(result.seq, result.plan) for result in job] == [(2, 2), (3, 2)]
        assert job.stats().frames.dropped == {"unreachable": 2}
    # Those that had not left did so under the new plan, for the source is the same.
    assert seen == [(2, 2, post.address), (3, 2, post.address)]


def test_frames_that_would_still_go_to_a_lost_node_are_given_up_too(post):
    there = "tcp://10.0.0.2:7000"
    source = Watched(pictures(4))

    def script(post):
        post.take(1)
        source.until_read(3)  # one waits to leave, one waits for its place
        job.replan(2, prepare=lambda: None)  # the source changes: what was read stays as it is
        job.give_up({there})
        post.bring(*post.take())

    with (
        job_of(
            post, source, alias="tcp://10.0.0.1:7000", plan=1, placement={"faces": there},
            max_in_flight=1,
        ) as job,
        post.playing(script),
    ):  # fmt: skip
        found = [(result.seq, result.plan) for result in job]
        dropped = job.stats().frames.dropped
    assert found == [(3, 2)]
    assert dropped == {"unreachable": 3}


def test_frames_go_to_a_node_that_is_back_and_are_not_waited_for_from_before(post):
    there = "tcp://10.0.0.2:7000"
    source = Watched(pictures(3))

    def script(post):
        post.take(1)
        source.until_read(3)  # the second waits to leave: it has not been there
        job.give_up({there}, back={there})
        for _ in range(2):
            post.bring(*post.take())

    with (
        job_of(
            post, source, alias="tcp://10.0.0.1:7000", plan=1, placement={"faces": there},
            max_in_flight=1,
        ) as job,
        post.playing(script),
    ):  # fmt: skip
        assert [result.seq for result in job] == [1, 2]
        assert job.stats().frames.dropped == {"unreachable": 1}
