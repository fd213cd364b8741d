"""Our node at clouds of the first system: those that post, and those that are asked."""

from __future__ import annotations

import json
import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from channel_kit import until
from clip_kit import brightening
from node_kit import Caller, Running
from reference_cloud import OldCloud
from reference_server import Server
from service_kit import OldService, pixels_of

from vdag.control.rest.envoy import Envoy, Registration
from vdag.control.rest.puller import Puller
from vdag.errors import ConfigError, NotFound

TASKS = Path(__file__).parents[1] / "job_tasks.py"
WAIT_S = 60.0
WIDTH, HEIGHT, FRAMES, FPS = 96, 64, 12, 10
PIPELINE = ["brightness", "darkness"]
CONF = {"resolution": "360p", "fps": 30, "encoder": "JPEG"}
#: A node that does its tasks only by `/execute_task`.
ELSEWHERE = "127.0.0.9"


def mapping(**places: str) -> dict[str, Any]:
    return {
        task: {
            "model_id": 0,
            "node_role": "host" if places.get(task) is None else "cloud",
            "node_ip": places.get(task, "127.0.0.1"),
        }
        for task in PIPELINE
    }


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return brightening(
        tmp_path_factory.mktemp("clips") / "ramp.mp4", WIDTH, HEIGHT, FRAMES, fps=FPS
    )


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def service(stack: ExitStack) -> OldService:
    service = OldService(
        ELSEWHERE,
        brightness=lambda body: {"mean": float(pixels_of(body["image"]).mean())},
        darkness=lambda body: {
            "level": 255 - body["mean"],
            "proc_resource_info": {"pid": 7, "compute_latency": 0.001},
        },
    )
    stack.callback(service.close)
    return service


@pytest.fixture
def cloud(stack: ExitStack) -> OldCloud:
    cloud = OldCloud()
    stack.callback(cloud.close)
    return cloud


@pytest.fixture
def run(cloud: OldCloud, service: OldService, clip: Path, tmp_path: Path, stack: ExitStack):
    """Start a node of that cloud's."""

    def run(*settings: str) -> Running:
        video = f"{{path='{clip}', type='a ramp', loop=true}}"
        values = [
            "node.roles=['edge', 'service']",
            f"node.state={tmp_path / 'state'}",
            "edge.port=0",
            "edge.live_port=0",
            f"edge.videos={{0={video}, 3={video}}}",
            f"edge.query_addr={cloud.url.removeprefix('http://')}",
            f"edge.service_port={service.port}",
            f"service.modules=['{TASKS}']",
            "service.tasks={brightness={}, darkness={}}",
            "service.slots=[[480, 360, 24]]",
            *settings,
        ]
        node = Running(*(part for value in values for part in ("--set", value)))
        stack.callback(lambda: _end(node))
        return node

    return run


def _end(node: Running) -> None:
    assert node.stop() == 0, "".join(node.log)
    assert "Traceback" not in "".join(node.log)


def see(frames: list[dict[str, Any]], count: int) -> None:
    """See that frames are what the documents say, and that their numbers rise."""
    assert [frame["n_loop"] for frame in frames][:count] == list(range(1, count + 1))
    for frame in frames:
        assert frame["count_result"].keys() == {"total"}
        expected = 255 - 20 * (frame["frame_id"] % FRAMES)
        assert frame["level"] == pytest.approx(expected, abs=6)


def wait_plan(cloud: OldCloud, job: str, **parts: Any) -> None:
    """Wait for a frame that was made under such a plan."""

    def is_there() -> bool:
        echo = cloud.results[job][-1]["ext_plan"]
        return {name: echo[name] for name in parts} == parts

    until(is_there, WAIT_S)


