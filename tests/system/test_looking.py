"""A session of three nodes, looked at: traced from its cloud, and as a page from its database."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hosts_kit import Loopback
from system_kit import TOKEN, System, until

from vdag.cli.report import report
from vdag.cli.trace import trace
from vdag.control.records.inspection import Inspection
from vdag.control.records.opening import open_engine
from vdag.control.tracing import Frame, frames_of
from vdag.control.tracing.reading import read_roster

pytestmark = pytest.mark.slow  # three daemons with workers

CHAIN = ["levels", "spreads", "steps"]
PLACES = {"levels": "edge1", "spreads": "edge2", "steps": "cloud"}
#: Handlers and where they are.
NODES = {0: "edge1", 1: "edge1", 2: "edge2", 3: "cloud", 4: "edge1"}


def frames(place: Path, name: str) -> tuple[list[Frame], dict[int, str]]:
    """The frames of a query, and names of nodes."""
    engine = open_engine(place)
    with engine.connect() as connection:
        look = Inspection(connection)
        subject = look.subject(name)
        extent = look.extent(subject.session_id)
        roster = read_roster(look, subject, extent)
        found = list(frames_of(look.packets(subject.session_id), roster))
    engine.dispose()
    return found, dict(roster.nodes)


def test_where_frames_were_is_told_to_the_millisecond(tasks, clips, tmp_path, capsys):
    place = tmp_path / "records.db"
    camera = {"path": str(clips / "bikes.mp4"), "loop": True, "policy": "block"}
    token = tmp_path / "my-token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    hosts = Loopback(3)
    chrome, page = tmp_path / "trace.json", tmp_path / "page.html"
    with System(
        hosts,
        tmp_path,
        modules=tasks,
        tasks=dict.fromkeys(("cloud", "edge1", "edge2"), CHAIN),
        videos={"edge1": {"0": camera}},
        cloud={"results_kept": 100_000, "database": str(place)},
    ) as system:
        plan = {
            "video_conf": {"resolution": "320x136", "fps": 10, "encoder": "JPEG"},
            "flow_mapping": system.place(**PLACES),
        }
        query = system.submit("edge1", 0, CHAIN, policy="static", plan=plan)
        system.wait_results(query, 10)
        assert system.cloud.post("/query/stop", {"query_id": query})["status"] == 0
        system.wait_state(query, "ended")
        results = {each["seq"]: each for each in system.results(query)}

        def complete() -> tuple[list[Frame], dict[int, str]] | None:
            found, nodes = frames(place, query)
            whole = [frame for frame in found if frame.is_whole]
            return (whole, nodes) if {frame.sequence for frame in whole} == results.keys() else None

        found, nodes = until(complete)
        cloud = f"http://{hosts.addresses[0]}:5000"
        trace(query, cloud=cloud, token_file=token, chrome=chrome)
        report(query, page, database=str(place))
        for node in system.nodes.values():
            assert node.stop() == 0, "".join(node.log)
    for frame in found:
        assert (frame.skewed, frame.ignored) == (0, 0)
        where = {visit.handler_id: nodes[visit.node_id or 0] for visit in frame.visits}
        assert where == NODES
        assert [frame.visits[index].handler_id for index in frame.way] == [0, 1, 2, 3, 4]
        parts = {(span.handler_id, span.part): span.length_s for span in frame.spans()}
        assert {key for key in parts if key[1] == "gap"} == set()
        assert {handler for handler, part in parts if part == "transfer"} == {2, 3}
        assert (4, "home") in parts
        result = results[frame.sequence]
        assert abs(frame.delay_s - result["delay"]) < 1e-3
        for handler, task in enumerate(CHAIN, 1):
            computed_s = result["ext_runtime"]["proc_resource_info"][task]["compute_latency"]
            assert abs(parts[handler, "compute"] - computed_s) < 1e-5
        assert [(arrow.source, arrow.target) for arrow in frame.arrows] == [(1, 2), (2, 3), (3, 4)]
    told = capsys.readouterr().out
    # Those that were under way when it was stopped have been captured, and no more is known.
    assert re.match(rf"{query}: \d+ frames in .* s, {len(found)} whole; ", told)
    assert f"\nframe {max(found, key=lambda frame: frame.delay_s).sequence}, " in told
    events = json.loads(chrome.read_text())["traceEvents"]
    assert sum(event["ph"] == "s" for event in events) >= 3 * len(found)
    html = page.read_text()
    for key in (
        "delays",
        "histogram",
        "stack-all",
        *(f"stack-{handler}" for handler in range(1, 5)),
    ):
        assert html.count(f'data-key="{key}"') == 1
