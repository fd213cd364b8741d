"""Tasks on nodes that do them only by `/execute_task`: real exchange and workers, old services."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from service_kit import WAIT_S, Gate, OldService, pixels_of
from system_kit import until

from vdag.control.rest.services import Services
from vdag.errors import ConfigError
from vdag.frame import Frame
from vdag.graph import Graph
from vdag.itinerary import lighten
from vdag.job import Job
from vdag.results import Result
from vdag.tasks import base, signatures
from vdag.tasks.modules import load_module
from vdag.transport.exchange import Exchange
from vdag.workers import WorkerPool

TASKS = Path(__file__).parents[1] / "job_tasks.py"
WIDTH, HEIGHT = 64, 48
FACES = [[1.0, 2.0, 21.0, 22.0], [30.5, 2.25, 40.0, 12.0]]
JOB = "GLOBAL_ID_1"


def mean_of(body: dict[str, Any]) -> dict[str, Any]:
    return {"mean": float(pixels_of(body["image"]).mean())}


def level_of(body: dict[str, Any]) -> dict[str, Any]:
    assert body.keys() == {"image", "mean"}
    return {"level": 255 - body["mean"]}


class Site:
    """A node with workers for two tasks, and the services that its jobs visit."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.exchange = stack.enter_context(Exchange(folder, classes=[(WIDTH * HEIGHT * 3, 16)]))
        self.services = stack.enter_context(Services(self.exchange, timeout_s=5.0))
        pool = stack.enter_context(WorkerPool(self.exchange, modules=[TASKS]))
        for task in ("brightness", "darkness"):
            self.exchange.open_task(task, policy="fifo")
            pool.add(task)
        for task in ("brightness", "darkness"):
            pool.wait_ready(task, WAIT_S)

    def run(
        self,
        graph: Graph,
        count: int,
        routes: dict[str, str],
        *,
        policy: Any = "block",
        models: dict[str, int] | None = None,
    ) -> tuple[list[Result], Counter[str]]:
        """Run a job over so many frames; return its results, and what it lost."""
        graph = graph.check(signatures())
        self.services.visit(JOB, lighten(graph), set(routes.values()), policy)
        try:
            with Job(
                graph,
                frames(count),
                self.exchange.address,
                self.exchange.arena,
                placement=routes,
                alias=self.exchange.address,
                policy=policy,
                on_error="drop",
                job_id=JOB,
                frame_timeout_s=WAIT_S,
            ) as job:
                if models is not None:
                    job.replan(1, routes, models=models)
                found = []
                for result in job:
                    result.drop_frame()
                    found.append(result)
                return found, Counter(job.stats().frames.dropped)
        finally:
            self.services.leave(JOB)


def frames(count: int) -> Iterator[Frame]:
    for seq in range(count):
        pixels = np.full((HEIGHT, WIDTH, 3), 10 * (seq % 25), np.uint8)
        yield Frame(pixels, "cam", seq, seq, time.monotonic_ns(), None)


@pytest.fixture
def nothing_is_left() -> None:
    """The site is everybody's; what must not be left is looked for by it."""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "_registry", dict(base._registry))
        load_module(TASKS)
        yield Site(tmp_path_factory.mktemp("site"), stack)
    assert not [t.name for t in threading.enumerate() if t.name.startswith("vdag-")]


@pytest.fixture(autouse=True)
def nothing_is_held(site: Site) -> Iterator[None]:
    """After each test no edge, no thread of one, and no slot is held."""
    yield
    assert site.services.stats() == {}
    assert not [t.name for t in threading.enumerate() if t.name.startswith("vdag-service")]
    deadline_s = time.monotonic() + WAIT_S
    while site.exchange.arena.stats().leases:
        assert time.monotonic() < deadline_s, site.exchange.arena.stats()
        site.exchange.stats()


@pytest.fixture
def serve() -> Iterator[Any]:
    with ExitStack() as stack:

        def serve(**tasks: Any) -> OldService:
            service = OldService(**tasks)
            stack.callback(service.close)
            return service

        yield serve


CHAIN = Graph.chain("brightness", "darkness")


@pytest.mark.parametrize("remote", [("darkness",), ("brightness",), ("brightness", "darkness")])
def test_a_service_gives_what_workers_give(site, serve, remote):
    service = serve(brightness=mean_of, darkness=level_of)
    here, _ = site.run(CHAIN, 12, {})
    found, lost = site.run(CHAIN, 12, dict.fromkeys(remote, service.endpoint))
    assert not lost
    assert [result.seq for result in found] == list(range(12))
    for one, other in zip(here, found, strict=True):
        assert one["darkness"]["level"] == pytest.approx(other["darkness"]["level"], abs=1)
    assert found[0].parts.keys() == {"brightness", "darkness"}
    assert service.bodies.qsize() == 12 * len(remote)