@pytest.mark.slow
def test_an_old_cloud_posts_a_job_to_our_node_and_is_posted_its_results(cloud, service, run):
    run()
    node_addr = cloud.wait_joined((0, 3))
    assert cloud.videos[node_addr] == {0: "a ramp", 3: "a ramp"}
    job = cloud.submit(node_addr, 3, PIPELINE, {"delay": 0.3, "accuracy": 0.9})
    assert cloud.get_runtime(node_addr, job) == {}
    cloud.plan(node_addr, job, CONF, mapping(darkness=ELSEWHERE))
    see(cloud.wait_results(job, 5), 5)
    assert cloud.results[job][0]["ext_plan"]["flow_mapping"] == mapping(darkness=ELSEWHERE)
    assert cloud.results[job][0]["ext_plan"]["video_conf"] == CONF
    info = cloud.results[job][0]["proc_resource_info"]
    assert (info["pid"], info["node_ip"], info["node_role"]) == (7, ELSEWHERE, "cloud")
    for places in ({}, {"brightness": ELSEWHERE, "darkness": ELSEWHERE}):
        cloud.plan(node_addr, job, CONF, mapping(**places))
        wait_plan(cloud, job, flow_mapping=mapping(**places))
        see(cloud.wait_results(job, len(cloud.results[job]) + 3), 5)
    runtime = cloud.get_runtime(node_addr, job)
    assert runtime["plan_result"]["delay"].keys() == set(PIPELINE)
    caller = Caller(f"http://{node_addr}")
    assert caller.post("/job/stop_job", {"job_uid": job}).json()["status"] == 0
    assert caller.get("/job/list").json() == []
    caller.close()


@pytest.mark.slow
def test_our_node_asks_a_newer_cloud_for_its_job_and_posts_its_results(cloud, run):
    run("edge.pull=true", "edge.pull_s=0.05")
    node_addr = cloud.wait_joined((0, 3))
    job = cloud.submit(node_addr, 0, PIPELINE, {"delay": 0.3, "accuracy": 0.9}, pull=True)
    conf = {"reso": "360p", "fps": 30, "encoder": "JPEG"}
    cloud.plan(node_addr, job, conf, mapping(darkness=ELSEWHERE), pull=True)
    found = cloud.wait_results(job, 5)
    see(found, 5)
    limits = {task: {"cpu_util_limit": 1.0, "mem_util_limit": 1.0} for task in PIPELINE}
    assert found[0]["ext_plan"] == {
        "video_conf": conf, "flow_mapping": mapping(darkness=ELSEWHERE), "resource_limit": limits,
    }  # fmt: skip
    faster = {**conf, "fps": 5}
    cloud.plan(node_addr, job, faster, mapping(), pull=True)
    wait_plan(cloud, job, video_conf=faster)
    caller = Caller(f"http://{node_addr}")
    assert [each["job_uid"] for each in caller.get("/job/list").json()] == [job]
    cloud.restart()
    until(lambda: caller.get("/job/list").json() == [], WAIT_S)
    caller.close()


# The envoy by itself


