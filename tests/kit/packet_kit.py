"""Sessions that nobody ran: their rows, and what is true of every frame of them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from vdag.control.records import (
    Handler,
    NewSession,
    NodeRecord,
    Packet,
    Report,
    Stop,
    Store,
    packets_of,
    read_report,
)
from vdag.results import TaskParts

WAIT_S = 60.0
#: A double holds this and its quarters, eighths and so on exactly.
EPOCH_S = 1795302130.5
EDGE, CLOUD = 1, 2
NODES = (
    NodeRecord(EDGE, "edge", "client", "192.0.2.1", 9000),
    NodeRecord(CLOUD, "cloud", "server", "192.0.2.2", 9000),
)
TASKS = ("face_detection", "face_alignment")
#: As the session of a query has them.
HANDLERS = (Handler(0, "capture"), Handler(1, TASKS[0]), Handler(2, TASKS[1]), Handler(3, "sink"))
#: Of the documents' sample: what one node captures another detects, and the first draws.
FOREIGN = (
    Handler(0, "capture", 2), Handler(1, "encode", 5), Handler(2, "tx", 0), Handler(3, "rx", 1),
    Handler(4, "decode", 6), Handler(5, "detect", 8), Handler(6, "tx", 0), Handler(7, "rx", 1),
    Handler(8, "draw", 16), Handler(9, "render", 3),
)  # fmt: skip


@dataclass
class Truth:
    """What is true of a frame.

    Attributes:
        sequence: of it.
        born_s: when it was captured.
        parts: seconds by handler and part, of those that are more than nothing.
        lost_at: handler and event of its last row; None if it came to its end.
        rows: of it.
    """

    sequence: int
    born_s: float
    parts: dict[tuple[int, str], float] = field(default_factory=dict)
    lost_at: tuple[int, str] | None = None
    rows: list[Packet] = field(default_factory=list)

    @property
    def delay_s(self) -> float:
        return sum(self.parts.values())


def own_frames(
    count: int,
    *,
    session_id: int = 1,
    seed: int = 1,
    lost: Iterable[int] = (),
    every_s: float = 0.125,
) -> list[Truth]:
    """Frames of a query: captured at the edge, both tasks in the cloud, and home again.

    Those of `lost` are cut off, one after the other after every row but the first and the last.
    """
    random_ = random.Random(seed)
    lost = sorted(lost)
    tasks = {TASKS[0]: Stop(1, CLOUD), TASKS[1]: Stop(2, CLOUD)}
    found = []
    for sequence in range(count):
        lengths = [random_.randrange(1, 64) / 1024 for _ in range(7)]
        parts = dict(zip(TASKS, (TaskParts(*lengths[:3]), TaskParts(*lengths[3:6])), strict=True))
        truth = Truth(sequence, EPOCH_S + sequence * every_s)
        truth.parts = {
            (1, "transfer"): lengths[0], (1, "queue"): lengths[1], (1, "compute"): lengths[2],
            (2, "queue"): lengths[3] + lengths[4], (2, "compute"): lengths[5],
            (3, "home"): lengths[6],
        }  # fmt: skip
        truth.rows = packets_of(
            parts, captured_s=truth.born_s, session_id=session_id, sequence=sequence,
            source=Stop(0, EDGE), tasks=tasks, sink=Stop(3, EDGE), home_s=lengths[6],
            sizes={TASKS[0]: 1000 + sequence},
        )  # fmt: skip
        if sequence in lost:
            # By what happened, not by number: the sink has three rows of one moment.
            stages = len(truth.rows) - 4
            truth.rows = truth.rows[: 2 + lost.index(sequence) % stages]
            truth.lost_at = truth.rows[-1].handler_id, truth.rows[-1].event
        found.append(truth)
    return found


def foreign_frames(
    count: int,
    *,
    session_id: int = 1,
    seed: int = 1,
    lost: Iterable[int] = (),
    ahead_s: float = 0.0,
) -> list[Truth]:
    """Frames as the documents' nodes report them; those of `lost` never reach the cloud.

    An rx numbers its own `start` and `end`, so that they are of other packets once one is lost.
    `ahead_s` is by how much the cloud's clock is ahead.
    """
    random_, lost = random.Random(seed), set(lost)
    found, arrived = [], 0
    for sequence in range(count):
        take = [random_.randrange(1, 32) / 1024 for _ in range(11)]
        truth = Truth(sequence, EPOCH_S + sequence * 0.5)
        way = _Foreign(session_id, sequence, truth)
        way.at_s = truth.born_s
        way.row(0, "start", EDGE, at_s=truth.born_s - 0.03125)
        way.row(0, "end", EDGE)
        way.work(1, EDGE, take[0], take[1])
        way.transfer(2, EDGE, take[2])
        if sequence in lost:
            truth.lost_at = (2, "end")
            way.row(2, "end", EDGE)
            found.append(truth)
            continue
        way.arrive(3, CLOUD, take[2], counter=arrived, ahead_s=ahead_s)
        way.work(4, CLOUD, take[3], take[4], ahead_s=ahead_s, came_s=2 * take[2])
        way.work(5, CLOUD, take[5], take[6], ahead_s=ahead_s)
        way.transfer(6, CLOUD, take[7], ahead_s=ahead_s)
        way.arrive(7, EDGE, take[7], counter=arrived)
        way.work(8, EDGE, take[8], take[9], came_s=2 * take[7])
        way.work(9, EDGE, take[10], 0.0, part="home")
        arrived += 1
        found.append(truth)
    return found


@dataclass
class _Foreign:
    """A packet on its way through nodes that are not ours."""

    session_id: int
    sequence: int
    truth: Truth
    at_s: float = 0.0

    def row(
        self, handler: int, event: str, node: int, *, at_s: float | None = None,
        size: int | None = None, sequence: int | None = None,
    ) -> None:  # fmt: skip
        self.truth.rows.append(
            Packet(
                self.at_s if at_s is None else at_s, self.session_id, handler,
                self.sequence if sequence is None else sequence, event, size, node,
            )
        )  # fmt: skip

    def work(
        self, handler: int, node: int, wait_s: float, work_s: float, *, part: str = "queue",
        ahead_s: float = 0.0, came_s: float = 0.0,
    ) -> None:  # fmt: skip
        begin_s = self.at_s + wait_s
        self.row(handler, "start", node, at_s=begin_s + ahead_s)
        self.at_s = begin_s + work_s
        self.row(handler, "end", node, at_s=self.at_s + ahead_s)
        lengths = {"transfer": came_s, part: wait_s, "compute": work_s}
        self.truth.parts |= {(handler, key): value for key, value in lengths.items() if value}

    def transfer(self, handler: int, node: int, take_s: float, *, ahead_s: float = 0.0) -> None:
        self.row(handler, "start", node, at_s=self.at_s + ahead_s)
        self.at_s += take_s
        self.row(handler, "send", node, at_s=self.at_s + ahead_s, size=20000 + self.sequence)
        self.row(handler, "end", node, at_s=self.at_s + ahead_s + 1 / 4096)

    def arrive(
        self, handler: int, node: int, take_s: float, *, counter: int, ahead_s: float = 0.0
    ) -> None:
        self.at_s += take_s
        now_s = self.at_s + ahead_s
        self.row(handler, "start", node, at_s=now_s - 0.25, sequence=counter)
        self.row(handler, "receive", node, at_s=now_s, size=20000 + self.sequence)
        self.row(handler, "end", node, at_s=now_s + 1 / 8192, sequence=counter)


def rows_of(frames: Iterable[Truth]) -> list[Packet]:
    """The rows of frames, as a database has them: by sequence, handler, event and time."""
    rows = [row for frame in frames for row in frame.rows]
    return sorted(rows, key=lambda row: (row.sequence, row.handler_id, row.event, row.timestamp))


def foreign_report(rows: Iterable[Packet], node_id: int) -> Report:
    """What a node of theirs posts of these rows, as our collector reads it."""
    items = [
        {
            "timestamp": row.timestamp, "session_id": row.session_id,
            "handler_id": row.handler_id, "sequence": row.sequence, "event": row.event,
            **({} if row.size is None else {"size": row.size}),
        }
        for row in rows
        if row.node_id == node_id
    ]  # fmt: skip
    body = json.dumps({"sys_info": [], "proc_info": [], "packet_info": items})
    return read_report(body.encode(), node_id)


def keep(store: Store, rows: Sequence[Packet], **others: Sequence[tuple[object, ...]]) -> None:
    """Record rows, in reports of a bounded size."""
    store.log.record_awaited(Report(nodes=others.get("nodes", ()))).result(WAIT_S)
    for first in range(0, len(rows), 50_000):
        store.log.record_awaited(Report(rows[first : first + 50_000])).result(WAIT_S)


def open_session(store: Store, *, query_id: int | None = None, name: str = "") -> int:
    """Record the nodes, and a session of our handlers that runs; return its number."""
    store.log.set_nodes(NODES)
    new = NewSession(name or "session", "faces", HANDLERS, query_id=query_id, algorithm="min_delay")
    number = store.log.add_session(new).result(WAIT_S)
    store.log.set_session_state(number, "running")
    store.log.place(number, {0: EDGE, 1: CLOUD, 2: CLOUD, 3: EDGE}, "first plan")
    return number
