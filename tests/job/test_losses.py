"""Frames of a job that do not come home, or not as they should."""

from __future__ import annotations

import threading

import msgspec
import pytest
from job_kit import (
    ONE,
    SLOTS,
    TWO,
    WAIT_S,
    balanced,
    job_of,
    pictures,
)

from vdag.errors import (
    StageError,
)
from vdag.job import Job, mailbox
from vdag.sources import SingleFrameGenerator
from vdag.transport import codec
from vdag.transport.messages import TIMES, Dropped, Grant, Leave

pytestmark = pytest.mark.slow  # as a whole


def test_a_frame_that_does_not_come_home_times_out_and_is_late_afterwards(post):
    def script(post):
        first, second = post.take(2)
        post.bring(second)
        message = post.receive()
        while not (isinstance(message, codec.Descriptor) and message.header.seq == 2):
            message = post.receive()  # it leaves only when frame 0 has timed out
        post.bring(first)
        post.bring(message)

    with (
        post.playing(script),
        job_of(post, pictures(3), max_in_flight=2, frame_timeout_s=0.2) as job,
    ):
        seqs = [result.seq for result in job]
    assert seqs == [1, 2]
    stats = job.stats()
    assert stats.frames.dropped == {"timeout": 1}
    assert stats.late == 1
    assert balanced(stats)


def test_a_frame_home_twice_is_delivered_once(post):
    def script(post):
        first, second = post.take(2)
        post.bring(first)
        post.bring(first)
        post.bring(second)

    with post.playing(script), job_of(post, pictures(2)) as job:
        assert [result.seq for result in job] == [0, 1]
    assert (job.stats().late, job.stats().frames.delivered) == (1, 2)


def test_a_frame_that_the_exchange_dropped_is_skipped_and_counted_by_its_reason(post):
    def script(post):
        for descriptor in post.take(8):
            seq, task = descriptor.header.seq, descriptor.here.task
            if seq == 1:
                post.lose(descriptor, "full")  # in both branches, and counted once
            elif (seq, task) == (2, "cars"):
                post.lose(descriptor, "deadline")
            else:
                post.bring(descriptor)

    with post.playing(script), job_of(post, pictures(4), TWO) as job:
        assert [result.seq for result in job] == [0, 3]
    stats = job.stats()
    assert stats.frames.dropped == {"full": 1, "deadline": 1}
    assert stats.late <= 1  # the other branch of frame 2, if it came second
    assert balanced(stats)


def test_the_error_of_a_task_comes_at_the_frame_s_turn(post):
    def script(post):
        first, second, third = post.take(3)
        post.lose(second, "failed", "ZeroDivisionError: three\nTraceback ...\n  line 1")
        post.bring(third)
        post.bring(first)

    with post.playing(script), job_of(post, pictures(3)) as job:
        results = iter(job)
        assert next(results).seq == 0
        with pytest.raises(
            StageError, match=r"^faces failed on frame 1: ZeroDivisionError: three$"
        ) as caught:
            next(results)
    assert str(caught.value.__cause__) == "in the worker of faces:\nTraceback ...\n  line 1"
    stats = job.stats()
    assert stats.frames.dropped["error"] == 1
    assert stats.frames.tasks["faces"].errors == 1
    assert balanced(stats)


def test_a_frame_that_killed_its_workers_is_an_error_too(post):
    def script(post):
        post.lose(*post.take(), "poison", "killed by signal 9")

    with (
        post.playing(script),
        job_of(post, pictures(1)) as job,
        pytest.raises(StageError, match=r"^faces failed on frame 0: killed by signal 9$"),
    ):
        list(job)
    assert job.stats().frames.dropped == {"poison": 1}


def test_a_failing_frame_can_be_dropped(post):
    def script(post):
        first, second = post.take(2)
        post.lose(first, "failed", "ValueError: no")
        post.bring(second)

    with post.playing(script), job_of(post, pictures(2), on_error="drop") as job:
        assert [result.seq for result in job] == [1]
    assert job.stats().frames.dropped == {"error": 1}


