"""Work that has begun: its result is taken once, whatever it comes to."""

from __future__ import annotations

import pytest

from vdag.engines.begun import Begun
from vdag.errors import EngineError, ImageError


def failing(error: Exception) -> Begun[int]:
    def finish() -> int:
        raise error

    return Begun(finish)


def test_what_was_done_at_once_is_finished():
    begun = Begun.finished(3)
    assert begun.is_finished
    assert begun.result() == 3


def test_a_result_is_waited_for_when_it_is_taken_and_once():
    waited = []
    begun = Begun(lambda: waited.append(1) or len(waited))
    assert not begun.is_finished
    assert waited == []
    assert begun.result() == 1
    assert begun.is_finished
    with pytest.raises(EngineError, match="the result of this batch was taken before"):
        begun.result()
    assert waited == [1]


def test_waiting_keeps_the_result():
    waited = []
    begun = Begun(lambda: waited.append(1) or "done")
    begun.wait()
    begun.wait()
    assert begun.is_finished
    assert waited == [1]
    assert begun.result() == "done"


def test_waiting_keeps_the_error_and_raises_none():
    begun = failing(ImageError("broken"))
    begun.wait()
    assert begun.is_finished
    with pytest.raises(ImageError, match="broken"):
        begun.result()


def test_what_follows_is_done_when_the_result_is_taken():
    done = []
    first = Begun(lambda: 20)
    second = first.then(lambda value: done.append(value) or value + 1)
    assert not second.is_finished
    assert done == []
    assert second.result() == 21
    assert done == [20]
    assert Begun.finished(1).then(str).is_finished


def test_what_follows_an_error_is_not_done():
    done = []
    following = failing(EngineError("no")).then(done.append)
    with pytest.raises(EngineError, match="no"):
        following.result()
    assert done == []
