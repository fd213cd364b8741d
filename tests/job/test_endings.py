"""How a job ends: it is closed, or its source fails."""

from __future__ import annotations

import contextlib
import threading

import numpy as np
import pytest
from job_kit import (
    HEIGHT,
    SLOTS,
    WAIT_S,
    WIDTH,
    answer_all,
    balanced,
    job_of,
    pictures,
)

from vdag.errors import (
    ConfigError,
    FrameFormatError,
    SourceError,
    StaleFrame,
)
from vdag.frame import Frame
from vdag.sources import SingleFrameGenerator

pytestmark = pytest.mark.slow  # as a whole


def answer_each(count):
    def script(post):
        for _ in range(count):
            post.bring(*post.take())

    return script


def test_closing_in_the_middle_counts_what_was_in_flight_and_leaves_nothing(post):
    def endless():
        seq = 0
        while True:
            yield Frame(np.full((HEIGHT, WIDTH, 3), seq % 256, np.uint8), seq=seq)
            seq += 1

    travels = threading.Event()

    def script(post):
        answer_each(2)(post)
        post.take()
        travels.set()

    with (
        post.playing(script),
        job_of(post, endless(), max_in_flight=3) as job,
    ):
        results = iter(job)
        assert [next(results).seq for _ in range(2)] == [0, 1]
        assert travels.wait(WAIT_S)
    stats = job.stats()
    assert (stats.frames.delivered, stats.frames.in_flight) == (2, 0)
    assert stats.frames.dropped["closed"] >= 1
    assert balanced(stats)
    assert list(results) == []
    with contextlib.suppress(StaleFrame):  # what was not taken in before the end was taken back
        post.until_leave()
    assert post.arena.stats().leases == 0


def test_closing_wakes_a_caller_who_waits_for_a_result(post):
    with job_of(post, pictures(1)) as job:
        results = iter(job)
        found = []
        thread = threading.Thread(target=lambda: found.extend(results))
        thread.start()
        post.take()
        job.close()
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert found == []
    assert job.stats().frames.dropped == {"closed": 1}


def test_a_job_that_was_never_iterated_has_nothing_to_close(post):
    with job_of(post, pictures(1)) as job:
        pass
    with pytest.raises(ConfigError, match=r"^a job is iterated once$"):
        next(iter(job))


def test_the_error_of_a_source_comes_after_the_frames_before_it(post):
    def source():
        yield from (Frame(pixels, seq=seq) for seq, pixels in enumerate(pictures(2)))
        raise SourceError("camera: unplugged")

    with post.playing(answer_all(2)), job_of(post, source()) as job:
        results = iter(job)
        assert [next(results).seq for _ in range(2)] == [0, 1]
        with pytest.raises(SourceError, match=r"^camera: unplugged$"):
            next(results)


def test_a_source_that_counts_backwards_is_refused(post):
    frames = [Frame(pictures(1)[0], seq=0), Frame(pictures(1)[0], seq=0)]
    with post.playing(answer_all(1)), job_of(post, iter(frames)) as job:
        results = iter(job)
        assert next(results).seq == 0
        with pytest.raises(SourceError, match=r"^frame 0 comes after frame 0$"):
            next(results)


def test_a_frame_too_large_for_the_slots_is_an_error_of_the_source(post):
    large = Frame(np.zeros((HEIGHT, 2 * WIDTH, 3), np.uint8))
    with (
        job_of(post, iter([large])) as job,
        pytest.raises(SourceError, match=r"^frame of 16x4 does not fit the shared memory: "),
    ):
        list(job)


def test_a_frame_that_no_header_can_describe_ends_the_job_and_is_counted(post):
    frame = Frame(pictures(1)[0], cam_frame_id=-1)
    with (
        job_of(post, iter([frame]), policy="latest") as job,
        pytest.raises(FrameFormatError, match="cam_frame_id"),
    ):
        list(job)
    assert job.stats().frames.dropped == {"error": 1}
    assert post.arena.stats().free == SLOTS


def test_closing_ends_the_reading_of_a_source_that_is_the_job_s_to_close(post):
    source = SingleFrameGenerator(pictures(2))
    job_of(post, source).close()
    assert source.read() is not None
    job_of(post, source, close_source=source.close).close()
    assert source.read() is None
