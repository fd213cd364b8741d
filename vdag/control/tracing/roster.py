"""`Roster`: what the numbers in rows of packets stand for.

Handlers have roles. Those of the documents have numbers for what they are: capture, render, and the
pair of tx and rx that stands wherever a link leaves a node. Where nobody has recorded handlers, as
for nodes that know only the collector, the first rows tell: only a tx sends before it ends, and
only an rx starts before it receives.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vdag.control.records import EVENTS, Handler, NodeRecord, Packet

__all__ = ["Role", "Roster", "in_order", "in_our_words", "links_of", "roster_of"]


class Role(enum.Enum):
    """What a handler is to a frame: it makes it, works on it, takes it, sends it, receives it."""

    SOURCE = "source"
    TASK = "task"
    SINK = "sink"
    TX = "tx"
    RX = "rx"


#: Numbers of handler types in the documents.
_KINDS = {0: Role.TX, 1: Role.RX, 2: Role.SOURCE, 3: Role.SINK}
#: Handlers without a type.
_NAMES = {
    "capture": Role.SOURCE,
    "source": Role.SOURCE,
    "home": Role.SINK,
    "render": Role.SINK,
    "sink": Role.SINK,
}


#: The documents' nodes say two events in other words, as does who inserts rows for them.
_SAME = {"send": "sent", "receive": "recv"}
_RANKS = {event: rank for rank, event in enumerate(EVENTS)}


@dataclass(frozen=True, slots=True)
class Roster:
    """See above.

    Attributes:
        handlers: names by number, of those that have one.
        roles: by handler; the others are tasks.
        nodes: names by number, of those that have one.
        before: by handler, those whose packets it takes; only of those for which all are known.
        beside: pairs of handlers, either way round, that do not wait for one another.
        finals: handlers with which a frame has come to its end; empty if that is not known.
    """

    handlers: Mapping[int, str] = field(default_factory=dict)
    roles: Mapping[int, Role] = field(default_factory=dict)
    nodes: Mapping[int, str] = field(default_factory=dict)
    before: Mapping[int, frozenset[int]] = field(default_factory=dict)
    beside: frozenset[tuple[int, int]] = frozenset()
    finals: frozenset[int] = frozenset()

    def handler(self, handler_id: int) -> str:
        """Return the name of a handler, with its number."""
        name = self.handlers.get(handler_id)
        return f"handler {handler_id}" if name is None else f"{handler_id} {name}"

    def node(self, node_id: int | None) -> str:
        """Return the name of a node."""
        if node_id is None:
            return "?"
        return self.nodes.get(node_id, f"node {node_id}")

    @property
    def has_cuts(self) -> bool:
        """Packets go from node to node by a tx and an rx: other nodes than ours, and clocks."""
        return Role.RX in self.roles.values()

    def role(self, handler_id: int) -> Role:
        """Return what a handler is."""
        return self.roles.get(handler_id, Role.TASK)


def in_our_words(row: Packet) -> Packet:
    """Return a row whose event is one of `EVENTS`, if it is one of the documents'."""
    event = _SAME.get(row.event)
    return row if event is None else row._replace(event=event)


def in_order(row: Packet) -> tuple[float, int, int]:
    """Return what rows of a packet are sorted by; those of one moment have an order too."""
    return row.timestamp, _RANKS.get(row.event, 0), row.handler_id


def roster_of(
    handlers: Sequence[Handler] = (),
    nodes: Sequence[NodeRecord] = (),
    *,
    links: Iterable[tuple[int, int]] = (),
    ends: tuple[int, int] | None = None,
    sample: Iterable[Packet] = (),
) -> Roster:
    """Return the roster of a session.

    Args:
        handlers: that are recorded of it.
        nodes: all that are recorded.
        links: from handler to handler, as frames go; see `links_of`.
        ends: the source and the sink, if that is known.
        sample: rows of some of its first frames.
    """
    rows = sorted(map(in_our_words, sample), key=in_order)
    roles = {each.handler_id: role for each in handlers if (role := _role(each)) is not None}
    if ends is not None:
        roles |= {ends[0]: Role.SOURCE, ends[1]: Role.SINK}
    known = {each.handler_id for each in handlers}
    has_source = Role.SOURCE in roles.values()
    for key, role in _seen_roles(rows).items():
        if key not in known and not (has_source and role is Role.SOURCE):
            roles[key] = role
    return Roster(
        {each.handler_id: each.name for each in handlers},
        roles,
        {each.node_id: each.name for each in nodes},
        _before(links, roles),
        _beside(rows),
        _finals(roles, rows),
    )


def _role(handler: Handler) -> Role | None:
    if handler.kind is None:
        return _NAMES.get(handler.name.lower())
    return _KINDS.get(handler.kind)


