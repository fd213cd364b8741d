"""`Journal`: what our own nodes have to say for the logbook, in the words of the plan channel.

It names queries and nodes as the plan channel does; their numbers are found by the writer's thread,
see `Names`, in the order in which things were said. Nothing here waits for the database.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from vdag.control.records import sessions
from vdag.control.records.names import Cast, NodePlace
from vdag.control.records.packets import Leg, Stop, rows_of
from vdag.control.records.reports import MAX_INT, HandlerSample, PacketRow, Report
from vdag.control.records.sessions import NewSession
from vdag.control.records.transaction import Ledger, Stored, Transaction
from vdag.control.records.writer import Lane, Operation, Writer

__all__ = ["Entry", "Journal", "NodeLook", "Passage"]

#: Of an entry: `start` and `end` of each task, and of the source and the sink, and two for the way.
ROWS_PER_TASK = 4


@dataclass(frozen=True, slots=True)
class Passage:
    """Frames of a query that went the same way; lists are by frame, with as many items each.

    Attributes:
        number: of the query.
        branches: the tasks that are done one after the other.
        home: where the frames were captured, and the results went.
        places: where tasks were done that were not done there.
        sequences: number of the frame in its job.
        captured_ns: since the epoch.
        wholes_s: from the capture to the end; not a number for a frame that was lost.
        lengths_s: by task in the order of the branches, on its way, in the queue, in a worker; not
            a number for what was not done.
        sizes: by task, bytes that travelled there; 0 for not known.
    """

    number: int
    branches: tuple[tuple[str, ...], ...]
    home: NodePlace
    places: Mapping[str, NodePlace]
    sequences: Sequence[int]
    captured_ns: Sequence[int]
    wholes_s: Sequence[float]
    lengths_s: Sequence[Sequence[float]]
    sizes: Sequence[Sequence[int]]

    def __len__(self) -> int:
        return len(self.sequences)

    @property
    def weight(self) -> int:
        """Rows that it makes at most."""
        return len(self) * ROWS_PER_TASK * (1 + sum(map(len, self.branches)))


@dataclass(frozen=True, slots=True)
class NodeLook:
    """A node at a time.

    Attributes:
        node: which.
        machine: samples of it and its GPUs, whose `node_id` is not looked at.
        handlers: the query, the task, and the shares of CPU and memory, 0 to 1, of its workers.
        at_s: seconds since the epoch.
    """

    node: NodePlace
    machine: Report
    handlers: Sequence[tuple[int, str, float, float]]
    at_s: float


@dataclass(frozen=True, slots=True)
class Entry:
    """What is recorded together, or not at all."""

    passages: Sequence[Passage] = ()
    looks: Sequence[NodeLook] = field(default=())

    @property
    def weight(self) -> int:
        """Rows that it makes at most."""
        looks = sum(len(look.machine) + len(look.handlers) for look in self.looks)
        return looks + sum(passage.weight for passage in self.passages)


class Journal:
    """See above; part of a `Store`, which closes it.

    All methods raise `Saturated` if too much waits, and `ChannelClosed` when the store is closed.

    Args:
        writer: of the records.
        ledger: of that writer's thread.
    """

    def __init__(self, writer: Writer, ledger: Ledger) -> None:
        self._writer, self._names = writer, ledger.names

    def open(self, new: NewSession) -> None:
        """Record the session of a query, unless it has one."""
        self._put(lambda tx: self._names.open(tx.connection, new, at_s=tx.at_s))

    def adopt(self, number: int, cast: Cast) -> None:
        """Have the frames of a query recorded in a session that was made for something else.

        To be told again after a restart. How such a session stands, and where its handlers are, its
        maker records: `set_state` and `place` pass it over.

        Args:
            number: of the query.
            cast: of the session.
        """
        self._put(lambda tx: self._names.adopt(tx.connection, number, cast))

    def set_state(self, number: int, state: str, reason: str = "") -> None:
        """Record how the session of a query stands, see `Logbook.set_session_state`."""

        def apply(tx: Transaction) -> None:
            cast = self._names.cast(tx.connection, number)
            if cast is not None and cast.is_own:
                sessions.set_state(tx.connection, cast.session_id, state, reason, at_s=tx.at_s)
            if state == "deleted":
                self._names.forget(number)

        self._put(apply)

    def place(
        self, number: int, home: NodePlace | None, places: Mapping[str, NodePlace], cause: str = ""
    ) -> None:
        """Record where the handlers of a query's session are from now on.

        Args:
            number: of the query.
            home: where its frames are captured; None for that nothing of it runs.
            places: where the tasks are that are not there.
            cause: of the change.
        """

        def apply(tx: Transaction) -> None:
            cast = self._names.cast(tx.connection, number)
            if cast is None or not cast.is_own:
                return
            nodes: dict[int, int] = {}
            if home is not None:
                nodes = {
                    stop.handler_id: stop.node_id
                    for stop in self._stops(tx, cast, home, places).values()
                }
            sessions.place(tx.connection, cast.session_id, nodes, cause, at_s=tx.at_s)

        self._put(apply)

    def record(self, entry: Entry) -> Future[Stored]:
        """Record what is new of an entry; the result comes when it is committed.

        What is about a query without a session is left out.
        """
        done: Future[Stored] = Future()
        done.set_running_or_notify_cancel()
        self._put(lambda tx: tx.add_report(self._report(tx, entry)), max(entry.weight, 1), done)
        return done

    def _report(self, tx: Transaction, entry: Entry) -> Report:
        packets: list[PacketRow] = []
        for passage in entry.passages:
            cast = self._names.cast(tx.connection, passage.number)
            if cast is not None:
                stops = self._stops(tx, cast, passage.home, passage.places)
                packets += _rows(passage, cast, stops)
        parts: list[list[Any]] = [[], [], []]
        for look in entry.looks:
            node_id = self._names.node(tx.connection, look.node)
            parts[0] += [row._replace(node_id=node_id) for row in look.machine.nodes]
            parts[1] += [row._replace(node_id=node_id) for row in look.machine.gpus]
            parts[2] += self._samples(tx, look, node_id)
        return Report(packets, parts[0], parts[1], parts[2])

    def _samples(self, tx: Transaction, look: NodeLook, node_id: int) -> Iterator[HandlerSample]:
        for number, task, cpu, memory in look.handlers:
            cast = self._names.cast(tx.connection, number)
            handler = None if cast is None else cast.tasks.get(task)
            if cast is not None and handler is not None:
                yield HandlerSample(
                    look.at_s, cast.session_id, handler, cpu * 100, memory * 100, node_id=node_id
                )

    def _stops(
        self, tx: Transaction, cast: Cast, home: NodePlace, places: Mapping[str, NodePlace]
    ) -> dict[str, Stop]:
        """Return where each handler is; the source and the sink have names that no task has."""
        here = self._names.node(tx.connection, home)
        found = {
            task: Stop(
                handler,
                self._names.node(tx.connection, places[task]) if task in places else here,
            )
            for task, handler in cast.tasks.items()
        }
        found[_SOURCE] = Stop(cast.source, here)
        if cast.sink is not None:
            found[_SINK] = Stop(cast.sink, here)
        return found

    def _put(
        self,
        apply: Callable[[Transaction], Any],
        weight: int = 1,
        done: Future[Any] | None = None,
    ) -> None:
        self._writer.put(Operation(apply, weight, done, lane=Lane.EVENTS))


_SOURCE, _SINK = "<source>", "<sink>"


def _rows(passage: Passage, cast: Cast, stops: Mapping[str, Stop]) -> Iterator[PacketRow]:
    """Yield the rows of frames."""
    places: list[list[tuple[int, Stop | None]]] = []
    count = 0
    for branch in passage.branches:
        places.append([(count + index, stops.get(task)) for index, task in enumerate(branch)])
        count += len(branch)
    source, sink = stops[_SOURCE], stops.get(_SINK)
    frames = zip(
        passage.sequences,
        passage.captured_ns,
        passage.wholes_s,
        passage.lengths_s,
        passage.sizes,
        strict=True,
    )
    for sequence, captured_ns, whole_s, lengths_s, sizes in frames:
        branches = [_legs(branch, lengths_s, sizes) for branch in places]
        is_lost = whole_s != whole_s  # not a number
        # Of the integer alone, so that the same frame has the same times whenever it comes again.
        yield from rows_of(
            cast.session_id,
            sequence,
            captured_ns / 1e9,
            source,
            branches,
            None if is_lost else sink,
            0.0 if is_lost else whole_s,
        )


def _legs(
    branch: Sequence[tuple[int, Stop | None]], lengths_s: Sequence[float], sizes: Sequence[int]
) -> list[Leg]:
    """Return how far a frame got on a branch; a task without a handler is part of the way."""
    found: list[Leg] = []
    skipped_s = 0.0
    for index, stop in branch:
        transfer_s, queue_s, compute_s = lengths_s[3 * index : 3 * index + 3]
        if compute_s != compute_s:  # not a number
            break
        if stop is None:
            skipped_s += transfer_s + queue_s + compute_s
            continue
        size = min(sizes[index], MAX_INT) or None
        found.append((stop, transfer_s + skipped_s, queue_s, compute_s, size))
        skipped_s = 0.0
    return found
