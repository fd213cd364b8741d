"""What a coordinator has learned of handlers and nodes: averages, which outlive it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Connection, and_, delete, insert, select

from vdag.control.records.event_tables import lesson

__all__ = ["NOBODY", "Lesson", "Topic", "read_lessons", "set_lessons"]

#: In place of the number of a node that it is not about.
NOBODY = -1


class Topic(NamedTuple):
    """What an average is of.

    Attributes:
        what: `compute`, `hop`, `way` or another word of at most 16 characters.
        subject: which handlers, at most 255 characters; empty for all.
        node_id: on which node, or from which.
        other_id: to which node.
    """

    what: str
    subject: str = ""
    node_id: int = NOBODY
    other_id: int = NOBODY


@dataclass(frozen=True, slots=True)
class Lesson:
    """An average of a topic, in seconds or bytes; None for forgotten."""

    topic: Topic
    value: float | None


def set_lessons(connection: Connection, lessons: Sequence[Lesson], *, at_s: float) -> None:
    """Write averages down, each in place of what was written of its topic.

    Args:
        connection: in a transaction.
        lessons: of different topics.
        at_s: when, seconds since the epoch.
    """
    for each in lessons:
        columns = each.topic._asdict()
        same = and_(*(lesson.c[name] == value for name, value in columns.items()))
        connection.execute(delete(lesson).where(same))
        if each.value is not None:
            connection.execute(insert(lesson).values(**columns, value=each.value, at_s=at_s))


def read_lessons(connection: Connection, *, limit: int) -> list[Lesson]:
    """Return the newest averages, oldest first."""
    newest = select(lesson).order_by(lesson.c.at_s.desc()).limit(limit)
    return [
        Lesson(Topic(row.what, row.subject, row.node_id, row.other_id), row.value)
        for row in reversed(connection.execute(newest).all())
    ]
