"""`Policy`: how a function with the documents' signature is called, and what it may return.

The documents have two generations of it, told apart by the names of the parameters:

    scheduler(dag_flow, generator_output, resource_info, last_plan_res, user_constraint)
    scheduler(job_uid, dag, resource_info, runtime_info, user_constraint)

The older one, which takes the tasks as `dag_flow` or `flow`, gets its `resource_info` flat, address
to task; the newer one by role, address and task. A function may leave out what it does not need,
and may take more by name: `constraint`, `video`, `previous`, `measured`, `fixed`, `cause`, `now_s`
and `memory`, as in `Question`; `nodes`, `node_state`, `bandwidth` and `profile`, as in
`Surroundings`, or `around`, which is these themselves.
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
#: What has the profile in it, which is large and travels apart from the question.
KNOWING = frozenset({"around", "profile"})


class Answer(NamedTuple):
    """What a policy returns; null for what shall stay as it is.

    Attributes:
        video_conf: the documents'.
        flow_mapping: likewise.
        resource_limit: likewise.
        memory: a mapping to be told as `memory` with the next question about the query: policies
            keep nothing themselves, for their process may end between two questions.
        explanation: a mapping that says why, for `vdag explain`.
    """

    video_conf: Any
    flow_mapping: Any
    resource_limit: Any = None
    memory: Any = None
    explanation: Any = None


@dataclass(frozen=True, slots=True)
class Policy:
    """A function that makes plans.

    Attributes:
        name: by which it was found.
        function: see above.
        is_built_in: it is ours, and is called where it is asked, with the scheduler's own books.
        parameters: names of what it takes, found out here.

    Raises:
        ConfigError: the function needs something that no policy is told, or nothing about tasks.
    """

    name: str
    function: Callable[..., Any]
    is_built_in: bool = False
    parameters: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        taken = _read_parameters(self.name, self.function)
        object.__setattr__(self, "parameters", taken)

    @property
    def is_older(self) -> bool:
        """Whether it is of the older generation, and so gets a flat `resource_info`."""
        return not OLDER.isdisjoint(self.parameters)

    @property
    def takes_profile(self) -> bool:
        """Whether it looks into the profile."""
        return not KNOWING.isdisjoint(self.parameters)

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
    roles = question.around.resource_info()
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
        flat_resource_info(question) if is_older else question.around.resource_info()
    ),
    "runtime_info": lambda question, _: question.runtime_info,
    "last_plan_res": lambda question, _: question.last_plan_res,
    "user_constraint": lambda question, _: question.user_constraint,
    "around": lambda question, _: question.around,
    "nodes": lambda question, _: question.around.nodes(),
    "node_state": lambda question, _: question.around.node_state(),
    "bandwidth": lambda question, _: question.around.bandwidth(),
    "profile": lambda question, _: question.around.profile,
    "constraint": lambda question, _: question.constraint,
    "now_s": lambda question, _: question.now_s,
    "memory": lambda question, _: question.memory,
    "measured": lambda question, _: question.measured,
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
    if isinstance(returned, (tuple, list)) and 2 <= len(returned) <= len(Answer._fields):
        return Answer(*returned)
    shown = f"{len(returned)} values" if isinstance(returned, (tuple, list)) else _kind(returned)
    raise PlanError(f"it returned {shown}, expected video_conf, flow_mapping")


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
