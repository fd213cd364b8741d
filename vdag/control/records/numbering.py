"""`Numbering`: which results are new, and which `n_loop` each gets.

A node counts the frames of a job from 1, and from 1 again when the job starts anew: each start is a
`run`, named by nodes that speak the plan channel. A query's `n_loop` is the node's count as long as
there is one run; from then on, what keeps it growing is added. Nodes that only post results do not
name runs. They post each result once and in order, so that a count that goes back is a new run.

Results that a node sends again, because it has not seen them acknowledged, are left out: those that
are recorded, and those so old that they have been trimmed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, func, select

from vdag.control.records.frames import FrameResult
from vdag.control.records.tables import result

__all__ = ["Numbering"]

#: Queries whose counts are kept in memory; those of others are read again when they are needed.
MAX_QUERIES = 4096
#: Runs of a query that are told apart: nobody goes on with an older one.
MAX_RUNS = 64
#: Runs without a name are called by their number, which no name of a session looks like.
UNNAMED = "#"

Row = dict[str, Any]
Look = Callable[[], Connection]
#: Run, number within it, `n_loop`.
_Placed = tuple[str, int, int, FrameResult]


@dataclass(slots=True)
class _Run:
    base: int
    last_seq: int


@dataclass(slots=True)
class _Counts:
    """What is known of the results of a query.

    Attributes:
        last: its largest `n_loop`.
        runs: by name.
        unnamed: number of the present run without a name.
        last_frame_id: of the newest result of that run.
    """

    last: int = 0
    runs: dict[str, _Run] = field(default_factory=dict)
    unnamed: int = 0
    last_frame_id: float | None = None


class Numbering:
    """See above; for one thread, within its transactions.

    A transaction that is undone must be followed by `forget_all`.

    Attributes:
        duplicates: results that were left out.
    """

    def __init__(self) -> None:
        self._counts: OrderedDict[int, _Counts] = OrderedDict()
        self.duplicates = 0

    def forget(self, number: int) -> None:
        """Forget a query."""
        self._counts.pop(number, None)

    def forget_all(self) -> None:
        """Forget all queries: what is known of them may not be in the database."""
        self._counts.clear()

    def rows(
        self,
        look: Look,
        number: int,
        run: str,
        frames: Sequence[FrameResult],
        *,
        at_s: float,
    ) -> list[Row]:
        """Return the rows to insert for the frames that are new.

        Args:
            look: returns a connection that shows all rows before these; rarely called.
            number: of the query.
            run: of the job; empty for one without a name.
            frames: oldest first.
            at_s: when they came, seconds since the epoch.
        """
        counts = self._of(look, number)
        named = _fresh(look, number, counts, run, frames)
        fresh = named if run else _fresh_unnamed(counts, frames)
        found = [
            {
                "query_id": number,
                "n_loop": n_loop,
                "run": name,
                "seq": seq,
                "frame_id": frame.frame_id,
                "document": frame.document.decode(),
                "at_s": at_s,
            }
            for name, seq, n_loop, frame in fresh
        ]
        self.duplicates += len(frames) - len(found)
        return found

    def _of(self, look: Look, number: int) -> _Counts:
        counts = self._counts.get(number)
        if counts is None:
            counts = self._counts[number] = _load(look(), number)
            if len(self._counts) > MAX_QUERIES:
                self._counts.popitem(last=False)
        self._counts.move_to_end(number)
        return counts


def _fresh(
    look: Look, number: int, counts: _Counts, run: str, frames: Sequence[FrameResult]
) -> Iterator[_Placed]:
    """Yield the frames of a named run that have not been recorded, each with its numbers."""
    known = counts.runs.get(run)
    last_seq = known.last_seq if known is not None else -1
    seqs = [frame.n_loop or 0 for frame in frames]
    recorded = _recorded(look, number, run, [seq for seq in seqs if seq <= last_seq])
    for seq, frame in zip(seqs, frames, strict=True):
        if seq not in recorded:
            recorded.add(seq)
            yield run, seq, _next(counts, run, seq), frame


def _recorded(look: Look, number: int, run: str, seqs: Sequence[int]) -> set[int]:
    """Return which of these are recorded, or were before they were trimmed."""
    if not seqs:
        return set()
    connection = look()
    of_run = (result.c.query_id == number) & (result.c.run == run)
    oldest = connection.execute(select(func.min(result.c.seq)).where(of_run)).scalar()
    if oldest is None:
        return set(seqs)
    between = of_run & result.c.seq.between(min(seqs), max(seqs))
    kept = set(connection.execute(select(result.c.seq).where(between)).scalars())
    return {seq for seq in seqs if seq < oldest or seq in kept}


def _fresh_unnamed(counts: _Counts, frames: Sequence[FrameResult]) -> Iterator[_Placed]:
    """Yield the frames that a node without names for its runs has not posted just before."""
    for frame in frames:
        known = counts.runs.get(f"{UNNAMED}{counts.unnamed}")
        last = known.last_seq if known is not None else 0
        seq = frame.n_loop if frame.n_loop is not None else last + 1
        if known is not None and seq <= last:
            if seq == last and frame.frame_id == counts.last_frame_id:
                continue
            counts.unnamed += 1
        counts.last_frame_id = frame.frame_id
        name = f"{UNNAMED}{counts.unnamed}"
        yield name, seq, _next(counts, name, seq), frame


def _next(counts: _Counts, name: str, seq: int) -> int:
    """Return the `n_loop` of a new result, and count it."""
    run = counts.runs.get(name)
    if run is None:
        run = counts.runs[name] = _Run(counts.last, -1)
        if len(counts.runs) > MAX_RUNS:
            del counts.runs[next(iter(counts.runs))]
    n_loop = run.base + seq
    if n_loop <= counts.last:
        n_loop = counts.last + 1
        run.base = n_loop - seq
    counts.last = n_loop
    run.last_seq = max(run.last_seq, seq)
    return n_loop


def _load(connection: Connection, number: int) -> _Counts:
    counts = _Counts()
    of_query = result.c.query_id == number
    newest = select(result.c.run, func.max(result.c.seq), func.max(result.c.n_loop))
    for run, seq, n_loop in connection.execute(newest.where(of_query).group_by(result.c.run)):
        counts.runs[run] = _Run(n_loop - seq, seq)
        counts.last = max(counts.last, n_loop)
        if run.startswith(UNNAMED):
            counts.unnamed = max(counts.unnamed, int(run[1:]))
    last = select(result.c.frame_id).where(of_query, result.c.run == f"{UNNAMED}{counts.unnamed}")
    counts.last_frame_id = connection.execute(
        last.order_by(result.c.n_loop.desc()).limit(1)
    ).scalar()
    return counts
