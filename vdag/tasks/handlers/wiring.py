"""From the documents' services to graphs: handlers become tasks, links become inputs.

What goes over a link is a picture, a JPEG or boxes; a handler type says what its output 0 gives,
and what its inputs take. In a graph these are fields of the frame's context:

    picture   `image`      uint8 `(H, W, 3)` BGR; that of the capture is the frame itself
    jpeg      `jpeg`       uint8 `(N,)`
    boxes     `boxes`      see `boxes`; and `crops`, or the `image` they were found in

Boxes come with their crops by the way that carries less: where they were found in the frame of the
capture, which every node has anyway, crops are cut from it, and do not travel.

`capture` is the job's source, and no task; `tx` and `rx` are none either, as frames find their way
between nodes by themselves. Values in, values out: nothing here opens, loads or waits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from vdag.errors import ConfigError, GraphError
from vdag.graph import Edge, Graph
from vdag.tasks.handlers.kinds import (
    BOXES,
    CAPTURE,
    FIELDS,
    JPEG,
    KINDS,
    PICTURE,
    RENDER,
    RX,
    TURNING,
    TX,
    own_params,
    values_of,
)
from vdag.tasks.naming import name_of, parse
from vdag.tasks.params import Value

__all__ = ["GENERATOR", "HandlerSpec", "LinkSpec", "Wiring", "graph_of"]

GENERATOR = "SingleFrameGenerator"


@dataclass(frozen=True, slots=True)
class HandlerSpec:
    """A handler of a service.

    Attributes:
        handler_id: its number in the service.
        kind: number of its type.
        params: the documents' and our own, as far as they are given.
        task: that does it; of a type that is not documented, which has its parameters too. Empty
            for the built-in one.
    """

    handler_id: int
    kind: int
    params: Mapping[str, Any] = field(default_factory=dict)
    task: str = ""


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """A link of a service: from output 0 of one handler to an input of another."""

    source_handler: int
    source_output: int
    target_handler: int
    target_input: int


@dataclass(frozen=True, slots=True)
class Wiring:
    """A service as a graph.

    Attributes:
        graph: its tasks and all of their inputs.
        tasks: handler to the name of its task, in the order of the graph; without the capture.
        capture: handler that is the job's source.
        source: its parameters: `source`, `fps`, `width` and `height`, as far as they are given.
    """

    graph: Graph
    tasks: Mapping[int, str]
    capture: int
    source: Mapping[str, Any]


def graph_of(
    handlers: Sequence[HandlerSpec], links: Sequence[LinkSpec], *, session: int = 0
) -> Wiring:
    """Return the graph of a service.

    Two handlers that would have one name get their numbers as a parameter, so that each is a task
    of its own; so do two sessions that would render by one process.

    Args:
        handlers: of the service, without `tx` and `rx`; one of them is the capture.
        links: between them.
        session: number of the session.

    Raises:
        ConfigError: a type is not known, or a parameter cannot stand in a name.
        GraphError: the service has no capture or more than one, a link names nobody, an input has
            no link or two, what goes over a link is not what the input takes, or there is a cycle.
    """
    by_id = _numbered(handlers)
    capture = _capture(handlers)
    source = by_id[capture].params
    tasks = _names(handlers, session, source)
    wires = _Wires(by_id, tasks, _links_into(by_id, links))
    edges = {name: wires.edges(by_id[number]) for number, name in tasks.items()}
    dag = {
        "generator": GENERATOR,
        "flow": list(tasks.values()),
        "input": {task: {edge.name: str(edge) for edge in each} for task, each in edges.items()},
    }
    graph = Graph.from_dag(dag)
    numbers = {name: number for number, name in tasks.items()}
    ordered = {numbers[name]: name for name in graph.tasks}
    return Wiring(graph, MappingProxyType(ordered), capture, MappingProxyType(dict(source)))


class _Wires:
    """Finds the fields that a handler's links bring it."""

    def __init__(
        self,
        by_id: Mapping[int, HandlerSpec],
        tasks: Mapping[int, str],
        into: Mapping[int, Mapping[int, int]],
    ) -> None:
        self._by_id, self._tasks, self._into = by_id, tasks, into

    def edges(self, spec: HandlerSpec) -> tuple[Edge, ...]:
        """Return all inputs of a handler's task."""
        takes = self._takes(spec)
        edges: dict[str, Edge] = {}
        for number, accepted in enumerate(takes):
            source = self._into[spec.handler_id].get(number)
            if source is None:
                raise GraphError(f"{_shown(spec)}: input {number} has no link")
            for edge in self._over(self._by_id[source], spec, number, accepted):
                if edges.setdefault(edge.name, edge) != edge:
                    raise GraphError(f"{_shown(spec)}: two inputs both give its field {edge.name}")
        if spec.kind == RENDER and not _is_replaced(spec):
            edges["seq"] = Edge("seq", GENERATOR, "seq")
        return tuple(edges.values())

    def _takes(self, spec: HandlerSpec) -> tuple[tuple[str, ...], ...]:
        kind = KINDS.get(spec.kind)
        links = self._into[spec.handler_id]
        if kind is None:  # it takes what it is given
            return ((PICTURE, BOXES, JPEG),) * (max(links, default=-1) + 1)
        if strange := [number for number in links if number >= len(kind.takes)]:
            raise GraphError(f"{_shown(spec)} has no input {strange[0]}")
        return kind.takes

    def _over(
        self, source: HandlerSpec, target: HandlerSpec, number: int, accepted: Sequence[str]
    ) -> list[Edge]:
        kind = KINDS.get(source.kind)
        gives = accepted[0] if kind is None else kind.gives
        if gives not in accepted:
            raise GraphError(
                f"{_shown(target)}: input {number} takes {' or '.join(accepted)}, "
                f"{_shown(source)} gives {gives or 'nothing'}"
            )
        edges = [Edge(FIELDS[gives], self._producer(source), FIELDS[gives])]
        if gives == BOXES and PICTURE in accepted and target.kind in KINDS:
            edges += self._pixels_of(source)
        return edges

    def _pixels_of(self, source: HandlerSpec) -> list[Edge]:
        """Return where the pixels of boxes come from."""
        *finders, picture = self._way_to_picture(source)
        is_known = picture.kind in KINDS and KINDS[picture.kind].gives == PICTURE
        has_crops = source.params.get("with_crop", True) and not _is_replaced(source)
        turned = any(each.kind in TURNING or each.kind not in KINDS for each in finders)
        if has_crops and (turned or picture.kind != CAPTURE):
            return [Edge("crops", self._producer(source), "crops")]
        return [Edge("image", self._producer(picture), "image")] if is_known else []

    def _way_to_picture(self, source: HandlerSpec) -> list[HandlerSpec]:
        """Return the handlers whose boxes these were, and last the one they were found in."""
        way = [source]
        while (kind := KINDS.get(way[-1].kind)) is None or kind.gives != PICTURE:
            number = self._into[way[-1].handler_id].get(0)
            if number is None or len(way) > len(self._by_id):  # an error that others report
                break
            way.append(self._by_id[number])
        return way

    def _producer(self, spec: HandlerSpec) -> str:
        return GENERATOR if spec.kind == CAPTURE else self._tasks[spec.handler_id]


