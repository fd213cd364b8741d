"""The ways out of an exchange: home to a job, on to another node, or dropped; each is counted.

A job's home is where its descriptors come back to. Only homes of jobs that have joined, in the
exchange's own folder, are ever connected to: a route, which may come from anywhere, cannot make an
exchange open a socket. A job of another node is a guest; its home is where an edge leads.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from vdag.errors import ConfigError, VdagError
from vdag.transport import codec, messages
from vdag.transport.books import Books, Reason
from vdag.transport.outbox import Outbox
from vdag.transport.shelf import Held

if TYPE_CHECKING:
    from vdag._native.header import Header
    from vdag._native.ring import View

__all__ = ["Edge", "Exits"]

logger = logging.getLogger(__name__)

#: Jobs that may have joined at a time; beyond, the one silent for longest is taken for dead.
MAX_JOBS = 256
#: Jobs of other nodes that may have joined at a time; beyond, none is taken in.
MAX_GUESTS = 1024


class Edge(Protocol):
    """The way to another node's exchange."""

    def send(self, part: bytes, view: View | None) -> bool:
        """Take a message over, without waiting.

        Args:
            part: a descriptor, or a control message, which travels as it is.
            view: the lease on the pixels of a descriptor of the kind slot; it is the edge's from
                now on, which releases it when the pixels have been encoded.

        Returns:
            False if the edge is full: then it has taken nothing.

        Raises:
            VdagError: the edge is closed or has failed, or such a message cannot go there; nothing
                was taken.
        """
        ...

    def close(self) -> None:
        """End it; the exchange never does."""
        ...


class Exits:
    """Jobs, edges, and the books of what left; one thread at a time.

    Args:
        address: of this exchange, for notices; homes are in the same folder.
        edges: address to the edge that leads there, looked at for every frame.
        outbox: for messages to jobs.
        books: to count in.
        keep: takes over a poisoned frame, with the reason; releases it.
    """

    def __init__(
        self,
        address: str,
        *,
        edges: Mapping[str, Edge],
        outbox: Outbox,
        books: Books,
        keep: Callable[[Held, str], None],
    ) -> None:
        self.jobs: OrderedDict[str, messages.Join] = OrderedDict()
        self.guests: dict[str, messages.Join] = {}
        self._address = address
        self._folder = Path(address.partition("://")[2]).parent
        self._edges = edges
        self._outbox = outbox
        self._books = books
        self._keep = keep

    def join(self, join: messages.Join) -> messages.Join | None:
        """Open the way home for a job; return what it said when it joined before.

        Raises:
            ConfigError: its home is elsewhere, and no edge leads there.
            TransportError: there is no socket for it.
        """
        if join.home in self._edges:
            return self._welcome(join)
        path = Path(join.home.partition("://")[2])
        if not join.home.startswith("ipc://") or path.parent != self._folder:
            raise ConfigError(f"home {join.home} is not in {self._folder}")
        self._outbox.open(join.home)
        old = self.jobs.get(join.job)
        self.jobs[join.job] = join
        if old is not None:
            self._shut(old.home)
        return old

    def _welcome(self, join: messages.Join) -> messages.Join | None:
        if join.job in self.jobs:
            raise ConfigError(f"job {join.job} is of this node")
        if len(self.guests) >= MAX_GUESTS and join.job not in self.guests:
            raise ConfigError(f"{MAX_GUESTS} jobs of other nodes are the limit")
        old = self.guests.get(join.job)
        self.guests[join.job] = join
        return old

    def has_joined(self, job: str) -> bool:
        """Say whether a job is known, of this node or of another."""
        return job in self.jobs or job in self.guests

    def graph_of(self, job: str) -> bytes:
        """Return the graph of a job, empty if it is not known."""
        join = self.jobs.get(job) or self.guests.get(job)
        return b"" if join is None else join.graph

    def leave(self, job: str) -> None:
        """Close the way home; the job must have joined."""
        if self.guests.pop(job, None) is None:
            self._shut(self.jobs.pop(job).home)

    def surplus(self) -> str | None:
        """Return the job to be forgotten because there are too many, or None."""
        return next(iter(self.jobs)) if len(self.jobs) > MAX_JOBS else None

    def leads_home(self, job: str, route: tuple[codec.Hop, ...]) -> bool:
        """Say whether a frame could go home from here, and note that its job is alive."""
        if job in self.jobs:
            self.jobs.move_to_end(job)
            return True
        return route[-1].endpoint in self._edges

    def bring_home(self, held: Held) -> None:
        """Send a frame that is through home, without its pixels."""
        join = self.jobs.get(held.job)
        edge = self._edges.get(held.here.endpoint)
        part = held.part_without_pixels()
        if join is not None:
            if self._outbox.send(join.home, part):
                self._books.home += 1
                held.release()
            else:
                self.drop(held, "peer_full", f"job {held.job} does not take its results")
        elif edge is not None:
            if self._hand_over(held, edge, part, None):
                held.release()
        else:
            self.drop(held, "cancelled", f"job {held.job} has left")

    def send_on(self, held: Held) -> None:
        """Hand a frame to the edge that leads to its next hop."""
        edge = self._edges.get(held.here.endpoint)
        if edge is None:
            self.drop(held, "unreachable", f"no edge leads to {held.here.endpoint}")
        elif self._hand_over(held, edge, held.part(), held.view):
            held.view = None  # it is the edge's now

    def _hand_over(self, held: Held, edge: Edge, part: bytes, view: View | None) -> bool:
        """Give an edge a frame; one that it does not take is dropped."""
        try:
            is_taken = edge.send(part, view)
        except VdagError as err:
            self.drop(held, "unreachable", f"edge to {held.here.endpoint}: {err}")
            return False
        if is_taken:
            self._books.peer += 1
        else:
            self.drop(held, "peer_full", f"edge to {held.here.endpoint} is full")
        return is_taken

    def drop(self, held: Held, reason: Reason, detail: str = "") -> None:
        """Count a frame as dropped, tell its job, and let go of it."""
        self.count_drop(held.job, held.header, held.route, reason, detail)
        if reason == "poison":
            self._keep(held, detail)
        else:
            held.release()

    def count_drop(
        self,
        job: str,
        header: Header,
        route: tuple[codec.Hop, ...],
        reason: Reason,
        detail: str,
    ) -> None:
        """Count a frame as dropped that is not on the shelf, and tell its job."""
        self._books.dropped[reason] += 1
        notice = messages.Dropped(
            job=job,
            stream=header.stream,
            seq=header.seq,
            plan=header.plan,
            task=route[header.hop].task,
            reason=reason,
            where=self._address,
            detail=messages.clip(detail),
        )
        edge = None if job in self.jobs else self._edges.get(route[-1].endpoint)
        if edge is None:
            self.tell(job, notice)
            return
        try:
            self._books.unsent += not edge.send(messages.encode(notice), None)
        except VdagError as err:
            self._books.unsent += 1
            logger.debug("notice of a dropped frame not sent: %s", err)

    def tell(self, job: str, message: messages.Message) -> None:
        """Send a job a message; what cannot be sent is counted."""
        join = self.jobs.get(job)
        if join is None or not self._outbox.send(join.home, messages.encode(message)):
            self._books.unsent += 1

    def _shut(self, home: str) -> None:
        if all(join.home != home for join in self.jobs.values()):
            self._outbox.shut(home)
