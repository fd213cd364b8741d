"""A worker whose task goes on beside other work: what it begins, and in which order it answers."""

from __future__ import annotations

import gc
import os
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from worker_kit import TIMEOUT_MS, Desk, found

from vdag.child import STOPPED
from vdag.engines.begun import Begun
from vdag.graph import Signature
from vdag.transport import messages
from vdag.worker import Worker

pytestmark = pytest.mark.slow  # as a whole

TASKS = """
import vdag
from vdag.engines.begun import Begun

class Lanes:
    '''Begins a batch, and looks at its pictures when the result is taken.'''

    signature = vdag.Signature(frozenset({"image"}), frozenset({"size", "value"}))
    max_batch = 2

    def __init__(self, options):
        pass

    def lock_pages(self, address, nbytes):
        print("pages", nbytes % 4096, nbytes >= 16 * 4096)
        return True

    def process(self, batch):
        return self.begin(batch).result()

    def begin(self, batch):
        if any(inputs["image"][0, 0, 0] == 30 for inputs in batch):
            raise ValueError("not begun")
        return Begun(lambda: self.finish(batch))

    def finish(self, batch):
        values = [int(inputs["image"][0, 0, 0]) for inputs in batch]
        if 40 in values:
            raise ValueError("not finished")
        return [{"size": len(batch), "value": value} for value in values]

    def close(self):
        print("closed")

vdag.register("lanes", Lanes)
"""


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    (tmp_path / "tasks.py").write_text(textwrap.dedent(TASKS), encoding="utf-8")
    tmp_path.chmod(0o700)
    desk = Desk(tmp_path)
    yield desk
    desk.close()


class Lanes:
    """A task of this process, which says what it begins and finishes."""

    signature = Signature(frozenset({"image"}), frozenset({"value"}))
    max_batch = 2

    def __init__(self) -> None:
        self.events: list[str] = []
        self.at_once = False

    def process(self, batch):
        return self.begin(batch).result()

    def begin(self, batch):
        values = [int(inputs["image"][0, 0, 0]) for inputs in batch]
        self.events.append(f"begin {values}")
        begun = Begun(lambda: self._finish(values))
        if self.at_once:
            begun.wait()
        return begun

    def close(self) -> None:
        self.events.append("close")

    def _finish(self, values: list[int]) -> list[dict[str, Any]]:
        self.events.append(f"finish {values}")
        return [{"value": value} for value in values]


class Inside:
    """A worker in this process, whose loop the test walks step by step."""

    def __init__(self, desk: Desk) -> None:
        self.desk, self.task = desk, Lanes()
        self.worker = Worker(desk.settings("lanes", parent=os.getppid()), self.task)

    def receive(self, count: int) -> None:
        """Take in so many batches."""
        deadline_s = time.monotonic() + TIMEOUT_MS / 1000
        while len(self.worker._waiting) < count:
            assert time.monotonic() < deadline_s
            self.worker._listen(10)

    def replies(self) -> list[Any]:
        """What has been sent since the last call, in short."""
        self.worker._send(messages.Hello("w", "secret", 1))  # the end of it
        replies: list[Any] = []
        while not isinstance(message := self.desk.take(), messages.Hello):
            if isinstance(message, messages.Done):
                replies.append(("done", message.batch, message.credit))
            else:
                replies.append(("ready", message.credit))
        return replies


@pytest.fixture
def inside(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inside]:
    # What ends the worker's wake-up by signals, which only a main thread with handlers has.
    monkeypatch.setattr("signal.set_wakeup_fd", lambda fd: -1)
    inside = Inside(desk)
    yield inside
    inside.worker.close()
    gc.collect()
    assert desk.arena.stats().leases == 0