def test_a_service_is_sent_what_the_documents_say_and_its_reply_becomes_arrays(site, serve):
    info = {"pid": 4711, "compute_latency": 1e-6, "cpu_util_use": 0.5}
    service = serve(
        face_detection=lambda body: {
            "faces": ["b'no picture'"], "bbox": FACES, "prob": [0.98, 0.75],
            "proc_resource_info": info, "execute_flag": True,
        },
        face_alignment=lambda body: {"count_result": {"up": 1, "total": 2}},
    )  # fmt: skip
    graph = Graph.chain("face_detection", "face_alignment")
    (result,), lost = site.run(graph, 1, dict.fromkeys(graph.tasks, service.endpoint))
    assert not lost
    name, body = service.next_body()
    assert (name, body.keys()) == ("face_detection", {"image"})
    assert body["image"].startswith("b'\\xff\\xd8\\xff")
    assert pixels_of(body["image"]).shape == (HEIGHT, WIDTH, 3)
    name, body = service.next_body()
    assert (name, body.keys()) == ("face_alignment", {"image", "bbox", "prob"})
    assert (body["bbox"], body["prob"]) == (FACES, pytest.approx([0.98, 0.75]))
    boxes, prob = (result["face_detection"][name] for name in ("bbox", "prob"))
    assert (boxes.dtype, boxes.tolist()) == (np.float32, FACES)
    assert (prob.dtype, prob.shape) == (np.float32, (2,))
    assert "faces" not in result["face_detection"]
    assert result["face_alignment"]["count_result"] == {"up": 1, "total": 2}
    part = result.parts["face_detection"]
    assert (part.pid, part.compute_s) == (4711, pytest.approx(1e-6))
    assert part.transfer_s > 0


def test_pictures_travel_to_a_task_that_takes_them(site, serve):
    crops = [np.full((8, 6, 3), 50 * n, np.uint8) for n in (1, 2)]
    from vdag import _native as native

    texts = [native.literal.encode(native.jpeg.encode(crop, quality=95)) for crop in crops]
    service = serve(
        face_detection=lambda body: {"faces": texts, "bbox": FACES, "prob": [0.9, 0.8]},
        face_alignment=lambda body: {"count_result": {"total": len(body["faces"])}},
    )
    dag = {
        "flow": ["face_detection", "face_alignment"],
        "input": {
            "face_alignment": {name: f"face_detection.{name}" for name in ("faces", "bbox", "prob")}
        },
    }
    graph = Graph.from_dag(dag)
    (result,), _ = site.run(graph, 1, dict.fromkeys(graph.tasks, service.endpoint))
    assert result["face_alignment"]["count_result"] == {"total": 2}
    service.next_body()
    _, body = service.next_body()
    assert [pixels_of(text).shape for text in body["faces"]] == [(8, 6, 3)] * 2
    assert abs(int(pixels_of(body["faces"][1]).mean()) - 100) <= 2


@pytest.mark.parametrize(
    "answer",
    [
        lambda body: (500, "<!doctype html>"),
        lambda body: {"error": "unregistered services", "status": 1},
        lambda body: {},
        lambda body: ["level"],
        lambda body: {"bbox": [[1, 2, 3]]},
        lambda body: {"bbox": [[1, 2, 3, None]]},
        lambda body: {"prob": "high"},
        lambda body: {"count_result": {"total": "many"}},
        lambda body: {"level": 1 << 70},
        lambda body: {"level": ["x" * 1000] * 1000},
    ],
)
def test_what_is_no_answer_fails_its_frame_alone_and_once(site, serve, answer):
    seen = Counter()

    def darkness(body: dict[str, Any]) -> Any:
        seen["asked"] += 1
        return answer(body) if seen["asked"] == 2 else level_of(body)

    service = serve(darkness=darkness)
    found, lost = site.run(CHAIN, 4, {"darkness": service.endpoint})
    assert lost == {"error": 1}
    assert len(found) == 3
    assert seen["asked"] == 4


def test_a_service_is_asked_for_the_model_that_the_plan_names(site, serve):
    service = serve(darkness=level_of)
    for models in (None, {"darkness": 2}):
        found, lost = site.run(CHAIN, 2, {"darkness": service.endpoint}, models=models)
        assert (len(found), lost) == (2, {})
    assert service.queries == ["", "", "model_id=2", "model_id=2"]


