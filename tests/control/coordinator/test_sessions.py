"""Sessions on our nodes: what becomes of them, over a real plan channel."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from coordinator_kit import (
    FILES,
    Bench,
    End,
    capture,
    handler,
    join_all,
    link,
    open_bench,
    service,
)

from vdag.control.coordinator import office, watching
from vdag.control.coordinator.values import SessionRequest
from vdag.control.scheduling.events import JobInfo, QueryState
from vdag.errors import GraphError, InvalidTransition, NotFound, PlanError

pytestmark = pytest.mark.slow  # as a whole


@pytest.fixture
def bench(stack: ExitStack, tmp_path: Path) -> Bench:
    return open_bench(stack, tmp_path)


def test_a_session_is_one_job_of_the_node_that_captures(bench: Bench):
    camera, near, far = join_all(bench)
    session = bench.create(SessionRequest(0))
    assert bench.settled(session).state == "initialized"
    assert camera.tasks() == {"encode", "resize"}
    assert near.tasks() == {"decode", "detect_faces", "draw_boxes"}
    assert far.tasks() == set()
    assert camera.jobs.jobs == {}

    bench.wish(session, "start")
    view = bench.settled(session)
    assert view.state == "running"
    assert list(camera.jobs.jobs) == [view.query_id]
    assert near.jobs.jobs == {}
    _, _, plan, routes, _ = camera.jobs.next("plan")
    landing = {task.partition("__")[0]: at for task, at in routes.items()}
    assert landing == dict.fromkeys(
        ["decode", "detect_faces", "draw_boxes"], "tcp://127.0.0.1:5020"
    )
    assert (plan.video_conf.resolution, plan.video_conf.fps) == ("640x480", 10.0)

    bench.wish(session, "stop")
    assert bench.settled(session).state == "stopped"
    assert camera.jobs.jobs == {}
    bench.wish(session, "delete")
    bench.wait(lambda: not camera.tasks() and not near.tasks())
    bench.wait(lambda: bench.sessions.get(session) is None)


def test_what_becomes_of_a_session_is_recorded(bench: Bench):
    join_all(bench)
    session = bench.create(SessionRequest(0, name="gate", start=True))
    view = bench.settled(session)
    record = bench.store.log.sessions()[-1]
    assert (record.session_id, record.name, record.service) == (session, "gate", "chain")
    assert (record.state, record.algorithm) == ("running", "static")
    assert record.query_id is not None
    assert record.started_s is not None
    assert [each.kind for each in bench.store.log.handlers(session)] == [2, 5, 6, 8, 16, 4]
    placed = {each.handler_id: each.node_id for each in bench.store.log.placements(session)}
    assert placed == {0: 1, 1: 1, 2: 2, 3: 2, 4: 2, 5: 1}
    assert view.placement["nodes"] == {str(number): node for number, node in placed.items()}
    bench.wish(session, "delete")
    bench.wait(lambda: bench.sessions.get(session) is None)
    record = bench.store.log.sessions()[-1]
    assert (record.state, record.stopped_s is not None) == ("deleted", True)
    assert all(each.until_s is not None for each in bench.store.log.placements(session))


def test_two_sessions_share_workers_until_both_are_deleted(bench: Bench):
    _, near, _ = join_all(bench)
    first, second = (bench.create(SessionRequest(0)) for _ in range(2))
    for each in (first, second):
        assert bench.settled(each).state == "initialized"
    bench.wish(first, "delete")
    bench.wait(lambda: bench.sessions.get(first) is None)
    assert "decode" in near.tasks()
    bench.wish(second, "delete")
    bench.wait(lambda: not near.tasks())


def test_a_node_that_cannot_open_a_task_has_all_of_them_closed(bench: Bench):
    camera, near, _ = join_all(bench)
    near.workshop.refusal = "detect_faces cannot be loaded: no such model"
    session = bench.create(SessionRequest(0, start=True))
    view = bench.settled(session)
    assert view.state == "failed"
    assert view.reason == "node 2: detect_faces cannot be loaded: no such model"
    bench.wait(lambda: not camera.tasks() and not near.tasks())
    assert camera.jobs.jobs == {}


def test_a_job_that_fails_fails_its_session(bench: Bench):
    camera, near, _ = join_all(bench)
    session = bench.create(SessionRequest(0, start=True))
    query_id = bench.settled(session).query_id
    camera.jobs.jobs[query_id] = JobInfo(query_id, 1, QueryState.FAILED, "the camera is gone")
    camera.end.notebook.report_state(query_id, 4, "")
    view = bench.wait(lambda: (v := bench.sessions.get(session)) and v.state == "failed" and v)
    assert view.reason == "the camera is gone"
    bench.wait(lambda: not near.tasks())


def test_a_video_that_is_over_stops_its_session(bench: Bench):
    camera, *_ = join_all(bench)
    session = bench.create(SessionRequest(0, start=True))
    query_id = bench.settled(session).query_id
    camera.jobs.jobs[query_id] = JobInfo(query_id, 1, QueryState.ENDED, "the video is over")
    camera.end.notebook.report_state(query_id, 3, "")
    view = bench.wait(lambda: (v := bench.sessions.get(session)) and v.state == "stopped" and v)
    assert view.reason == "the video is over"


def test_what_can_never_be_is_refused(bench: Bench):
    with pytest.raises(PlanError, match="node 1 camera is not there, and captures"):
        bench.create(SessionRequest(0))
    join_all(bench)
    with pytest.raises(NotFound, match="service 7 is of no service file"):
        bench.create(SessionRequest(7))
    with pytest.raises(NotFound, match="service 0 has no handler 9"):
        bench.create(SessionRequest(0, pins={9: 1}))
    with pytest.raises(NotFound, match="node 9 is of no node file"):
        bench.create(SessionRequest(0, pins={3: 9}))
    with pytest.raises(PlanError, match="handler 3 haar_detect_face: node 1 camera has no haar"):
        bench.create(SessionRequest(0, pins={3: 1}))
    with pytest.raises(NotFound, match="session 5 is not known"):
        bench.wish(5, "stop")
    session = bench.create(SessionRequest(0))
    bench.settled(session)
    with pytest.raises(InvalidTransition, match="state initialized takes no stop"):
        bench.wish(session, "stop")


def test_a_video_that_nobody_has_is_refused(stack: ExitStack, tmp_path: Path):
    other = service([capture(node_id=1, source=3), handler(1, 5, node_id=1)], [link(0, 1)])
    bench = open_bench(stack, tmp_path, other)
    join_all(bench)
    with pytest.raises(PlanError, match=r"node 127\.0\.0\.1:6001 has no video 3"):
        bench.create(SessionRequest(0))


def test_a_service_that_does_not_capture_is_refused(stack: ExitStack, tmp_path: Path):
    bench = open_bench(stack, tmp_path, service([handler(1, 5)], []))
    join_all(bench)
    with pytest.raises(GraphError, match="has 0 handlers that capture, expected 1"):
        bench.create(SessionRequest(0))


def test_sessions_go_on_when_the_coordinator_is_started_anew(tmp_path: Path):
    with ExitStack() as stack:
        bench = open_bench(stack, tmp_path)
        join_all(bench)
        session = bench.create(SessionRequest(0, start=True))
        waiting = bench.create(SessionRequest(0))
        query_id = bench.settled(session).query_id
        assert bench.settled(waiting).state == "initialized"
    with ExitStack() as stack:
        bench = open_bench(stack, tmp_path)
        assert bench.sessions.get(session).state == "running"  # type: ignore[union-attr]
        camera, near, _ = (End(bench.controller.channel, f.name, f.port, "edge") for f in FILES)
        for each in (camera, near, _):
            stack.callback(each.close)
        bench.wait(lambda: near.tasks() == {"decode", "detect_faces", "draw_boxes"})
        bench.wait(lambda: list(camera.jobs.jobs) == [query_id])
        # What was about to be is not taken up.
        bench.wait(lambda: bench.sessions.get(waiting) is None)
        bench.wish(session, "stop")
        assert bench.settled(session).state == "stopped"


def test_what_was_learned_is_there_when_the_coordinator_is_started_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(watching, "FRESH_S", 0.0)
    monkeypatch.setattr(office, "SAVE_NS", 0)
    with ExitStack() as stack:
        bench = open_bench(stack, tmp_path)
        join_all(bench)
        session = bench.create(SessionRequest(0, start=True))
        query_id = bench.settled(session).query_id
        tasks = bench.controller.query(query_id).graph.tasks  # type: ignore[union-attr]
        names = ("transfer_delay", "queue_delay", "process_delay")
        result = {name: dict.fromkeys(tasks, 0.03125) for name in names}
        bench.controller.report_runtime(query_id, {"plan_result": result})
        wanted = {"compute", "hop", "way"}
        bench.wait(lambda: wanted <= {each.topic.what for each in bench.store.log.lessons()})
    with ExitStack() as stack:
        bench = open_bench(stack, tmp_path)
        join_all(bench)
        view = bench.settled(bench.create(SessionRequest(0)))
        parts = view.placement["parts"]
        spent = [part["seconds"] for part in parts if part["what"] == "compute"]
        # What a worker takes to wake up is no part of it, the rest of the queue is.
        assert spent == pytest.approx([0.0605] * 5)


def test_handlers_are_tried_where_nobody_knows_what_they_take(stack: ExitStack, tmp_path: Path):
    bench = open_bench(stack, tmp_path)
    _, near, _ = join_all(bench)
    near.workshop.trial_s = 0.02
    session = bench.create(SessionRequest(0))
    before = bench.settled(session).placement
    assert set(near.workshop.trials) == {(640, 480)}  # as the capture has it
    bench.wish(session, "start")
    after = bench.settled(session).placement
    spent = {
        part["handler_id"]: part["seconds"] for part in after["parts"] if part["what"] == "compute"
    }
    assert [spent[number] for number in (2, 3, 4)] == [0.02] * 3
    assert after["delay_s"] != before["delay_s"]
    assert after["why"].startswith(f"{before['why']}; ")
    assert after["why"].endswith("since its handlers were tried")
    assert after["nodes"] == before["nodes"]
    bench.wish(session, "delete")
    bench.wait(lambda: not near.tasks())
    count = len(near.workshop.trials)
    again = bench.settled(bench.create(SessionRequest(0)))
    assert len(near.workshop.trials) == count  # once is enough
    assert again.placement["delay_s"] == pytest.approx(after["delay_s"])