def _numbered(handlers: Sequence[HandlerSpec]) -> dict[int, HandlerSpec]:
    counts = Counter(each.handler_id for each in handlers)
    if twice := [number for number, count in counts.items() if count > 1]:
        raise GraphError(f"handler {twice[0]} is there twice")
    for each in handlers:
        if each.kind in (TX, RX):
            raise GraphError(f"{_shown(each)} is no task: leave it out, and link what it connects")
        if each.kind not in KINDS and not each.task:
            raise ConfigError(f"handler {each.handler_id}: type {each.kind} has no task")
    return {each.handler_id: each for each in handlers}


def _capture(handlers: Sequence[HandlerSpec]) -> int:
    captures = [each.handler_id for each in handlers if each.kind == CAPTURE]
    if len(captures) != 1:
        numbers = " and ".join(map(str, captures)) or "none"
        raise GraphError(f"a session has one capture, the service has {numbers}")
    return captures[0]


def _names(
    handlers: Sequence[HandlerSpec], session: int, source: Mapping[str, Any]
) -> dict[int, str]:
    """Return each handler's task, no two of one name."""
    found: dict[int, tuple[str, dict[str, Value]]] = {}
    for each in handlers:
        if each.kind == CAPTURE:
            continue
        params: dict[str, Value]
        if each.kind not in KINDS:
            task, params = parse(each.task)
            found[each.handler_id] = task, {**params, **values_of(each.params)}
            continue
        if _is_replaced(each):
            found[each.handler_id] = parse(each.task or str(each.params["task"]))
            continue
        kind = KINDS[each.kind]
        params = own_params(each.kind, kind, each.params)
        if each.kind == RENDER:
            params = _render_params(params, session, source)
        found[each.handler_id] = kind.task, params
    if not found:
        raise GraphError("the service has no handler but its capture")
    plain = {number: name_of(*each) for number, each in found.items()}
    counts = Counter(plain.values())
    return {
        number: name
        if counts[name] == 1
        else name_of(found[number][0], {**found[number][1], "instance": number})
        for number, name in plain.items()
    }


def _render_params(
    params: dict[str, Value], session: int, source: Mapping[str, Any]
) -> dict[str, Value]:
    """Return those of a render: it has the capture's rate, and a process of its session's own."""
    rate = source.get("fps")
    own = {"fps": int(rate)} if isinstance(rate, (int, float)) and rate >= 1 else {}
    return {**own, **params, **({"session": session} if session else {})}


def _links_into(
    by_id: Mapping[int, HandlerSpec], links: Sequence[LinkSpec]
) -> dict[int, dict[int, int]]:
    """Return of each handler what its inputs come from."""
    into: dict[int, dict[int, int]] = {number: {} for number in by_id}
    for link in links:
        for number in (link.source_handler, link.target_handler):
            if number not in by_id:
                raise GraphError(f"a link names handler {number}, which the service has not")
        if link.source_output != 0:
            raise GraphError(
                f"{_shown(by_id[link.source_handler])} has no output {link.source_output}"
            )
        if link.target_handler == link.source_handler or by_id[link.target_handler].kind == CAPTURE:
            raise GraphError(f"{_shown(by_id[link.target_handler])} takes nothing from there")
        if link.target_input < 0 or link.target_input in into[link.target_handler]:
            raise GraphError(
                f"{_shown(by_id[link.target_handler])}: input {link.target_input} has two links"
            )
        into[link.target_handler][link.target_input] = link.source_handler
    return into


def _is_replaced(spec: HandlerSpec) -> bool:
    kind = KINDS.get(spec.kind)
    return kind is not None and bool(spec.task or (kind.replaceable and spec.params.get("task")))


def _shown(spec: HandlerSpec) -> str:
    kind = KINDS.get(spec.kind)
    names = {TX: "tx", RX: "rx", CAPTURE: "capture"}
    name = spec.task if kind is None else kind.task or names[spec.kind]
    return f"handler {spec.handler_id} {name}"