def _seen_roles(rows: Sequence[Packet]) -> dict[int, Role]:
    """Tell roles by the order of events: what a handler never does but as a tx or an rx."""
    votes: dict[int, Counter[Role]] = {}
    for (handler_id, _), at in _times(rows).items():
        role = Role.TASK
        if {"start", "sent", "end"} <= at.keys() and at["start"] <= at["sent"] < at["end"]:
            role = Role.TX
        elif {"start", "recv"} <= at.keys() and at["start"] < at["recv"]:
            role = Role.RX
        votes.setdefault(handler_id, Counter())[role] += 1
    found = {key: count.most_common(1)[0][0] for key, count in votes.items()}
    if Role.TX in found.values():
        # Of such nodes only an rx receives, though its own numbers may hide that it does.
        found |= dict.fromkeys((row.handler_id for row in rows if row.event == "recv"), Role.RX)
    source = _first(rows, found)
    if source is not None:
        found[source] = Role.SOURCE
    return {key: role for key, role in found.items() if role is not Role.TASK}


def _times(rows: Iterable[Packet]) -> dict[tuple[int, int], dict[str, float]]:
    """Return when what happened first, by handler and sequence; rows are by time."""
    times: dict[tuple[int, int], dict[str, float]] = {}
    for row in rows:
        times.setdefault((row.handler_id, row.sequence), {}).setdefault(row.event, row.timestamp)
    return times


def _beside(rows: Iterable[Packet]) -> frozenset[tuple[int, int]]:
    """Return the pairs of handlers that have worked on a packet at the same time."""
    frames: dict[int, list[tuple[int, float, float]]] = {}
    for (handler_id, sequence), at in _times(rows).items():
        if {"start", "end"} <= at.keys():
            frames.setdefault(sequence, []).append((handler_id, at["start"], at["end"]))
    return frozenset(
        (one, other)
        for stays in frames.values()
        for one, start_s, end_s in stays
        for other, other_start_s, other_end_s in stays
        if one != other and start_s < other_end_s and other_start_s < end_s
    )


def _first(rows: Iterable[Packet], roles: Mapping[int, Role]) -> int | None:
    """Return the handler that most frames end at first, of those that got them from nobody."""
    return _most(rows, roles, "recv")


def _finals(roles: Mapping[int, Role], rows: Sequence[Packet]) -> frozenset[int]:
    """Return the sinks; without any, the handler that most frames end at last and stay."""
    sinks = frozenset(key for key, role in roles.items() if role is Role.SINK)
    last = _most(reversed(rows), roles, "sent")
    return sinks or frozenset(() if last is None else (last,))


def _most(rows: Iterable[Packet], roles: Mapping[int, Role], closing: str) -> int | None:
    """Return the handler whose `end` comes first with most sequences.

    Those on a node do not count after a closing event there: so nothing hangs on whose clock is
    ahead, but for frames that were nowhere else.
    """
    closed: set[tuple[int, int | None]] = set()
    firsts: dict[int, int] = {}
    for row in rows:
        place = row.sequence, row.node_id
        is_on_way = roles.get(row.handler_id) in (Role.TX, Role.RX)
        if row.event == closing:
            closed.add(place)
        elif row.event == "end" and place not in closed and not is_on_way:
            firsts.setdefault(row.sequence, row.handler_id)
    counts = Counter(firsts.values()).most_common(1)
    return counts[0][0] if counts else None


def links_of(document: Any, *, depth: int = 4) -> Iterator[tuple[int, int]]:
    """Yield the links of a service's document, whole or cut into blueprints of nodes.

    Args:
        document: the blueprint of a session, whoever made it.
        depth: of documents in one another that are looked into.
    """
    if isinstance(document, list):
        for item in document:
            yield from links_of(item, depth=depth)
    if not isinstance(document, Mapping) or not depth:
        return
    for name, value in document.items():
        if name == "links" and isinstance(value, list):
            for link in value:
                ends = _ends(link)
                if ends is not None:
                    yield ends
        elif name in ("blueprint", "template"):
            yield from links_of(value, depth=depth - 1)


def _ends(link: Any) -> tuple[int, int] | None:
    if not isinstance(link, Mapping):
        return None
    source, target = link.get("source_handler"), link.get("target_handler")
    return (source, target) if isinstance(source, int) and isinstance(target, int) else None


def _before(
    links: Iterable[tuple[int, int]], roles: Mapping[int, Role]
) -> dict[int, frozenset[int]]:
    """Return the handlers before each; those after an rx get theirs from whoever sent."""
    found: dict[int, set[int]] = {}
    for source, target in links:
        found.setdefault(target, set()).add(source)
    return {
        target: frozenset(sources)
        for target, sources in found.items()
        if not any(roles.get(source) is Role.RX for source in sources)
    }
