"""The timeline of a frame in a terminal: a line per visit, with bars that are to scale."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from vdag.control.tracing import Frame, Part, Roster, Span, Visit

__all__ = ["bar", "timeline"]

#: Columns of the bars, at least and at most, and what stands beside them.
LEAST, MOST, BESIDE = 20, 100, 72
#: Of each part: how it is drawn, where only ASCII is, and in which colour.
LOOKS: Mapping[Part, tuple[str, str, str]] = {
    "transfer": ("\u2500", "-", "blue"),
    "queue": ("\u2591", ".", "yellow"),
    "compute": ("\u2588", "#", "green"),
    "home": ("\u2550", "=", "magenta"),
    "gap": ("?", "?", "red"),
}
MARK = ("\u25cf", "*")


def timeline(frame: Frame, roster: Roster, screen: Console) -> Table:
    """Return the timeline of a frame: its visits by time, each part in ms, and a bar.

    A visit that its delay is not made of, as of the faster of two branches, has its name in
    brackets. The parts of the others add up to the delay.
    """
    is_ascii = screen.options.ascii_only
    width = min(max(screen.width - BESIDE, LEAST), MOST)
    begin_s = min([frame.born_s, *(visit.begin_s for visit in frame.visits if visit.spans)])
    end_s = max([frame.done_s, *(visit.done_s for visit in frame.visits)])
    clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(frame.born_s))
    fraction = f"{frame.born_s % 1:.3f}"[1:]
    again = f", run {frame.run + 1}" if frame.run else ""
    what = "" if frame.is_whole else f", seen last at {roster.handler(frame.last[0])}"
    title = f"frame {frame.sequence}{again}, {frame.delay_s * 1e3:.1f} ms, {clock}{fraction}{what}"
    table = Table(
        title=Text(title),
        caption=_legend(is_ascii),
        title_justify="left",
        caption_justify="left",
        box=None,
        padding=(0, 1),
    )
    for name in ("handler", "node"):
        table.add_column(name, overflow="ellipsis", max_width=18, no_wrap=True)
    for name in ("transfer", "queue", "compute"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column(_scale(width, end_s - begin_s), no_wrap=True, width=width)
    on_way = frozenset(frame.way)
    for index, visit in enumerate(frame.visits):
        name = roster.handler(visit.handler_id)
        table.add_row(
            Text(name if index in on_way else f"({name})"),
            Text(roster.node(visit.node_id)),
            _length(visit, "transfer", "home"),
            _length(visit, "queue", "gap"),
            _length(visit, "compute"),
            bar(visit, begin_s, end_s, width=width, is_ascii=is_ascii),
        )
    return table


def bar(visit: Visit, begin_s: float, end_s: float, *, width: int, is_ascii: bool = False) -> Text:
    """Return the spans of a visit, to scale.

    Args:
        visit: whose spans, or a mark where it is if it has none.
        begin_s: at the left edge.
        end_s: at the right edge.
        width: in columns; each shows the part that has most of it.
        is_ascii: nothing else can be shown.
    """
    scale = width / (end_s - begin_s) if end_s > begin_s else 0.0
    spans = [span for span in visit.spans if span.end_s > span.begin_s]
    if not spans:
        column = min(int((visit.done_s - begin_s) * scale), width - 1)
        return Text(" " * column + MARK[is_ascii])
    found = Text()
    for column in range(width):
        part = _most(spans, begin_s, scale, column)
        if part is None:
            found.append(" ")
        else:
            wide, plain, colour = LOOKS[part]
            found.append(plain if is_ascii else wide, style=colour)
    found.rstrip()
    return found


def _most(spans: list[Span], begin_s: float, scale: float, column: int) -> Part | None:
    """Return the part that fills most of a column; None if nothing does half of it."""
    shares: dict[Part | None, float] = {}
    for span in spans:
        left = max((span.begin_s - begin_s) * scale, column)
        right = min((span.end_s - begin_s) * scale, column + 1)
        if right > left:
            shares[span.part] = shares.get(span.part, 0.0) + right - left
    shares[None] = 1.0 - sum(shares.values())
    return max(shares, key=lambda part: (shares[part], part is not None))


def _length(visit: Visit, *parts: Part) -> str:
    """Return how long parts of a visit are in ms; in words those that are not what it says."""
    texts = []
    for part in parts:
        lengths_s = [span.length_s for span in visit.spans if span.part == part]
        if lengths_s:
            word = f"{part} " if part in ("home", "gap") else ""
            texts.append(f"{word}{sum(lengths_s) * 1e3:.1f}")
    return ", ".join(texts)


def _scale(width: int, length_s: float) -> str:
    right = f"{length_s * 1e3:.1f} ms"
    return "0" + right.rjust(width - 1)


def _legend(is_ascii: bool) -> Text:
    found = Text()
    for part, (wide, plain, colour) in LOOKS.items():
        found.append((plain if is_ascii else wide) * 2, style=colour)
        found.append(f" {part}  ")
    return found
