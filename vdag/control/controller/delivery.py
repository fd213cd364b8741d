"""`Delivery`: the way of an order to its node, whatever that speaks."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Protocol

from vdag.control import wire
from vdag.control.controller.foreigners import Foreigners
from vdag.control.controller.membership import Membership
from vdag.control.scheduling.instructions import LimitTask, Order, SendPlan, StartJob, StopJob

__all__ = ["Delivery", "Dispatching"]

logger = logging.getLogger(__name__)


class Dispatching(Protocol):
    """Who posts jobs and plans to nodes that speak only REST; must not block."""

    def start(self, order: StartJob) -> None:
        """Post a job, and its plan."""

    def replan(self, order: SendPlan) -> None:
        """Post a plan."""

    def stop(self, order: StopJob) -> None:
        """Stop a job, if that node can."""


class Delivery:
    """See above; for one thread.

    Args:
        members: nodes of the plan channel; orders go into their books.
        foreigners: the others. Those that ask for their work find it in the register.
        dispatch: for those that are pushed to; None if there is nobody to do it.
    """

    def __init__(
        self, members: Membership, foreigners: Foreigners, dispatch: Dispatching | None = None
    ) -> None:
        self._members, self._foreigners, self._dispatch = members, foreigners, dispatch

    def send(self, order: Order) -> None:
        """Have an order reach its node; for a node that is not known it is passed over.

        Raises:
            FrameFormatError: it is too large for the plan channel.
        """
        member = self._members.get(order.node_addr)
        foreign = self._foreigners.get(order.node_addr)
        if foreign is not None:
            if foreign.dialect == "push" and self._dispatch is not None:
                _push(self._dispatch, order)
        elif member is None:
            logger.debug("no way to %s for an order", order.node_addr)
        elif isinstance(order, StopJob):
            member.orders.stop(order.query_id, order.reason)
        elif isinstance(order, SendPlan):
            names = self._names(order.routes)
            constraint = b""
            if order.constraint is not None:
                constraint = wire.write_document(order.constraint.to_document())
            member.orders.replan(
                order.query_id, order.plan, order.routes, names, order.lost, constraint=constraint
            )
        else:
            member.orders.start(_start_order(order, self._names(order.routes)))

    def limit(self, order: LimitTask) -> None:
        """Have a node limit a task; only those of the plan channel are told, see `LimitBook`."""
        member = self._members.get(order.node_addr)
        if member is not None:
            member.orders.limit(order.task, order.limit)

    def _names(self, routes: Mapping[str, str]) -> dict[str, str]:
        """Return the names of the nodes at these landings, as keys know them."""
        wanted = set(routes.values())
        return {
            member.join.landing: member.join.name
            for member in self._members
            if member.join.landing in wanted and member.join.name
        }


def _push(dispatch: Dispatching, order: Order) -> None:
    if isinstance(order, StartJob):
        dispatch.start(order)
    elif isinstance(order, SendPlan):
        dispatch.replan(order)
    else:
        dispatch.stop(order)


def _start_order(order: StartJob, names: Mapping[str, str]) -> wire.StartJob:
    query = order.query
    return wire.StartJob(
        1,
        query.query_id,
        query.video_id,
        wire.write_document(query.graph.to_dag()),
        wire.write_document(query.constraint.to_document()),
        order.plan,
        dict(order.routes),
        dict(names),
    )
