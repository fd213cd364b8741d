"""A coordinator in this process, and nodes that join it: their agents are real, tasks are not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from channel_kit import NodeEnd, quick
from channel_kit import view as view_of

from vdag.control.cluster import ServiceView
from vdag.control.controller import Controller
from vdag.control.coordination.types import HANDLER_TYPES, HandlerType
from vdag.control.coordination.values import HandlerSpec, Link, Node, Service, Speaks
from vdag.control.coordinator.foreign import ForeignNodes
from vdag.control.coordinator.memory import remembered, spared
from vdag.control.coordinator.office import Office
from vdag.control.coordinator.ours import OurNodes
from vdag.control.coordinator.sessions import Sessions
from vdag.control.coordinator.states import Patience
from vdag.control.coordinator.values import SessionRequest, SessionView
from vdag.control.records import Store

T = TypeVar("T")
TIMEOUT_S = 30.0


def node(number: int, name: str, *, port: int, speaks: Speaks = "vdag") -> Node:
    return Node(number, name, "server", "127.0.0.1", port, speaks=speaks)


def handler(number: int, kind: int, *, node_id: int | None = None, **params: Any) -> HandlerSpec:
    return HandlerSpec(number, HANDLER_TYPES[kind].name, kind, params, node_id)


def capture(*, node_id: int | None = None, **params: Any) -> HandlerSpec:
    return handler(0, 2, node_id=node_id, **{"source": 0, "fps": 10, **params})


def link(source: int, target: int, number: int = 0) -> Link:
    return Link(source, 0, target, number)


def service(
    handlers: Sequence[HandlerSpec], links: Sequence[Link], *, algorithm: str = "min_delay"
) -> Service:
    return Service(0, "chain", tuple(handlers), tuple(links), algorithm)


class Workshop:
    """Stands in for a node's `Openings`: tasks are open as soon as a test lets them.

    Attributes:
        open: tasks that are.
        refusal: reason that the next task is refused with.
        trials: sizes of pictures that tasks were to be tried on.
        trial_s: what that takes.
        gate: is to be set for a task to be open.
    """

    def __init__(self) -> None:
        self.open: dict[str, int] = {}
        self.refusal = ""
        self.trials: list[tuple[int, int]] = []
        self.trial_s = 0.0
        self.gate = threading.Event()
        self.gate.set()
        self.on_change: Callable[[], None] = lambda: None
        self._threads: list[threading.Thread] = []

    def order(
        self,
        task: str,
        workers: int,
        number: int,
        tell: Callable[[str, int, str, float], None],
        trial: tuple[int, int] | None = None,
    ) -> None:
        if not workers:
            self.open.pop(task, None)
            self.on_change()
            tell(task, number, "", 0.0)
            return
        if self.refusal:
            tell(task, number, self.refusal, 0.0)
            return
        if trial is not None:
            self.trials.append(trial)

        def work() -> None:
            assert self.gate.wait(TIMEOUT_S)
            self.open[task] = workers
            self.on_change()
            tell(task, number, "", 0.0 if trial is None else self.trial_s)

        thread = threading.Thread(target=work)
        self._threads.append(thread)
        thread.start()

    def ordered(self) -> Mapping[str, int]:
        return dict(self.open)

    def close(self) -> None:
        self.gate.set()
        for thread in self._threads:
            thread.join(TIMEOUT_S)


class End:
    """A node: its agent is real, its jobs run as soon as they are told."""

    def __init__(self, channel: str, name: str, port: int, role: Literal["cloud", "edge"]) -> None:
        self.workshop = Workshop()
        self.role, self.name = role, name
        self.load = 0.0
        self.end = NodeEnd(
            channel,
            node_addr=f"127.0.0.1:{port}",
            name=name,
            run=f"{name:_>16}",
            openings=self.workshop,
        )
        self.offer()
        self.workshop.on_change = self.offer
        self.jobs = self.end.jobs

    def offer(self, load: float | None = None) -> None:
        """Report the tasks that are open, and from now on that load of both cores, percent."""
        self.load = self.load if load is None else load
        found = view_of(self.role, address="127.0.0.1")
        services = {task: ServiceView(1) for task in tuple(self.workshop.open)}
        device = {"cpu_ratio": [self.load, self.load]}
        self.end.view = replace(found, services=services, device=device)

    def tasks(self) -> set[str]:
        """Return the tasks that are open, without their parameters."""
        return {task.partition("__")[0] for task in tuple(self.workshop.open)}

    def close(self) -> None:
        self.workshop.close()
        self.end.close()


class Bench:
    """A coordinator; closed by a `with` block.

    Args:
        folder: of the records.
        nodes: of the files.
        services: likewise.
        silence_s: a node is away after that.
    """

    def __init__(
        self,
        folder: Path,
        nodes: Sequence[Node],
        services: Sequence[Service],
        *,
        patience: Patience | None = None,
        silence_s: float = 60.0,
        types: Mapping[int, HandlerType] = HANDLER_TYPES,
    ) -> None:
        self._stack = ExitStack()
        self.store = self._stack.enter_context(Store(folder / "records.db"))
        before = remembered(self.store, nodes, types)
        settings = quick(silence_s=silence_s, spared=spared(before))
        self.controller = self._stack.enter_context(Controller(self.store, settings))
        patience = patience or Patience()
        self.office = Office(
            nodes,
            services,
            types,
            ours=OurNodes(self.controller, self.store, types),
            foreign=self._stack.enter_context(ForeignNodes()),
            store=self.store,
            patience=patience,
        )
        self.sessions = self._stack.enter_context(Sessions(self.office, patience, before))

    def join(self, name: str, port: int, role: Literal["cloud", "edge"] = "edge") -> End:
        """Have a node join, and wait until it has."""
        end = End(self.controller.channel, name, port, role)
        self._stack.callback(end.close)
        self.wait(lambda: any(k.name == name and k.is_alive for k in self.controller.nodes()))
        return end

    def create(self, request: SessionRequest) -> int:
        return self.sessions.create(request).result(TIMEOUT_S)

    def settled(self, session_id: int) -> SessionView:
        return self.sessions.settled(session_id).result(TIMEOUT_S)

    def wish(self, session_id: int, wish: Any) -> None:
        ordered, _ = self.sessions.wish(session_id, wish)
        ordered.result(TIMEOUT_S)

    def wait(self, found: Callable[[], T]) -> T:
        """Look until there is something, and return it."""
        deadline_s, pause = time.monotonic() + TIMEOUT_S, threading.Event()
        while not (result := found()):
            assert time.monotonic() < deadline_s, "it has not come about"
            pause.wait(0.005)
        return result

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()


#: Of the node file.
FILES = [
    replace(node(1, "camera", port=6001), handlers=frozenset({2, 4, 5})),
    node(2, "near", port=6002),
    node(3, "far", port=6003),
]
#: capture -> encode -> decode -> detect, draw -> resize; the first and the last are the client's.
CHAIN = service(
    [
        capture(node_id=1),
        handler(1, 5, node_id=1),
        handler(2, 6, node_id=2),
        handler(3, 8, node_id=2, with_crop=False),
        handler(4, 16, node_id=2),
        handler(5, 4, node_id=1, width=320, height=240),
    ],
    [link(0, 1), link(1, 2), link(2, 3), link(2, 4), link(3, 4, 1), link(4, 5)],
    algorithm="static",
)
PATIENCE = Patience(init_s=10.0, start_s=10.0, stop_s=10.0)


def open_bench(stack: ExitStack, folder: Path, *services: Any, **settings: Any) -> Bench:
    """A bench of these nodes and services, or of the chain; the stack closes it."""
    found = Bench(folder, FILES, services or [CHAIN], patience=PATIENCE, **settings)
    return stack.enter_context(found)


def join_all(bench: Bench) -> list[End]:
    return [bench.join(each.name, each.port) for each in FILES]