def test_messages_that_make_no_sense_are_counted_and_change_nothing(post):
    def script(post):
        (descriptor,) = post.take()
        fixed, route = descriptor.header, descriptor.route
        home = {"hop": 1, "kind": 0, "dtype": 0, "shape": (), "payload_nbytes": 0}
        home |= {"arena": 0, "slot": 0, "generation": 0, "offset": 0}
        at_home = msgspec.structs.replace(
            descriptor, header=fixed.replace(**home), context={"faces": {"seq": 0}}
        )
        boats = (codec.Hop("boats", route[0].endpoint), route[1])
        strangers = [
            msgspec.structs.replace(at_home, job="another"),
            msgspec.structs.replace(at_home, header=at_home.header.replace(stream=1)),
            msgspec.structs.replace(at_home, header=at_home.header.replace(hop=0)),
            msgspec.structs.replace(at_home, context={}),
            msgspec.structs.replace(at_home, context={"faces": {}, TIMES: {"faces": [1]}}),
            msgspec.structs.replace(at_home, context={"faces": {}, TIMES: {"boats": [1, 2]}}),
            msgspec.structs.replace(at_home, context={"faces": {}, TIMES: {"faces": [0] * 7}}),
            msgspec.structs.replace(at_home, route=boats, context={"boats": {}}),
        ]
        for stranger in strangers:
            post.home.send(codec.encode(stranger)[0])
        post.home.send(b"")
        post.home.send(b"VCTL nonsense")
        post.home.send_multipart([codec.encode(at_home)[0], b"more"])
        post.say(Leave(post.join.job))
        post.say(Grant("boats", 1))
        post.say(Dropped("another", fixed.stream, 0, 0, "faces", "full", post.address))
        post.say(Dropped(post.join.job, 1, 0, 0, "faces", "full", post.address))
        post.say(Dropped(post.join.job, fixed.stream, 0, 0, "boats", "full", post.address))
        post.bring(descriptor)

    with post.playing(script), job_of(post, pictures(1)) as job:
        assert [result["faces"] for result in job] == [{"seq": 0}]
    assert job.stats().stray == 16
    assert job.stats().frames.dropped == {}


def test_an_exchange_that_reads_nothing_costs_frames_and_not_the_job(post, monkeypatch, tmp_path):
    monkeypatch.setattr(mailbox, "HIGH_WATER", 2)
    monkeypatch.setattr(mailbox, "LINGER_MS", 0)
    nobody = f"ipc://{tmp_path}/nobody"
    source = SingleFrameGenerator(pictures(4))
    with Job(ONE, source, nobody, post.arena, policy="latest", frame_timeout_s=0.1) as job:
        assert list(job) == []
    dropped = job.stats().frames.dropped
    assert dropped == {"peer_full": 3, "timeout": 1}
    assert post.arena.stats().free == SLOTS


def test_who_wants_to_know_is_told_of_every_frame_without_a_result(post):
    told = []

    def note(frame, plan, parts):
        lengths_s = {task: round(part.compute_s, 9) for task, part in parts.items()}
        told.append((frame.seq, plan, lengths_s))

    def script(post):
        for descriptor in post.take(6):
            seq, task = descriptor.header.seq, descriptor.here.task
            if seq == 1 and task == "faces":
                post.bring(descriptor, {"faces": [1_000, 251_000]})
            elif seq == 1 or seq == 2:
                post.lose(descriptor, "deadline")
            else:
                post.bring(descriptor)

    with post.playing(script), job_of(post, pictures(3), TWO, plan=4, on_drop=note) as job:
        assert [result.seq for result in job] == [0]
    assert [(seq, plan) for seq, plan, _ in told] == [(1, 4), (2, 4)]
    assert told[0][2] in ({"faces": 0.00025}, {})  # what was home when the other branch was lost
    assert told[1][2] == {}
    assert balanced(job.stats())


def test_a_frame_that_is_given_up_when_the_job_closes_is_told_of_too(post):
    told = []
    with job_of(post, pictures(1), on_drop=lambda frame, *_: told.append(frame.seq)) as job:
        thread = threading.Thread(target=lambda: list(job))
        thread.start()
        post.take()
        job.close()
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert told == [0]
