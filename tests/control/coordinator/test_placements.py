"""Handlers that are not tied to a node: how policies place them, and when they move."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from coordinator_kit import TIMEOUT_S, capture, handler, join_all, link, open_bench, service

from vdag.control.coordinator import watching
from vdag.control.coordinator.values import SessionRequest

pytestmark = pytest.mark.slow  # as a whole

LOOSE = service(
    [capture(node_id=1), handler(1, 5, node_id=1), handler(2, 6), handler(3, 16), handler(4, 8)],
    [link(0, 1), link(1, 2), link(2, 3), link(2, 4), link(4, 3, 1)],
    algorithm="greedy",
)


def test_handlers_move_when_their_node_is_lost(stack: ExitStack, tmp_path: Path):
    bench = open_bench(stack, tmp_path, LOOSE, silence_s=1.0)
    _, near, far = join_all(bench)
    session = bench.create(SessionRequest(0, start=True))
    before = bench.settled(session).placement["nodes"]
    lost = before["2"]
    {2: near, 3: far}[lost].close()
    view = bench.wait(
        lambda: (
            (v := bench.sessions.get(session)) and lost not in v.placement["nodes"].values() and v
        )
    )
    assert view.state == "running"
    causes = [each.cause for each in bench.store.log.placements(session)]
    assert any("lost" in cause for cause in causes)


def test_handlers_move_off_a_node_that_has_too_much_to_do(
    stack: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(watching, "REVIEW_NS", 50_000_000)
    bench = open_bench(stack, tmp_path, LOOSE)
    camera, near, far = join_all(bench)
    session = bench.create(SessionRequest(0, start=True))
    before = bench.settled(session).placement["nodes"]["4"]
    full, other = (near, far) if before == 2 else (far, near)
    other.workshop.gate.clear()
    full.offer(load=100.0)
    bench.wait(lambda: (v := bench.sessions.get(session)) and v.is_moving)
    # Nothing is taken away before the other one is ready.
    assert "detect_faces" in full.tasks()
    assert bench.sessions.get(session).placement["nodes"]["4"] == before  # type: ignore[union-attr]
    other.workshop.gate.set()
    view = bench.wait(
        lambda: (v := bench.sessions.get(session)) and v.placement["nodes"]["4"] != before and v
    )
    assert view.state == "running"
    assert view.placement["cause"] == f"node {before} overloaded"
    bench.wait(lambda: "detect_faces" not in full.tasks())
    assert "detect_faces" in other.tasks()
    assert camera.jobs.jobs[view.query_id].plan_number == 2


def test_a_move_that_cannot_be_leaves_a_session_where_it_is(
    stack: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(watching, "REVIEW_NS", 50_000_000)
    bench = open_bench(stack, tmp_path, LOOSE)
    _, near, far = join_all(bench)
    session = bench.create(SessionRequest(0, start=True))
    before = bench.settled(session).placement["nodes"]
    full, other = (near, far) if before["4"] == 2 else (far, near)
    other.workshop.refusal = "no memory"
    full.offer(load=100.0)
    view = bench.wait(lambda: (v := bench.sessions.get(session)) and v.reason and v)
    assert view.reason.startswith("not moved (node ")
    assert view.reason.endswith("no memory")
    assert (view.state, view.placement["nodes"]) == ("running", before)
    assert "detect_faces" in full.tasks()


def test_a_policy_of_the_scheduler_may_place_what_is_not_tied(stack: ExitStack, tmp_path: Path):
    bench = open_bench(stack, tmp_path, LOOSE)
    camera, near = bench.join("camera", 6001), bench.join("near", 6002)
    far = bench.join("far", 6003, "cloud")
    session = bench.create(SessionRequest(0, algorithm="policy:predictive", start=True))
    view = bench.settled(session)
    assert (view.state, view.reason) == ("running", "")
    assert near.tasks() == far.tasks() == {"decode", "detect_faces", "draw_boxes"}
    assert camera.tasks() == {"encode"}
    # Whatever it decides is what is shown: here that all is done where it was not.
    before = view.placement["nodes"]["3"]
    plan = bench.controller.query(view.query_id).plan  # type: ignore[union-attr]
    other = "127.0.0.1:6003" if before == 2 else "127.0.0.1:6002"
    mapping = {
        task: place if task.startswith("encode") else {**place, "node_addr": other}
        for task, place in plan["flow_mapping"].items()
    }
    decided = {"video_conf": plan["video_conf"], "flow_mapping": mapping}
    assert bench.controller.prefer_plan(view.query_id, decided).result(TIMEOUT_S)
    after = 5 - before
    wanted = {"0": 1, "1": 1, "2": after, "3": after, "4": after}
    bench.wait(lambda: (v := bench.sessions.get(session)) and v.placement["nodes"] == wanted)
    assert near.tasks() == far.tasks() == {"decode", "detect_faces", "draw_boxes"}
    bench.wish(session, "delete")
    bench.wait(lambda: not (camera.tasks() or near.tasks() or far.tasks()))


def test_a_policy_keeps_to_what_the_capture_says_and_its_prediction_is_shown(
    stack: ExitStack, tmp_path: Path
):
    small = replace(
        LOOSE, handlers=(capture(node_id=1, width=320, height=240), *LOOSE.handlers[1:])
    )
    bench = open_bench(stack, tmp_path, small)
    join_all(bench)
    session = bench.create(SessionRequest(0, algorithm="policy:predictive", start=True))
    view = bench.settled(session)
    assert view.state == "running"
    query = bench.controller.query(view.query_id)
    assert query is not None
    assert query.plan is not None
    conf = query.plan["video_conf"]
    assert (conf["resolution"], conf["fps"], conf["encoder"]) == ("320x240", 10, "JPEG")
    shown = bench.wait(
        lambda: (
            (v := bench.sessions.get(session))
            and v.placement["why"].startswith("predictive: ")
            and v.placement
        )
    )
    predicted = query.decision["explanation"]["predicted"]["tasks"]
    parts = [parts[name] for parts in predicted.values() for name in parts if name != "node"]
    assert shown["delay_s"] == pytest.approx(sum(parts))
    assert sum(part["seconds"] for part in shown["parts"]) == pytest.approx(shown["delay_s"])
    # It has been told what these handlers take, of which no profile knows.
    assert 0 < shown["delay_s"] < 0.05


@pytest.mark.parametrize("policy", ["golden", "predictive"])
def test_frames_are_taken_as_the_capture_says_whatever_a_policy_wants(
    stack: ExitStack, tmp_path: Path, policy: str
):
    small = replace(
        LOOSE, handlers=(capture(node_id=1, width=352, height=288), *LOOSE.handlers[1:])
    )
    bench = open_bench(stack, tmp_path, small)
    join_all(bench)
    session = bench.create(SessionRequest(0, algorithm=f"policy:{policy}", start=True))
    query = bench.controller.query(bench.settled(session).query_id)
    assert query is not None
    assert query.plan is not None
    assert query.plan["video_conf"]["resolution"] == "352x288"
    assert query.plan["video_conf"]["fps"] == 10
