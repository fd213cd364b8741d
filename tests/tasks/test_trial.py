"""What tasks take of a picture that is made up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from vdag import tasks
from vdag.tasks import trial
from vdag.tasks.naming import name_of
from vdag.tasks.trial import try_out


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "STEP_S", 0.0)


@pytest.mark.parametrize("name", ["encode", "decode", "draw_boxes", "draw_labeled_boxes"])
def test_handlers_that_make_something_of_a_picture_are_tried(name: str):
    task = tasks.load(name)
    small, large = try_out(task, 64, 48), try_out(task, 1600, 1200)
    task.close()
    assert small is not None
    assert large is not None
    assert 0 < small < large


def test_a_picture_is_made_as_large_as_it_shall_be(monkeypatch: pytest.MonkeyPatch):
    task = tasks.load(name_of("resize", {"width": 32, "height": 16}))
    seen: list[tuple[int, ...]] = []
    process = task.process

    def spy(batch: Sequence[Any]) -> Any:
        seen.extend(inputs["image"].shape for inputs in batch)
        return process(batch)

    monkeypatch.setattr(task, "process", spy)
    assert try_out(task, 65, 49) is not None
    assert seen == [(49, 65, 3)] * trial.RUNS


def test_a_task_is_tried_no_longer_than_it_may_take(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trial, "MOST_S", 0.0)
    task = tasks.load("encode")
    runs: list[int] = []
    process = task.process

    def count(batch: Sequence[Any]) -> Any:
        runs.append(len(batch))
        return process(batch)

    monkeypatch.setattr(task, "process", count)
    assert try_out(task, 64, 48) is not None
    assert runs == [1]


def test_what_shows_something_and_what_fails_on_it_is_not_told(monkeypatch: pytest.MonkeyPatch):
    render = tasks.load(name_of("render", {"to": ":0"}))
    assert try_out(render, 64, 48) is None
    render.close()
    encode = tasks.load("encode")

    def fail(batch: Sequence[Any]) -> Any:
        raise ValueError(f"{len(batch)} pictures that are no scene")

    monkeypatch.setattr(encode, "process", fail)
    assert try_out(encode, 64, 48) is None


@pytest.mark.parametrize("said", [None, "", "12", "a b c", "0 99999999999999 1"])
def test_a_kernel_that_does_not_say_how_long_it_let_wait_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str | None
):
    waits = tmp_path / "schedstat"
    monkeypatch.setattr(trial, "WAITS", waits)
    if said is not None:
        waits.write_text(said)
    found = try_out(tasks.load("encode"), 64, 48)
    assert found is not None
    assert 0 < found < 1
