"""`Recorder`: what the controller writes down, in the order in which it happened.

The store takes no more than it has room for. How queries stand and which plans they have must not
be lost for that: it waits here until there is room. Results are refused instead, and their node
sends them again.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from vdag.control import wire
from vdag.control.controller.backlog import Backlog
from vdag.control.controller.chronicle import Chronicle
from vdag.control.controller.membership import Membership
from vdag.control.desk import QueryRequest, QueryView
from vdag.control.records import ForeignNode, FrameResult, NewQuery, QueryRecord, Store, read_frame
from vdag.control.scheduling.events import QueryInfo, QueryRestored, QueryState
from vdag.control.scheduling.instructions import RecordFault, RecordPlan, RecordState
from vdag.errors import VdagError
from vdag.graph import Graph
from vdag.plan import Constraint, Plan

__all__ = ["Recorder"]

logger = logging.getLogger(__name__)

#: A name that no query has.
NOBODY = ""


class Recorder:
    """See above; for one thread.

    Args:
        store: the caller's; it outlives the recorder.
        members: nodes of the plan channel.

    Attributes:
        chronicle: what is recorded of sessions, placements and packets.
        known: ids of all queries there are records of.
        malformed: results that make no sense.
    """

    def __init__(self, store: Store, members: Membership) -> None:
        self._store = store
        self._backlog = Backlog()
        self.chronicle = Chronicle(store.journal, members)
        self.known: set[str] = set()
        self.malformed = 0

    @property
    def is_behind(self) -> bool:
        """Whether changes wait for room in the store."""
        return bool(self._backlog) or self.chronicle.is_behind

    def restore(self, now_ns: int) -> Iterator[tuple[QueryView, QueryRestored]]:
        """Yield the queries that are not over, oldest first; broken ones have failed from now on.

        Raises:
            Saturated: the records cannot be read.
        """
        for record in self._store.queries():
            self.known.add(record.query_id)
            if record.is_over:
                continue
            try:
                # Its node has to join first.
                view = replace(QueryView.of_record(record), suspended=True)
                event = _restored(record, now_ns)
            except VdagError as err:
                logger.error("%s cannot go on: %s", record.query_id, err)
                self._store.set_state(record.query_id, QueryState.FAILED, str(err))
                continue
            self.chronicle.begin(record.query_id, view.graph, view.video_id, view.policy)
            yield view, event

    def add(self, request: QueryRequest, policy: str) -> Future[str]:
        """Record a query; the result is its id.

        Raises:
            Saturated: there is no room.
        """
        plan = None if request.plan is None else request.plan.to_documents()
        return self._store.add_query(
            NewQuery(
                request.node_addr,
                request.video_id,
                request.graph.to_dag(),
                request.constraint.to_document(),
                policy,
                request.form,
                plan,
            )
        )

    def begin(self, query_id: str, request: QueryRequest, policy: str) -> None:
        """Take note that a query has been recorded, with its id."""
        self.known.add(query_id)
        self.chronicle.begin(query_id, request.graph, request.video_id, policy)

    def state(self, record: RecordState) -> None:
        """Record how a query stands."""
        self.chronicle.state(
            record.query_id, record.state, record.reason, suspended=record.suspended
        )
        self._put(
            lambda: self._store.set_state(
                record.query_id, int(record.state), record.reason, suspended=record.suspended
            )
        )

    def plan(self, record: RecordPlan) -> None:
        """Record a plan."""
        documents = record.plan.to_documents()
        number = record.plan.number
        self.chronicle.plan(record.query_id, number, record.cause)
        self._put(lambda: self._store.add_plan(record.query_id, number, documents, record.cause))

    def decision(self, query_id: str, document: Mapping[str, Any]) -> None:
        """Record why a query has the plan of that `number`."""
        self._put(lambda: self._store.set_decision(query_id, document["number"], document))

    def fault(self, record: RecordFault) -> None:
        """Record what went wrong without ending a query."""
        self._put(lambda: self._store.set_fault(record.query_id, record.what))

    def constraint(self, query_id: str, document: Mapping[str, Any]) -> None:
        """Record another constraint."""
        self._put(lambda: self._store.set_constraint(query_id, document))

    def forget(self, query_id: str) -> Future[bool]:
        """Forget a query and all that was recorded of it; the result is whether it was there.

        Raises:
            Saturated: there is no room.
        """
        self.flush()
        self.known.discard(query_id)
        forgotten = self._store.forget(query_id)
        self.chronicle.forget(query_id)
        return forgotten

    def foreigner(self, node: ForeignNode) -> None:
        """Record a node that speaks only the documented REST."""
        self._put(lambda: self._store.foreigners.keep(node))

    def forget_foreigner(self, node_addr: str) -> None:
        """Record it no more."""
        self._put(lambda: self._store.foreigners.forget(node_addr))

    def foreigners(self) -> list[ForeignNode]:
        """Return the nodes of that kind that are recorded.

        Raises:
            Saturated: the records cannot be read.
        """
        return self._store.foreigners.all()

    def flush(self) -> None:
        """Record what has waited, as far as there is room now."""
        self._backlog.flush()
        self.chronicle.flush()

    def results(
        self, results: Sequence[wire.Result], drops: Sequence[wire.Drops]
    ) -> Future[Any] | None:
        """Record what jobs found and lost; what is about no query is left out.

        Returns:
            A future that is resolved when all of it is committed; None if there is nothing to do.

        Raises:
            Saturated: there is no room for all of it; the same may be tried again.
        """
        is_any = False
        for (job_uid, run), group in itertools.groupby(
            results, key=lambda each: (each.job_uid, each.run)
        ):
            frames = [frame for each in group if (frame := self._read(each)) is not None]
            if frames and job_uid in self.known:
                self._store.add_results(job_uid, frames, run=run)
                is_any = True
        for each in drops:
            if each.job_uid in self.known:
                self._store.set_dropped(each.job_uid, {each.reason: each.count}, run=each.run)
                is_any = True
        # What is asked for last is committed last: to forget nobody is to wait for all of it.
        return self._store.forget(NOBODY) if is_any else None

    def _read(self, result: wire.Result) -> FrameResult | None:
        try:
            document = wire.read_document(result.document)
            return read_frame({**document, "n_loop": result.seq})
        except VdagError as err:
            self.malformed += 1
            logger.debug("result %d of %s left out: %s", result.seq, result.job_uid, err)
            return None

    def _put(self, write: Callable[[], object]) -> None:
        self._backlog.put(write)


def _restored(record: QueryRecord, now_ns: int) -> QueryRestored:
    asked, graph = record.asked, Graph.from_dag(record.asked.dag)
    info = QueryInfo(
        record.query_id,
        asked.node_addr,
        asked.video_id,
        graph,
        Constraint.from_document(asked.constraint),
        asked.policy,
        None if asked.plan is None else Plan.read(graph.tasks, asked.plan, number=0),
    )
    plan = None
    if record.plan is not None:
        plan = Plan.read(graph.tasks, record.plan.documents, number=record.plan.number)
    return QueryRestored(now_ns, info, QueryState(record.state), plan, record.next_number)
