"""Nodes that speak only the documented REST, as they are recorded."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from sqlalchemy import Connection, delete, insert, select

from vdag.control.records.tables import foreigner
from vdag.control.records.transaction import Transaction

__all__ = ["ForeignNode", "ForeignNodes"]


@dataclass(frozen=True, slots=True)
class ForeignNode:
    """A node that says only once who it is.

    Attributes:
        node_addr: `ip:port`, which names it.
        dialect: `push` or `pull`.
        videos: by number, with what each shows, in words.
        given: ids of the queries that it was handed, if it asks for them.
    """

    node_addr: str
    dialect: str
    videos: Mapping[int, str] = field(default_factory=dict)
    given: Collection[str] = ()


class _Put(Protocol):
    def __call__(self, apply: Callable[[Transaction], Any]) -> None: ...


class _Read(Protocol):
    def __call__(self, read: Callable[[Connection], list[ForeignNode]]) -> list[ForeignNode]: ...


class ForeignNodes:
    """The part of a `Store` that is about them.

    Args:
        put: has something written.
        read: returns what a look finds, when all that was put before is committed.
    """

    def __init__(self, put: _Put, read: _Read) -> None:
        self._put, self._read = put, read

    def keep(self, node: ForeignNode) -> None:
        """Record a node, in place of what was recorded of it before.

        Raises:
            Saturated: too much waits to be written.
        """
        videos = {str(number): text for number, text in node.videos.items()}
        given = sorted(node.given)

        def apply(transaction: Transaction) -> None:
            same = foreigner.c.node_addr == node.node_addr
            transaction.execute(delete(foreigner).where(same))
            row = insert(foreigner).values(
                node_addr=node.node_addr, dialect=node.dialect, videos=videos, given=given
            )
            transaction.execute(row)

        self._put(apply)

    def forget(self, node_addr: str) -> None:
        """Record a node no more; harmless if it is not.

        Raises:
            Saturated: too much waits to be written.
        """
        same = foreigner.c.node_addr == node_addr
        self._put(lambda transaction: transaction.execute(delete(foreigner).where(same)))

    def all(self) -> list[ForeignNode]:
        """Return them, by name.

        Raises:
            Saturated: the records are behind, or cannot be read.
        """
        return self._read(_look)


def _look(connection: Connection) -> list[ForeignNode]:
    return [
        ForeignNode(
            row.node_addr,
            row.dialect,
            {int(number): str(text) for number, text in row.videos.items()},
            frozenset(row.given),
        )
        for row in connection.execute(select(foreigner).order_by(foreigner.c.node_addr))
    ]
