"""Branches: which tasks of a graph a frame visits one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["branches_of"]


def branches_of(tasks: tuple[str, ...], dag: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    """Split the tasks into branches; one whose inputs are not written out follows the one before.

    Inputs that a graph leaves out are matched by name where the job runs, mostly with what the task
    before gives; to take them for a chain is never too hopeful.
    """
    inputs = dag.get("input")
    inputs = inputs if isinstance(inputs, Mapping) else {}
    if not any(isinstance(given, Mapping) and given for given in inputs.values()):
        return (tuple(range(len(tasks))),)
    branch: list[set[int]] = []
    for index, task in enumerate(tasks):
        given = inputs.get(task)
        if isinstance(given, Mapping) and given:
            names = {str(value).partition(".")[0] for value in given.values()}
            needed = {other for other in range(index) if tasks[other] in names}
        else:
            needed = {index - 1} if index else set()
        joined = [each for each in branch if each & needed]
        branch = [each for each in branch if not each & needed]
        branch.append({index}.union(*joined))
    return tuple(sorted(tuple(sorted(each)) for each in branch))
