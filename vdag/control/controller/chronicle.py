"""`Chronicle`: sessions, placements and packets of queries, as the controller writes them down.

Each query has a session. Its handlers are the source, the tasks in the order of the graph, and the
sink. They are where the plan that the job follows has them, by the node's own word: a plan is in
force when the node says so, not when it is sent.

What became of every frame, and how nodes and their workers are, nodes say by `wire.Log`. That is
recorded whole or not at all, and the node is told when it is; so while there is no room, it waits
at the nodes. How sessions stand and where they are must not be lost, and waits here.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from vdag.control import wire
from vdag.control.controller.backlog import Backlog
from vdag.control.controller.membership import Member, Membership, ip_of
from vdag.control.records import (
    Entry,
    Handler,
    Journal,
    NewSession,
    NodeLook,
    NodePlace,
    Passage,
    Report,
    Stored,
    read_query_id,
    read_report,
)
from vdag.control.scheduling.events import QueryState
from vdag.control.wire_log import read_columns
from vdag.errors import ChannelClosed, ConfigError, FrameFormatError, Saturated
from vdag.graph import Graph

__all__ = ["Chronicle", "ChronicleStats"]

logger = logging.getLogger(__name__)

#: A clock that is further ahead than that is wrong.
MAX_AHEAD_NS = 86_400_000_000_000
MAX_TEXT = 255
MAX_POLICY = 45
#: Words of the table, by states of queries that have one.
STATES = {
    QueryState.RUNNING: "running",
    QueryState.ENDED: "stopped",
    QueryState.FAILED: "failed",
}


@dataclass(frozen=True, slots=True)
class ChronicleStats:
    """What nodes have had for the records.

    Attributes:
        logs: that were handed on to be recorded.
        frames: likewise, in them.
        malformed: parts that make no sense.
        given_up: logs that could not be recorded, whatever was tried.
        lost: frames that nodes had no room for.
        waiting: changes of sessions that wait for room.
    """

    logs: int
    frames: int
    malformed: int
    given_up: int
    lost: int
    waiting: int


@dataclass(slots=True)
class _Session:
    """What is known of a query's session.

    Attributes:
        tasks: of its graph.
        cause: of its newest plan, with the number of that plan.
        text: why it is where it is.
        home: name of the node that it is on; empty for none.
        routes: task to the landing where it is, if that is elsewhere.
        at: landings, or the name of the home, each with a task that is there.
    """

    tasks: tuple[str, ...]
    cause: tuple[int, str] = (0, "")
    text: str = ""
    home: str = ""
    routes: Mapping[str, str] = field(default_factory=dict)
    at: list[tuple[str, str]] = field(default_factory=list)


class Chronicle:
    """See above; for one thread.

    Args:
        journal: of the records.
        members: nodes of the plan channel.
        clock: seconds since the epoch, in ns: the one of all records.
    """

    def __init__(
        self,
        journal: Journal,
        members: Membership,
        *,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._journal, self._members, self.clock = journal, members, clock
        self._backlog = Backlog()
        self._sessions: dict[str, _Session] = {}
        # Queries and tasks, by what is in `_Session.at`: who lands there may join later.
        self._at: dict[str, set[tuple[str, str]]] = {}
        self._strangers: dict[str, set[str]] = {}  # queries, by landings of nobody who has joined
        self._landings: dict[str, Member] = {}
        self._writing: dict[str, tuple[str, Future[Stored]]] = {}
        self._lost: dict[str, tuple[str, int]] = {}
        self._lost_count = self._logs = self._frames = self._malformed = self._given_up = 0

    @property
    def is_behind(self) -> bool:
        """Whether changes wait for room in the store."""
        return bool(self._backlog)

    def stats(self) -> ChronicleStats:
        """Return what nodes have had for the records."""
        return ChronicleStats(
            self._logs,
            self._frames,
            self._malformed,
            self._given_up,
            self._lost_count,
            len(self._backlog),
        )

    def flush(self) -> None:
        """Record what has waited, as far as there is room now."""
        self._backlog.flush()

    # Sessions.

    def begin(self, query_id: str, graph: Graph, video_id: int, policy: str) -> None:
        """Record the session of a query, unless it has one."""
        self._sessions[query_id] = _Session(graph.tasks)
        names = (f"video {video_id}", *graph.tasks, "sink")
        new = NewSession(
            query_id,
            " > ".join(graph.tasks)[:MAX_TEXT],
            [Handler(number, name) for number, name in enumerate(names)],
            read_query_id(query_id),
            policy[:MAX_POLICY],
        )
        self._backlog.put(lambda: self._journal.open(new))

    def plan(self, query_id: str, number: int, cause: str) -> None:
        """Take note of why a query has a plan."""
        session = self._sessions.get(query_id)
        if session is not None:
            session.cause = number, cause

    def state(self, query_id: str, state: QueryState, reason: str, *, suspended: bool) -> None:
        """Record how the session of a query stands."""
        word = "suspended" if suspended else STATES.get(state)
        number = read_query_id(query_id)
        if word is not None:
            self._backlog.put(lambda: self._journal.set_state(number, word, reason))
        if state.is_final:
            self._leave(query_id, word or "")

    def forget(self, query_id: str) -> None:
        """Record that a query is deleted; what its frames did stays."""
        number = read_query_id(query_id)
        self._leave(query_id, "deleted")
        self._backlog.put(lambda: self._journal.set_state(number, "deleted"))

    def works(self, member: Member, works: Sequence[wire.Work]) -> None:
        """Record where the handlers of jobs are from now on, as their node says."""
        for work in works:
            session = self._sessions.get(work.job_uid)
            if session is None or not work.plan or QueryState(work.state).is_final:
                continue
            if (session.home, session.routes) == (member.node_addr, work.routes):
                continue
            self._move(work.job_uid, session, member, work.routes)
            number, cause = session.cause
            session.text = (
                f"plan {work.plan}: {cause}" if number == work.plan else f"plan {work.plan}"
            )
            self._place(work.job_uid, session)

    def _leave(self, query_id: str, cause: str) -> None:
        """Record that nothing of a query runs any more."""
        session = self._sessions.pop(query_id, None)
        if session is not None:
            for landing in session.routes.values():
                self._strangers.get(landing, set()).discard(query_id)
            self._move(query_id, session, None, {})
            number = read_query_id(query_id)
            self._backlog.put(lambda: self._journal.place(number, None, {}, cause))

    def _place(self, query_id: str, session: _Session) -> None:
        """Record where a session is; anew when somebody joins who was not known by name."""
        member = self._members.get(session.home)
        if member is None:
            return
        for landing in session.routes.values():
            if self._landed(landing) is None:
                self._strangers.setdefault(landing, set()).add(query_id)
        number, home, text = read_query_id(query_id), _place_of(member), session.text
        places = self._places(session.routes)
        self._backlog.put(lambda: self._journal.place(number, home, places, text))

    def _meet(self, landing: str) -> None:
        """Record by its name where somebody is who was a stranger."""
        for query_id in sorted(self._strangers.pop(landing, ())):
            session = self._sessions.get(query_id)
            if session is not None and landing in session.routes.values():
                self._place(query_id, session)

    def _move(
        self, query_id: str, session: _Session, member: Member | None, routes: Mapping[str, str]
    ) -> None:
        """Note where the tasks of a query are now; nowhere without a member."""
        for place, task in session.at:
            self._at[place].discard((query_id, task))
            if not self._at[place]:
                del self._at[place]
        session.home, session.routes, session.at = "", dict(routes), []
        if member is not None:
            session.home = member.node_addr
            session.at = [(routes.get(task, member.node_addr), task) for task in session.tasks]
        for place, task in session.at:
            self._at.setdefault(place, set()).add((query_id, task))

    # What nodes say.

    def hear(self, member: Member, log: wire.Log) -> Future[Stored] | None:
        """Record what a node says; None if there is nothing to wait for.

        What it said before and says again, while that is being recorded, is recorded once.

        Raises:
            Saturated: there is no room; the node shall say it again.
        """
        self._note_lost(member, log)
        self._meet(member.join.landing)
        key = f"{log.session} {log.number}"
        writing = self._writing.get(member.node_addr)
        if writing is not None and writing[0] == key and not _is_put_off(writing[1]):
            return writing[1]
        entry = Entry(
            [passage for frames in log.frames if (passage := self._passage(member, frames))],
            [found for look in log.looks if (found := self._look(member, look))],
        )
        if not entry.weight:
            return None
        done = self._journal.record(entry)
        self._writing[member.node_addr] = key, done
        self._logs += 1
        self._frames += sum(map(len, entry.passages))
        return done

    def is_stored(self, done: Future[Stored]) -> bool:
        """Say whether a node need not say again what was to be recorded."""
        if _is_put_off(done):
            return False
        if done.exception() is not None:  # it would fail again, and hold up what is behind it
            self._given_up += 1
        return True

    def _note_lost(self, member: Member, log: wire.Log) -> None:
        session, before = self._lost.get(member.node_addr, ("", 0))
        more = log.lost - (before if session == log.session else 0)
        if more > 0:
            self._lost[member.node_addr] = log.session, log.lost
            self._lost_count += more
            logger.warning("%d frames of %s are not recorded", more, member.node_addr)

    def _passage(self, member: Member, frames: wire.Frames) -> Passage | None:
        """Return frames as they are recorded; None if they make no sense, or are of no query."""
        number = read_query_id(frames.job_uid)
        try:
            columns = read_columns(frames)
            ahead_ns = int(columns.captured_ns.max()) - self.clock()
            if ahead_ns > MAX_AHEAD_NS:  # it would stay for ever: rows go by age
                raise FrameFormatError(_is_ahead("columns", ahead_ns))
        except FrameFormatError as err:
            self._malformed += 1
            logger.info("frames of %s left out: %s", member.node_addr, err)
            return None
        if not number:
            return None
        return Passage(
            number,
            tuple(map(tuple, frames.branches)),
            _place_of(member),
            self._places(frames.routes),
            columns.sequences.tolist(),
            columns.captured_ns.tolist(),
            columns.wholes_s.tolist(),
            columns.lengths_s.tolist(),
            columns.sizes.tolist(),
        )

    def _look(self, member: Member, look: wire.Look) -> NodeLook | None:
        """Return how a node is, and what of it the tasks of queries take."""
        now_ns = self.clock()
        latest_s = (now_ns + MAX_AHEAD_NS) / 1e9
        try:
            machine = Report()
            if look.machine:
                body = b'{"sys_info":[' + look.machine + b"]}"
                machine = read_report(body, 0, latest_s=latest_s)
            if look.at_ns > now_ns + MAX_AHEAD_NS:
                raise ConfigError(_is_ahead("look", look.at_ns - now_ns))
        except ConfigError as err:
            self._malformed += 1
            logger.info("sample of %s left out: %s", member.node_addr, err)
            return None
        here = (self._at.get(place, ()) for place in (member.node_addr, member.join.landing))
        handlers = [
            (read_query_id(query_id), task, *look.tasks[task])
            for query_id, task in sorted(itertools.chain.from_iterable(here))
            if task in look.tasks
        ]
        return NodeLook(_place_of(member), machine, handlers, look.at_ns / 1e9)

    # Where nodes are.

    def _places(self, routes: Mapping[str, str]) -> dict[str, NodePlace]:
        found: dict[str, NodePlace] = {}
        for task, landing in routes.items():
            member = self._landed(landing)
            found[task] = _stranger(landing) if member is None else _place_of(member)
        return found

    def _landed(self, landing: str) -> Member | None:
        """Return the member that takes frames at an address."""
        member = self._landings.get(landing)
        if member is None or self._members.get(member.node_addr) is not member:
            self._landings = {each.join.landing: each for each in self._members}
            member = self._landings.get(landing)
        return member


def _is_ahead(what: str, ahead_ns: int) -> str:
    return f"{what} of a time {ahead_ns / 1e9:.0f} s ahead, limit {MAX_AHEAD_NS / 1e9:.0f} s"


def _is_put_off(done: Future[Stored]) -> bool:
    """Say whether something may be recorded another time."""
    return done.done() and isinstance(done.exception(), (Saturated, ChannelClosed))


def _place_of(member: Member) -> NodePlace:
    join = member.join
    port = int(join.node_addr.rpartition(":")[2])
    return NodePlace(ip_of(join.node_addr), port, join.name, join.role)


def _stranger(landing: str) -> NodePlace:
    """Return a node of another make, or one that has not joined, by its address alone."""
    place = landing.partition("://")[2] or landing
    host, _, port = place.rpartition(":")
    number = int(port) if port.isascii() and port.isdecimal() and len(port) < 6 else 0
    return NodePlace((host or place).strip("[]")[:MAX_TEXT], number)
