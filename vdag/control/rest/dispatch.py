"""`Dispatch`: posts orders to nodes that never ask, and asks them how their jobs do.

A few threads serve all nodes, each node by one of them at a time, so that one that does not answer
holds up no other. Orders are kept per job, the latest only: what waits is bounded by the jobs.

    controller --orders--> Dispatch --turns--> Contact --HTTP--> node
    controller <--events-- Contact
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from vdag.control.rest.contact import Contact, Listener
from vdag.control.scheduling.events import JobReported, QueryState
from vdag.control.scheduling.instructions import Order, SendPlan, StartJob, StopJob
from vdag.errors import ConfigError, VdagError
from vdag.threads import wait_ended

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Dispatch"]

logger = logging.getLogger(__name__)

#: Nodes that are served at the same time.
THREADS = 4
#: Jobs of one node that wait for its turn.
MAX_ORDERS = 1_024
JOIN_TIMEOUT_S = 10.0


@dataclass(slots=True, eq=False)
class _Entry:
    """A node and what waits for it.

    Attributes:
        contact: the node; for the thread whose turn it is.
        orders: the latest of each job.
        due_s: of its next turn.
        is_busy: a thread is at it.
    """

    contact: Contact
    orders: dict[str, Order] = field(default_factory=dict)
    due_s: float = 0.0
    is_busy: bool = False


class Dispatch:
    """A `delivery.Dispatching`; closed by `close` or a `with` block. Orders wait until `open`.

    Args:
        poll_s: between two looks at a node with jobs.
        timeout_s: for one request.
    """

    def __init__(self, *, poll_s: float = 2.0, timeout_s: float = 5.0) -> None:
        self._poll_s, self._timeout_s = poll_s, timeout_s
        self._changed = threading.Condition()
        self._early: list[Order] = []
        self._listener: Listener | None = None
        self._entries: dict[str, _Entry] = {}
        self._due: list[tuple[float, int, _Entry]] = []
        self._count = itertools.count()
        self._threads: list[threading.Thread] = []
        self._is_closing = False

    def open(self, listener: Listener) -> None:
        """Begin, and tell `listener` what comes of it."""
        with self._changed:
            self._listener = listener
            early, self._early = self._early, []
        for order in early:
            self._take(order)

    def start(self, order: StartJob) -> None:
        """Post a job, and its plan."""
        self._take(order)

    def replan(self, order: SendPlan) -> None:
        """Post a plan; one that was posted before is posted again."""
        self._take(order)

    def stop(self, order: StopJob) -> None:
        """Stop a job, if that node can."""
        self._take(order)

    def close(self) -> None:
        """Post nothing more; jobs go on. May be called again."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
            contacts = [entry.contact for entry in self._entries.values()]
        for contact in contacts:
            contact.abort()
        wait_ended(*self._threads, timeout_s=JOIN_TIMEOUT_S)
        for contact in contacts:
            contact.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _take(self, order: Order) -> None:
        """Keep an order for its node's next turn, which is now."""
        with self._changed:
            if self._is_closing:
                return
            if self._listener is None:
                self._early.append(order)
                return
            entry = self._entry(order.node_addr, self._listener)
            if entry is not None and _keep(entry.orders, order):
                self._schedule(entry, time.monotonic())
                self._want_thread()
                return
            listener = self._listener
        reason = f"node {order.node_addr} cannot be posted to"
        failed = JobReported(0, order.query_id, order.node_addr, QueryState.FAILED, reason)
        try:
            listener.tell(failed)
        except VdagError as err:
            logger.warning("%s: %s", reason, err)

    def _entry(self, node_addr: str, listener: Listener) -> _Entry | None:
        """Return what is known of a node, under the lock; None if that is no node."""
        entry = self._entries.get(node_addr)
        if entry is None:
            try:
                contact = Contact(
                    node_addr, listener, poll_s=self._poll_s, timeout_s=self._timeout_s
                )
            except ConfigError as err:
                logger.warning("no way to a node: %s", err)
                return None
            entry = self._entries[node_addr] = _Entry(contact)
        return entry

    def _schedule(self, entry: _Entry, due_s: float) -> None:
        """Have a node's next turn at a time; under the lock."""
        entry.due_s = due_s
        if not entry.is_busy:
            heapq.heappush(self._due, (due_s, next(self._count), entry))
            self._changed.notify()

    def _want_thread(self) -> None:
        if len(self._threads) >= min(THREADS, len(self._entries)):
            return
        name = f"vdag-dispatch-{len(self._threads)}"
        thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    # From here on everything runs on the threads.

    def _run(self) -> None:
        while (found := self._next()) is not None:
            entry, orders = found
            try:
                entry.contact.turn(orders)
            except Exception:  # a fault of ours: other nodes are served on
                logger.exception("a turn of node %s has failed", entry.contact.node_addr)
            self._put_back(entry)

    def _next(self) -> tuple[_Entry, dict[str, Order]] | None:
        """Wait for a node whose turn it is; None when it is time to end."""
        with self._changed:
            while not self._is_closing:
                while self._due and (self._due[0][2].is_busy or self._is_void(self._due[0])):
                    heapq.heappop(self._due)
                wait_s = self._due[0][0] - time.monotonic() if self._due else None
                if wait_s is None or wait_s > 0:
                    self._changed.wait(wait_s)
                    continue
                entry = heapq.heappop(self._due)[2]
                entry.is_busy = True
                orders, entry.orders = entry.orders, {}
                return entry, orders
        return None

    @staticmethod
    def _is_void(item: tuple[float, int, _Entry]) -> bool:
        return item[2].due_s != item[0]

    def _put_back(self, entry: _Entry) -> None:
        """Say when a node's next turn is, or forget a node with which all is done."""
        contact = entry.contact
        with self._changed:
            entry.is_busy = False
            if entry.orders:
                self._schedule(entry, time.monotonic())
            elif contact.is_idle:
                del self._entries[contact.node_addr]
                contact.close()
            else:
                wait_s = contact.pause_s if contact.is_lost else self._poll_s
                self._schedule(entry, time.monotonic() + wait_s)


def _keep(orders: dict[str, Order], order: Order) -> bool:
    """Put an order in place of what waits for the same job; False if there are too many."""
    before = orders.get(order.query_id)
    if before is None and len(orders) >= MAX_ORDERS:
        return False
    if isinstance(order, SendPlan) and isinstance(before, StartJob):
        query = order.applied_to(before.query)
        order = replace(before, query=query, plan=order.plan, routes=order.routes)
    orders[order.query_id] = order
    return True
