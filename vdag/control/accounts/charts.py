"""The pictures of a page: SVG for what is to scale, HTML around it for what is read.

A plot is drawn in a box of `WIDTH` by `HEIGHT` units, which is stretched to whatever room there is;
lines keep their width, and labels stand beside it as text of the page's size, so that a page of 360
pixels can be read as one of 1200. `data-top` of a plot is the value at its upper edge.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

from vdag.control.accounts.account import Account, Histogram, Load, Series, Stack
from vdag.control.records import PlacementRecord
from vdag.control.tracing import Roster

__all__ = [
    "HEIGHT",
    "WIDTH",
    "Chart",
    "clock",
    "day",
    "delays",
    "histogram",
    "loads",
    "places",
    "stack",
]

WIDTH, HEIGHT = 1000, 100
#: The last, as rounding may leave a value just above its own power of ten.
ROUND = (1.0, 1.2, 1.6, 2.0, 2.4, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0)
#: Colours of nodes, over and over.
NODE_COLOURS = 7


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture and what a pointer that moves over it is told.

    Attributes:
        html: a `figure`.
        key: names it within the page.
        axis: what it shares its position with: `time`, or nothing but itself.
        names: of what is drawn, by series.
        values: as many lists, with a value per stretch or bin.
        unit: of the values.
    """

    html: str
    key: str
    axis: str
    names: Sequence[str]
    values: Sequence[Series]
    unit: str


def stack(account: Account, found: Stack) -> Chart:
    """Return where the time of frames went at a handler, over time, in ms."""
    values = {part: [each * 1e3 for each in means] for part, means in found.parts.items()}
    totals = [sum(column) for column in zip(*values.values(), strict=True)]
    top = round_up(max(totals, default=0.0))
    shapes, bases = [], [0.0] * account.stretches
    for part, means in values.items():
        heights = [value / top for value in means]
        shapes.append(f'<path class="part {part}" d="{_bars(heights, bases)}"/>')
        bases = [base + height for base, height in zip(bases, heights, strict=True)]
    title = "all handlers" if found.handler_id is None else account.roster.handler(found.handler_id)
    mean = ", ".join(f"{part} {_mean(each, found.counts):.1f}" for part, each in values.items())
    key = "stack-all" if found.handler_id is None else f"stack-{found.handler_id}"
    label = f"{title}: milliseconds over time, mean {mean}"
    html = _figure(key, title, label, "".join(shapes), account, top=top, unit="ms")
    names = list(values)
    shown = [_where(values[part], found.counts) for part in names]
    return Chart(html, key, "time", [*names, "frames"], [*shown, found.counts], "ms")


def delays(account: Account) -> Chart:
    """Return the median and the 95th percentile of the delay over time, in ms."""
    lines = {"p95": _scaled(account.p95_s, 1e3), "median": _scaled(account.median_s, 1e3)}
    top = round_up(max((v for line in lines.values() for v in line if v is not None), default=0.0))
    shapes = "".join(
        f'<path class="line {name}" d="{_steps(line, top)}"/>' for name, line in lines.items()
    )
    label = "delay from end to end over time in milliseconds, median and 95th percentile"
    html = _figure("delays", "delay", label, shapes, account, top=top, unit="ms", keys=lines)
    return Chart(html, "delays", "time", list(lines), list(lines.values()), "ms")


def loads(account: Account, load: Load) -> Chart:
    """Return how busy a node was over time, 0 to 100."""
    shapes = "".join(
        f'<path class="line {name}" d="{_steps(line, 100.0)}"/>'
        for name, line in load.values.items()
    )
    title = account.roster.node(load.node_id)
    key = f"load-{load.node_id}"
    label = f"{title}: percent in use over time of {', '.join(load.values)}"
    html = _figure(key, title, label, shapes, account, top=100.0, unit="%", keys=load.values)
    return Chart(html, key, "time", list(load.values), list(load.values.values()), "%")


