"""`Graph`: tasks and where each of their inputs comes from.

The documents' form is a `dag`: `flow`, the tasks in order, and `input`, per task the fields it
takes as `"producer.field"`; the producer is an earlier task or the generator, which stands on top
or inside of the `dag`. Any acyclic graph is one, independent branches included.

A graph is immutable and knows only names. What a task takes and gives is its `Signature`;
`Graph.check` holds the two against each other and fills in the inputs that were left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vdag.errors import GraphError

__all__ = ["GENERATORS", "Edge", "Graph", "Signature"]

#: The documents' generators and the fields each produces.
GENERATORS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "SingleFrameGenerator": frozenset({"seq", "image"}),
        "ClipGenerator": frozenset({"seq", "clip"}),
    }
)
#: Listed in old documents' `flow` and `input`, but no task: results are rendered on demand.
RENDER = "Render"
#: More than any real pipeline; bounds the work an untrusted graph can cause.
MAX_TASKS = 64


@dataclass(frozen=True, slots=True)
class Signature:
    """The fields a task takes and gives.

    Attributes:
        inputs: fields it cannot work without.
        optional: fields it uses when they are there.
        outputs: fields it adds to the frame's context.
    """

    inputs: frozenset[str]
    outputs: frozenset[str]
    optional: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Edge:
    """One input of a task: `field` of `producer` arrives as `name`."""

    name: str
    producer: str
    field: str

    def __str__(self) -> str:
        return f"{self.producer}.{self.field}"


@dataclass(frozen=True, slots=True)
class Graph:
    """Tasks in an order in which each comes after its producers.

    Build one with `Graph.from_dag`, `Graph.load`, or `Graph.chain`. Two graphs are equal when they
    have the same generator, tasks and edges.

    Attributes:
        generator: name of the generator that the frames come from.
        tasks: names of the tasks, each after all of its producers.
        edges: task to its inputs; a task without an entry takes its inputs by name (see `check`).
    """

    generator: str
    tasks: tuple[str, ...]
    edges: Mapping[str, tuple[Edge, ...]] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash((self.generator, self.tasks, tuple(sorted(self.edges.items()))))

    @classmethod
    def chain(cls, *tasks: str, generator: str = "SingleFrameGenerator") -> Graph:
        """Return the graph that runs `tasks` one after the other, inputs matched by field name."""
        return cls.from_dag({"flow": list(tasks), "generator": generator})

    @classmethod
    def load(cls, path: str | Path) -> Graph:
        """Read a `dag` from a JSON file.

        Raises:
            GraphError: the file is missing, is not JSON, or holds no graph; the text names it.
        """
        try:
            dag = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as err:
            reason = err.strerror if isinstance(err, OSError) else "not UTF-8 text"
            raise GraphError(f"cannot read graph {path}: {reason}") from err
        except json.JSONDecodeError as err:
            raise GraphError(f"{path} is not JSON: {err}") from err
        try:
            return cls.from_dag(dag)
        except GraphError as err:
            raise GraphError(f"{path}: {err}") from err

    @classmethod
    def from_dag(cls, dag: Any, *, generator: str | None = None) -> Graph:
        """Read the documents' `dag`.

        Args:
            dag: mapping with `flow` and, optionally, `input` and `generator`; a request that holds
                `dag` beside `generator` is taken as well; so is a bare list of task names.
            generator: used when the `dag` names none; by default `SingleFrameGenerator`.

        Raises:
            GraphError: a field is missing or of the wrong type, a task is listed twice, an input
                names nobody, or the tasks form a cycle. The text says where.
        """
        if isinstance(dag, (list, tuple)):
            dag = {"flow": list(dag)}
        if not isinstance(dag, Mapping):
            raise GraphError(f"a graph is an object with flow and input, not {_kind(dag)}")
        if isinstance(dag.get("dag"), Mapping):
            generator = dag.get("generator", generator)
            dag = dag["dag"]
        generator = dag.get("generator", generator) or "SingleFrameGenerator"
        if generator not in GENERATORS:
            known = ", ".join(sorted(GENERATORS))
            raise GraphError(f"unknown generator {generator!r}: expected one of {known}")
        tasks = _read_flow(dag.get("flow"), generator)
        edges = _read_inputs(dag.get("input", {}), tasks, generator)
        return cls(generator, _sorted(tasks, edges), edges)

    def check(self, signatures: Mapping[str, Signature]) -> Graph:
        """Hold the graph against what its tasks take and give.

        Inputs that the graph left out are filled in: from the nearest task before it in the flow
        that gives a field of that name, else from the generator.

        Args:
            signatures: task name to its signature, for every task that is known.

        Returns:
            The graph with every edge written out.

        Raises:
            GraphError: a task is unknown, an input is one its task does not take, a field is
                produced by nobody, or a required input is missing. The text says where.
        """
        edges: dict[str, tuple[Edge, ...]] = {}
        for index, task in enumerate(self.tasks):
            if task not in signatures:
                known = ", ".join(sorted(signatures))
                raise GraphError(f"unknown task {task!r}: expected one of {known}")
            given = self.edges.get(task, ())
            for edge in given:
                self._check_edge(task, edge, signatures)
            edges[task] = given or self._matched(task, index, signatures)
            taken = {edge.name for edge in edges[task]}
            for name in sorted(signatures[task].inputs - taken):
                raise GraphError(f"input {name} of {task} comes from nowhere")
        return Graph(self.generator, _sorted(self.tasks, edges), edges)

    def producers(self, task: str) -> tuple[str, ...]:
        """Return the tasks that `task` waits for, without the generator, in flow order."""
        wanted = {edge.producer for edge in self.edges.get(task, ())}
        return tuple(name for name in self.tasks if name in wanted)

    def consumers(self, task: str) -> tuple[str, ...]:
        """Return the tasks that wait for `task`, in flow order."""
        return tuple(name for name in self.tasks if task in self.producers(name))

    def sinks(self) -> tuple[str, ...]:
        """Return the tasks nobody waits for: a frame is done when all of them are."""
        waited = {producer for task in self.tasks for producer in self.producers(task)}
        return tuple(task for task in self.tasks if task not in waited)

    def to_dag(self) -> dict[str, Any]:
        """Return the documents' form; `Graph.from_dag` of it is this graph again."""
        return {
            "generator": self.generator,
            "flow": list(self.tasks),
            "input": {
                task: {edge.name: str(edge) for edge in edges} for task, edges in self.edges.items()
            },
        }

    def _check_edge(self, task: str, edge: Edge, signatures: Mapping[str, Signature]) -> None:
        signature = signatures[task]
        if edge.name not in signature.inputs | signature.optional:
            takes = ", ".join(sorted(signature.inputs | signature.optional))
            raise GraphError(f"{task} takes no input {edge.name}: it takes {takes}")
        if edge.producer != self.generator and edge.producer not in signatures:
            known = ", ".join(sorted(signatures))
            raise GraphError(f"unknown task {edge.producer!r}: expected one of {known}")
        gives = self._fields(edge.producer, signatures)
        if edge.field not in gives:
            raise GraphError(
                f"input {edge.name} of {task}: {edge.producer} produces no {edge.field}, "
                f"only {', '.join(sorted(gives))}"
            )

    def _fields(self, producer: str, signatures: Mapping[str, Signature]) -> frozenset[str]:
        if producer == self.generator:
            return GENERATORS[producer]
        return signatures[producer].outputs

    def _matched(
        self, task: str, index: int, signatures: Mapping[str, Signature]
    ) -> tuple[Edge, ...]:
        """Find a producer for each field that `task` takes; fields nobody gives are left out."""
        found = []
        signature = signatures[task]
        for name in sorted(signature.inputs | signature.optional):
            for producer in (*reversed(self.tasks[:index]), self.generator):
                if producer != self.generator and producer not in signatures:
                    continue
                if name in self._fields(producer, signatures):
                    found.append(Edge(name, producer, name))
                    break
        return tuple(found)


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def _read_flow(flow: Any, generator: str) -> tuple[str, ...]:
    if not isinstance(flow, (list, tuple)):
        raise GraphError(f"flow is a list of task names, not {_kind(flow)}")
    for index, name in enumerate(flow):
        if not isinstance(name, str) or not name:
            raise GraphError(f"flow[{index}] is a task name, not {name!r}")
    # The second generation of the documents lists the generator first and Render last.
    tasks = tuple(name for name in flow if name not in (generator, RENDER))
    if not tasks:
        raise GraphError("flow names no task")
    if len(tasks) > MAX_TASKS:
        raise GraphError(f"flow of {len(tasks)} tasks exceeds the limit of {MAX_TASKS}")
    for index, name in enumerate(tasks):
        if name in tasks[:index]:
            raise GraphError(f"flow lists {name} twice")
    return tasks


