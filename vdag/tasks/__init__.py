"""Tasks: named analyses that turn a frame into results.

`face_detection`, `face_alignment`, `car_detection` and `helmet_detection` come with vdag; `yolo`
makes a task of a user's own detector; `@task` makes one of a function. Tasks may have parameters,
which their names carry (see `naming`); so have the documents' handler types, in `handlers`.
"""

from __future__ import annotations

from vdag.tasks.base import (
    Inputs,
    Task,
    TaskOptions,
    find,
    handler_names,
    load,
    model_task,
    names,
    needs,
    parameters,
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
    "handler_names",
    "load",
    "model_task",
    "names",
    "needs",
    "parameters",
    "register",
    "signatures",
    "task",
    "warm_up",
]
