"""A service on three hosts: it runs, stops at once, is recorded, and survives losses."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hosts_kit import Hosts
from session_kit import Theatre
from system_kit import until

from vdag.control.records import Store

pytestmark = pytest.mark.slow

FPS = 10
STOP_S = 1.0
THROWN_AWAY = re.compile(r"(\d+) frames are thrown away")
#: capture -> encode | decode -> detect | draw -> render
SERVICE = {
    "service_id": 0,
    "service_name": "offload_detect",
    "algorithm": "min_delay",
    "handlers": [
        {"handler_id": 0, "handler_name": "capture", "handler_type": 2, "node_id": 2,
         "params": {"source": 0, "fps": FPS, "width": 320, "height": 240}},
        {"handler_id": 1, "handler_name": "encode", "handler_type": 5, "node_id": 2},
        {"handler_id": 2, "handler_name": "decode", "handler_type": 6},
        {"handler_id": 3, "handler_name": "detect", "handler_type": 8,
         "params": {"with_crop": False}},
        {"handler_id": 4, "handler_name": "draw", "handler_type": 16, "node_id": 2},
        {"handler_id": 5, "handler_name": "render", "handler_type": 3, "node_id": 2,
         "params": {"to": ":18090"}},
    ],
    "links": [
        {"source_handler": 0, "target_handler": 1},
        {"source_handler": 1, "target_handler": 2},
        {"source_handler": 2, "target_handler": 3},
        {"source_handler": 0, "target_handler": 4},
        {"source_handler": 3, "target_handler": 4, "target_input": 1},
        {"source_handler": 4, "target_handler": 5},
    ],
}  # fmt: skip


@pytest.fixture
def nothing_is_left() -> None:
    """The nodes are everybody's; what must not be left is looked for by `theatre`."""


@pytest.fixture(scope="module")
def theatre(
    make_hosts: Callable[[int], Hosts],
    clips: Path,
    tasks: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Theatre]:
    video = {"path": str(clips / "bikes.mp4"), "loop": True, "type": "streets"}
    with Theatre(
        make_hosts(3),
        tmp_path_factory.mktemp("theatre"),
        ["first", "client", "second"],
        modules=tasks,
        videos={"client": {"0": video}},
        services=[SERVICE],
        kinds={"client": [2, 3, 5, 16]},
    ) as theatre:
        yield theatre
        log = "".join(theatre.log)
        assert "Traceback" not in log, log[log.index("Traceback") :][:4000]
        for name, node in theatre.nodes.items():
            assert node.stop() == 0, "".join(node.log)
            assert "Traceback" not in "".join(node.log), name
        assert theatre.stop() == 0, "".join(theatre.log)
        assert "Traceback" not in "".join(theatre.log)


def packets(theatre: Theatre, session: int) -> list[Any]:
    with Store(theatre.database) as store:
        return store.log.packets(session)


def test_a_session_over_three_hosts_runs_and_stops_at_once(theatre: Theatre):
    found = theatre.asker.post("/session?wait_s=60", {"service": "offload_detect", "start": True})
    session = found["session_id"]
    assert (found["state"], found["reason"]) == ("running", ""), theatre.log[-40:]
    placed = theatre.placement(session)["nodes"]
    assert placed["0"] == placed["5"] == 2
    assert placed["2"] == placed["3"] != 2  # together: pixels do not travel
    until(lambda: {3, 5} <= {each.handler_id for each in packets(theatre, session)})
    begun_s = time.monotonic()
    found = theatre.asker.post(f"/session/{session}/stop", {})
    took_s = time.monotonic() - begun_s
    assert found["state"] == "stopped"
    assert took_s < STOP_S
    found = theatre.asker.ask("DELETE", f"/session/{session}").json()
    assert found["state"] == "deleted"
    assert theatre.asker.get("/session")["sessions"] == []


def test_every_packet_of_a_session_is_recorded(theatre: Theatre):
    found = theatre.asker.post("/session?wait_s=60", {"service": 0, "start": True})
    session = found["session_id"]
    assert found["state"] == "running", theatre.log[-40:]
    until(lambda: packets(theatre, session))
    theatre.asker.post(f"/session/{session}/stop", {})
    rows = until(lambda: complete(packets(theatre, session)))
    by_sequence: dict[int, set[tuple[int, str]]] = {}
    for row in rows:
        by_sequence.setdefault(row.sequence, set()).add((row.handler_id, row.event))
    wanted = {(number, event) for number in range(6) for event in ("start", "end")}
    whole = [number for number, events in by_sequence.items() if wanted <= events]
    assert whole, by_sequence
    theatre.asker.ask("DELETE", f"/session/{session}")


def complete(rows: list[Any]) -> list[Any]:
    """Return the rows if a packet has all of its, else nothing."""
    ends = {row.sequence for row in rows if (row.handler_id, row.event) == (5, "end")}
    return rows if ends else []


def test_a_session_goes_on_elsewhere_when_a_node_is_killed(theatre: Theatre):
    found = theatre.asker.post("/session?wait_s=60", {"service": 0, "start": True})
    session = found["session_id"]
    assert found["state"] == "running", theatre.log[-40:]
    before = theatre.placement(session)["nodes"]["3"]
    names = {1: "first", 3: "second"}
    theatre.nodes[names[before]].kill()
    after = theatre.wait_placed(session, lambda found: found["nodes"]["3"] != before)
    assert after["nodes"]["3"] in names
    assert "lost" in after["cause"]
    assert theatre.session(session)["state"] == "running"
    seen = max((row.sequence for row in packets(theatre, session)), default=0)
    until(
        lambda: [
            row
            for row in packets(theatre, session)
            if row.handler_id == 3 and row.sequence > seen + FPS
        ]
    )
    theatre.nodes[names[before]].start()
    theatre.asker.ask("DELETE", f"/session/{session}")


@pytest.mark.parametrize("outage_s", [0.5, 30.0])
def test_frames_go_on_while_the_coordinator_is_away(theatre: Theatre, outage_s: float):
    found = theatre.asker.post("/session?wait_s=60", {"service": 0, "start": True})
    session = found["session_id"]
    assert found["state"] == "running", theatre.log[-40:]
    until(lambda: packets(theatre, session))
    theatre.kill()
    seen = max(row.sequence for row in packets(theatre, session))
    threading.Event().wait(outage_s)
    theatre.start()
    until(lambda: all(each["is_there"] for each in theatre.asker.get("/node")["nodes"]))
    assert theatre.session(session)["state"] == "running"
    # Frames of the outage too: they have waited at the node, and none is lost.
    wanted = set(range(seen + FPS + round(FPS * outage_s * 0.7)))
    rows = until(
        lambda: (r := packets(theatre, session)) and wanted <= {x.sequence for x in r} and r
    )
    assert not THROWN_AWAY.search("".join(theatre.nodes["client"].log))
    keys = [(row.handler_id, row.sequence, row.event) for row in rows]
    assert len(keys) == len(set(keys))  # nothing is recorded twice
    found = theatre.asker.post(f"/session/{session}/stop", {})
    assert found["state"] == "stopped"
    theatre.asker.ask("DELETE", f"/session/{session}")