def test_a_service_that_has_too_much_to_do_is_asked_again(site, serve):
    answers = iter([(503, {"error": "busy"}), (429, {}), {"level": 7}])
    service = serve(darkness=lambda body: next(answers))
    (result,), lost = site.run(CHAIN, 1, {"darkness": service.endpoint})
    assert (result["darkness"], lost) == ({"level": 7}, {})


def test_frames_for_a_service_that_is_gone_are_told_once_each_as_unreachable(site):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
        found, lost = site.run(CHAIN, 6, {"darkness": endpoint})
    assert (found, lost) == ([], {"unreachable": 6})
    site.exchange.check()


def test_a_service_that_says_nothing_is_not_waited_for_without_an_end(tmp_path, site):
    services = Services(site.exchange, timeout_s=0.3)
    site.services, before = services, site.services
    try:
        with socket.create_server(("127.0.0.1", 0)) as mute:
            endpoint = f"http://127.0.0.1:{mute.getsockname()[1]}"
            found, lost = site.run(CHAIN, 3, {"darkness": endpoint})
        assert (found, lost) == ([], {"unreachable": 3})
    finally:
        site.services = before
        services.close()


def test_a_live_job_has_the_newest_frame_wait_and_not_all(site, serve):
    gate, first = Gate(), threading.Event()

    def darkness(body: dict[str, Any]) -> Any:
        first.set()
        gate.pass_through()
        return level_of(body)

    service = serve(darkness=darkness)
    graph = CHAIN.check(signatures())
    endpoint = service.endpoint
    site.services.visit(JOB, lighten(graph), {endpoint}, "latest")
    with Job(
        graph, frames(40), site.exchange.address, site.exchange.arena,
        placement={"darkness": endpoint}, alias=site.exchange.address, policy="latest",
        max_in_flight=16, on_error="drop", job_id=JOB,
    ) as job:  # fmt: skip
        services = site.services
        opener = threading.Thread(target=lambda: (_superseded(services, endpoint), gate.open()))
        opener.start()
        found = []
        for result in job:
            result.drop_frame()
            found.append(result.seq)
        dropped = dict(job.stats().frames.dropped)
        opener.join(WAIT_S)
    # A frame is home before it is counted as returned.
    stats = until(lambda: (at := site.services.stats()[endpoint]).working == 0 and at)
    site.services.leave(JOB)
    assert (stats.balance, stats.waiting) == (0, 0)
    assert stats.dropped.keys() == {"superseded"}
    assert stats.dropped["superseded"] <= dropped["superseded"]
    assert len(found) + sum(dropped.values()) == 40


def _superseded(services: Services, endpoint: str) -> None:
    """Wait until a frame has been given up for a newer one on its way to the service."""
    until(lambda: endpoint in services.stats() and services.stats()[endpoint].dropped)


def test_closing_does_not_wait_for_a_service(site, serve):
    asked, gate = threading.Event(), Gate()

    def darkness(body: dict[str, Any]) -> Any:
        asked.set()
        gate.pass_through()
        return level_of(body)

    service = serve(darkness=darkness)
    graph = CHAIN.check(signatures())
    services = Services(site.exchange, timeout_s=60.0)
    services.visit(JOB, lighten(graph), {service.endpoint}, "block")
    with Job(
        graph, frames(3), site.exchange.address, site.exchange.arena,
        placement={"darkness": service.endpoint}, alias=site.exchange.address,
        on_error="drop", job_id=JOB,
    ) as job:  # fmt: skip
        closer = threading.Thread(target=lambda: (asked.wait(WAIT_S), services.close()))
        closer.start()
        assert list(job) == []
        closer.join(WAIT_S)
        dropped = job.stats().frames.dropped
    gate.open()
    assert sum(dropped.values()) == 3
    assert dropped.keys() <= {"closed", "unreachable"}


def test_a_route_alone_opens_no_connection(site, serve):
    service = serve(darkness=level_of)
    graph = CHAIN.check(signatures())
    with Job(
        graph, frames(2), site.exchange.address, site.exchange.arena,
        placement={"darkness": service.endpoint}, alias=site.exchange.address,
        on_error="drop", job_id="another",
    ) as job:  # fmt: skip
        assert list(job) == []
        assert job.stats().frames.dropped == {"unreachable": 2}
    assert service.bodies.empty()


@pytest.mark.parametrize(
    "endpoint", ["http://", "http://host", "http://host:0", "http://a b:5500", "http://h/x:5500"]
)
def test_what_is_no_place_is_refused(site, endpoint):
    place = endpoint.removeprefix("http://")
    with pytest.raises(ConfigError, match=f"^{place!r} is not HOST:PORT$"):
        site.services.visit(JOB, CHAIN, {endpoint})
