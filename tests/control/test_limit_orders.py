"""Limits of plans from the controller to the nodes, and what becomes of them on the way."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from channel_kit import ADDR, TASK, TIMEOUT_S, NodeEnd, cloud, request, until

from vdag.control import agent as agent_module
from vdag.control.agent.notebook import Notebook
from vdag.control.controller import Controller
from vdag.control.records import Store
from vdag.control.scheduling.events import QueryState
from vdag.control.service.plan_limits import PlanLimits
from vdag.errors import LimitsUnavailable
from vdag.plan import ResourceLimit

OTHER = "10.0.0.8:5001"
HALF = ResourceLimit(0.5)
CONF = {"resolution": "360p", "fps": 1, "encoder": "JPEG"}


class Node:
    """A node's end of the channel, with limits that bind nothing."""

    def __init__(self, channel: str, node_addr: str = ADDR, **options: Any) -> None:
        self.bound: queue.Queue[tuple[str, ResourceLimit | None]] = queue.Queue()
        self.error: Exception | None = None
        self.limits = PlanLimits(self._bind)
        self._channel, self._node_addr, self._options = channel, node_addr, options
        self.open()

    def _bind(self, task: str, limit: ResourceLimit | None) -> None:
        self.bound.put((task, limit))
        if self.error is not None:
            raise self.error

    def open(self) -> None:
        self.end = NodeEnd(
            self._channel, node_addr=self._node_addr, limits=self.limits, **self._options
        )
        until(lambda: self.end.agent.stats().is_joined)

    def next(self) -> tuple[str, ResourceLimit | None]:
        return self.bound.get(timeout=TIMEOUT_S)

    def close(self) -> None:
        self.end.close()
        self.limits.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "ANSWER_TIMEOUT_S", 0.4)


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    with cloud(tmp_path) as controller:
        yield controller
        assert controller.stats().faults == 0


@pytest.fixture
def nodes() -> Iterator[Callable[..., Node]]:
    made: list[Node] = []

    def make(*arguments: Any, **options: Any) -> Node:
        made.append(Node(*arguments, **options))
        return made[-1]

    yield make
    for node in made:
        node.close()


def run(
    controller: Controller, limit: dict[str, Any] | None, where: str = ADDR, owner: str = ADDR
) -> str:
    """Submit a query and have it run under a plan with a limit."""
    query_id = controller.submit(request(owner)).result(TIMEOUT_S)
    plan(controller, query_id, limit, where)
    until(lambda: controller.query(query_id).state == QueryState.RUNNING)
    return query_id


def plan(
    controller: Controller, query_id: str, limit: dict[str, Any] | None, where: str = ADDR
) -> None:
    documents = {
        "video_conf": CONF,
        "flow_mapping": {TASK: {"node_addr": where, "model_id": 2}},
        "resource_limit": limit,
    }
    controller.prefer_plan(query_id, documents)


def of(cpu: float) -> dict[str, Any]:
    return {TASK: {"cpu_util_limit": cpu}}


def test_a_limit_reaches_the_node_and_is_lifted_with_the_query(controller, nodes):
    node = nodes(controller.channel)
    query_id = run(controller, of(0.5))
    assert node.next() == (TASK, HALF)
    plan(controller, query_id, of(0.25))
    assert node.next() == (TASK, ResourceLimit(0.25))
    controller.stop(query_id).result(TIMEOUT_S)
    assert node.next() == (TASK, None)


def test_a_limit_reaches_another_node_than_the_jobs(controller, nodes):
    owner, other = nodes(controller.channel), nodes(controller.channel, OTHER, run="f" * 16)
    query_id = run(controller, of(0.5), OTHER)
    assert other.next() == (TASK, HALF)
    plan(controller, query_id, of(0.5), ADDR)
    assert other.next() == (TASK, None)
    assert owner.next() == (TASK, HALF)


def test_a_node_that_cannot_limit_is_a_fault_of_the_query_which_goes_on(
    controller, nodes, tmp_path
):
    node = nodes(controller.channel)
    node.error = LimitsUnavailable("control groups are read only")
    query_id = run(controller, of(0.5))
    text = f"node {ADDR} cannot limit task {TASK}: control groups are read only"
    with Store(tmp_path / "records.db") as store:
        until(lambda: (found := store.query(query_id)) is not None and found.fault == text)
    assert controller.query(query_id).state == QueryState.RUNNING


def test_a_node_that_does_no_tasks_cannot_limit_any(controller, tmp_path):
    with NodeEnd(controller.channel) as node, Store(tmp_path / "records.db") as store:
        until(lambda: node.agent.stats().is_joined)
        query_id = run(controller, of(0.5))
        text = f"node {ADDR} cannot limit task {TASK}: this node does no tasks"
        until(lambda: (found := store.query(query_id)) is not None and found.fault == text)


def test_a_node_that_joins_again_is_told_what_it_does_not_have(controller, nodes):
    node = nodes(controller.channel)
    query_id = run(controller, of(0.5))
    assert node.next() == (TASK, HALF)
    jobs = node.end.jobs
    node.end.close()
    plan(controller, query_id, of(0.25))
    node._options = {"run": "e" * 16, "jobs": jobs}
    node.open()
    assert node.next() == (TASK, ResourceLimit(0.25))


def test_a_limit_outlives_the_controller_and_ends_when_the_query_does(nodes, tmp_path):
    with cloud(tmp_path) as controller:
        channel = controller.channel
        node = nodes(channel)
        query_id = run(controller, of(0.5))
        assert node.next() == (TASK, HALF)
        joins = node.end.agent.stats().joins
    with cloud(tmp_path, channel) as controller:
        until(lambda: node.end.agent.stats().joins > joins)
        assert node.limits.ordered() == {TASK: HALF}
        assert node.bound.empty(), "it has it still"
        controller.stop(query_id).result(TIMEOUT_S)
        assert node.next() == (TASK, None)


def test_a_refusal_is_noted_until_the_controller_knows_it_and_again_for_another_one():
    notebook = Notebook("0" * 16)
    notebook.report_limit(TASK, "no rights")
    assert notebook.refused() == notebook.refused() == {TASK: "no rights"}
    notebook.told_refused({TASK: "no rights"})
    assert notebook.refused() == {}
    notebook.forget()
    assert notebook.refused() == {TASK: "no rights"}
    notebook.told_refused({TASK: "no rights"})
    notebook.report_limit(TASK, "")
    assert notebook.refused() == {TASK: ""}
    notebook.forget()
    assert notebook.refused() == {}, "another controller need not know what is well"
    notebook.report_limit(TASK, "x" * 5_000)
    assert notebook.refused() == {TASK: "x" * 2_000}
    notebook.close()
