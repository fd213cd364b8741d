"""The jobs of one node: real videos, a real exchange and real workers, of one node and of two."""

from __future__ import annotations

import queue
import select
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from clip_kit import brightening

from vdag.config import VideoConfig
from vdag.control.agent.framebook import FrameBook, frames_of
from vdag.control.jobs import JobManager
from vdag.control.jobs.lanes import lane_of
from vdag.control.jobs.run import Site
from vdag.control.scheduling.events import QueryState
from vdag.control.wire_log import read_columns
from vdag.errors import ConfigError, GraphError, NotFound, PlanError
from vdag.graph import Graph
from vdag.plan import Constraint, Placement, Plan, VideoConf
from vdag.tasks import base
from vdag.tasks.modules import load_module
from vdag.transport.encoders import H264, Jpeg, Raw
from vdag.transport.exchange import Exchange
from vdag.transport.peers import Peers
from vdag.workers import WorkerPool

TASKS = Path(__file__).with_name("job_tasks.py")
TIMEOUT_S = 30.0
WIDTH, HEIGHT, FRAMES, FPS = 320, 240, 12, 10
CHAIN = Graph.chain("brightness", "darkness")
UNBOUND = Constraint()


class Desk:
    """Whom jobs report to: everything is kept in order."""

    def __init__(self) -> None:
        self.results: queue.Queue[dict[str, Any]] = queue.Queue()
        self.states: queue.Queue[tuple[str, int, str]] = queue.Queue()

    def report_result(self, job_uid: str, number: int, document: bytes) -> None:
        frame = msgspec.json.decode(document)
        assert frame["n_loop"] == number
        self.results.put({"job_uid": job_uid, **frame})

    def report_state(self, job_uid: str, state: int, reason: str) -> None:
        self.states.put((job_uid, state, reason))

    def frame(self) -> dict[str, Any]:
        return self.results.get(timeout=TIMEOUT_S)

    def frames(self, count: int) -> list[dict[str, Any]]:
        return [self.frame() for _ in range(count)]

    def until(self, state: QueryState) -> str:
        """Wait until a job is in a state, and return the reason."""
        while True:
            _, found, reason = self.states.get(timeout=TIMEOUT_S)
            if found == state:
                return reason


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return brightening(
        tmp_path_factory.mktemp("clips") / "ramp.mp4", WIDTH, HEIGHT, FRAMES, fps=FPS
    )


class Host:
    """A node with workers for some tasks."""

    def __init__(self, folder: Path, tasks: tuple[str, ...], stack: ExitStack) -> None:
        slots = [(WIDTH * HEIGHT * 3, 32)]
        self.exchange = stack.enter_context(Exchange(folder, classes=slots))
        self.peers = stack.enter_context(Peers(self.exchange, "tcp://127.0.0.1:0"))
        pool = stack.enter_context(WorkerPool(self.exchange, modules=[TASKS]))
        for task in tasks:
            self.exchange.open_task(task, policy="fifo")
            pool.add(task)
        for task in tasks:
            pool.wait_ready(task, TIMEOUT_S)
        self.tasks = tasks


@pytest.fixture
def nothing_is_left() -> None:
    """The hosts are everybody's; what must not be left is looked for by `hosts` and `manage`."""


@pytest.fixture(scope="module")
def hosts(tmp_path_factory) -> Iterator[tuple[Host, Host]]:
    folder = tmp_path_factory.mktemp("hosts")
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "_registry", dict(base._registry))
        load_module(TASKS)
        found = (
            Host(folder / "a", ("brightness", "darkness"), stack),
            Host(folder / "b", ("darkness",), stack),
        )
        yield found
        segments = [host.exchange.arena.name for host in found]
    assert not [t.name for t in threading.enumerate() if t.name.startswith("vdag-")]
    assert not [name for name in segments if Path("/dev/shm", name).exists()]


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def manage(hosts, clip, desk):
    """Make a job manager of the first host, with the clip as its video 0 and options of it."""
    made: list[JobManager] = []

    def manage(**options: Any) -> JobManager:
        video = VideoConfig(**{"path": str(clip), "type": "a ramp", "pace": "asap"} | options)
        site = Site(hosts[0].exchange, hosts[0].peers, "127.0.0.1")
        manager = JobManager(
            site,
            {0: video},
            offered=lambda: dict.fromkeys(hosts[0].tasks, (0,)),
            reporter=desk,
            max_jobs=2,
        )
        made.append(manager)
        return manager

    yield manage
    for manager in made:
        manager.close()
    assert not [t.name for t in threading.enumerate() if t.name.startswith("vdag-GLOBAL")]
    for host in hosts:
        deadline_s = time.monotonic() + TIMEOUT_S
        # What workers had when a job left they finish; each look waits for the exchange's thread.
        while (stats := host.exchange.stats()).waiting + stats.outstanding:
            assert time.monotonic() < deadline_s, stats


