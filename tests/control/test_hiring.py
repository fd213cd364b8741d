"""Tasks that nodes are ordered to do, over the plan channel, by whoever holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from channel_kit import ADDR, SESSION, HandNode, quick, until

from vdag.control import wire
from vdag.control.controller import Controller
from vdag.control.records import Store

TIMEOUT_S = 30.0


class Cloud:
    """A controller, and what is asked of its hiring."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller

    def ask(self, name: str, *arguments: Any) -> Any:
        work = self.controller.call(
            lambda conductor, _: getattr(conductor.hiring, name)(*arguments)
        )
        return work.result(TIMEOUT_S)


@pytest.fixture
def cloud(store: Store) -> Iterator[Cloud]:
    with Controller(store, quick(spared=["spared"])) as controller:
        yield Cloud(controller)


@pytest.fixture
def come(cloud: Cloud) -> Iterator[Callable[..., HandNode]]:
    """Have a node join."""
    with ExitStack() as stack:

        def join(session: str = SESSION, **fields: Any) -> HandNode:
            found = HandNode(cloud.controller.channel, session=session)
            stack.callback(found.close)
            found.join(**fields)
            return found

        yield join


@pytest.fixture
def node(come: Callable[..., HandNode]) -> HandNode:
    return come()


def opening(order: Any) -> tuple[str, int]:
    assert isinstance(order, wire.OpenTask)
    return order.task, order.workers


def test_a_task_is_ordered_when_it_is_held_first_and_closed_when_nobody_holds_it(cloud, node):
    cloud.ask("hold", ADDR, ["encode"], "one")
    cloud.ask("hold", ADDR, ["encode"], "two")
    (order,) = node.orders()
    assert opening(order) == ("encode", 1)
    assert cloud.ask("answer", ADDR, ["encode"]) is None
    node.report(1, opened=[wire.Opened("encode", order.number)])
    assert cloud.ask("answer", ADDR, ["encode"]) == ""
    cloud.ask("let_go", "one")
    assert cloud.ask("held", "two") == {ADDR: {"encode"}}
    cloud.ask("let_go", "two")
    (order,) = node.orders(order.number)
    assert opening(order) == ("encode", 0)


def test_a_reason_is_the_answer_and_another_try_is_another_order(cloud, node):
    cloud.ask("hold", ADDR, ["detect"], "one")
    (first,) = node.orders()
    node.report(1, opened=[wire.Opened("detect", first.number, "no such model")])
    assert cloud.ask("answer", ADDR, ["detect"]) == "no such model"
    cloud.ask("hold", ADDR, ["detect"], "two")
    (second,) = node.orders(first.number)
    assert second.number > first.number
    assert cloud.ask("answer", ADDR, ["detect"]) is None  # what was said was about another order


def test_what_is_kept_is_not_let_go(cloud, node):
    cloud.ask("hold", ADDR, ["encode", "resize"], "one")
    last = max(order.number for order in node.orders())
    cloud.ask("let_go", "one", {ADDR: ["resize"]})
    assert [opening(order) for order in node.orders(last)] == [("encode", 0)]


def test_a_node_that_joins_anew_is_told_what_it_is_to_do_and_what_not(cloud, node, come):
    cloud.ask("hold", ADDR, ["encode"], "one")
    again = come("fedcba9876543210", openings={"left": 1, "spared": 1})
    found = {opening(order) for order in again.orders()}
    assert found == {("encode", 1), ("left", 0)}


def test_a_node_that_is_not_there_is_away_and_is_told_when_it_comes(cloud, come):
    cloud.ask("hold", ADDR, ["encode"], "one")
    assert cloud.ask("answer", ADDR, ["encode"]) == f"node {ADDR} is away"
    node = come()
    assert [opening(order) for order in node.orders()] == [("encode", 1)]
    until(lambda: cloud.ask("answer", ADDR, ["encode"]) is None)
