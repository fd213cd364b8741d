"""The page of an account: one file of HTML, with its style, script and pictures inside.

The script only tells values where a pointer is, and dims what is not chosen; without it all is
there. Nothing is loaded: the page forbids it itself. What users have named is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from importlib import resources
from string import Template

from vdag import __version__
from vdag.control.accounts import charts
from vdag.control.accounts.account import Account
from vdag.control.accounts.charts import Chart, clock, day
from vdag.control.accounts.circumstances import HOLD_S
from vdag.control.tracing import PARTS, Figures
from vdag.control.tracing.frames import Part

__all__ = ["render"]

#: What the parts of a delay are, for who reads the page alone.
MEANINGS: dict[Part, str] = {
    "transfer": "on its way from another node",
    "queue": "waits, or is handed over on the same node",
    "compute": "is worked on",
    "home": "on its way to the sink",
    "gap": "something was not recorded",
}
#: Of what is not known.
NONE = "none"


def render(account: Account) -> str:
    """Return the page of an account."""
    drawn: list[Chart] = []
    sections = [
        _section("Delay", _delay(account, drawn)),
        _section("Where the time goes", _stacks(account, drawn)),
        _section("Frames that did not come through", _lost(account)),
        _section("Plans", _plans(account)),
        _section("Placements", _placements(account)),
        _section("Nodes", _nodes(account, drawn)),
    ]
    script = _resource("page.js")
    digest = hashlib.sha256(f"\n{script}".encode()).digest()
    return Template(_resource("page.html")).substitute(
        title=escape(account.subject.title),
        style=_resource("page.css"),
        script=script,
        script_hash=f"sha256-{base64.b64encode(digest).decode()}",
        facts="".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in _facts(account)),
        notes="".join(f'<p class="note">{escape(note)}</p>' for note in _notes(account)),
        sections="\n".join(sections),
        data=_data(account, drawn),
    )


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")


def _facts(account: Account) -> Iterator[tuple[str, str]]:
    session, query = account.subject.session, account.subject.query
    if session is not None:
        service = f" of {session.service}" if session.service else ""
        yield "session", f"{session.session_id} {session.name}{service}"
        yield "state", session.state + (f": {session.reason}" if session.reason else "")
        if session.algorithm:
            yield "placed by", session.algorithm
    if query is not None:
        constraint = query.asked.constraint.items()
        yield "constraint", ", ".join(f"{k} {v}" for k, v in constraint) or NONE
        yield "policy", query.asked.policy or NONE
    if account.extent is not None:
        begin, end = clock(account.begin_s), clock(account.end_s)
        times = f"{day(account.begin_s)} {begin} to {day(account.end_s)} {end}"
        yield "time", f"{times} UTC, {account.end_s - account.begin_s:.1f} s"
    summary = account.summary
    yield "frames", f"{summary.frames}, {summary.whole} of them whole"
    if summary.delay is not None:
        delay = summary.delay
        yield "delay", f"median {_ms(delay.p50_s)} ms, 95 % within {_ms(delay.p95_s)} ms"


def _notes(account: Account) -> Iterator[str]:
    extent, summary = account.extent, account.summary
    if extent is None:
        yield "No packets of this session are recorded."
    elif account.step > 1:
        yield (
            f"Every {account.step}th frame of the sequences {extent.first} to {extent.last} was "
            "looked at. Shares, means and percentiles are of these, and so are the slowest."
        )
    if account.stretches:
        yield (
            f"Pictures over time have {account.stretches} stretches of {account.stretch_s:.3g} s, "
            "of which means and percentiles are shown."
        )
    if summary.skewed:
        yield (
            f"In {summary.skewed} frames, something ended before it began: clocks of nodes "
            "disagree. It is shown as having taken no time."
        )


def _delay(account: Account, drawn: list[Chart]) -> Iterator[str]:
    if account.summary.delay is None or account.histogram is None:
        yield "<p>No frame has come to its end.</p>"
        return
    hint = "Move over a picture for its values, or use the arrow keys."
    marks = " Dashed lines across are new plans." if account.changes else ""
    yield f'<p class="hint">{hint}{marks}</p>'
    yield _draw(charts.delays(account), drawn)
    yield _draw(charts.histogram(account.histogram), drawn)
    slowest = ", ".join(
        f"{key.sequence} ({_ms(key.delay_s)} ms)" for key in account.summary.slowest
    )
    yield f"<p>The slowest frames: {slowest}. <code>vdag trace</code> shows what held them.</p>"


def _stacks(account: Account, drawn: list[Chart]) -> Iterator[str]:
    if account.summary.delay is None:
        yield "<p>No frame has come to its end.</p>"
        return
    used = [part for part in PARTS if any(part in each.parts for each in account.stacks)]
    keys = "".join(
        f'<li><button type="button" data-part="{part}" aria-pressed="false">'
        f'<i class="swatch {part}"></i>{part}</button> '
        f'<span class="note">{MEANINGS[part]}</span></li>'
        for part in used
    )
    yield f'<ul class="legend">{keys}</ul>'
    yield '<p class="hint">Mean of the frames of each stretch; every picture has its own scale.</p>'
    for each in account.stacks:
        yield _draw(charts.stack(account, each), drawn)
    shown = len(account.stacks) - 1
    others = len({handler for handler, _ in account.summary.parts}) - shown
    if others > 0:
        yield f'<p class="note">{others} handlers that take less time are in the table alone.</p>'
    rows = [
        (account.roster.handler(handler), part, *_cells(figures))
        for (handler, part), figures in account.summary.parts.items()
    ]
    rows.append(("all", "delay", *_cells(account.summary.delay)))
    titles = ("handler", "part", "frames", "mean", "p50", "p95", "p99", "most")
    yield _table("Percentiles", "milliseconds, percentiles by nearest rank", titles, rows, words=2)


def _lost(account: Account) -> Iterator[str]:
    summary = account.summary
    if not summary.unfinished and not account.dropped:
        yield "<p>None.</p>"
    if summary.unfinished:
        rows = [
            (account.roster.handler(handler), event, str(count))
            for (handler, event), count in summary.unfinished.items()
        ]
        about = "not seen to their end; the newest may still be on their way"
        yield _table("Seen last", about, ("at handler", "event", "frames"), rows, words=2)
    if account.dropped:
        counts = [(reason, str(count)) for reason, count in account.dropped.items()]
        about = "given up by the nodes of the query since it began"
        yield _table("Dropped", about, ("reason", "frames"), counts, words=1)


def _plans(account: Account) -> Iterator[str]:
    if not account.changes:
        yield "<p>None are recorded.</p>"
        return
    rows = [
        (str(each.number), f"{day(each.at_s)} {clock(each.at_s)}", each.cause, each.why,
         each.settings, each.places)
        for each in account.changes
    ]  # fmt: skip
    titles = ("plan", "since", "cause", "why", "video", "tasks")
    about = "of the query, oldest first; times are UTC"
    if account.changes_left_out:
        about += f"; {account.changes_left_out} older ones are left out"
    yield _table("Plans", about, titles, rows, words=len(titles))


def _placements(account: Account) -> Iterator[str]:
    if not account.placements:
        yield "<p>None are recorded.</p>"
        return
    yield charts.places(account)
    rows = [
        (
            account.roster.handler(each.handler_id),
            account.roster.node(each.node_id),
            f"{day(each.since_s)} {clock(each.since_s)}",
            "" if each.until_s is None else f"{day(each.until_s)} {clock(each.until_s)}",
            each.cause,
        )
        for each in account.placements
    ]
    about = "of handlers, oldest first; times are UTC"
    if account.placements_left_out:
        about += f"; {account.placements_left_out} older ones are left out"
    titles = ("handler", "node", "since", "until", "cause")
    yield _table("Placements", about, titles, rows, words=len(titles))


def _nodes(account: Account, drawn: list[Chart]) -> Iterator[str]:
    if not account.loads:
        yield "<p>No loads are recorded of the nodes of this session.</p>"
        return
    yield (
        '<p class="note">Percent of all cores, of memory, and of the first GPU. '
        f"A sample stands until the next one, for {HOLD_S:g} s at most.</p>"
    )
    for load in account.loads:
        yield _draw(charts.loads(account, load), drawn)


def _section(title: str, content: Iterable[str]) -> str:
    return f"<section><h2>{title}</h2>\n" + "\n".join(content) + "\n</section>"


def _draw(chart: Chart, drawn: list[Chart]) -> str:
    drawn.append(chart)
    return chart.html


def _table(
    name: str, about: str, titles: Sequence[str], rows: Iterable[Sequence[str]], *, words: int
) -> str:
    """Return a table, whose first columns are words and the others numbers."""

    def cell(tag: str, index: int, text: str) -> str:
        kind = "number" if index >= words else "text"
        scope = ' scope="col"' if tag == "th" else ""
        return f'<{tag}{scope} class="{kind}">{escape(text)}</{tag}>'

    head = "".join(cell("th", index, title) for index, title in enumerate(titles))
    body = "".join(
        f"<tr>{''.join(cell('td', index, text) for index, text in enumerate(row))}</tr>"
        for row in rows
    )
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{escape(name)}">'
        f"<table><caption>{escape(name)}: {escape(about)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _data(account: Account, drawn: Iterable[Chart]) -> str:
    """Return what the script knows, as JSON that cannot end its element."""
    width_ms = 0.0
    if account.histogram is not None:
        width_ms = account.histogram.top_s * 1e3 / len(account.histogram.counts)
    document = {
        "version": __version__,
        "begin": account.begin_s,
        "stretch": account.stretch_s,
        "charts": {
            each.key: {
                "axis": each.axis,
                "names": each.names,
                "unit": each.unit,
                "width": width_ms,
                "values": [[_short(value) for value in line] for line in each.values],
            }
            for each in drawn
        },
    }
    return json.dumps(document, separators=(",", ":")).replace("<", "\\u003c")


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _cells(figures: Figures) -> list[str]:
    return [str(figures.frames), *(_ms(length_s) for length_s in figures[1:])]


def _ms(length_s: float) -> str:
    return f"{length_s * 1e3:.1f}"
