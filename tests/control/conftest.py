"""A node with the documents' tasks, a caller, a picture of a face, and databases for records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from database_kit import KINDS, Servers
from live_kit import Lease, Site
from node_kit import Caller, Running

from vdag import _native as native
from vdag.control.jobs.live import LiveView
from vdag.control.records import Store


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
