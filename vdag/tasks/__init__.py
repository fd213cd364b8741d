"""Tasks: named analyses that turn a frame into results.

`face_detection`, `face_alignment`, `car_detection` and `helmet_detection` come with vdag; `yolo`
makes a task of a user's own detector; `@task` makes one of a function.
"""

from __future__ import annotations

from vdag.tasks.base import (
    Inputs,
    Task,
    TaskOptions,
    find,
    load,
    names,
    register,
    signatures,
    task,
    warm_up,
)

__all__ = [
    "Inputs",
    "Task",
    "TaskOptions",
    "find",
    "load",
    "names",
    "register",
    "signatures",
    "task",
    "warm_up",
]
