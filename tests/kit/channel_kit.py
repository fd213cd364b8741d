"""Both ends of the plan channel: jobs that only note what they are told, and a node by hand."""

from __future__ import annotations

import queue
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zmq
from waiting_kit import until

from vdag.control import wire
from vdag.control.agent import Agent, Profile
from vdag.control.agent.notebook import Notebook
from vdag.control.cluster import NodeView, ServiceView
from vdag.control.controller import Controller, ControllerSettings
from vdag.control.desk import QueryRequest
from vdag.control.records import Store
from vdag.control.scheduling.events import JobInfo, QueryState
from vdag.control.scheduling.instructions import Order
from vdag.control.scheduling.scheduler import SchedulerSettings
from vdag.errors import ConfigError
from vdag.graph import Graph
from vdag.plan import Constraint, Plan
from vdag.transport.rpc import Requester

TIMEOUT_S = 30.0
LOOPBACK = "tcp://127.0.0.1:0"
ADDR = "10.0.0.7:5001"
SESSION = "0123456789abcdef"
TASK = "car_detection"


def quick(
    channel: str = LOOPBACK, *, silence_s: float = 60.0, **settings: Any
) -> ControllerSettings:
    """Settings with which a test takes no longer than it has to.

    Nodes that a test plays say nothing while it waits for something else: only where it is about
    their silence they are away after a short one, `silence_s`.
    """
    scheduler = SchedulerSettings(period_s=0.2, node_timeout_s=silence_s, pull_timeout_s=silence_s)
    return ControllerSettings(
        channel, **{"scheduler": scheduler, "report_s": 0.1, "hold_s": 0.2, **settings}
    )


def view(role: str = "edge", *tasks: str, address: str = "10.0.0.7", port: int = 5500) -> NodeView:
    services = {task: ServiceView(2, 0.5, 1.0, models=(0, 2)) for task in tasks or (TASK,)}
    device = {"cpu_ratio": [12.5]}
    return NodeView(address, port, role, device, {"n_cpu": 1}, services)  # type: ignore[arg-type]


def request(node_addr: str = ADDR, video_id: int = 0, **fields: Any) -> QueryRequest:
    graph, constraint = Graph.chain(TASK), Constraint.from_document({"delay": 0.3})
    return QueryRequest(node_addr, video_id, graph, constraint, **fields)


class NotedJobs:
    """A node's jobs; each runs from its first plan on."""

    def __init__(self) -> None:
        self.calls: queue.Queue[tuple[Any, ...]] = queue.Queue()
        self.jobs: dict[str, JobInfo] = {}
        self.measured: dict[str, dict[str, Any]] = {}
        self.error: Exception | None = None

    def submit(self, job_uid: str, video_id: int, graph: Graph, constraint: Constraint) -> None:
        if self.error is not None:
            raise self.error
        if video_id:
            raise ConfigError(f"no video {video_id}")
        self.jobs.setdefault(job_uid, JobInfo(job_uid, 0, QueryState.UNSCHEDULED))
        self.calls.put(("submit", job_uid, graph.tasks, constraint.to_document()))

    def update_plan(
        self, job_uid: str, plan: Plan, routes: Mapping[str, str], names: Mapping[str, str]
    ) -> None:
        self.jobs[job_uid] = JobInfo(job_uid, plan.number, QueryState.RUNNING)
        self.calls.put(("plan", job_uid, plan, dict(routes), dict(names)))

    def change_constraint(self, job_uid: str, constraint: Constraint) -> None:
        self.calls.put(("constraint", job_uid, constraint.to_document()))

    def give_up(self, job_uid: str, landings: Collection[str]) -> None:
        self.calls.put(("give_up", job_uid, list(landings)))

    def stop(self, job_uid: str, reason: str) -> None:
        self.jobs.pop(job_uid, None)
        self.calls.put(("stop", job_uid, reason))

    def infos(self) -> tuple[JobInfo, ...]:
        return tuple(self.jobs.values())

    def runtimes(self) -> dict[str, dict[str, Any]]:
        found, self.measured = self.measured, {}
        return found

    def next(self, kind: str) -> tuple[Any, ...]:
        """Wait for a call of that kind; others before it are passed over."""
        while True:
            call = self.calls.get(timeout=TIMEOUT_S)
            if call[0] == kind:
                return call