def plan_of(number: int, *, fps: float = 100, resolution: str = "native", **conf: Any) -> Plan:
    mapping = {task: Placement("127.0.0.1") for task in CHAIN.tasks}
    return Plan(number, VideoConf(resolution, fps, **conf), mapping)


def test_a_job_runs_to_the_end_of_its_video_and_reports_every_frame(manage, desk):
    jobs = manage()
    jobs.submit("GLOBAL_ID_1", 0, CHAIN, UNBOUND)
    assert [int(info.state) for info in jobs.infos()] == [0]
    jobs.update_plan("GLOBAL_ID_1", plan_of(1))
    frames = desk.frames(FRAMES)
    assert desk.until(QueryState.ENDED) == "the video is over"
    assert [frame["n_loop"] for frame in frames] == list(range(1, FRAMES + 1))
    assert [frame["frame_id"] for frame in frames] == [float(n) for n in range(FRAMES)]
    assert [round(frame["level"] / 20) for frame in frames] == [
        round((255 - 20 * n) / 20) for n in range(FRAMES)
    ]
    info = jobs.infos()[0]
    assert (info.plan_number, info.state, dict(info.drops)) == (1, QueryState.ENDED, {})


def test_every_frame_is_noted_for_the_records_with_where_its_time_went(hosts, clip, desk):
    book = FrameBook("0123456789abcdef")
    site = Site(hosts[0].exchange, hosts[0].peers, "127.0.0.1", frames=book)
    videos = {0: VideoConfig(str(clip), pace="asap")}
    with JobManager(
        site, videos, offered=lambda: dict.fromkeys(hosts[0].tasks, (0,)), reporter=desk
    ) as jobs:
        jobs.submit("GLOBAL_ID_1", 0, CHAIN, UNBOUND)
        routes = {"darkness": hosts[1].peers.address}
        jobs.update_plan("GLOBAL_ID_1", plan_of(3), routes)
        assert select.select([book.bell.fileno()], [], [], TIMEOUT_S)[0], "the job has ended"
        (found,) = frames_of(book.take(), book.run, lambda here_ns: here_ns)
    book.close()
    assert (found.job_uid, found.routes) == ("GLOBAL_ID_1", routes)
    assert found.branches == [["brightness", "darkness"]]
    columns = read_columns(found)
    assert columns.sequences.tolist() == list(range(FRAMES))
    assert columns.lengths_s.min() >= 0
    # What is left of the whole is the way home.
    assert (columns.lengths_s.sum(1) <= columns.wholes_s + 1e-4).all()
    assert (columns.sizes[:, 1] > 0).all()
    assert not columns.sizes[:, 0].any()


def test_a_frame_object_has_what_the_documents_say_and_where_its_time_went(manage, desk):
    jobs = manage()
    jobs.submit("GLOBAL_ID_1", 0, CHAIN, UNBOUND)
    jobs.update_plan("GLOBAL_ID_1", plan_of(3, resolution="160x120"))
    frame = desk.frames(2)[1]
    assert frame["plan"] == 3
    assert frame["ext_plan"] == plan_of(3, resolution="160x120").to_documents()
    assert frame["task_conf"]["resolution"] == {"w": 160, "h": 120}
    assert isinstance(frame["count_result"], dict)
    runtime = frame["ext_runtime"]
    assert set(runtime["plan_result"]["delay"]) == set(CHAIN.tasks)
    assert runtime["proc_resource_info"]["darkness"]["pid"] > 0
    parts = sum(runtime["plan_result"][name][task] for task in CHAIN.tasks
                for name in ("process_delay", "queue_delay", "transfer_delay"))  # fmt: skip
    total = sum(runtime["plan_result"]["delay"].values())
    assert parts == pytest.approx(total)
    assert 0 < frame["proc_delay"] <= frame["delay"]
    assert frame["delay_amortized"] <= frame["delay"]


def test_a_new_plan_takes_effect_between_two_frames(manage, desk):
    jobs = manage(loop=True)
    jobs.submit("GLOBAL_ID_1", 0, CHAIN, UNBOUND)
    jobs.update_plan("GLOBAL_ID_1", plan_of(1, resolution="320x240"))
    desk.frames(3)
    jobs.update_plan("GLOBAL_ID_1", plan_of(2, resolution="160x120"))
    jobs.update_plan("GLOBAL_ID_1", plan_of(1, resolution="64x64"))  # an older one is passed over
    seen = []
    while not seen or seen[-1][0] != 2:
        frame = desk.frame()
        seen.append((frame["plan"], frame["task_conf"]["resolution"]["w"]))
    assert set(seen) <= {(1, 320), (2, 160)}
    assert seen == sorted(seen)
    jobs.stop("GLOBAL_ID_1", "enough")
    assert desk.until(QueryState.ENDED) == "enough"
    assert jobs.infos() == ()