class Cloud:
    """Answers reports by a function, and notes them."""

    def __init__(self) -> None:
        self.reports: queue.Queue[dict[str, Any]] = queue.Queue()
        self.joins: queue.Queue[dict[str, Any]] = queue.Queue()
        self.videos: dict[str, Any] | None = None
        self.answer = (200, {"status": 500})
        self._server = Server(self._handle)
        self.addr = f"127.0.0.1:{self._server.port}"
        self.close = self._server.close

    def _handle(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        if path == "/node/join":
            self.joins.put(body)
            return 200, {"node_addr": "10.0.0.7:5001", "status": 0}
        if path == "/node/get_video_info":
            return (404, {}) if self.videos is None else (200, self.videos)
        self.reports.put(body)
        return self.answer


def frame(number: int, size: int = 0) -> bytes:
    plan = {"video_conf": {"fps": 5.0}, "flow_mapping": {}}
    return json.dumps({"n_loop": number, "ext_plan": plan, "more": "x" * size}).encode()


@pytest.fixture
def old(stack: ExitStack) -> Cloud:
    cloud = Cloud()
    stack.callback(cloud.close)
    return cloud


def test_a_report_has_the_frame_as_it_is_and_the_plan_beside_it(old):
    with Envoy(old.addr, Registration(5001, {4: "a ramp"})) as envoy:
        assert envoy.wait_joined(WAIT_S)
        assert old.joins.get(timeout=WAIT_S) == {
            "node_port": 5001, "video_id": 4, "video_type": "a ramp",
        }  # fmt: skip
        envoy.report_result("GLOBAL_ID_1", 1, frame(1))
        report = old.reports.get(timeout=WAIT_S)
    result = json.loads(frame(1))
    latest = {"plan": result["ext_plan"]}
    assert report == {
        "job_uid": "GLOBAL_ID_1",
        "job_result": {"appended_result": result, "latest_result": latest},
    }


def test_a_node_that_is_to_say_where_it_is_does(old):
    with Envoy(old.addr, Registration(5001, {4: "a ramp"}, "10.0.0.7")):
        assert old.joins.get(timeout=WAIT_S)["node_ip"] == "10.0.0.7"


def test_results_wait_for_a_cloud_that_is_away_and_come_in_their_order(stack):
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        addr = f"127.0.0.1:{reserved.getsockname()[1]}"
        envoy = stack.enter_context(Envoy(addr, Registration(5001, {0: "a ramp"})))
        for number in range(1, 6):
            envoy.report_result("GLOBAL_ID_1", number, frame(number))
        assert envoy.stats().waiting == 5
    got: queue.Queue[int] = queue.Queue()

    def handle(method: str, path: str, body: Any) -> tuple[int, Any]:
        if path == "/query/sync_result":
            got.put(body["job_result"]["appended_result"]["n_loop"])
        return 200, {"node_addr": "127.0.0.1:5001"}

    import reference_server

    class There(reference_server.ThreadingHTTPServer):
        def __init__(self, address: Any, handler: Any) -> None:
            super().__init__((address[0], int(addr.rpartition(":")[2])), handler)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference_server, "ThreadingHTTPServer", There)
        server = Server(handle)
    stack.callback(server.close)
    assert [got.get(timeout=WAIT_S) for _ in range(5)] == [1, 2, 3, 4, 5]
    until(lambda: envoy.stats().posted == 5)
    assert envoy.stats().lost == 0


def test_the_oldest_results_go_when_too_many_wait(stack):
    mute = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    addr = f"127.0.0.1:{mute.getsockname()[1]}"
    envoy = Envoy(addr, Registration(5001, {0: "a ramp"}), limit_nbytes=10_000)
    for number in range(20):
        envoy.report_result("GLOBAL_ID_1", number, frame(number, 900))
    stats = envoy.stats()
    assert stats.waiting == 10
    assert stats.lost == 10
    envoy.close()
    assert envoy.stats().lost == 20
    assert envoy.stats().waiting == 0


def test_what_a_cloud_refuses_is_counted_and_stops_nothing(old):
    with Envoy(old.addr, Registration(5001, {0: "a ramp"})) as envoy:
        old.answer = (500, "<!doctype html>")
        for number in (1, 2):
            envoy.report_result("GLOBAL_ID_1", number, frame(number))
        until(lambda: envoy.stats().refused == 2)
        old.answer = (200, {"status": 500})
        envoy.report_result("GLOBAL_ID_1", 3, frame(3))
        until(lambda: envoy.stats().posted == 1)


def test_a_cloud_that_has_forgotten_the_node_is_told_again(old):
    old.videos = {}
    with Envoy(old.addr, Registration(5001, {0: "a", 1: "b"}), check_s=0.02) as envoy:
        joined = [old.joins.get(timeout=WAIT_S)["video_id"] for _ in range(6)]
        assert joined == [0, 1] * 3
        assert envoy.stats().joins >= 2


def test_the_last_results_are_posted_before_the_end(old):
    envoy = Envoy(old.addr, Registration(5001, {0: "a ramp"}))
    assert envoy.wait_joined(WAIT_S)
    for number in range(1, 51):
        envoy.report_result("GLOBAL_ID_1", number, frame(number))
    envoy.close()
    assert envoy.stats().posted == 50


