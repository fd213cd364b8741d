"""`Plan`: how a query's frames are taken, where each task runs, and within which limits.

A plan is immutable and numbered: a query's numbers only rise, every frame carries the number of the
plan that made its route, and so does its result. `Plan.from_documents` reads the three documents
of the scheduler interface, `video_conf`, `flow_mapping` and `resource_limit`, in all the forms
that programs send; `Plan.to_documents` writes the one form that all of them read.

Everything here is checked when it is made, also when it comes out of a message: a `Plan` that
exists makes sense by itself. Whether it makes sense on the nodes there are is the scheduler's
business.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vdag.errors import PlanError
from vdag.plan.conf import ENCODERS, VideoConf
from vdag.plan.constraint import Constraint
from vdag.plan.fields import expect_object, told
from vdag.plan.placement import ROLES, Placement, ResourceLimit

__all__ = ["ENCODERS", "ROLES", "Constraint", "Placement", "Plan", "ResourceLimit", "VideoConf"]


@dataclass(frozen=True, slots=True)
class Plan:
    """One plan of a query. Its mappings belong to it: nobody changes them.

    Attributes:
        number: of the plan, counted from 1 per query; 0 before it is in force.
        video_conf: how frames are taken: the best that any task asks for.
        flow_mapping: task to where it runs, in the order of the query's tasks, all of them.
        resource_limit: task to its limits; a task that is not in it is not limited.
        task_conf: task to its own conf, where it asks for less than `video_conf`.
        document: the documents it was read from, if they were kept: some clients compare what a
            result says of its plan with what they sent, letter by letter. Not compared.

    Raises:
        PlanError: the number is negative, a task is not placed, or a limit or conf is given for a
            task that is not placed.
    """

    number: int
    video_conf: VideoConf
    flow_mapping: Mapping[str, Placement]
    resource_limit: Mapping[str, ResourceLimit] = field(default_factory=dict)
    task_conf: Mapping[str, VideoConf] = field(default_factory=dict)
    document: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.number < 1 << 63:
            raise PlanError(f"number {self.number} is not between 0 and 2**63 - 1")
        if not self.flow_mapping:
            raise PlanError("flow_mapping places no task")
        for name in ("resource_limit", "task_conf"):
            for task in getattr(self, name):
                if task not in self.flow_mapping:
                    raise PlanError(f"{name} names {task!r}, which flow_mapping does not place")

    @classmethod
    def from_documents(
        cls,
        tasks: Iterable[str],
        video_conf: Any,
        flow_mapping: Any,
        resource_limit: Any = None,
        *,
        number: int,
        previous: Plan | None = None,
        keep: bool = False,
    ) -> Plan:
        """Read the scheduler's documents.

        Args:
            tasks: the query's tasks, in their order; each must be placed, and no other.
            video_conf: one conf for the job, or one per task.
            flow_mapping: task to `node_ip`, `node_role`, `model_id`.
            resource_limit: task to `cpu_util_limit` and `mem_util_limit`; null for none.
            number: of the new plan.
            previous: the plan so far: what is null or left out stays as it was.
            keep: keep what was read as `document`, to repeat it to those who compare.

        Raises:
            PlanError: a task is not placed, a name is no task's, or a value is of the wrong type or
                out of range. The text names field and value.
        """
        order = tuple(tasks)
        confs = _read_confs(order, video_conf, previous)
        best = _best(confs)
        document = {
            name: dict(value) if isinstance(value, Mapping) else value
            for name, value in (
                ("video_conf", video_conf),
                ("flow_mapping", flow_mapping),
                ("resource_limit", resource_limit),
            )
            if value is not None
        }
        return cls(
            number,
            best,
            _read_mapping(order, flow_mapping, previous),
            _read_limits(order, resource_limit, previous),
            {task: conf for task, conf in zip(order, confs, strict=True) if conf != best},
            document if keep else {},
        )

    @classmethod
    def read(
        cls,
        tasks: Iterable[str],
        documents: Mapping[str, Any],
        *,
        number: int,
        previous: Plan | None = None,
    ) -> Plan:
        """Read what `to_documents` writes, or a part of it; see `from_documents`."""
        return cls.from_documents(
            tasks,
            documents.get("video_conf"),
            documents.get("flow_mapping"),
            documents.get("resource_limit"),
            number=number,
            previous=previous,
        )

    def to_documents(self) -> dict[str, Any]:
        """Return `video_conf` (one for the job), `flow_mapping` and `resource_limit`."""
        return {
            "video_conf": self.video_conf.to_document(),
            "flow_mapping": {
                task: placement.to_document() for task, placement in self.flow_mapping.items()
            },
            "resource_limit": {
                task: limit.to_document() for task, limit in self.resource_limit.items()
            },
        }

    def echo(self) -> dict[str, Any]:
        """Return `to_documents`, with what was kept in place of what it says."""
        return {**self.to_documents(), **self.document}

    def conf_of(self, task: str) -> VideoConf:
        """Return the conf that a task asks for."""
        return self.task_conf.get(task, self.video_conf)

    def nodes(self) -> frozenset[str]:
        """Return the `node_addr` of every node that it needs, as far as they are chosen."""
        return frozenset(
            placement.node_addr for placement in self.flow_mapping.values() if placement.node_addr
        )

    def numbered(self, number: int) -> Plan:
        """Return the same plan under another number."""
        return replace(self, number=number)

    def orders_as(self, other: Plan | None) -> bool:
        """Whether it asks for the same as another plan, whatever their numbers."""
        return other is not None and self == replace(other, number=self.number)


def _check_tasks(name: str, tasks: tuple[str, ...], given: Mapping[str, Any]) -> None:
    for task in given:
        if task not in tasks:
            raise PlanError(f"{name} names {task!r}, which is no task of the query")


def _read_confs(tasks: tuple[str, ...], given: Any, previous: Plan | None) -> list[VideoConf]:
    """Return one conf per task, whether the document has one for all or one for each."""
    before = {task: None if previous is None else previous.conf_of(task) for task in tasks}
    if given is None and previous is not None:
        return [previous.conf_of(task) for task in tasks]
    conf = expect_object("video_conf", given)
    if conf.keys().isdisjoint(tasks):
        return [VideoConf.from_document(conf, before[task]) for task in tasks]
    _check_tasks("video_conf", tasks, conf)
    confs = []
    for task in tasks:
        with told(f"video_conf.{task}"):
            confs.append(VideoConf.from_document(conf.get(task, {}), before[task]))
    return confs


def _best(confs: list[VideoConf]) -> VideoConf:
    """Return the conf from which each task can get its own: most pixels, most frames.

    Frames go to the first task first, so they travel as that one asks.
    """
    sharpest = max(confs, key=lambda conf: math.inf if conf.size is None else math.prod(conf.size))
    return VideoConf(sharpest.resolution, max(conf.fps for conf in confs), confs[0].encoder)


def _read_mapping(
    tasks: tuple[str, ...], given: Any, previous: Plan | None
) -> dict[str, Placement]:
    mapping = {} if given is None and previous is not None else expect_object("flow_mapping", given)
    _check_tasks("flow_mapping", tasks, mapping)
    found = {}
    for task in tasks:
        if mapping.get(task) is not None:
            found[task] = Placement.from_document(task, mapping[task])
        elif previous is not None and task in previous.flow_mapping:
            found[task] = previous.flow_mapping[task]
        else:
            raise PlanError(f"flow_mapping does not place {task}")
    return found


def _read_limits(
    tasks: tuple[str, ...], given: Any, previous: Plan | None
) -> dict[str, ResourceLimit]:
    if given is None:
        return {} if previous is None else dict(previous.resource_limit)
    limits = expect_object("resource_limit", given)
    _check_tasks("resource_limit", tasks, limits)
    return {
        task: ResourceLimit.from_document(task, limits[task])
        for task in tasks
        if limits.get(task) is not None
    }