def test_tasks_on_another_node_give_what_they_give_here(manage, hosts, desk):
    jobs = manage()
    routes = {"darkness": hosts[1].peers.address}
    for uid, where in (("GLOBAL_ID_1", {}), ("GLOBAL_ID_2", routes)):
        jobs.submit(uid, 0, CHAIN, UNBOUND)
        jobs.update_plan(uid, plan_of(1, encoder="raw"), where)
    found: dict[str, list[tuple[float, float]]] = {}
    for frame in desk.frames(2 * FRAMES):
        found.setdefault(frame["job_uid"], []).append((frame["frame_id"], frame["level"]))
    assert found["GLOBAL_ID_1"] == found["GLOBAL_ID_2"]
    assert hosts[1].exchange.stats().peer >= FRAMES


@pytest.mark.parametrize("encoder", ["JPEG", "H264"])
def test_a_task_moves_to_another_node_and_back_without_a_frame_lost(manage, hosts, desk, encoder):
    jobs = manage(loop=True)
    jobs.submit("GLOBAL_ID_1", 0, CHAIN, UNBOUND)
    routes = {"darkness": hosts[1].peers.address}
    seen: list[dict[str, Any]] = []
    for number in range(1, 6):
        where = routes if number % 2 == 0 else {}
        jobs.update_plan("GLOBAL_ID_1", plan_of(number, encoder=encoder), where)
        while not seen or seen[-1]["plan"] < number:
            seen.append(desk.frame())
        seen.extend(desk.frames(3))
    assert [frame["n_loop"] for frame in seen] == list(range(1, len(seen) + 1))
    assert [frame["plan"] for frame in seen] == sorted(frame["plan"] for frame in seen)
    for frame in seen:
        expected = 255 - 20 * (frame["frame_id"] % FRAMES)
        assert frame["level"] == pytest.approx(expected, abs=4)
    assert jobs.infos()[0].drops == {}


@pytest.mark.parametrize("encoder", ["raw", "JPEG"])
def test_the_context_says_how_many_bytes_brought_the_frames_to_a_task(manage, hosts, desk, encoder):
    jobs = manage(loop=True)
    jobs.submit("GLOBAL_ID_1", 0, CHAIN, UNBOUND)
    jobs.update_plan(
        "GLOBAL_ID_1", plan_of(1, encoder=encoder), {"darkness": hosts[1].peers.address}
    )
    sizes = desk.frames(3)[-1]["ext_runtime"]["data_trans_size"]
    assert list(sizes) == ["darkness"]
    pixels = WIDTH * HEIGHT * 3
    assert (sizes["darkness"] > pixels) is (encoder == "raw")
    assert 200 < sizes["darkness"] < 1.1 * pixels
    jobs.update_plan("GLOBAL_ID_1", plan_of(2))
    while (frame := desk.frame())["plan"] != 2:
        pass
    # Nothing of the plan before is in the context of a frame of the next.
    assert frame["ext_runtime"]["data_trans_size"] == {}
    assert (frame["ext_runtime"]["plan_number"], frame["ext_runtime"]["frames"]) == (2, 1)
    frames = {frame["n_loop"]: frame for frame in desk.frames(5)}
    reported = jobs.runtimes()["GLOBAL_ID_1"]
    assert reported["plan_number"] == 2
    assert reported["frames"] >= max(frames) - min(frames) + 1
    assert reported["plan_result"]["process_delay_p95"].keys() == set(CHAIN.tasks)
    assert reported["fps"] > 0
    asked = jobs.runtime_of("GLOBAL_ID_1")
    assert (asked["plan_number"], asked["obj_speed"], asked["dropped"]) == (2, -1.0, 0)


def test_a_job_waits_no_more_for_a_node_that_is_lost(manage, hosts, desk):
    jobs = manage(loop=True)
    jobs.submit("GLOBAL_ID_1", 0, CHAIN, UNBOUND)
    nobody = "tcp://127.0.0.1:9"
    jobs.update_plan("GLOBAL_ID_1", plan_of(1), {"darkness": nobody})
    desk.until(QueryState.READY)
    # The same plan at another address, as when a node was started anew.
    jobs.update_plan("GLOBAL_ID_1", plan_of(1), {"darkness": hosts[1].peers.address})
    jobs.give_up("GLOBAL_ID_1", [nobody])
    jobs.give_up("unknown", [nobody])
    assert [frame["n_loop"] for frame in desk.frames(5)] == [1, 2, 3, 4, 5]
    assert jobs.infos()[0].drops.keys() <= {"unreachable"}