class NodeEnd:
    """A node: its jobs, its notebook and its agent."""

    def __init__(
        self,
        channel: str,
        *,
        node_addr: str = ADDR,
        name: str = "gate-3",
        run: str = SESSION,
        spool: Path | None = None,
        jobs: NotedJobs | None = None,
        **options: Any,
    ) -> None:
        self.node_addr = node_addr
        self.jobs = jobs or NotedJobs()
        self.notebook = Notebook(run)
        ip = node_addr.rpartition(":")[0]
        self.view = view(address=ip)
        self.agent = Agent(
            channel,
            profile=Profile(node_addr, name, f"tcp://{ip}:5020", {0: wire.Video("traffic")}),
            view=lambda: self.view,
            notebook=self.notebook,
            jobs=self.jobs,
            spool=spool,
            **options,
        )

    def report(self, job_uid: str, *numbers: int) -> None:
        for number in numbers:
            document = wire.write_document({"count_result": {"total": number}, "frame_id": number})
            self.notebook.report_result(job_uid, number, document)

    def close(self) -> None:
        self.agent.close()
        self.notebook.close()

    def __enter__(self) -> NodeEnd:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class HandNode:
    """A node that says exactly what it is told to."""

    def __init__(self, channel: str, node_addr: str = ADDR, session: str = SESSION) -> None:
        self.node_addr, self.session, self.cloud = node_addr, session, "0" * 16
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.line = Requester(channel, context=self._context)

    def ask(self, message: wire.Message | bytes) -> Any:
        body = message if isinstance(message, bytes) else wire.encode(message)
        self.line.ask(body, now_ns=time.monotonic_ns(), timeout_s=TIMEOUT_S)
        return self.answer()

    def answer(self) -> Any:
        return wire.decode(until(lambda: self.line.take(time.monotonic_ns())))

    def join(self, **fields: Any) -> Any:
        values = {"videos": {0: wire.Video("traffic")}, "services": {TASK: wire.Offer()}, **fields}
        role = values.pop("role", "edge")
        answer = self.ask(wire.Join(self.node_addr, self.session, "gate-3", role, **values))
        if isinstance(answer, wire.Joined):
            self.cloud = answer.cloud
        return answer

    def report(self, number: int, *, view: int = 0, **fields: Any) -> Any:
        first = (self.node_addr, self.session, self.cloud, number, view)
        return self.ask(wire.Report(*first, time.monotonic_ns(), **fields))

    def orders(self, last: int = 0) -> list[Any]:
        """Ask until there are some."""
        while True:
            answer = self.ask(wire.Await(self.node_addr, self.session, self.cloud, last))
            assert isinstance(answer, wire.Orders)
            if answer.orders:
                return answer.orders

    def result(self, job_uid: str, number: int) -> wire.Result:
        document = wire.write_document({"count_result": {"total": number}, "frame_id": number})
        return wire.Result(job_uid, self.session, number, document)

    def close(self) -> None:
        self.line.close()
        self._context.term()

    def __enter__(self) -> HandNode:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@contextmanager
def cloud(folder: Path, channel: str = LOOPBACK, **settings: Any) -> Iterator[Controller]:
    """A controller with its records in a folder."""
    with (
        Store(folder / "records.db") as store,
        Controller(store, quick(channel, **settings)) as controller,
    ):
        yield controller


class Posted:
    """Stands where jobs and plans are posted."""

    def __init__(self) -> None:
        self.orders: list[Order] = []
        self.start = self.replan = self.stop = self.orders.append


def totals(store: Store, query_id: str) -> list[int]:
    """Return what was counted in the results that are recorded, in their order."""
    found = store.results(query_id, after=0, limit=10_000)
    return [record.read()["count_result"]["total"] for record in found]


def submit(controller: Controller, **fields: object) -> str:
    """Submit a query; return its id."""
    return controller.submit(request(**fields)).result(TIMEOUT_S)
