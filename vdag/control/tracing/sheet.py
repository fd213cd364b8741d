"""Spans of frames as CSV (RFC 4180), a line per span: of all visits, on the way or beside it."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from typing import TextIO

from vdag.control.tracing.frames import Frame
from vdag.control.tracing.roster import Roster

__all__ = ["COLUMNS", "write_sheet"]

#: `on_way`: the frame's delay is the sum of these.
COLUMNS = (
    "sequence",
    "run",
    "handler_id",
    "handler_name",
    "node_id",
    "node_name",
    "part",
    "on_way",
    "begin_s",
    "length_ms",
)


def write_sheet(frames: Iterable[Frame], roster: Roster, file: TextIO) -> int:
    """Write the spans of frames; return how many.

    Args:
        frames: in the order in which they are written.
        roster: of their session.
        file: opened with `newline=""`.

    Raises:
        OSError: as of the file.
    """
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    count = 0
    for frame in frames:
        way = frozenset(frame.way)
        for index, visit in enumerate(frame.visits):
            for span in visit.spans:
                writer.writerow(
                    (
                        frame.sequence,
                        frame.run,
                        span.handler_id,
                        roster.handlers.get(span.handler_id, ""),
                        "" if span.node_id is None else span.node_id,
                        "" if span.node_id is None else roster.node(span.node_id),
                        span.part,
                        int(index in way),
                        f"{span.begin_s:.6f}",
                        f"{span.length_s * 1e3:.3f}",
                    )
                )
                count += 1
    return count
