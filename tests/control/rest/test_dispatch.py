"""Our cloud and nodes that never ask: the real controller, the real query manager, old nodes."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from channel_kit import TASK, NodeEnd, quick, request, until
from desk_kit import Serving
from node_kit import Caller
from reference_clients import FrontEnd, OldNode
from reference_server import Server

from vdag.control.controller import Controller
from vdag.control.queries import Parts
from vdag.control.records import Store
from vdag.control.rest.contact import plan_of
from vdag.control.rest.dispatch import Dispatch
from vdag.control.scheduling.events import (
    DispatchFailed,
    Event,
    JobReported,
    QueryInfo,
    QueryState,
    RuntimeReported,
)
from vdag.control.scheduling.instructions import SendPlan, StartJob, StopJob
from vdag.control.scheduling.scheduler import SchedulerSettings
from vdag.errors import Saturated
from vdag.graph import Graph
from vdag.plan import Constraint, Placement, Plan, VideoConf

PIPELINE = ["face_detection", "face_alignment"]
WAIT_S = 30.0
JOB = "GLOBAL_ID_1"
TIMES = SchedulerSettings(period_s=0.1, push_period_s=0.1, node_timeout_s=1.0)


class Cloud:
    """Our cloud, with nothing of ours around it."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        store = stack.enter_context(Store(folder / "records.db"))
        dispatch = Dispatch(poll_s=0.05, timeout_s=5.0)
        self.controller = Controller(store, quick(scheduler=TIMES), dispatch=dispatch)
        stack.enter_context(self.controller)
        stack.enter_context(dispatch).open(self.controller)
        serving = Serving(Parts(self.controller, store))
        stack.callback(serving.close)
        self.url = serving.url

    def state(self, query_id: str) -> tuple[int, bool]:
        view = self.controller.query(query_id)
        assert view is not None
        return view.state, view.suspended

    def wait_state(self, query_id: str, state: QueryState, suspended: bool = False) -> None:
        until(lambda: self.state(query_id) == (state, suspended), WAIT_S)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def cloud(tmp_path: Path, stack: ExitStack) -> Cloud:
    return Cloud(tmp_path, stack)


@pytest.fixture
def page(cloud: Cloud, stack: ExitStack) -> FrontEnd:
    page = FrontEnd(cloud.url)
    stack.callback(page.close)
    return page


@contextmanager
def old_node(cloud: Cloud, **options: Any) -> Iterator[OldNode]:
    node = OldNode(cloud.url, **options)
    try:
        yield node
    finally:
        node.close()


@pytest.mark.parametrize("says_plan_beside", [False, True])
def test_an_old_node_is_given_a_job_and_brings_its_query_to_an_end(cloud, page, says_plan_beside):
    with old_node(cloud, says_plan_beside=says_plan_beside) as node:
        node.join()
        query_id = page.submit(f"{node.node_addr}-1", PIPELINE, 0.3, 0.9)
        plan = node.wait_planned(query_id)
        assert plan["flow_mapping"].keys() == set(PIPELINE)
        assert plan["video_conf"]["resolution"] == plan["video_conf"]["reso"] == "1080p"
        assert plan["resource_limit"]["face_alignment"]["cpu_util_limit"] == 1.0
        node.forget_plan(query_id)
        assert node.wait_planned(query_id) == plan  # said again and again: the node never asks
        node.process(query_id, 20)
        cloud.wait_state(query_id, QueryState.RUNNING)
        shown = until(lambda: page.show(query_id))
        assert [frame["n_loop"] for frame in shown["appended_result"]] == list(range(10, 21))
        view = until(lambda: (v := cloud.controller.query(query_id)) and v.runtime and v)
        assert view.runtime["obj_n"] == 8.0
        caller = Caller(cloud.url)
        assert caller.post("/query/stop", {"query_id": query_id}).status == 200
        caller.close()
        cloud.wait_state(query_id, QueryState.ENDED)
        assert page.show(query_id) is not None


def test_a_node_that_does_not_answer_is_lost_and_back_when_it_does(cloud, page, stack):
    with old_node(cloud) as node:
        node.join()
        query_id = page.submit(f"{node.node_addr}-1", PIPELINE, 0.3, 0.9)
        node.wait_planned(query_id)
        port = node.port
    cloud.wait_state(query_id, QueryState.READY, True)
    jobs: queue.Queue[tuple[str, Any]] = queue.Queue()

    def handle(method: str, path: str, body: Any) -> tuple[int, Any]:
        jobs.put((path, body))
        return (200, {"status": 0}) if method == "POST" else (500, {})

    back = at_port(port, handle, stack)
    cloud.wait_state(query_id, QueryState.READY)
    while jobs.get(timeout=WAIT_S)[0] != "/job/submit_job":
        pass
    path, body = jobs.get(timeout=WAIT_S)
    assert (path, body["job_uid"], back.port) == ("/job/update_plan", query_id, port)


