"""Live sources over a reader whose every step the test decides."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from vdag.errors import ConfigError, SourceError, SourceTimeout
from vdag.sources import Reconnect, open_source
from vdag.sources.base import OpenOptions, Picture, StreamInfo
from vdag.sources.live import LiveReader

SOON = Reconnect(attempts=50, initial_s=0.01, max_s=0.02)
NEVER = Reconnect(attempts=0)


def picture(number: int) -> Picture:
    pixels = np.full((4, 4, 3), number, np.uint8)
    return Picture(number, number / 10, 1000 + number * 100_000_000, lambda: pixels)


class Script:
    """A reader that does what its test tells it, one step at a time."""

    def __init__(self) -> None:
        self.info = StreamInfo("script", live=True)
        self.errors = self.decoded = self.reconnects = 0
        self.closed = False
        self._steps: queue.Queue[Any] = queue.Queue()
        self._asked: queue.Queue[None] = queue.Queue()

    def tell(self, step: Picture | SourceError | None) -> None:
        """Let the read under way give `step`, and wait until the reader asks for more."""
        self._asked.get(timeout=10)
        self._steps.put(step)

    def settle(self) -> None:
        """Wait until the steps told so far have been dealt with."""
        self._asked.get(timeout=10)
        self._asked.put(None)

    def read(self, timeout_s: float | None = None) -> Picture | None:
        self._asked.put(None)
        step = self._steps.get(timeout=10)
        if isinstance(step, SourceError):
            raise step
        return step  # type: ignore[no-any-return]

    def close(self) -> None:
        self.closed = True


def live(*connections: Script, reconnect: Reconnect = SOON) -> tuple[LiveReader, Iterator[Script]]:
    waiting = iter(connections)

    def reopen() -> Script:
        connection = next(waiting, None)
        if connection is None:
            raise SourceError("script: cannot be opened: nobody there")
        return connection

    return LiveReader(reopen(), reopen, OpenOptions(1.0, reconnect=reconnect)), waiting


def test_the_newest_picture_is_read_and_the_others_are_counted() -> None:
    script = Script()
    reader, _ = live(script, reconnect=NEVER)
    for number in range(5):
        script.tell(picture(number))
    script.settle()
    found = reader.read(timeout_s=10)
    assert found is not None
    assert (found.index, found.superseded, reader.decoded) == (4, 4, 5)
    assert found.pts_s == pytest.approx(0.4)
    script.tell(picture(5))
    found = reader.read(timeout_s=10)
    assert found is not None
    assert (found.index, found.superseded) == (5, 0)
    script.tell(None)
    with pytest.raises(SourceError):
        reader.read(timeout_s=10)
    reader.close()


def test_without_a_picture_in_time_a_read_is_a_timeout_and_may_go_on() -> None:
    script = Script()
    reader, _ = live(script)
    with pytest.raises(SourceTimeout, match=r"^script: no picture within 0 s$"):
        reader.read(timeout_s=0)
    script.tell(picture(0))
    assert reader.read(timeout_s=10) is not None
    script.tell(None)
    reader.close()


def test_an_end_or_an_error_is_followed_by_a_new_connection() -> None:
    first, second, third = Script(), Script(), Script()
    reader, _ = live(first, second, third)
    first.tell(picture(0))
    assert reader.read(timeout_s=10) is not None
    first.tell(None)
    second.tell(picture(0))
    found = reader.read(timeout_s=10)
    assert found is not None
    assert found.index == 1  # positions run on
    second.tell(SourceTimeout("script: nothing for 1 s"))
    third.tell(picture(0))
    assert reader.read(timeout_s=10) is not None
    assert (first.closed, second.closed, third.closed) == (True, True, False)
    assert (reader.reconnects, reader.errors) == (2, 1)
    third.tell(None)
    reader.close()
    assert third.closed


def test_a_source_that_does_not_come_back_is_given_up() -> None:
    script = Script()
    reader, _ = live(script, reconnect=Reconnect(attempts=3, initial_s=0.001))
    script.tell(picture(0))
    script.tell(None)
    assert reader.read(timeout_s=10) is not None  # what came before is still read
    for _ in range(2):  # and the error stays
        with pytest.raises(SourceError) as caught:
            reader.read(timeout_s=10)
        assert str(caught.value) == (
            "script: cannot be opened: nobody there; given up after 3 reconnections"
        )
    assert (reader.reconnects, reader.errors) == (0, 3)
    reader.close()


def test_connections_without_a_picture_count_as_attempts() -> None:
    scripts = [Script() for _ in range(3)]
    reader, _ = live(*scripts, reconnect=Reconnect(attempts=2, initial_s=0.001))
    for script in scripts:
        script.tell(None)
    with pytest.raises(SourceError) as caught:
        reader.read(timeout_s=10)
    assert str(caught.value) == "script: the stream ended; given up after 2 reconnections"
    reader.close()


def test_an_outage_longer_than_allowed_is_given_up_at_once() -> None:
    script = Script()
    reader, _ = live(script, reconnect=Reconnect(initial_s=5.0, outage_s=1.0, jitter=0.0))
    script.tell(None)
    with pytest.raises(SourceError, match=r"given up after 0 reconnections$"):
        reader.read(timeout_s=10)
    reader.close()


def test_close_ends_a_wait_for_a_new_connection() -> None:
    script = Script()
    reader, _ = live(script, reconnect=Reconnect(initial_s=60.0))
    script.tell(None)
    reader.close()
    assert reader.read() is None


def test_a_defect_of_a_reader_is_raised_where_it_is_read() -> None:
    script = Script()
    reader, _ = live(script)
    script.tell("not a picture")  # type: ignore[arg-type]
    with pytest.raises(SourceError, match=r"^script: AttributeError: ") as caught:
        reader.read(timeout_s=10)
    assert isinstance(caught.value.__cause__, AttributeError)
    reader.close()
    assert script.closed


def test_late_pictures_are_those_that_were_due(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script()
    reader, _ = live(script, reconnect=NEVER)
    monkeypatch.setattr("vdag.sources.generator.open_reader", lambda *_: reader)
    source = open_source("script://", fps=5)
    script.tell(picture(0))
    assert source.read(timeout_s=10) is not None
    for number in range(1, 7):  # 10 a second: every second one is due
        script.tell(picture(number))
    script.settle()
    frame = source.read(timeout_s=10)
    assert frame is not None
    assert (frame.cam_frame_id, frame.seq) == (6, 1)
    stats = source.stats()
    assert (stats.decoded, stats.read, stats.skipped, stats.late_dropped) == (7, 2, 3, 2)
    script.tell(None)
    source.close()


def test_waits_double_up_to_a_limit_and_jitter_only_shortens_them() -> None:
    policy = Reconnect(initial_s=0.5, max_s=4.0, jitter=0.5)
    assert [policy.delay_s(n, 0.0) for n in range(6)] == [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]
    assert [policy.delay_s(n, 1.0) for n in range(4)] == [0.25, 0.5, 1.0, 2.0]
    assert policy.delay_s(10**9, 0.0) == 4.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attempts": -1}, "attempts of reconnect is -1, expected at least 0"),
        ({"max_s": -0.5}, "max_s of reconnect is -0.5, expected at least 0"),
        ({"jitter": 1.5}, "jitter of reconnect is 1.5, expected 0 to 1"),
    ],
)
def test_a_policy_without_meaning_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Reconnect(**arguments)
    assert str(caught.value) == message