def test_a_changed_constraint_is_in_what_the_job_says_from_then_on(manage, desk):
    jobs = manage()
    jobs.submit("GLOBAL_ID_1", 0, CHAIN, Constraint.from_document({"delay": 0.5}))
    jobs.update_plan("GLOBAL_ID_1", plan_of(1))
    assert desk.frames(1)[0]["ext_runtime"]["user_constraint"] == {"delay": 0.5}
    jobs.change_constraint("GLOBAL_ID_1", Constraint.from_document({"delay": 0.2}))
    desk.until(QueryState.ENDED)
    assert jobs.runtime_of("GLOBAL_ID_1")["user_constraint"] == {"delay": 0.2}


def test_two_readers_of_the_context_do_not_take_it_from_each_other(manage, desk):
    jobs = manage()
    assert jobs.runtimes() == {}
    jobs.submit("GLOBAL_ID_1", 0, CHAIN, UNBOUND)
    assert jobs.runtime_of("GLOBAL_ID_1") == {}
    jobs.update_plan("GLOBAL_ID_1", plan_of(1))
    desk.until(QueryState.ENDED)
    first = jobs.runtime_of("GLOBAL_ID_1")
    assert first["frames"] == FRAMES
    assert jobs.runtimes()["GLOBAL_ID_1"]["frames"] == FRAMES
    assert jobs.runtimes() == {}
    assert jobs.runtime_of("GLOBAL_ID_1") == first  # nothing new: what was said last


def test_a_video_that_cannot_be_read_fails_its_job_alone(manage, desk, tmp_path):
    jobs = manage(path=str(tmp_path / "none.mp4"))
    jobs.submit("GLOBAL_ID_1", 0, CHAIN, UNBOUND)
    jobs.update_plan("GLOBAL_ID_1", plan_of(1))
    assert desk.until(QueryState.FAILED).startswith("SourceError: ")
    assert jobs.infos()[0].state is QueryState.FAILED


def test_frames_that_a_task_fails_on_are_counted_by_reason(manage, desk):
    jobs = manage()
    jobs.submit("GLOBAL_ID_1", 0, Graph.chain("brightness"), UNBOUND)
    mapping = {"brightness": Placement("127.0.0.1")}
    jobs.update_plan("GLOBAL_ID_1", Plan(1, VideoConf("64x63", 100), mapping))
    desk.until(QueryState.ENDED)
    assert jobs.infos()[0].drops == {"error": FRAMES}


def test_orders_that_make_no_sense_are_refused_and_change_nothing(manage, desk):
    jobs = manage()
    with pytest.raises(NotFound, match=r"^video_id 9 is no video of this node$"):
        jobs.submit("GLOBAL_ID_1", 9, CHAIN, UNBOUND)
    with pytest.raises(GraphError, match="unknown task 'boats'"):
        jobs.submit("GLOBAL_ID_1", 0, Graph.chain("boats"), UNBOUND)
    with pytest.raises(NotFound, match="job 'GLOBAL_ID_1' is not known"):
        jobs.update_plan("GLOBAL_ID_1", plan_of(1))
    jobs.submit("GLOBAL_ID_1", 0, CHAIN, UNBOUND)
    jobs.submit("GLOBAL_ID_1", 0, CHAIN, UNBOUND)
    with pytest.raises(ConfigError, match="is there with another video or other tasks"):
        jobs.submit("GLOBAL_ID_1", 0, Graph.chain("brightness"), UNBOUND)
    jobs.submit("GLOBAL_ID_2", 0, CHAIN, UNBOUND)
    with pytest.raises(ConfigError, match="2 jobs are the limit of this node"):
        jobs.submit("GLOBAL_ID_3", 0, CHAIN, UNBOUND)
    assert desk.results.empty()


def test_a_plan_for_tasks_that_the_node_does_not_offer_is_refused(manage):
    jobs = manage()
    jobs.submit("GLOBAL_ID_1", 0, Graph.chain("face_detection"), UNBOUND)
    plan = Plan(1, VideoConf("native", 10), {"face_detection": Placement("127.0.0.1")})
    message = r"^flow_mapping\.face_detection: this node does not offer the task$"
    with pytest.raises(PlanError, match=message):
        jobs.update_plan("GLOBAL_ID_1", plan)
    assert jobs.infos()[0].state is QueryState.UNSCHEDULED


def test_stopping_what_is_not_there_is_no_mistake(manage):
    manage().stop("GLOBAL_ID_77", "why not")


@pytest.mark.parametrize(
    ("conf", "encoder"),
    [
        (VideoConf("480p", 25, "JPEG"), Jpeg()),
        (VideoConf("480p", 25, "raw"), Raw()),
        (VideoConf("640x480", 25, "H264"), H264(768_000, 25)),
        (VideoConf("64x48", 1, "H264"), H264(100_000, 1)),
    ],
)
def test_an_encoder_of_the_plan_is_one_of_the_edge(conf, encoder):
    assert lane_of(conf, "block").encoder == encoder
