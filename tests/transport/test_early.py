"""Frames that come before their job is known."""

from __future__ import annotations

from vdag.transport.early import MAX_EARLY, EarlyFrames


def test_frames_wait_for_their_job_in_the_order_in_which_they_came():
    early = EarlyFrames()
    for number, job in enumerate("abab"):
        assert early.keep(job, bytes([number]), 0.0)
    assert early.take("b") == [b"\x01", b"\x03"]
    assert early.take("b") == []
    assert early.take("a") == [b"\x00", b"\x02"]
    assert len(early) == 0


def test_frames_that_nobody_introduces_go_on_when_their_time_is_up():
    early = EarlyFrames(patience_s=1.0)
    for number in range(3):
        early.keep("job", bytes([number]), number / 2)
    assert early.take_old(0.9) == []
    assert early.take_old(1.5) == [b"\x00", b"\x01"]
    assert early.take_all() == [b"\x02"]
    assert early.take_all() == []


def test_no_more_frames_wait_than_may():
    early = EarlyFrames()
    assert all(early.keep("job", b"", 0.0) for _ in range(MAX_EARLY))
    assert not early.keep("job", b"", 0.0)
    assert not early.keep("other", b"", 0.0)
    early.take("job")
    assert early.keep("other", b"", 0.0)
