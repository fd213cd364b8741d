"""Handlers' tasks by themselves: loaded with parameters, and run on one frame."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

from vdag import tasks
from vdag.tasks import Task, TaskOptions
from vdag.tasks.naming import name_of
from vdag.transport import context as wire_context

CPU = TaskOptions(device="cpu")


def load(task: str, options: TaskOptions = CPU, /, **params: Any) -> Task:
    return tasks.load(name_of(task, params), options)


def run(
    task: str, inputs: Mapping[str, Any], options: TaskOptions = CPU, /, **params: Any
) -> dict[str, Any]:
    """What a task finds in one frame."""
    with closing(load(task, options, **params)) as loaded:
        (outputs,) = loaded.process([inputs])
    assert outputs.keys() >= loaded.signature.outputs
    packed = b"".join(wire_context.pack({task: outputs}))
    assert wire_context.unpack(memoryview(packed)).keys() == {task}  # it can travel
    return outputs