def test_the_next_batch_is_begun_before_the_result_of_the_one_at_work_is_taken(inside: Inside):
    for number in range(4):
        inside.desk.give(number, number, number, task="lanes")
    inside.receive(4)
    worker = inside.worker
    worker._begin(worker._together(), granted=1)
    assert inside.task.events == ["begin [0, 0]"]
    for _ in range(4):
        worker._go_on()
    assert inside.task.events == [
        "begin [0, 0]",
        "begin [1, 1]",
        "finish [0, 0]",
        "begin [2, 2]",
        "finish [1, 1]",
        "begin [3, 3]",
        "finish [2, 2]",
        "finish [3, 3]",
    ]
    assert not worker._at_work
    # Credit for what was begun: one frame of the first batch it had as an idle worker. What it has
    # left at the end is for one frame more than a batch, as at its start.
    assert inside.replies() == [
        ("ready", 1),
        ("ready", 2),
        ("done", 0, 2),
        ("done", 1, 2),
        ("done", 2, 0),
        ("done", 3, 1),
    ]


def test_a_task_that_does_its_work_at_once_answers_before_the_next_batch(inside: Inside):
    inside.task.at_once = True
    for number in range(3):
        inside.desk.give(number, number, number, task="lanes")
    inside.receive(3)
    worker = inside.worker
    worker._begin(worker._together(), granted=1)
    for _ in range(3):
        worker._go_on()
    assert inside.task.events == [
        f"{verb} [{number}, {number}]" for number in range(3) for verb in ("begin", "finish")
    ]
    assert inside.replies() == [("ready", 1), ("done", 0, 2), ("done", 1, 2), ("done", 2, 1)]


def test_a_batch_alone_is_not_kept_waiting_for_another(inside: Inside):
    inside.desk.give(0, 7, task="lanes")
    inside.receive(1)
    inside.worker._begin(inside.worker._together(), granted=1)
    inside.worker._go_on()
    assert inside.task.events == ["begin [7]", "finish [7]"]
    assert inside.replies() == [("done", 0, 1)]


def test_a_worker_told_to_stop_begins_nothing_more_and_answers_what_it_has(inside: Inside):
    for number in range(3):
        inside.desk.give(number, number, number, task="lanes")
    inside.receive(3)
    worker = inside.worker
    worker._begin(worker._together(), granted=1)
    worker._begin(worker._together(), granted=0)
    worker._is_stopping = True
    while worker._at_work:
        worker._go_on()
    assert inside.task.events[2:] == ["finish [0, 0]", "finish [1, 1]"]
    assert len(worker._waiting) == 1
    worker._bench.work([part for batch in worker._waiting for part in batch.frames])


def test_answers_come_in_order_and_credit_is_kept(desk: Desk):
    child = desk.start("lanes")
    desk.greet(child, credit=2)
    given, values, credit, done = 0, {}, 3, []
    while len(done) < 60:
        while given < 60 and credit >= (count := 1 + given % 2):
            values[given] = [given % 20 for _ in range(count)]
            desk.give(given, *values[given], task="lanes")
            given, credit = given + 1, credit - count
        message = desk.take()
        credit += message.credit
        if isinstance(message, messages.Done):
            done.append(message)
    assert [message.batch for message in done] == list(range(60))
    for message in done:
        seen = [found(frame)["lanes"]["value"] for frame in message.frames]
        assert seen == values[message.batch]
        assert message.start_ns <= message.end_ns
    assert credit == 3
    desk.send(messages.Stop())
    assert desk.end(child, STOPPED).tail == "pages 0 True\nclosed"


@pytest.mark.parametrize("bad", [30, 40])
def test_a_bad_frame_fails_alone_among_batches_at_work(desk: Desk, bad: int):
    child = desk.start("lanes")
    desk.greet(child, credit=2)
    batches = [(1, 2), (bad, 3), (4, 5)]
    for number, values in enumerate(batches):
        desk.give(number, *values, task="lanes")
    answers = []
    while len(answers) < 3:
        message = desk.take()
        if isinstance(message, messages.Done):
            answers.append(message.frames)
    failed, fine = answers[1]
    assert failed.error == f"ValueError: not {'begun' if bad == 30 else 'finished'}"
    seen = [found(frame)["lanes"]["value"] for frame in (*answers[0], fine, *answers[2])]
    assert seen == [1, 2, 3, 4, 5]
    desk.send(messages.Stop())
    desk.end(child, STOPPED)
