"""Circumstances over REST: what a cloud tells of a query, and who asks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from vdag.control.accounts.circumstances import MAX_NODES, Circumstances, circumstances_of
from vdag.control.records.inspection import MAX_INT, Inspection
from vdag.errors import ConfigError, TransportError

__all__ = ["ask_circumstances", "read_nodes", "share_circumstances"]


class Shared(msgspec.Struct, frozen=True):
    """A reply.

    Attributes:
        query_id: that it is of.
        circumstances: of the query's newest session.
        status: 0, as of all replies.
    """

    query_id: str
    circumstances: Circumstances
    status: int = 0


def share_circumstances(
    inspection: Inspection, name: str, *, since_ms: int, until_ms: int, nodes: frozenset[int]
) -> Shared:
    """Return what is recorded of a query's newest session beside its packets.

    Args:
        inspection: of the records.
        name: the query's id.
        since_ms: begin of the time axis, milliseconds since the epoch.
        until_ms: its end, likewise.
        nodes: that are of interest, beside those where its handlers were.

    Raises:
        ConfigError: it has no session, or the end is not after the begin.
    """
    if until_ms <= since_ms:
        raise ConfigError(f"until is {until_ms}, not after since {since_ms}")
    subject = inspection.subject(name)
    found = circumstances_of(inspection, subject, since_ms / 1e3, until_ms / 1e3, nodes)
    return Shared(name, found)


def read_nodes(text: str) -> frozenset[int]:
    """Read numbers of nodes with commas between them; ConfigError if they are none or too many."""
    parts = text.split(",") if text else []
    fit = all(each.isascii() and each.isdecimal() and len(each) <= 10 for each in parts)
    nodes = frozenset(map(int, parts)) if fit and len(parts) <= MAX_NODES else None
    if nodes is None or any(each > MAX_INT for each in nodes):
        raise ConfigError(f"nodes is {text[:80]!r}, expected up to {MAX_NODES} numbers")
    return nodes


def ask_circumstances(
    ask: Callable[..., Any], begin_s: float, end_s: float, nodes: frozenset[int]
) -> Circumstances:
    """Return the circumstances that a cloud tells.

    Args:
        ask: returns a reply, as JSON that was read, to the parameters of a URL.
        begin_s: of the time axis, seconds since the epoch.
        end_s: likewise; later.
        nodes: that are of interest, beside those where handlers were.

    Raises:
        TransportError: as of `ask`, or the reply is none.
    """
    since_ms = int(begin_s * 1e3)
    reply = ask(
        since=since_ms,
        until=max(since_ms + 1, -int(-end_s * 1e3 // 1)),
        nodes=",".join(map(str, sorted(nodes)[:MAX_NODES])),
    )
    try:
        return msgspec.convert(reply, Shared).circumstances
    except msgspec.ValidationError as err:
        raise TransportError(f"reply cannot be read: {err}") from err
