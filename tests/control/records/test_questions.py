"""The statements of docs/sql.md, on every database, against what is computed from the same rows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from database_kit import KINDS, Servers
from packet_kit import (
    CLOUD,
    EDGE,
    EPOCH_S,
    HANDLERS,
    NODES,
    Truth,
    keep,
    open_session,
    own_frames,
    rows_of,
)
from sqlalchemy import Connection, text

from vdag.control.records import NodeSample, Packet, Store
from vdag.control.records.opening import open_database

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "sql.md"
#: Statements under the words that lead to them.
QUESTIONS: dict[str, str] = {
    lead.replace("\n", " "): statement
    for lead, statement in re.findall(
        r"([^\n]+(?:\n[^\n]+)*):\n\n```sql\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
}
FRAMES = own_frames(150, lost=range(20, 36))
ROWS = rows_of(FRAMES)
#: Another session, which must not be looked at.
OTHERS = rows_of(own_frames(5, session_id=2, seed=9))
NODE_NAMES = {node.node_id: node.name for node in NODES}
SAMPLES = [
    NodeSample(EPOCH_S + at_s, node, float(cpu), 1024, 50.0, gpu)
    for node, cpus, gpu in ((EDGE, (10, 20, 60), None), (CLOUD, (30, 40, 80), 75))
    for at_s, cpu in zip((-4000.0, 1.0, 2.0), cpus, strict=True)
]


@pytest.fixture(scope="module", params=KINDS)
def connection(
    request: pytest.FixtureRequest, servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Connection]:
    """A database of which no test changes anything."""
    with servers.place(request.param, tmp_path_factory.mktemp("questions")) as place:
        with Store(place) as store:
            assert [open_session(store), open_session(store, name="other")] == [1, 2]
            keep(store, [*ROWS, *OTHERS], nodes=SAMPLES)
        engine = open_database(place)
        with engine.connect() as connection:
            yield connection
        engine.dispose()


def computed() -> Iterator[tuple[Packet, float]]:
    """Each start that has an end, and how long it took."""
    ends = {(r.sequence, r.handler_id): r.timestamp for r in ROWS if r.event == "end"}
    for row in ROWS:
        end_s = ends.get((row.sequence, row.handler_id))
        if row.event == "start" and end_s is not None:
            yield row, end_s - row.timestamp


def figures(lengths: list[float]) -> list[float]:
    ordered = sorted(lengths)
    ranks = [next(n for n in range(1, len(ordered) + 1) if n >= p * len(ordered) / 100)
             for p in (50, 95, 99)]  # fmt: skip
    percentiles = [ordered[rank - 1] for rank in ranks]
    return [len(ordered), sum(ordered) / len(ordered), *percentiles, ordered[-1]]


def handlers() -> list[list[Any]]:
    found: dict[int, list[float]] = {}
    for row, length_s in computed():
        found.setdefault(row.handler_id, []).append(length_s)
    return [[handler, *figures(found[handler])] for handler in sorted(found)]


def busy() -> list[list[Any]]:
    times = [row.timestamp for row in ROWS]
    total: Counter[int] = Counter()
    for row, length_s in computed():
        total[row.handler_id] += length_s  # type: ignore[assignment]
    return [[handler, total[handler] / (max(times) - min(times))] for handler in sorted(total)]


def ends() -> dict[int, float]:
    """By sequence, from the first end to the last one."""
    times: dict[int, list[float]] = {}
    for row in ROWS:
        if row.event == "end":
            times.setdefault(row.sequence, []).append(row.timestamp)
    return {sequence: max(found) - min(found) for sequence, found in times.items()}


def whole() -> list[Truth]:
    return [truth for truth in FRAMES if truth.lost_at is None]


def frames() -> list[list[Any]]:
    return [[truth.sequence, truth.delay_s] for truth in whole()]


def all_frames() -> list[list[Any]]:
    return [figures([truth.delay_s for truth in whole()])]


def slowest() -> list[list[Any]]:
    ranked = sorted(ends().items(), key=lambda item: (-round(item[1], 6), item[0]))
    return [list(item) for item in ranked[:10]]


def way() -> list[list[Any]]:
    names = {handler.handler_id: handler.name for handler in HANDLERS}
    return [
        [row.timestamp, NODE_NAMES[row.node_id or 0], names[row.handler_id], row.event, row.size]
        for row in FRAMES[7].rows
    ]


def lost() -> list[list[Any]]:
    found = Counter(truth.lost_at for truth in FRAMES if truth.lost_at is not None)
    return [[*key, count] for key, count in sorted(found.items())]


def links() -> list[list[Any]]:
    found: dict[tuple[int, int], list[tuple[float, int | None]]] = {}
    for truth in FRAMES:
        hops = [row for row in truth.rows if row.event in ("sent", "recv")]
        for sent, recv in zip(hops[::2], hops[1::2], strict=False):
            key = (sent.node_id or 0, recv.node_id or 0)
            found.setdefault(key, []).append((recv.timestamp - sent.timestamp, sent.size))
    rows = []
    for key, hops_ in sorted(found.items()):
        lengths = [length_s for length_s, _ in hops_]
        sizes = [size for _, size in hops_ if size is not None]
        nbytes = sum(sizes) if sizes else None
        rows.append([*key, len(hops_), nbytes, sum(lengths) / len(lengths), max(lengths)])
    return rows


def counts() -> list[list[Any]]:
    found = Counter((row.handler_id, row.event) for row in ROWS)
    moved = sorted({row.handler_id for row in ROWS if row.event in ("sent", "recv")})
    return [[handler, found[handler, "sent"], found[handler, "recv"]] for handler in moved]


def nodes() -> list[list[Any]]:
    found = []
    for node_id in (CLOUD, EDGE):
        last = [row for row in SAMPLES if row.node_id == node_id and row.timestamp > EPOCH_S]
        cpus = [row.cpu_util or 0.0 for row in last]
        found.append(
            [NODE_NAMES[node_id], sum(cpus) / len(cpus), max(cpus), 50.0, last[0].gpu_util]
        )
    return found


def sessions() -> list[list[Any]]:
    return [
        [number, name, "running", handler.name, node, ..., None, "first plan"]
        for number, name in ((1, "session"), (2, "other"))
        for handler, node in zip(HANDLERS, ("edge", "cloud", "cloud", "edge"), strict=True)
    ]


def latest() -> list[list[Any]]:
    rows = [*ROWS, *OTHERS]
    newest_s = max(row.timestamp for row in rows)
    found = [list(row) for row in rows if row.timestamp > newest_s - 60]
    return sorted(found, key=lambda row: (row[0], row[1], row[3], row[2]))


ANSWERS: dict[str, Callable[[], list[list[Any]]]] = {
    "How long each handler takes": handlers,
    "How busy each handler was": busy,
    "From end to end": frames,
    "The same of all of them together": all_frames,
    "The slowest ten": slowest,
    "The way of one": way,
    "Where those were seen last": lost,
    "What went from node to node": links,
    "What each handler has sent and received": counts,
    "How busy they have been in the last hour": nodes,
    "What runs and ran": sessions,
    "All rows of packets of the last minute": latest,
}


def test_every_statement_of_the_page_has_an_answer_here():
    assert PAGE.read_text().count("```sql") == len(QUESTIONS) == len(ANSWERS)


@pytest.mark.parametrize("lead", ANSWERS)
def test_a_statement_of_the_page_answers_its_question(connection: Connection, lead: str):
    (statement,) = (each for words, each in QUESTIONS.items() if words.startswith(lead))
    found = [list(row) for row in connection.execute(text(statement))]
    expected = ANSWERS[lead]()
    assert len(found) == len(expected) > 0
    # What happened at one moment has no order that a statement of these could tell.
    if lead in ("All rows of packets of the last minute", "The way of one"):
        found, expected = (sorted(each, key=str) for each in (found, expected))
    for row, wanted in zip(found, expected, strict=True):
        assert len(row) == len(wanted)
        for value, other in zip(row, wanted, strict=True):
            if isinstance(other, float):
                assert float(value) == pytest.approx(other, rel=1e-6, abs=1e-6), lead
            elif other is not ...:
                assert value == other, lead


def test_the_documented_statement_for_what_was_rolled_up_is_answered(connection: Connection):
    page = (ROOT / "docs" / "records.md").read_text()
    (statement,) = re.findall(r"^```sql\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    connection.execute(
        text(
            "INSERT INTO packet_rollup (timestamp, session_ID, handler_ID, event, until_s, packets,"
            " ended, busy_s, busy_max_s) VALUES (60, 1, 2, 'start', 70, 4, 4, 2.0, 0.75),"
            " (65, 1, 2, 'start', 90, 2, 2, 1.0, 0.875), (60, 1, 2, 'end', 90, 6, 0, NULL, NULL)"
        )
    )
    assert [tuple(row) for row in connection.execute(text(statement))] == [(2, 0.5, 0.875)]
    connection.rollback()
