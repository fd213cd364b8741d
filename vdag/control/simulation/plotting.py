"""Plots of outcomes, side by side: SVG without anything around it, or as an HTML page."""

from __future__ import annotations

import html
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vdag.control.simulation.outcome import Outcome, Window
from vdag.errors import ConfigError

__all__ = ["draw", "write_plot"]

WIDTH, PANEL, LEFT, RIGHT, TOP, GAP = 960, 170, 70, 20, 40, 46
#: Told apart also by those who see few colours (Okabe and Ito, 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
#: Points of a line; more than this are summed up.
MAX_POINTS = 480
STYLE = (
    "text{font:12px sans-serif;fill:#333}.axis{stroke:#999;fill:none}.grid{stroke:#eee;fill:none}"
    ".line{fill:none;stroke-width:1.6;stroke-linejoin:round}"
)


@dataclass(frozen=True, slots=True)
class Panel:
    """What one of the plots is of.

    Attributes:
        title: above it.
        value: of a window; None for none.
        top: upper end of its axis; None for the largest value.
    """

    title: str
    value: Callable[[Window], float | None]
    top: float | None = None


PANELS = (
    Panel("constraint met, share of the queries", lambda window: float(window.met), 1.0),
    Panel("delay, seconds that 95 % do not exceed, mean of the queries", lambda w: _delay(w)),
    Panel("accuracy, mean of the queries", lambda window: window.accuracy, 1.0),
    Panel("results per second and query", lambda window: window.fps),
)


def write_plot(outcomes: Sequence[Outcome], path: Path) -> None:
    """Write the plots of several outcomes of one scenario into one file.

    Args:
        outcomes: at least one.
        path: `.svg`, or `.html` for a page.

    Raises:
        ConfigError: the name ends in something else, or the file cannot be written.
    """
    if path.suffix not in (".svg", ".html"):
        raise ConfigError(f"plot {path} is neither .svg nor .html")
    text = draw(outcomes)
    if path.suffix == ".html":
        title = html.escape(outcomes[0].scenario)
        head = f'<!DOCTYPE html><html><head><meta charset="utf-8"><title>{title}</title></head>'
        text = f"{head}<body>{text}</body></html>\n"
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as err:
        raise ConfigError(f"cannot write {path}: {err.strerror}") from err


def draw(outcomes: Sequence[Outcome]) -> str:
    """Return an SVG with a panel each for constraint, delay, accuracy and rate, over time."""
    height = TOP + len(PANELS) * (PANEL + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}"><style>{STYLE}</style>'
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>'
    ]
    parts += _legend(outcomes)
    end_s = max(outcome.duration_s for outcome in outcomes)
    for index, panel in enumerate(PANELS):
        parts += _panel(panel, outcomes, end_s, TOP + index * (PANEL + GAP) + GAP // 2)
    return "".join(parts) + "</svg>\n"


def _legend(outcomes: Sequence[Outcome]) -> Iterable[str]:
    x = LEFT
    for index, outcome in enumerate(outcomes):
        colour, name = _colour(index), html.escape(outcome.policy)
        yield f'<path d="M{x} 20h24" stroke="{colour}" stroke-width="3"/>'
        yield f'<text x="{x + 30}" y="24">{name}</text>'
        x += 60 + 8 * len(outcome.policy)


def _panel(panel: Panel, outcomes: Sequence[Outcome], end_s: float, y: int) -> Iterable[str]:
    lines = [_series(outcome, panel.value) for outcome in outcomes]
    values = [value for line in lines for _, value in line]
    top = panel.top or _round_up(max(values, default=1.0))
    yield f'<text x="{LEFT}" y="{y - 6}">{html.escape(panel.title)}</text>'
    for step in range(5):
        at = y + PANEL - PANEL * step / 4
        yield f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>'
        yield f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{top * step / 4:.3g}</text>'
    yield f'<path class="axis" d="M{LEFT} {y}V{y + PANEL}H{WIDTH - RIGHT}"/>'
    for step in range(7):
        at = LEFT + (WIDTH - RIGHT - LEFT) * step / 6
        label = f"{end_s * step / 6:.3g} s"
        yield f'<text x="{at:.1f}" y="{y + PANEL + 15}" text-anchor="middle">{label}</text>'
    for index, line in enumerate(lines):
        points = " ".join(
            f"{LEFT + (WIDTH - RIGHT - LEFT) * at_s / end_s:.1f},"
            f"{y + PANEL * (1 - min(value / top, 1.0)):.1f}"
            for at_s, value in line
        )
        yield f'<polyline class="line" stroke="{_colour(index)}" points="{points}"/>'


def _series(outcome: Outcome, value: Callable[[Window], float | None]) -> list[tuple[float, float]]:
    """Return the mean over the queries, by time in steps of at least a second."""
    step_s = max(1.0, math.ceil(outcome.duration_s / MAX_POINTS))
    found: defaultdict[int, list[float]] = defaultdict(list)
    for query in outcome.queries:
        for window in query.windows:
            number = value(window)
            if number is not None:
                found[int(window.start_s / step_s)].append(number)
    return [
        ((index + 0.5) * step_s, sum(numbers) / len(numbers))
        for index, numbers in sorted(found.items())
    ]


def _delay(window: Window) -> float | None:
    return window.delay_p95 if math.isfinite(window.delay_p95) else None


def _round_up(value: float) -> float:
    """Return the next of 1, 2, 5, 10 and so on."""
    if value <= 0:
        return 1.0
    scale = float(10.0 ** math.floor(math.log10(value)))
    return next(step * scale for step in (1.0, 2.0, 5.0, 10.0) if value <= step * scale)


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]