def histogram(found: Histogram) -> Chart:
    """Return how many frames had which delay."""
    top = round_up(max(found.counts))
    heights = [count / top for count in found.counts]
    shapes = f'<path class="bin" d="{_bars(heights, [0.0] * len(heights))}"/>'
    right_ms = found.top_s * 1e3
    label = f"frames by delay, from 0 to {right_ms:.1f} milliseconds"
    note = f"{found.above} frames took longer than {right_ms:.1f} ms" if found.above else ""
    texts = [f"{right_ms * step / 4:.4g} ms" for step in range(5)]
    plot = _plot("histogram", label, shapes, top, len(found.counts))
    html = _framed("histogram", "frames by delay", plot, top, "", texts, note)
    return Chart(html, "histogram", "delay", ["frames"], [found.counts], "")


def places(account: Account) -> str:
    """Return where handlers were over time: a row each, with a bar per node."""
    rows: dict[int, list[PlacementRecord]] = {}
    for each in account.placements:
        rows.setdefault(each.handler_id, []).append(each)
    nodes = sorted({each.node_id for each in account.placements})
    found = []
    for handler_id in sorted(rows):
        bars = "".join(_place_bars(rows[handler_id], nodes, account))
        name = escape(account.roster.handler(handler_id))
        where = escape(", ".join(_told(rows[handler_id], account.roster)))
        found.append(
            f'<div class="row"><span class="name">{name}</span>'
            f'<svg viewBox="0 0 {WIDTH} 20" preserveAspectRatio="none" role="img" '
            f'aria-label="{name}: {where}" data-handler="{handler_id}">{bars}</svg></div>'
        )
    keys = "".join(
        f'<li><i class="swatch node{nodes.index(node) % NODE_COLOURS}"></i>'
        f"{escape(account.roster.node(node))}</li>"
        for node in nodes
    )
    return f'<ul class="legend">{keys}</ul><div class="rows">{"".join(found)}</div>'


def position(account: Account, at_s: float) -> float:
    """Return where a time is on the time axis, 0 to 1."""
    share = (at_s - account.begin_s) / (account.end_s - account.begin_s)
    return min(max(share, 0.0), 1.0)


def clock(at_s: float, *, length_s: float = 86400.0) -> str:
    """Return a time of UTC in as many digits as tell it apart within a length."""
    moment = time.gmtime(at_s)
    if length_s >= 2 * 86400.0:
        return time.strftime("%m-%d %H:%M", moment)
    if length_s >= 10.0:
        return time.strftime("%H:%M:%S", moment)
    return time.strftime("%H:%M:%S", moment) + f"{at_s % 1:.3f}"[1:]


def day(at_s: float) -> str:
    """Return the day of a time of UTC."""
    return time.strftime("%Y-%m-%d", time.gmtime(at_s))


def round_up(value: float) -> float:
    """Return the next round number, whose half is round too; 1 for nothing."""
    if not value > 0:
        return 1.0
    scale = float(10.0 ** math.floor(math.log10(value)))
    return next(step * scale for step in ROUND if value <= step * scale)


def _figure(
    key: str,
    title: str,
    label: str,
    shapes: str,
    account: Account,
    *,
    top: float,
    unit: str,
    keys: Iterable[str] = (),
) -> str:
    """Return a chart over time, with a line for each plan."""
    marks = "".join(
        f'<path class="mark" d="M{position(account, change.at_s) * WIDTH:.1f} 0V{HEIGHT}"/>'
        for change in account.changes
        if account.begin_s <= change.at_s <= account.end_s
    )
    length_s = account.end_s - account.begin_s
    texts = [clock(account.begin_s + length_s * step / 4, length_s=length_s) for step in range(5)]
    plot = _plot(key, label, shapes + marks, top, account.stretches)
    head = escape(title) + "".join(f' <span class="key {name}">{name}</span>' for name in keys)
    return _framed(key, head, plot, top, unit, texts, "")