def at_port(port: int, handle: Callable[..., Any], stack: ExitStack) -> Server:
    """Serve where another server has just ended."""
    import reference_server

    class There(reference_server.ThreadingHTTPServer):
        def __init__(self, address: tuple[str, int], handler: Any) -> None:
            super().__init__((address[0], port), handler)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference_server, "ThreadingHTTPServer", There)
        server = Server(handle)
    stack.callback(server.close)
    return server


# The dispatcher by itself


class Listener:
    """Hears events, unless it is told not to."""

    def __init__(self) -> None:
        self.events: queue.Queue[Event] = queue.Queue()
        self.found: queue.Queue[str] = queue.Queue()
        self.refuses = 0

    def tell(self, event: Event) -> None:
        if self.refuses:
            self.refuses -= 1
            raise Saturated("there is too much to do")
        self.events.put(event)

    def answers(self, node_addr: str) -> None:
        self.found.put(node_addr)

    def next(self, kind: type[Event]) -> Any:
        while True:
            event = self.events.get(timeout=WAIT_S)
            if isinstance(event, kind):
                return event


class Node:
    """Answers by a function of the path; the requests are kept in order."""

    def __init__(self, stack: ExitStack, **answers: Any) -> None:
        self.answers = answers
        self.asked: queue.Queue[tuple[str, Any]] = queue.Queue()
        self._server = Server(self._handle)
        stack.callback(self._server.close)
        self.addr = f"127.0.0.1:{self._server.port}"

    def until(self, name: str) -> Any:
        """Wait for a request, and return its body; others before it are passed over."""
        while True:
            path, body = self.asked.get(timeout=WAIT_S)
            if path.split("/")[2] == name:
                return body

    def _handle(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        self.asked.put((path, body))
        answer = self.answers.get(path.split("/")[2], (200, {"status": 0}))
        return answer(body) if callable(answer) else answer


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def dispatch(listener: Listener) -> Iterator[Dispatch]:
    with Dispatch(poll_s=0.02, timeout_s=2.0) as dispatch:
        dispatch.open(listener)
        yield dispatch


def plan(number: int = 1, fps: float = 30, resolution: str = "480p") -> Plan:
    mapping = {task: Placement("10.0.0.8", "cloud") for task in PIPELINE}
    return Plan(number, VideoConf(resolution, fps), mapping)


def start(node_addr: str, job: str = JOB, number: int = 1) -> StartJob:
    constraint = Constraint.from_document({"delay": 0.3, "accuracy": 0.9})
    query = QueryInfo(job, node_addr, 1, Graph.chain(*PIPELINE), constraint)
    return StartJob(node_addr, query, plan(number), {})


def test_a_job_is_posted_as_the_documents_say(dispatch, stack):
    node = Node(stack)
    dispatch.start(start(node.addr))
    job = node.until("submit_job")
    assert job.pop("dag")["flow"] == PIPELINE
    assert job == {
        "job_uid": JOB, "node_addr": node.addr, "video_id": 1, "pipeline": PIPELINE,
        "user_constraint": {"delay": 0.3, "accuracy": 0.9},
    }  # fmt: skip
    posted = node.until("update_plan")
    assert posted.keys() == {"job_uid", "video_conf", "flow_mapping", "resource_limit"}
    place = posted["flow_mapping"]["face_detection"]
    assert place == {"model_id": 0, "node_role": "cloud", "node_ip": "10.0.0.8"}


@pytest.mark.parametrize(
    ("conf", "expected"),
    [
        (VideoConf("720p", 25, "H264"), ("720p", "H264")),
        (VideoConf("native", 25, "raw"), ("1080p", "JPEG")),
        (VideoConf("640x400", 25), ("480p", "JPEG")),
    ],
)
def test_a_conf_is_said_in_words_that_every_version_knows(conf, expected):
    posted = plan_of(JOB, Plan(1, conf, {"face_detection": Placement("10.0.0.8")}))["video_conf"]
    assert (posted["resolution"], posted["encoder"]) == expected
    assert posted["fps"] == 25


def test_a_job_that_a_node_has_already_is_planned_all_the_same(dispatch, stack, listener):
    node = Node(stack, submit_job=(500, "<!doctype html>"), get_runtime=(200, {"delay": 0.3}))
    dispatch.start(start(node.addr))
    assert node.until("update_plan")["job_uid"] == JOB
    event = listener.next(RuntimeReported)
    assert (event.query_id, event.runtime) == (JOB, {"delay": 0.3})


def test_a_node_that_was_started_anew_is_told_its_job_again(dispatch, stack):
    known: set[str] = set()

    def submit(body: Any) -> tuple[int, Any]:
        known.add(body["job_uid"])
        return 200, {"status": 0}

    def update(body: Any) -> tuple[int, Any]:
        return (200, {"status": 0}) if body["job_uid"] in known else (500, {})

    node = Node(stack, submit_job=submit, update_plan=update)
    dispatch.start(start(node.addr))
    node.until("get_runtime")  # by then it has job and plan
    known.clear()
    dispatch.replan(SendPlan(node.addr, JOB, plan(2), {}))
    assert node.until("submit_job")["job_uid"] == JOB
    node.until("update_plan")
    assert known == {JOB}


def test_a_job_that_is_refused_time_and_again_has_failed(dispatch, stack, listener):
    refusal = {"msg": "unsupport generator func name", "status": 1}
    node = Node(stack, submit_job=(200, refusal), update_plan=(500, {}))
    dispatch.start(start(node.addr))
    for number in (2, 3):
        node.until("update_plan")
        dispatch.replan(SendPlan(node.addr, JOB, plan(number), {}))
    event = listener.next(JobReported)
    assert (event.query_id, event.node_addr, event.state) == (JOB, node.addr, QueryState.FAILED)
    assert event.reason.startswith(f"node {node.addr} refuses it: 200 ")
    assert "unsupport generator" in event.reason


def test_a_plan_that_comes_while_another_waits_takes_its_place(listener, stack):
    node = Node(stack)
    with Dispatch(poll_s=0.02) as dispatch:
        dispatch.start(start(node.addr))
        dispatch.replan(SendPlan(node.addr, JOB, plan(2, fps=5), {}))
        dispatch.open(listener)
        assert node.until("submit_job")["job_uid"] == JOB
        until(lambda: node.until("update_plan")["video_conf"]["fps"] == 5)


def test_what_a_node_says_twice_is_no_news(dispatch, stack, listener):
    node = Node(stack, get_runtime=(200, {"obj_n": 3.0}))
    dispatch.start(start(node.addr))
    listener.next(RuntimeReported)
    for _ in range(3):
        node.until("get_runtime")
    assert listener.events.empty()
    node.answers["get_runtime"] = (200, {"obj_n": 4.0})
    assert listener.next(RuntimeReported).runtime == {"obj_n": 4.0}
    node.answers["get_runtime"] = (404, {})
    node.until("get_runtime")
    assert listener.events.empty()


def test_a_job_is_stopped_where_the_node_can(dispatch, stack):
    node = Node(stack, stop_job=(404, {}))
    dispatch.start(start(node.addr))
    node.until("get_runtime")
    dispatch.stop(StopJob(node.addr, JOB, "deleted"))
    assert node.until("stop_job") == {"job_uid": JOB, "reason": "deleted"}


def test_a_node_that_is_gone_is_told_once_and_again_when_it_is_back(dispatch, stack, listener):
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    listener.refuses = 1  # the controller does not hear everything at once
    addr = f"127.0.0.1:{port}"
    dispatch.start(start(addr))
    lost = listener.next(DispatchFailed)
    assert lost.node_addr == addr
    assert lost.reason == f"{addr} does not answer /job/get_runtime/{JOB}: Connection refused"
    asked = threading.Event()

    def handle(method: str, path: str, body: Any) -> tuple[int, Any]:
        asked.set()
        return 200, {"status": 0}

    at_port(port, handle, stack)
    assert listener.found.get(timeout=WAIT_S) == addr
    assert asked.is_set()
    assert listener.events.empty()


def test_a_node_that_says_nothing_holds_up_no_other(listener, stack):
    mute = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    node = Node(stack)
    with Dispatch(poll_s=0.02, timeout_s=60.0) as dispatch:
        dispatch.open(listener)
        dispatch.start(start(f"127.0.0.1:{mute.getsockname()[1]}"))
        dispatch.start(start(node.addr, "GLOBAL_ID_2"))
        assert node.until("update_plan")["job_uid"] == "GLOBAL_ID_2"


def test_a_name_that_is_no_address_fails_its_job(dispatch, listener):
    dispatch.start(start("10.0.0.7/x:5001"))
    event = listener.next(JobReported)
    assert event.reason == "node 10.0.0.7/x:5001 cannot be posted to"


# Tasks of our nodes on nodes of other makes


def test_a_task_of_our_node_goes_to_the_service_of_a_node_that_a_plan_names(cloud, stack):
    caller = Caller(cloud.url)
    stack.callback(caller.close)
    joining = {"node_ip": "10.0.0.9", "node_port": 5001, "video_id": 0, "video_type": "streets"}
    assert caller.post("/node/join", joining).json()["node_addr"] == "10.0.0.9:5001"
    node = stack.enter_context(NodeEnd(cloud.controller.channel))
    until(lambda: len(cloud.controller.nodes()) == 2)
    fixed = Plan(0, VideoConf("480p", 25), {TASK: Placement("10.0.0.9", "edge")})
    cloud.controller.submit(request(policy="static", plan=fixed)).result(WAIT_S)
    *_, routes, names = node.jobs.next("plan")
    assert (routes, names) == ({TASK: "http://10.0.0.9:5500"}, {})
