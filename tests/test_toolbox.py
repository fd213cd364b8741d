"""The models of a task in one worker: loaded when first asked for, kept, and let go of."""

from __future__ import annotations

import re
from typing import ClassVar

import pytest

from vdag.errors import ConfigError, EngineError
from vdag.graph import Signature
from vdag.tasks import TaskOptions, base
from vdag.toolbox import MAX_OTHERS, RETRY_NS, Toolbox

BROKEN = 9


class Tool:
    """A task that says which model it is, and notes what is done with it."""

    signature = Signature(frozenset(), frozenset({"model"}))
    max_batch = 4
    story: ClassVar[list[str]] = []

    def __init__(self, options: TaskOptions) -> None:
        self.model = options.model_id
        if self.model == BROKEN:
            raise RuntimeError("a part is missing")
        self.story.append(f"load {self.model}")

    def warm_up(self, max_batch: int) -> None:
        self.story.append(f"warm {self.model} for {max_batch}")

    def process(self, batch):
        return [{"model": self.model} for _ in batch]

    def close(self) -> None:
        self.story.append(f"close {self.model}")


class Clock:
    now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def story(monkeypatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(Tool, "story", found)
    monkeypatch.setattr(base, "_registry", {"tool": Tool})
    return found


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def box(story, clock) -> Toolbox:
    """A worker that was started with model 1, and may be asked for 0 to 4 and a broken one."""
    options = TaskOptions(model_id=1)
    models = {number: TaskOptions(model_id=number) for number in (0, 1, 2, 3, 4, BROKEN)}
    first = Tool(options)
    story.clear()
    return Toolbox("tool", first, options=options, models=models, max_batch=2, clock=clock)


def run(box: Toolbox, model: int | None) -> int:
    ((found),) = box.stage(model).run(0, [0], [{}])
    return found["model"]


def test_the_model_of_the_start_is_there_whether_it_is_named_or_not(box, story):
    assert (run(box, None), run(box, 1)) == (1, 1)
    assert story == []


def test_another_is_loaded_and_warmed_up_when_it_is_first_asked_for_and_kept(box, story):
    assert [run(box, model) for model in (0, 2, 0, 1, 2)] == [0, 2, 0, 1, 2]
    assert story == ["load 0", "warm 0 for 2", "load 2", "warm 2 for 2"]


def test_the_one_not_used_for_longest_makes_room(box, story):
    for model in (0, 2, 3, 0):
        run(box, model)
    story.clear()
    assert run(box, 4) == 4
    assert story == ["close 2", "load 4", "warm 4 for 2"]
    assert MAX_OTHERS == 3


def test_a_model_that_is_not_offered_is_refused(box):
    text = "tool has no model 7 here, only 0, 1, 2, 3, 4, 9"
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
        box.stage(7)


def test_a_worker_without_other_models_refuses_to_guess(story):
    box = Toolbox("tool", Tool(TaskOptions()))
    with pytest.raises(ConfigError, match=r"^tool has no model 0 here, only its own$"):
        box.stage(0)
    assert run(box, None) == 0


def test_a_model_that_cannot_be_loaded_is_tried_again_after_a_while(box, story, clock, monkeypatch):
    text = f"model {BROKEN} of tool cannot be loaded: RuntimeError: a part is missing"
    for later_ns in (0, RETRY_NS - 1):
        clock.now_ns = later_ns
        monkeypatch.setitem(base._registry, "tool", Tool)
        with pytest.raises(EngineError, match=f"^{re.escape(text)}$"):
            box.stage(BROKEN)
        monkeypatch.setitem(base._registry, "tool", type("Whole", (Tool,), {"__init__": _whole}))
    clock.now_ns = RETRY_NS
    assert run(box, BROKEN) == BROKEN
    assert run(box, 1) == 1


def _whole(self: Tool, options: TaskOptions) -> None:
    self.model = options.model_id


def test_a_model_that_cannot_be_warmed_up_is_closed(box, story, monkeypatch):
    def fail(self: Tool, max_batch: int) -> None:
        raise MemoryError("full")

    monkeypatch.setattr(Tool, "warm_up", fail)
    text = "model 2 of tool cannot be loaded: MemoryError: full"
    with pytest.raises(EngineError, match=f"^{re.escape(text)}$"):
        box.stage(2)
    assert story == ["load 2", "close 2"]


def test_closing_closes_all(box, story):
    run(box, 0)
    run(box, 2)
    story.clear()
    box.close()
    assert sorted(story) == ["close 0", "close 1", "close 2"]
