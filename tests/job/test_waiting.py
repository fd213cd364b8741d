"""What a job does with frames for which there is no place, or no slot."""

from __future__ import annotations

import threading

import pytest
from job_kit import (
    SLOTS,
    WAIT_S,
    balanced,
    job_of,
    pictures,
)

from vdag.frame import Frame
from vdag.sources import SingleFrameGenerator
from vdag.transport.messages import CreditWanted, Grant

pytestmark = pytest.mark.slow  # as a whole


def test_block_sends_nothing_that_was_not_granted_a_place(post):
    post.grants = False
    seen = []

    def script(post):
        while not post.asked:
            post.receive()
        assert post.asked == [CreditWanted(post.join.job, "faces", 4)]
        for _ in range(3):
            post.say(Grant("faces", 1))
            (descriptor,) = post.take()
            seen.append(descriptor.header.seq)
            while post.inbox.poll(0):
                assert isinstance(post.receive(), CreditWanted)
            post.bring(descriptor)

    with post.playing(script), job_of(post, pictures(3), max_in_flight=4) as job:
        assert [result.seq for result in job] == [0, 1, 2]
    assert seen == [0, 1, 2]
    assert post.asked[0].count == 4


def test_a_place_that_is_never_granted_is_a_time_out(post):
    post.grants = False
    with job_of(post, pictures(2), frame_timeout_s=0.1) as job:
        assert list(job) == []
    assert job.stats().frames.dropped == {"timeout": 2}


def test_latest_drops_what_waits_for_something_newer(post):
    fed = threading.Event()

    def source():
        yield from (Frame(pixels, seq=seq) for seq, pixels in enumerate(pictures(6)))
        fed.set()

    def script(post):
        (first,) = post.take()
        assert fed.wait(WAIT_S)
        post.bring(first)
        post.bring(*post.take())

    with (
        post.playing(script),
        job_of(post, source(), policy="latest", max_in_flight=1) as job,
    ):
        assert [result.seq for result in job] == [0, 5]
    stats = job.stats()
    assert stats.frames.dropped == {"superseded": 4}
    assert post.asked == []
    assert balanced(stats)


@pytest.mark.parametrize("policy", ["latest", "block"])
@pytest.mark.parametrize("in_place", [False, True])
def test_a_frame_that_finds_no_slot_is_dropped_and_counted(post, policy, in_place):
    kept = [post.arena.loan(1) for _ in range(SLOTS)]
    later = []
    allocate = (lambda *size: later[0].allocate(*size)) if in_place else None
    source = SingleFrameGenerator(pictures(2), allocate=allocate)
    with job_of(post, source, policy=policy, frame_timeout_s=0.1) as job:
        later.append(job)
        assert list(job) == []
    assert job.stats().frames.dropped == {"arena_full": 2}
    assert balanced(job.stats())
    for loan in kept:
        loan.abandon()


def test_block_waits_for_a_slot(post):
    kept = [post.arena.loan(1) for _ in range(SLOTS)]

    def script(post):
        while not isinstance(post.receive(), CreditWanted):
            pass
        kept.pop().abandon()
        post.bring(*post.take())

    with post.playing(script), job_of(post, pictures(1)) as job:
        assert [result.seq for result in job] == [0]
    for loan in kept:
        loan.abandon()
