"""`Policy`: how a function with the documents' signature is called, and what it may return.

The documents have two generations of it, told apart by the names of the parameters:

    scheduler(dag_flow, generator_output, resource_info, last_plan_res, user_constraint)
    scheduler(job_uid, dag, resource_info, runtime_info, user_constraint)

The older one, which takes the tasks as `dag_flow` or `flow`, gets its `resource_info` flat, address
to task; the newer one by role, address and task. A function may leave out what it does not need,
and may take more by name: `nodes`, `node_state`, `bandwidth`, `video`, `previous`, `fixed` and
`cause`, as in `Question`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from vdag.control.scheduling.instructions import Question
from vdag.errors import ConfigError, PlanError

__all__ = ["Answer", "Policy", "flat_resource_info"]

#: What only the older generation has.
OLDER = frozenset({"dag_flow", "flow"})
#: What says which tasks to place; a function that takes none of these is no policy.
TASKS = OLDER | {"dag"}


class Answer(NamedTuple):
    """What a policy returns; null for what shall stay as it is."""

    video_conf: Any
    flow_mapping: Any
    resource_limit: Any = None


@dataclass(frozen=True, slots=True)
class Policy:
    """A function that makes plans.

    Attributes:
        name: by which it was found.
        function: see above.
        parameters: names of what it takes, found out here.

    Raises:
        ConfigError: the function needs something that no policy is told, or nothing about tasks.
    """

    name: str
    function: Callable[..., Any]
    parameters: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", _read_parameters(self.name, self.function))

    @property
    def is_older(self) -> bool:
        """Whether it is of the older generation, and so gets a flat `resource_info`."""
        return not OLDER.isdisjoint(self.parameters)

    def arguments(self, question: Question) -> dict[str, Any]:
        """Return what it is called with."""
        return {name: _TOLD[name](question, self.is_older) for name in self.parameters}

    def answer(self, question: Question) -> Answer:
        """Call it.

        Raises:
            PlanError: what it returns is no plan, not even by its shape.
            BaseException: whatever the function raises.
        """
        return _read_answer(self.function(**self.arguments(question)))


def flat_resource_info(question: Question) -> dict[str, Any]:
    """Return the older `resource_info`: address to task to its numbers, servers last.

    The policies of that generation take the first address for the edge and the last for the cloud.
    """
    roles = question.resource_info
    flat: dict[str, Any] = {}
    for role in ("host", "edge", "cloud"):
        for ip, shares in roles.get(role, {}).items():
            known = flat.pop(ip, {})
            flat[ip] = {**known, **shares}
    return flat


#: Parameter to what it is given; the second argument says whether the policy is an older one.
_TOLD: Mapping[str, Callable[[Question, bool], Any]] = {
    "job_uid": lambda question, _: question.job_uid,
    "dag": lambda question, _: question.dag,
    "dag_flow": lambda question, _: question.dag_flow,
    "flow": lambda question, _: question.dag_flow,
    # Frames never come to where plans are made; the documents leave this one open as well.
    "generator_output": lambda question, _: {},
    "resource_info": lambda question, is_older: (
        flat_resource_info(question) if is_older else question.resource_info
    ),
    "runtime_info": lambda question, _: question.runtime_info,
    "last_plan_res": lambda question, _: question.last_plan_res,
    "user_constraint": lambda question, _: question.user_constraint,
    "nodes": lambda question, _: question.nodes,
    "node_state": lambda question, _: question.node_state,
    "bandwidth": lambda question, _: question.bandwidth,
    "video": lambda question, _: question.video,
    "previous": lambda question, _: question.previous,
    "fixed": lambda question, _: question.fixed,
    "cause": lambda question, _: question.cause,
}


def _read_parameters(name: str, function: Callable[..., Any]) -> tuple[str, ...]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as err:
        raise ConfigError(f"policy {name!r}: {err}") from err
    taken = []
    for each in parameters:
        by_name = each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
        if by_name and each.name in _TOLD:
            taken.append(each.name)
        elif each.default is each.empty and each.kind not in (
            each.VAR_POSITIONAL,
            each.VAR_KEYWORD,
        ):
            raise ConfigError(f"policy {name!r} takes {each.name!r}, which no policy is told")
    if TASKS.isdisjoint(taken):
        raise ConfigError(f"policy {name!r} takes none of {', '.join(sorted(TASKS))}")
    return tuple(taken)


def _read_answer(returned: Any) -> Answer:
    if isinstance(returned, Mapping):
        return Answer(*(returned.get(name) for name in Answer._fields))
    if isinstance(returned, (tuple, list)) and 2 <= len(returned) <= 3:
        return Answer(*returned)
    shown = f"{len(returned)} values" if isinstance(returned, (tuple, list)) else _kind(returned)
    raise PlanError(f"it returned {shown}, expected video_conf, flow_mapping")


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