def _read_inputs(
    inputs: Any, tasks: tuple[str, ...], generator: str
) -> dict[str, tuple[Edge, ...]]:
    if not isinstance(inputs, Mapping):
        raise GraphError(f"input is an object with one entry per task, not {_kind(inputs)}")
    edges = {}
    for task, fields in inputs.items():
        if task == RENDER:
            continue
        if task not in tasks:
            raise GraphError(f"input is given for {task!r}, which flow does not list")
        if not isinstance(fields, Mapping):
            raise GraphError(f"input.{task} is an object of field names, not {_kind(fields)}")
        edges[task] = tuple(
            _read_edge(task, name, value, tasks, generator) for name, value in fields.items()
        )
    return edges


def _read_edge(task: str, name: Any, value: Any, tasks: tuple[str, ...], generator: str) -> Edge:
    producer, dot, produced = value.partition(".") if isinstance(value, str) else ("", "", "")
    if not (dot and producer and produced):
        raise GraphError(f"input.{task}.{name} is {value!r}, expected 'producer.field'")
    if producer != generator and producer not in tasks:
        raise GraphError(
            f"input.{task}.{name} is {value!r}, but {producer} is neither the generator "
            f"{generator} nor a task of flow"
        )
    return Edge(str(name), producer, produced)


def _sorted(tasks: Iterable[str], edges: Mapping[str, tuple[Edge, ...]]) -> tuple[str, ...]:
    """Order tasks after their producers, keeping the given order where it is free.

    Kahn's algorithm; what is left when nothing is ready contains a cycle, which is then named.
    """
    waiting = list(tasks)
    names = set(waiting)
    done: list[str] = []
    while waiting:
        for task in waiting:
            needs = {edge.producer for edge in edges.get(task, ())} & names
            if needs.issubset(done):
                done.append(task)
                waiting.remove(task)
                break
        else:
            raise GraphError(f"cycle: {' -> '.join(_cycle(waiting, edges))}")
    return tuple(done)


def _cycle(tasks: list[str], edges: Mapping[str, tuple[Edge, ...]]) -> list[str]:
    """Follow producers among `tasks`, each of which waits for another, until one comes again."""
    path = [tasks[0]]
    while True:
        last = path[-1]
        step = next(edge.producer for edge in edges[last] if edge.producer in tasks)
        if step in path:
            return [step, *reversed(path[path.index(step) :])]
        path.append(step)