def _plot(key: str, label: str, shapes: str, top: float, count: int) -> str:
    grid = f'<path class="grid" d="M0 0H{WIDTH}M0 {HEIGHT // 2}H{WIDTH}M0 {HEIGHT}H{WIDTH}"/>'
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" tabindex="0" '
        f'aria-label="{escape(label)}" data-key="{key}" data-top="{top:g}" data-count="{count}">'
        f'{grid}{shapes}<path class="cursor" d=""/></svg>'
    )


def _framed(
    key: str, head: str, plot: str, top: float, unit: str, texts: Sequence[str], note: str
) -> str:
    """Return a plot with its scales; what is above it is HTML."""
    heights = ((100, f"{top:g}"), (50, f"{top / 2:g}"), (0, "0"))
    scale = "".join(
        f'<span style="bottom:{at}%">{text}{" " + unit if unit and at == 100 else ""}</span>'
        for at, text in heights
    )
    below = "".join(
        f"<span{' class=minor' if number % 2 else ''}>{escape(text)}</span>"
        for number, text in enumerate(texts)
    )
    told = f'<p class="note">{escape(note)}</p>' if note else ""
    return (
        f'<figure class="chart"><figcaption>{head}</figcaption>'
        f'<div class="plot"><div class="y" aria-hidden="true">{scale}</div>{plot}</div>'
        f'<div class="x" aria-hidden="true">{below}</div>'
        f'<output data-for="{key}"></output>{told}</figure>'
    )


def _bars(heights: Sequence[float], bases: Sequence[float]) -> str:
    """Return a path around bars side by side; heights and bases are shares of the plot's.

    Bars that touch have one outline: seams between them would be seen.
    """
    width = WIDTH / max(len(heights), 1)
    found = []
    for is_there, run in groupby(range(len(heights)), key=lambda index: heights[index] > 0):
        if is_there:
            indices = list(run)
            tops = [(1 - bases[n] - heights[n]) * HEIGHT for n in indices]
            feet = [(1 - bases[n]) * HEIGHT for n in reversed(indices)]
            found.append(f"M{indices[0] * width:.2f} {tops[0]:.3f}")
            found += [f"V{y:.3f}h{width:.3f}" for y in tops]
            found += [f"V{y:.3f}h-{width:.3f}" for y in feet]
            found.append("z")
    return "".join(found)


def _steps(line: Series, top: float) -> str:
    """Return a path that is level within a stretch, and broken where there is no value."""
    width = WIDTH / max(len(line), 1)
    found, is_on = [], False
    for index, value in enumerate(line):
        if value is not None:
            y = (1 - min(max(value / top, 0.0), 1.0)) * HEIGHT
            found.append(f"{'V' if is_on else f'M{index * width:.2f} '}{y:.3f}h{width:.2f}")
        is_on = value is not None
    return "".join(found)


def _place_bars(
    placements: Iterable[PlacementRecord], nodes: Sequence[int], account: Account
) -> Iterator[str]:
    for each in placements:
        left = position(account, each.since_s) * WIDTH
        right = WIDTH if each.until_s is None else position(account, each.until_s) * WIDTH
        if right > left:
            colour = nodes.index(each.node_id) % NODE_COLOURS
            title = escape(f"{account.roster.node(each.node_id)}: {each.cause}")
            yield (
                f'<rect class="node{colour}" x="{left:.2f}" y="0" width="{right - left:.2f}" '
                f'height="20"><title>{title}</title></rect>'
            )


def _told(placements: Iterable[PlacementRecord], roster: Roster) -> Iterator[str]:
    for each in placements:
        yield f"on {roster.node(each.node_id)} from {clock(each.since_s)}"


def _scaled(line: Series, scale: float) -> list[float | None]:
    return [None if value is None else value * scale for value in line]


def _where(values: Sequence[float], counts: Sequence[int]) -> list[float | None]:
    return [value if count else None for value, count in zip(values, counts, strict=True)]


def _mean(values: Sequence[float], counts: Sequence[int]) -> float:
    total = sum(value * count for value, count in zip(values, counts, strict=True))
    return total / max(sum(counts), 1)
