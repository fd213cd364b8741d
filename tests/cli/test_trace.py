"""The real commands `vdag trace` and `vdag report`, on records that somebody else writes."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from packet_kit import (
    WAIT_S,
    foreign_frames,
    foreign_report,
    keep,
    open_session,
    own_frames,
    rows_of,
)

from vdag.control.records import NewQuery, Store
from vdag.graph import Graph

pytestmark = pytest.mark.slow  # as a whole

FRAMES = own_frames(40, lost=[10, 11])
SLOWEST = max((f for f in FRAMES if f.lost_at is None), key=lambda frame: frame.delay_s)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a query, and of session 7 of nodes that nobody has described."""
    path = tmp_path_factory.mktemp("records") / "records.db"
    dag = Graph.chain("face_detection", "face_alignment").to_dag()
    with Store(path) as store:
        query_id = store.add_query(NewQuery("n", 1, dag, {"delay": 0.5})).result(WAIT_S)
        assert open_session(store, query_id=1, name=query_id) == 1
        keep(store, rows_of(FRAMES))
        foreign = rows_of(foreign_frames(8, session_id=7))
        for node in (1, 2):
            store.log.record_awaited(foreign_report(foreign, node)).result(WAIT_S)
    return path


def test_frames_are_summed_up_and_the_slowest_is_shown(vdag_command, records):
    done = vdag_command("trace", "GLOBAL_ID_1", "--database", records)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("GLOBAL_ID_1: 40 frames in ")
    assert "38 whole" in done.stdout
    lost = FRAMES[10].lost_at
    assert f"1 seen last at 0 capture: {lost[1]}" in done.stdout
    assert re.search(r"1 face_detection +compute +38 ", done.stdout)
    assert f"\nframe {SLOWEST.sequence}, {SLOWEST.delay_s * 1e3:.1f} ms, " in done.stdout


def test_the_timeline_of_a_frame_has_its_parts_and_bars_to_scale(vdag_command, records):
    truth = FRAMES[3]
    done = vdag_command(
        "trace", "1", "--frame", 3, "--database", records,
        env={"PYTHONIOENCODING": "utf-8", "COLUMNS": "172"},
    )  # fmt: skip
    assert done.returncode == 0
    rows = [line for line in done.stdout.splitlines() if re.match(r" *\d ", line)]
    lines = {line.split()[0]: line for line in rows}
    assert list(lines) == ["0", "1", "2", "3"]
    for (handler, _), length_s in truth.parts.items():
        assert f"{length_s * 1e3:.1f}" in lines[str(handler)]
    signs = {"transfer": "\u2500", "queue": "\u2591", "compute": "\u2588", "home": "\u2550"}
    bars = {key: re.sub(r"^[^\u2500\u2591\u2588\u2550]*", "", line) for key, line in lines.items()}
    column_s = truth.delay_s / 100
    for (handler, part), length_s in truth.parts.items():
        columns = bars[str(handler)].count(signs[part])
        assert abs(columns - length_s / column_s) <= 1, (handler, part)


def test_sessions_of_nodes_that_nobody_has_described_are_shown(vdag_command, records):
    done = vdag_command("trace", "7", env={"VDAG_DATABASE": str(records)})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("session 7: 8 frames in ")
    assert re.search(r"handler 5 +compute +8 ", done.stdout)
    assert "handler 2" not in done.stdout  # a tx is part of the way


def test_frames_are_exported(vdag_command, records, tmp_path):
    chrome, sheet = tmp_path / "trace.json", tmp_path / "spans.csv"
    done = vdag_command(
        "trace", "GLOBAL_ID_1", "--database", records, "--frames", 10, "--chrome", chrome,
        "--csv", sheet,
    )  # fmt: skip
    assert done.returncode == 0
    events = json.loads(chrome.read_text())["traceEvents"]
    frames = {event["name"] for event in events if event["name"].startswith("frame ")}
    assert frames == {f"frame {number}" for number in range(30, 40)}
    with sheet.open(newline="") as file:
        assert {row["sequence"] for row in csv.DictReader(file)} == set(map(str, range(30, 40)))
    assert done.stderr.splitlines() == [
        f"{chrome}: {len(events)} events",
        f"{sheet}: {len(sheet.read_text().splitlines()) - 1} spans",
    ]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("trace", "GLOBAL_ID_2"), "there is no query GLOBAL_ID_2"),
        (("trace", "5"), "there is no session 5"),
        (("trace", "1", "--frame", "40"), "there is no frame 40, they are 0 to 39"),
        (("report", "nothing"), "no query and no session is 'nothing'"),
        (("report", "1", "-o", "/nowhere/report.html"),
         "cannot write /nowhere/report.html: No such file or directory"),
        (("trace", "1", "--csv", "/nowhere/a.csv"),
         "cannot write /nowhere/a.csv: No such file or directory"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_is_one_line(vdag_command, records, arguments, error):
    done = vdag_command(*arguments, "--database", records)
    assert (done.returncode, done.stderr) == (2, f"vdag: {error}\n")


def test_without_a_database_that_of_a_cloud_here_is_read(vdag_command, records, tmp_path):
    done = vdag_command("report", "1", cwd=tmp_path, env={"XDG_STATE_HOME": str(tmp_path)})
    assert done.returncode == 2
    assert re.fullmatch(
        rf"vdag: database {re.escape(str(tmp_path))}/vdag/\S+/records\.db is no file\n", done.stderr
    )
    done = vdag_command("report", "1", cwd=tmp_path, env={"VDAG_CLOUD_DATABASE": str(records)})
    assert (done.returncode, done.stdout) == (0, "report.html: 40 frames\n")
    assert (tmp_path / "report.html").read_text().startswith("<!DOCTYPE html>")