def test_a_place_that_is_none_is_refused():
    with pytest.raises(ConfigError, match=r"^'10.0.0.1' is not HOST:PORT$"):
        Envoy("10.0.0.1", Registration(5001, {}))


# The puller by itself


class Intake:
    """Notes what comes in."""

    def __init__(self) -> None:
        self.calls: queue.Queue[tuple[Any, ...]] = queue.Queue()

    def submit(self, job_uid: str, video_id: int, graph: Any, constraint: Any) -> None:
        self.calls.put(("submit", job_uid, video_id, graph.tasks, constraint))
        if video_id == 9:
            raise NotFound("video_id 9 is no video of this node")

    def plan(self, job_uid: str, conf: Any, places: Any, limits: Any) -> None:
        self.calls.put(("plan", job_uid, conf))


def test_one_job_that_makes_no_sense_does_not_spoil_the_others(stack):
    work: dict[str, Any] = {
        "jobs_info": {
            "A": {"video_id": 9, "pipeline": ["t"]},
            "B": {"video_id": "three", "pipeline": ["t"]},
            "C": {"video_id": 1, "pipeline": []},
            "D": {"video_id": 1, "pipeline": ["t"], "user_constraint": {"delay": 0.3}},
        },
        "jobs_plan": {name: {"video_conf": {"fps": 1}} for name in "ABCD"},
    }
    asked: queue.Queue[Any] = queue.Queue()
    stopped: queue.Queue[tuple[str, str]] = queue.Queue()

    def handle(method: str, path: str, body: Any) -> tuple[int, Any]:
        if path == "/query/get_jobs_info_and_jobs_plan":
            asked.put(body)
            return 200, work
        return 200, {"node_addr": "10.0.0.7:5001"}

    server = Server(handle)
    stack.callback(server.close)
    intake: Any = Intake()
    envoy = stack.enter_context(Envoy(f"127.0.0.1:{server.port}", Registration(5001, {0: "a"})))
    stack.enter_context(
        Puller(envoy, intake, lambda uid, reason: stopped.put((uid, reason)), pull_s=0.02)
    )
    assert intake.calls.get(timeout=WAIT_S)[:3] == ("submit", "A", 9)
    assert intake.calls.get(timeout=WAIT_S) == ("submit", "D", 1, ("t",), {"delay": 0.3})
    assert intake.calls.get(timeout=WAIT_S) == ("plan", "D", {"fps": 1})
    question = asked.get(timeout=WAIT_S)
    assert question["node_addr"] == "10.0.0.7:5001"
    assert question["bandwidth"].keys() == {"bps", "kbps", "Mbps", "kB/s", "MB/s"}
    assert stopped.empty()
    work["jobs_info"], work["jobs_plan"] = {}, {}
    assert stopped.get(timeout=WAIT_S) == ("D", "the cloud names it no more")


@pytest.mark.parametrize("answer", [(500, "<!doctype html>"), (200, []), (200, {"jobs_info": 3})])
def test_a_cloud_that_has_no_work_to_tell_of_is_asked_again(stack, answer):
    asked, count = threading.Event(), iter(range(1000))

    def handle(method: str, path: str, body: Any) -> tuple[int, Any]:
        if path == "/query/get_jobs_info_and_jobs_plan":
            if next(count) == 2:
                asked.set()
            return answer
        return 200, {"node_addr": "10.0.0.7:5001"}

    server = Server(handle)
    stack.callback(server.close)
    intake: Any = Intake()
    envoy = stack.enter_context(Envoy(f"127.0.0.1:{server.port}", Registration(5001, {0: "a"})))
    stack.enter_context(Puller(envoy, intake, lambda uid, reason: None, pull_s=0.02))
    assert asked.wait(WAIT_S)
    assert intake.calls.empty()
