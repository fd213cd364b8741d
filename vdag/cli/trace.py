"""`vdag trace`: where the time of frames went, and the timeline of one of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO
from urllib.parse import quote

import typer
from rich.table import Table
from rich.text import Text

from vdag.cli.cloud import Cloud, Token
from vdag.cli.database import Records, inspected
from vdag.cli.queries import console
from vdag.errors import ConfigError, DependencyMissing

if TYPE_CHECKING:
    from vdag.control.records.inspection import Extent, Subject
    from vdag.control.tracing import Figures, Frame, FrameKey, Roster, Summary
    from vdag.control.tracing.reading import Look
    from vdag.control.tracing.sharing import SharedSession

__all__ = ["Manager", "What", "shared_session", "trace"]

What = Annotated[
    str,
    typer.Argument(
        metavar="QUERY|SESSION", help="A query's id, or the number or the name of a session."
    ),
]

Manager = Annotated[
    str,
    typer.Option("--cloud", help="Ask a query manager at this address, not a database."),
]


def trace(
    what: What,
    frame: Annotated[
        int | None, typer.Option(min=0, help="Its sequence; the slowest of all without it.")
    ] = None,
    frames: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Look at so many frames, the newest.")
    ] = 10_000,
    database: Records = "",
    cloud: Manager = "",
    token_file: Token = None,
    chrome: Annotated[
        Path | None, typer.Option(help="Write a trace for ui.perfetto.dev or chrome://tracing.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Write a table with a line per span.")] = None,
) -> None:
    """Show where the time of frames went, from node to node, and the timeline of one of them."""
    with _session(what, database, cloud, token_file) as (look, subject):
        from vdag.control.tracing import frames_of
        from vdag.control.tracing.reading import read_roster

        extent = look.extent(subject.session_id)
        if extent is None:
            raise ConfigError(f"{subject.title} has no packets")
        roster = read_roster(look, subject, extent)

        def read(first: int, last: int) -> Iterator[Frame]:
            yield from frames_of(look.packets(subject.session_id, first=first, last=last), roster)

        looked = _Looked(read, extent, frames, frame)
        if frame is None:
            _print_summary(looked.summary(), subject, extent, roster)
        shown = looked.shown()
        if chrome is not None:
            _export(chrome, lambda file: _write_chrome(looked.all(), roster, file))
        if csv is not None:
            _export(csv, lambda file: _write_sheet(looked.all(), roster, file))
    for each in shown:
        console().print()
        console().print(_timeline(each, roster))


@contextmanager
def _session(
    what: str, database: str, cloud: str, token_file: Path | None
) -> Iterator[tuple[Look, Subject]]:
    """Yield where a session is read from, and which it is."""
    if not cloud:
        with inspected(database) as inspection:
            yield inspection, inspection.subject(what)
        return
    shared = shared_session(Cloud(cloud, token_file), what)
    yield shared, shared.subject


def shared_session(manager: Cloud, query_id: str) -> SharedSession:
    """Return the session of a query as a query manager tells it.

    Raises:
        DependencyMissing: what reads it is not installed.
        ConfigError: the query is none, or has no session.
        TransportError: it cannot be reached, or says nothing that can be read.
    """
    try:
        from vdag.control.tracing.sharing import SharedSession
    except ImportError as err:
        raise DependencyMissing(str(err.name), "serve") from err
    path = f"/query/get_packets/{quote(query_id, safe='')}"
    return SharedSession(
        lambda first, last, step: manager.get(path, first=first, last=last, step=step)
    )


class _Looked:
    """The frames that a command is about.

    Args:
        read: returns the frames of sequences, the first and the last included.
        extent: of all of them.
        limit: of how many sequences, the newest.
        frame: sequence of the only one; None for all.

    Raises:
        ConfigError: there is no such frame.
    """

    def __init__(
        self,
        read: Callable[[int, int], Iterator[Frame]],
        extent: Extent,
        limit: int,
        frame: int | None,
    ) -> None:
        self._read = read
        self._last = extent.newest if frame is None else frame
        self._first = max(extent.first, self._last - limit + 1) if frame is None else frame
        self._chosen: int | None = frame
        self._run: int | None = None
        if frame is not None and next(read(frame, frame), None) is None:
            raise ConfigError(
                f"there is no frame {frame}, they are {extent.first} to {extent.last}"
            )

    def all(self) -> Iterator[Frame]:
        """Yield them all."""
        return self._read(self._first, self._last)

    def summary(self) -> Summary:
        """Return what they come to; the slowest is shown then."""
        from vdag.control.tracing import Tally

        tally = Tally()
        for each in self.all():
            tally.add(each)
        found = tally.summary()
        if found.slowest:
            self._chosen, self._run = found.slowest[0].sequence, found.slowest[0].run
        return found

    def shown(self) -> Sequence[Frame]:
        """Return the frame that was asked for, each time it was there, or the slowest."""
        if self._chosen is None:
            return ()
        found = self._read(self._chosen, self._chosen)
        return [each for each in found if self._run is None or each.run == self._run]


def _timeline(frame: Frame, roster: Roster) -> Table:
    from vdag.cli.timeline import timeline

    return timeline(frame, roster, console())


def _print_summary(summary: Summary, subject: Subject, extent: Extent, roster: Roster) -> None:
    screen = console()
    seconds = summary.until_s - summary.since_s
    screen.print(
        Text(
            f"{subject.title}: {summary.frames} frames in {seconds:.1f} s, {summary.whole} whole; "
            f"of the sequences {extent.first} to {extent.last}"
        )
    )
    for (handler, event), count in summary.unfinished.items():
        screen.print(Text(f"  {count} seen last at {roster.handler(handler)}: {event}"))
    if summary.skewed:
        screen.print(f"  {summary.skewed} in which clocks of nodes disagree")
    if summary.delay is None:
        return
    table = Table(box=None, padding=(0, 1, 0, 2))
    for title in ("milliseconds", "part", "frames", "mean", "p50", "p95", "p99", "most"):
        is_word = title in ("milliseconds", "part")
        table.add_column(title, justify="left" if is_word else "right", overflow="fold")
    for (handler, part), figures in summary.parts.items():
        table.add_row(Text(roster.handler(handler)), part, *_cells(figures))
    table.add_row("all", "delay", *_cells(summary.delay))
    screen.print(table)
    if summary.typical is not None:
        screen.print(
            f"typical: {_frame(summary.typical)}; slowest: "
            + "; ".join(map(_frame, summary.slowest))
        )


def _frame(key: FrameKey) -> str:
    return f"frame {key.sequence}, {_ms(key.delay_s)} ms"


def _cells(figures: Figures) -> list[str]:
    return [str(figures.frames), *(_ms(length_s) for length_s in figures[1:])]


def _ms(length_s: float) -> str:
    return f"{length_s * 1e3:.1f}"


def _write_chrome(frames: Iterator[Frame], roster: Roster, file: TextIO) -> str:
    from vdag.control.tracing import write_chrome

    return f"{write_chrome(list(frames), roster, file)} events"


def _write_sheet(frames: Iterator[Frame], roster: Roster, file: TextIO) -> str:
    from vdag.control.tracing import write_sheet

    return f"{write_sheet(frames, roster, file)} spans"


def _export(path: Path, write: Callable[[TextIO], str]) -> None:
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            told = write(file)
    except OSError as err:
        raise ConfigError(f"cannot write {path}: {err.strerror}") from err
    print(f"{path}: {told}", file=sys.stderr)
