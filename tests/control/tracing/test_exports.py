"""Traces for Chrome and Perfetto, held against their format, and tables of spans."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from packet_kit import FOREIGN, HANDLERS, NODES, foreign_frames, own_frames, rows_of

from vdag.control.tracing import (
    COLUMNS,
    Frame,
    Roster,
    frames_of,
    roster_of,
    write_chrome,
    write_sheet,
)

OWN = roster_of(HANDLERS, NODES, links=[(0, 1), (1, 2), (2, 3)], ends=(0, 3))
FOREIGNERS = roster_of(FOREIGN, NODES)
#: What the format wants of an event, by its phase, and of which types that is.
NUMBER = (int, float)
COMMON: dict[str, Any] = {"ph": str, "name": str, "pid": int, "tid": int, "ts": NUMBER}
WANTED: dict[str, dict[str, Any]] = {
    "M": {**COMMON, "args": dict},
    "X": {**COMMON, "cat": str, "dur": NUMBER},
    "s": {**COMMON, "cat": str, "id": int},
    "f": {**COMMON, "cat": str, "id": int, "bp": str},
}
#: Metadata that there is, and what they carry.
METADATA = {
    "process_name": ("name", str), "thread_name": ("name", str),
    "process_sort_index": ("sort_index", int), "thread_sort_index": ("sort_index", int),
}  # fmt: skip
#: Microseconds that rounding may cost.
SLACK_US = 0.01


def traced(frames: list[Frame], roster: Roster) -> dict[str, Any]:
    file = io.StringIO()
    count = write_chrome(frames, roster, file)
    document = json.loads(file.getvalue())
    assert len(document["traceEvents"]) == count
    return document


def cases() -> list[Any]:
    crowd = own_frames(60, every_s=1 / 256)  # far more at a time than there are handlers
    return [
        pytest.param(rows_of(own_frames(1)), OWN, id="one frame"),
        pytest.param(rows_of(crowd), OWN, id="many at a time"),
        pytest.param(rows_of(own_frames(40, lost=range(5, 25))), OWN, id="some lost"),
        pytest.param(rows_of(foreign_frames(20, lost=[3])), FOREIGNERS, id="documented nodes"),
        pytest.param([], OWN, id="none"),
    ]


@pytest.mark.parametrize(("rows", "roster"), cases())
def test_a_trace_is_as_the_format_wants_it(rows, roster):
    document = traced(list(frames_of(rows, roster)), roster)
    assert document["displayTimeUnit"] in ("ms", "ns")
    for event in document["traceEvents"]:
        wanted = WANTED[event["ph"]]
        for name, kind in wanted.items():
            assert isinstance(event[name], kind), (name, event)
        assert event["ts"] >= 0
        assert event.get("dur", 1) > 0
        assert set(event) <= {*wanted, "args"}
        if event["ph"] == "M":
            name, kind = METADATA[event["name"]]
            assert isinstance(event["args"][name], kind)


@pytest.mark.parametrize(("rows", "roster"), cases())
def test_slices_of_a_thread_lie_in_one_another_or_apart(rows, roster):
    events = traced(list(frames_of(rows, roster)), roster)["traceEvents"]
    threads: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for event in events:
        if event["ph"] == "X":
            key = event["pid"], event["tid"]
            threads.setdefault(key, []).append((event["ts"], event["ts"] + event["dur"]))
    for slices in threads.values():
        open_: list[float] = []
        for begin, end in sorted(slices, key=lambda each: (each[0], -each[1])):
            while open_ and open_[-1] <= begin + SLACK_US:
                open_.pop()
            assert not open_ or end <= open_[-1] + SLACK_US
            open_.append(end)


@pytest.mark.parametrize(("rows", "roster"), cases())
def test_arrows_begin_and_end_in_slices_and_never_point_back(rows, roster):
    frames = list(frames_of(rows, roster))
    events = traced(frames, roster)["traceEvents"]
    slices = [event for event in events if event["ph"] == "X"]
    arrows = {
        phase: {event["id"]: event for event in events if event["ph"] == phase} for phase in "sf"
    }
    assert arrows["s"].keys() == arrows["f"].keys()
    assert len(arrows["s"]) == sum(len(frame.arrows) for frame in frames)
    for event in (*arrows["s"].values(), *arrows["f"].values()):
        assert any(
            (each["pid"], each["tid"]) == (event["pid"], event["tid"])
            and each["ts"] <= event["ts"] < each["ts"] + each["dur"]
            for each in slices
        ), event
    for key, begin in arrows["s"].items():
        end = arrows["f"][key]
        assert begin["pid"] != end["pid"]
        assert begin["cat"] == end["cat"]
        assert begin["ts"] <= end["ts"] + 1.0  # of the shortest slice


def test_nodes_are_processes_and_handlers_threads_with_all_spans_to_scale():
    truths = own_frames(30, every_s=1 / 256)
    frames = list(frames_of(rows_of(truths), OWN))
    document = traced(frames, OWN)
    events = document["traceEvents"]
    names = {
        (event["name"], event["pid"], event["tid"]): event["args"]["name"]
        for event in events
        if event["ph"] == "M" and "name" in event["args"]
    }
    processes = {name: pid for (kind, pid, _), name in names.items() if kind == "process_name"}
    assert processes.keys() == {"edge", "cloud"}
    handlers = {
        (pid, name.partition(" (")[0]) for (kind, pid, _), name in names.items()
        if kind == "thread_name"
    }  # fmt: skip
    assert handlers == {
        (processes["edge"], "0 capture"), (processes["edge"], "3 sink"),
        (processes["cloud"], "1 face_detection"), (processes["cloud"], "2 face_alignment"),
    }  # fmt: skip
    lengths_us: dict[str, float] = {}
    for event in events:
        if event["ph"] == "X" and not event["name"].startswith("frame "):
            lengths_us[event["name"]] = lengths_us.get(event["name"], 0.0) + event["dur"]
    for part in ("transfer", "queue", "compute", "home"):
        expected_s = sum(
            length_s for truth in truths for (_, each), length_s in truth.parts.items()
            if each == part
        )  # fmt: skip
        assert lengths_us[part] == pytest.approx(expected_s * 1e6, abs=1.0)
    zero_s = float(document["otherData"]["zero_s"])
    assert zero_s == pytest.approx(min(truth.born_s for truth in truths), abs=1e-6)


def test_a_sheet_has_a_line_per_span():
    frames = list(frames_of(rows_of(own_frames(5)), OWN))
    file = io.StringIO(newline="")
    assert write_sheet(frames, OWN, file) == 5 * len(list(frames[0].spans()))
    file.seek(0)
    rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(COLUMNS)
    for frame in frames:
        mine = [row for row in rows if int(row["sequence"]) == frame.sequence]
        total_ms = sum(float(row["length_ms"]) for row in mine if row["on_way"] == "1")
        assert total_ms == pytest.approx(frame.delay_s * 1e3, abs=0.01)
        assert {(row["handler_name"], row["node_name"]) for row in mine} == {
            ("face_detection", "cloud"), ("face_alignment", "cloud"), ("sink", "edge"),
        }  # fmt: skip
