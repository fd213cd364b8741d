"""`Edge`: what one node sends to another, by the rules of the real edges, over simulated wires."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from vdag.control.simulation.agenda import Agenda
from vdag.control.simulation.wires import Wires
from vdag.transport.roundtrip import Window

__all__ = ["DECODE_S", "ENCODE_S", "Edge", "Parcel"]

_NS = 1e9
#: As of the real edge: most frames that wait and that travel, and how long one may wait on a link
#: behind others.
DEPTH, SPARE_S = 8, 0.1
#: A frame without a receipt for so long is lost.
CONFIRM_TIMEOUT_NS = 5_000_000_000
#: Seconds per pixel that a core takes to encode a frame, and to decode it again.
ENCODE_S = {"JPEG": 4e-9, "H264": 12e-9, "raw": 0.4e-9}
DECODE_S = {"JPEG": 4e-9, "H264": 6e-9, "raw": 0.4e-9}


@dataclass(slots=True, eq=False)
class Parcel:
    """What is sent.

    Attributes:
        key: of the stream and the task that it is for: of pictures, a newer one replaces it while
            it waits. None for what is never replaced.
        nbytes: on the wire.
        encode_ns: that it takes before.
        decode_ns: that it takes afterwards.
        what: whatever the caller wants back with it.
    """

    key: Hashable
    nbytes: float
    encode_ns: int
    decode_ns: int
    what: Any


class Edge:
    """Frames of one node to another.

    Args:
        sender: name of the one.
        receiver: name of the other.
        agenda: the time.
        wires: the ways.
        paced: no more is on its way at once than the link takes without delay, and the newest
            picture of each stream waits; else all of them wait in line.
        is_up: whether a node is there.
        arrived: is given what has come.
        dropped: is given what will not, and why.
    """

    def __init__(
        self,
        sender: str,
        receiver: str,
        agenda: Agenda,
        wires: Wires,
        *,
        paced: bool,
        is_up: Callable[[str], bool],
        arrived: Callable[[Any], None],
        dropped: Callable[[Any, str], None],
    ) -> None:
        self._ends = (sender, receiver)
        self._agenda, self._wires, self._paced = agenda, wires, paced
        self._is_up, self._arrived, self._dropped = is_up, arrived, dropped
        self._window = Window(DEPTH, SPARE_S if paced else None)
        self._waiting: OrderedDict[Hashable, Parcel] = OrderedDict()
        self._order = itertools.count()
        self._is_loading = False
        self._travelling = 0

    def send(self, parcel: Parcel) -> None:
        """Take a parcel over."""
        key = parcel.key if self._paced and parcel.key is not None else next(self._order)
        if key in self._waiting:
            old, self._waiting[key] = self._waiting[key], parcel  # in its place: streams are fair
            self._dropped(old.what, "superseded")
            return
        if self._paced and len(self._waiting) >= DEPTH:
            self._dropped(self._waiting.popitem(last=False)[1].what, "full")
        self._waiting[key] = parcel
        self._go()

    def clear(self) -> None:
        """Forget what waits: the sender is gone."""
        self._waiting.clear()

    def _go(self) -> None:
        """Begin with the next parcel, if the window lets it."""
        if self._is_loading or not self._waiting or self._travelling >= self._window.size:
            return
        self._is_loading = True
        parcel = self._waiting.popitem(last=False)[1]
        self._agenda.after(parcel.encode_ns, self._sent, parcel)

    def _sent(self, parcel: Parcel) -> None:
        self._is_loading = False
        if self._is_up(self._ends[0]):
            now_ns = self._agenda.now_ns
            is_alone = not self._travelling
            self._travelling += 1
            was_full = self._travelling >= self._window.size
            due_ns = self._wires.send(*self._ends, parcel.nbytes, now_ns)
            self._agenda.at(due_ns, self._come, parcel, now_ns, is_alone, was_full)
        self._go()

    def _come(self, parcel: Parcel, sent_ns: int, is_alone: bool, was_full: bool) -> None:
        now_ns = self._agenda.now_ns
        if not self._is_up(self._ends[1]):
            self._agenda.at(sent_ns + CONFIRM_TIMEOUT_NS, self._lose, parcel)
            return
        sender, receiver = self._ends
        back_ns = self._wires.latency_ns(receiver, sender, now_ns)
        self._agenda.after(back_ns, self._confirm, sent_ns, is_alone, was_full)
        self._agenda.after(parcel.decode_ns, self._arrived, parcel.what)

    def _confirm(self, sent_ns: int, is_alone: bool, was_full: bool) -> None:
        self._travelling -= 1
        self._window.confirm(self._agenda.now_ns - sent_ns, alone=is_alone, was_full=was_full)
        self._go()

    def _lose(self, parcel: Parcel) -> None:
        self._travelling -= 1
        self._window.lose()
        self._dropped(parcel.what, "link")
        self._go()


def pixel_ns(seconds: float, pixels: int) -> int:
    """Return the ns that so many pixels take."""
    return round(seconds * pixels * _NS)
