"""`Carrying`: what becomes of the scheduler's instructions."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from typing import Any

from vdag.control.advisers import Advisers
from vdag.control.controller.decisions import Decisions
from vdag.control.controller.delivery import Delivery
from vdag.control.controller.recorder import Recorder
from vdag.control.controller.register import Register
from vdag.control.scheduling.events import Event, JobReported, PlanProposed, QueryState
from vdag.control.scheduling.instructions import (
    AskPolicy,
    Instruction,
    LimitTask,
    Order,
    RecordDecision,
    RecordFault,
    RecordPlan,
    RecordState,
)
from vdag.errors import FrameFormatError

__all__ = ["Carrying"]

logger = logging.getLogger(__name__)


class Carrying:
    """See above; for one thread.

    Args:
        delivery: takes orders to nodes.
        advisers: make plans.
        recorder: writes down.
        register: shows queries.
        decisions: why queries have their plans.

    Attributes:
        preferred: plans from outside, which answer the next question about their queries.
    """

    def __init__(
        self,
        delivery: Delivery,
        advisers: Advisers,
        recorder: Recorder,
        register: Register,
        decisions: Decisions,
    ) -> None:
        self._delivery, self._advisers = delivery, advisers
        self._recorder, self._register, self._decisions = recorder, register, decisions
        self.preferred: dict[str, Mapping[str, Any]] = {}

    def carry_out(self, order: Instruction, now_ns: int, todo: deque[Event]) -> None:
        """Do what an instruction says; what has happened by that is put into `todo`."""
        if isinstance(order, LimitTask):
            self._delivery.limit(order)
        elif isinstance(order, Order):
            try:
                self._delivery.send(order)
            except FrameFormatError as err:
                reason = f"it cannot be ordered: {err}"
                failed = QueryState.FAILED
                todo.append(JobReported(now_ns, order.query_id, order.node_addr, failed, reason))
        elif isinstance(order, AskPolicy):
            documents = self.preferred.pop(order.query_id, None)
            if documents is None:
                todo.extend(self._advisers.ask(order, now_ns))
            else:
                todo.append(_proposal(order, documents, now_ns))
        elif isinstance(order, RecordState):
            self._recorder.state(order)
            self._register.change(
                order.query_id,
                state=int(order.state),
                reason=order.reason,
                suspended=order.suspended,
            )
            if order.state.is_final:
                self._decisions.end(order.query_id)
        elif isinstance(order, RecordPlan):
            self._recorder.plan(order)
            documents = {**order.plan.to_documents(), "number": order.plan.number}
            self._register.change(order.query_id, plan=documents)
        elif isinstance(order, RecordDecision):
            self._decisions.take(order, now_ns)
        elif isinstance(order, RecordFault):
            logger.warning("%s: %s", order.query_id, order.what)
            self._recorder.fault(order)


def _proposal(order: AskPolicy, documents: Mapping[str, Any], now_ns: int) -> PlanProposed:
    return PlanProposed(
        now_ns,
        order.query_id,
        order.round,
        documents.get("video_conf"),
        documents.get("flow_mapping"),
        documents.get("resource_limit"),
    )
