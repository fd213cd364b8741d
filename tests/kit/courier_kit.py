"""A node whose jobs' frames are recorded, and the records of them."""

from __future__ import annotations

import itertools
import time
from typing import Any

import numpy as np
from channel_kit import TASK, TIMEOUT_S, NodeEnd, request

from vdag.control.agent.courier import Courier
from vdag.control.agent.framebook import FrameBook
from vdag.control.controller import Controller
from vdag.control.records import Packet, Store
from vdag.frame import Frame
from vdag.graph import Graph
from vdag.results import Result, TaskParts

PIXELS = np.zeros((2, 2, 3), np.uint8)
PARTS = {TASK: TaskParts(0.25, 0.125, 0.5, 7, 40_000)}
WHOLE_S, HOME_S = 1.0, 0.125
EVENTS = ["start", "end", "start", "end", "start", "end"]


class Reporting(NodeEnd):
    """A node whose jobs' frames are recorded, with a clock of its own."""

    def __init__(self, channel: str, **options: Any) -> None:
        self.shift_ns = options.pop("shift_ns", 0)
        frames, look = options.pop("frames", None), options.pop("look", None)
        super().__init__(channel, **options)
        self.book = FrameBook(self.notebook.run)
        self.courier = Courier(
            channel, node_addr=self.node_addr, book=self.book, look=look, spool=frames,
            clock=self.now_ns,
        )  # fmt: skip
        self._seqs = itertools.count()

    def now_ns(self) -> int:
        return time.monotonic_ns() + self.shift_ns

    def deliver(
        self,
        query_id: str,
        count: int,
        routes: dict[str, str] | None = None,
        *,
        ahead_ns: int = 0,
        ends: bool = True,
    ) -> None:
        """Have a job deliver frames, and end."""
        track = self.book.open(query_id, Graph.chain(TASK))
        track.follow(1, routes or {})
        for seq in itertools.islice(self._seqs, count):
            found = Result("cam", seq, seq, None, 2, 2, {}, WHOLE_S, plan=1, parts=PARTS,
                           home_s=HOME_S)  # fmt: skip
            found.frame = Frame(PIXELS, seq=seq, capture_ns=self.now_ns() + ahead_ns)
            track.deliver(found)
        if ends:
            track.end()

    def close(self) -> None:
        self.courier.close()
        super().close()
        self.book.close()


def submit(controller: Controller, node: NodeEnd) -> str:
    query_id = controller.submit(request(node.node_addr)).result(TIMEOUT_S)
    node.jobs.next("plan")
    return query_id


def packets(store: Store, session_id: int = 1) -> dict[int, list[Packet]]:
    """Return the rows of each frame."""
    found: dict[int, list[Packet]] = {}
    for packet in store.log.packets(session_id):
        found.setdefault(packet.sequence, []).append(packet)
    return found
