"""Nodes, a caller, a picture of a face, databases, a controller, and what a scheduler is told."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from channel_kit import quick, until
from courier_kit import Reporting
from database_kit import KINDS, Servers
from limits_kit import Start
from live_kit import Lease, Site
from node_kit import Caller, Running
from scheduler_kit import CLOUD, HOST, QUERY, Story, three_nodes

from vdag import _native as native
from vdag.control import agent as agent_module
from vdag.control.controller import Controller
from vdag.control.jobs.live import LiveView
from vdag.control.records import Store
from vdag.control.scheduling.events import RuntimeReported
from vdag.control.scheduling.instructions import AskPolicy, Question


@pytest.fixture(scope="module")
def node() -> Iterator[Running]:
    """Serves the four tasks; two workers for cars."""
    node = Running(
        "--set", "service.tasks.face_detection={max_batch=4}",
        "--set", "service.tasks.face_alignment={max_batch=4}",
        "--set", "service.tasks.car_detection={workers=2, max_batch=4}",
        "--set", "service.tasks.helmet_detection={max_batch=4}",
        "--set", "service.slots=[[640, 480, 24], [1280, 720, 4]]",
        "--set", "service.max_body_nbytes=8388608",
    )  # fmt: skip
    yield node
    assert node.stop() == 0, "".join(node.log)


@pytest.fixture
def caller(node: Running) -> Iterator[Caller]:
    caller = Caller(node.url)
    yield caller
    caller.close()


@pytest.fixture(scope="session")
def portrait(clips: Path) -> np.ndarray:
    """The first frame of the carphone clip: one face, 176x144."""
    with av.open(str(clips / "carphone_pristine.mp4")) as container:
        return next(container.decode(video=0)).to_ndarray(format="bgr24")


@pytest.fixture(scope="session")
def jpeg(portrait: np.ndarray) -> bytes:
    return bytes(native.jpeg.encode(portrait, quality=95))


@pytest.fixture(scope="session")
def literal(jpeg: bytes) -> str:
    """The documents' text of a picture."""
    return native.literal.encode(jpeg)


@pytest.fixture
def lease() -> Iterator[Lease]:
    """Of the frames that a live view is shown; all must come back."""
    lease = Lease()
    yield lease
    assert lease.held == 0


@pytest.fixture
def view(lease: Lease) -> Iterator[LiveView]:
    view = LiveView()
    yield view
    view.close()


@pytest.fixture
def site(view: LiveView) -> Iterator[Site]:
    """A node and a cloud that show the view."""
    site = Site(view)
    yield site
    view.close()
    site.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "records.db") as store:
        yield store


@pytest.fixture(scope="module")  # others look at what processes there are
def servers() -> Iterator[Servers]:
    servers = Servers()
    yield servers
    servers.close()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def place(kind: str, servers: Servers, tmp_path: Path) -> Iterator[str]:
    """A path of a file that is not there yet, or a URL of an empty database."""
    with servers.place(kind, tmp_path) as place:
        yield place


@pytest.fixture
def controller(store: Store) -> Iterator[Controller]:
    with Controller(store, quick()) as controller:
        yield controller
        assert controller.stats().faults == 0


@pytest.fixture
def start_node(controller: Controller) -> Iterator[Callable[..., Reporting]]:
    """Start nodes whose jobs' frames are recorded; each has joined when it is returned."""
    with ExitStack() as stack:

        def start(**options: Any) -> Reporting:
            node = stack.enter_context(Reporting(controller.channel, **options))
            until(lambda: node.agent.stats().is_joined)
            return node

        yield start


@pytest.fixture
def question() -> Question:
    """What a policy is asked about a query over three nodes."""
    story = three_nodes()
    story.submit()
    return story.last(AskPolicy).question


@pytest.fixture
def start() -> Iterator[Start]:
    """Start processes that run some code, and end with the test."""
    children: list[subprocess.Popen[str]] = []

    def run(code: str) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        children.append(child)
        return child

    yield run
    for child in children:
        child.kill()
        child.communicate()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents ask again soon what nobody has answered."""
    monkeypatch.setattr(agent_module, "ANSWER_TIMEOUT_S", 0.4)


@pytest.fixture
def story() -> Story:
    """A scheduler and three nodes that are alive."""
    return three_nodes()


@pytest.fixture
def running() -> Story:
    """A scheduler and a query that runs on its host and the server; an edge is there as well."""
    story = three_nodes()
    story.submit(face_detection=HOST, face_alignment=CLOUD)
    story.tell(RuntimeReported, QUERY, {"delay": 0.2}, 1)
    return story
