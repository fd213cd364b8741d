"""The sections of a node's settings, with their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vdag.tasks import TaskOptions
from vdag.transport.flow import Policy

__all__ = [
    "CloudConfig",
    "CollectorConfig",
    "Config",
    "DoorConfig",
    "EdgeConfig",
    "NodeConfig",
    "PackagesConfig",
    "RetentionConfig",
    "ServiceConfig",
    "TaskConfig",
    "VideoConfig",
]

#: The documents' tasks, in their order.
TASKS = ("face_detection", "face_alignment", "car_detection", "helmet_detection")


@dataclass(frozen=True, slots=True)
class TaskConfig:
    """One task that a node offers.

    Attributes:
        workers: processes to start with.
        model_id: what its workers begin with, and use where no plan says: 0 large, 1 medium, 2
            small.
        models: the `model_id`s that plans may choose among; empty for all that the task has.
        device: `auto`, `cpu`, `cuda` or `cuda:<n>`; several with commas between them, as
            `cuda:0,cuda:1`, for its workers to take in turn.
        engine: what runs the model.
        threads: of the engine, for one call.
        card: a model card of the operator's own.
        max_batch: most frames at once.
        queue: most frames that wait.
        policy: what happens to frames that wait, see `Flow.open_task`.
    """

    workers: int = 1
    model_id: int = 0
    models: tuple[int, ...] = ()
    device: str = "auto"
    engine: str = "onnx"
    threads: int = 1
    card: Path | None = None
    max_batch: int = 32
    queue: int = 64
    policy: Policy = "fifo"

    @property
    def options(self) -> TaskOptions:
        """How its workers load it."""
        return TaskOptions(self.model_id, self.device, self.engine, self.threads, self.card)


@dataclass(frozen=True, slots=True)
class PackagesConfig:
    """Task packages that callers upload.

    Attributes:
        folder: where they are stored; None for none. Nobody else may write to it.
        enabled: those that are loaded, as `vdag packages` names them; no others ever are.
        max_packages: that are stored.
        max_nbytes: of the files of one.
        total_nbytes: of all that are stored.
    """

    folder: Path | None = None
    enabled: tuple[str, ...] = ()
    max_packages: int = 64
    max_nbytes: int = 64 << 20
    total_nbytes: int = 1 << 30


@dataclass(frozen=True, slots=True)
class RetentionConfig:
    """How long the records keep what nodes, handlers and packets did; `inf` is for ever.

    Attributes:
        packets_s: events of packets older than this are rolled up by the minute.
        samples_s: likewise samples of nodes and handlers.
        rollups_s: what is left of them goes at this age.
    """

    packets_s: float = 7 * 86400.0
    samples_s: float = 7 * 86400.0
    rollups_s: float = 365 * 86400.0


@dataclass(frozen=True, slots=True)
class DoorConfig:
    """Where a role listens, and who may come in; of every section of a role.

    Attributes:
        host: address to listen on; beyond loopback only with a token.
        port: 0 for any free one.
        token: callers must show it as `Authorization: Bearer <token>`; empty for none.
        token_file: holds the token in its first line; only its owner may read it.
        callers: addresses and networks of programs that cannot show a token, and need not.
        cors: answer browsers of any origin, as the documents do.
    """

    host: str = "127.0.0.1"
    port: int = 0
    token: str = field(default="", repr=False)
    token_file: Path | None = None
    callers: tuple[str, ...] = ()
    cors: bool = True


@dataclass(frozen=True, slots=True)
class ServiceConfig(DoorConfig):
    """The compute service.

    Attributes:
        tasks: by name, in the order they are listed.
        modules: Python files that register tasks of the operator's own.
        packages: tasks that callers upload and the operator enables.
        models: folder of model cards that `add_work_process` may name as `weights`.
        slots: width, height and number of the pictures that shared memory holds.
        max_body_nbytes: of one request.
        max_bodies_nbytes: of all requests together.
        max_pixels: of one picture.
        max_pictures: of one request.
        max_in_flight: pieces of work under way.
        deadline_s: for the answer to a request; callers may ask for less.
    """

    port: int = 5500
    tasks: Mapping[str, TaskConfig] = field(
        default_factory=lambda: {task: TaskConfig() for task in TASKS}
    )
    modules: tuple[Path, ...] = ()
    packages: PackagesConfig = PackagesConfig()
    models: Path | None = None
    slots: tuple[tuple[int, int, int], ...] = ((1280, 720, 32), (1920, 1080, 16), (3840, 2160, 2))
    max_body_nbytes: int = 32 << 20
    max_bodies_nbytes: int = 256 << 20
    max_pixels: int = 3840 * 2160
    max_pictures: int = 256
    max_in_flight: int = 256
    deadline_s: float = 10.0


@dataclass(frozen=True, slots=True)
class VideoConfig:
    """A video of a node.

    Attributes:
        path: file, folder of pictures, device or URL, see `vdag.sources.address`.
        type: what it shows, in words.
        loop: start a finite video again at its end.
        pace: of a finite one: `realtime` by its presentation times, or `asap`.
        fps: of the camera, where it does not know its own; 0 for found out.
        policy: `latest` drops a waiting frame for a newer one, `block` processes every frame;
            `auto`: `block` for what is read as fast as possible, else `latest`.
    """

    path: str
    type: str = ""
    loop: bool = False
    pace: Literal["realtime", "asap"] = "realtime"
    fps: float = 0.0
    policy: Literal["auto", "block", "latest"] = "auto"


@dataclass(frozen=True, slots=True)
class EdgeConfig(DoorConfig):
    """The job manager: a node that owns videos.

    Attributes:
        videos: by their ids, which are numbers.
        max_jobs: that may be at work at a time.
        max_in_flight: frames of one job that are under way at a time.
        frame_timeout_s: a frame without a result by then is given up.
        live_port: of the side channel, which shows what jobs see; 0 for any free one.
        query_addr: `HOST:PORT` of a query manager that speaks only the documented REST, for a node
            without a controller; empty for none.
        pull: ask that query manager for jobs and plans, as later versions want it, instead of
            waiting for them to be posted.
        pull_s: between two questions.
        service_port: where nodes that are known only by their address do tasks.
        probe_s: a link that plans may use and that nothing was sent over for so long is measured by
            a few bytes, at most 256 KiB; 0 for never.
        events: what becomes of every frame is told to the controller, for its records.
    """

    port: int = 5001
    live_port: int = 5101
    videos: Mapping[str, VideoConfig] = field(default_factory=dict)
    max_jobs: int = 64
    max_in_flight: int = 8
    frame_timeout_s: float = 30.0
    query_addr: str = ""
    pull: bool = False
    pull_s: float = 4.0
    service_port: int = 5500
    probe_s: float = 10.0
    events: bool = True


@dataclass(frozen=True, slots=True)
class CloudConfig(DoorConfig):
    """The query manager: who takes queries in and keeps their results.

    Attributes:
        database: path of an SQLite file, or a URL of SQLAlchemy; empty for a file of the node's.
        results_kept: of each query, the newest.
        results_age_s: older results go, but for the newest few of each query.
        retention: of what else is recorded.
        max_body_nbytes: of one request.
        max_bodies_nbytes: of all requests together.
        max_streams: callers that follow results at a time.
        channel: address of the plan channel, which nodes dial; beyond loopback with keys only.
        policy: of queries that name none.
        policies: that queries may name, beside those built in: `module:function`, `/file.py:name`.
        period_s: between two looks at a query that is running.
        node_timeout_s: a node that is silent for longer is away.
        report_s: how often nodes report.
        hold_s: how long their question for orders is held back.
        service_port: where nodes that speak only the documented REST do tasks.
        profile: file of `vdag profile` to begin with; the one of the package if there is none.
        live_port: of the side channel, which passes on what nodes show; 0 for any free one.
        node_live_port: of the nodes' side channels.
        live_codec: how nodes send pictures there: `mjpeg`, `h264`, or `auto`: H.264 over links that
            are too thin for the other.
    """

    port: int = 5000
    live_port: int = 5100
    node_live_port: int = 5101
    live_codec: Literal["auto", "mjpeg", "h264"] = "auto"
    database: str = ""
    results_kept: int = 1000
    results_age_s: float = 30 * 86400.0
    retention: RetentionConfig = RetentionConfig()
    max_body_nbytes: int = 32 << 20
    max_bodies_nbytes: int = 256 << 20
    max_streams: int = 256
    channel: str = "tcp://127.0.0.1:5010"
    policy: str = "predictive"
    policies: tuple[str, ...] = ()
    period_s: float = 2.0
    node_timeout_s: float = 2.5
    report_s: float = 0.5
    hold_s: float = 1.0
    service_port: int = 5500
    profile: Path | None = None


@dataclass(frozen=True, slots=True)
class CollectorConfig:
    """The collector: takes in what nodes of other makes report over HTTP.

    Attributes:
        host: address to listen on. Those nodes show no token: they are known by their addresses.
        port: 0 for any free one.
        nodes: folder with the JSON of each node that may report.
        database: as of `CloudConfig`; empty for that of the node's role `cloud`, or a file.
        retention: of what is recorded; with a database of its own.
    """

    host: str = "127.0.0.1"
    port: int = 9001
    nodes: Path | None = None
    database: str = ""
    retention: RetentionConfig = RetentionConfig()


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """The node.

    Attributes:
        name: of the node, also in that of its shared memory.
        roles: what it does: `cloud` (queries), `edge` (jobs), `service` (tasks), or `all` of these;
            `collector` (reports of other nodes) besides.
        role: what it is to schedulers.
        address: under which others reach it; empty for that of the interface it listens on.
        folder: of its sockets, private; None for one under `XDG_RUNTIME_DIR` or the temporary one.
        state: folder of what outlives it, private; None for one under `STATE_DIRECTORY`, which
            systemd sets, or `XDG_STATE_HOME`.
        keys: folder of its keys and of whom it trusts; None for that of `vdag keys`, which is
            looked at only for connections beyond loopback.
        controller: address of the plan channel that it dials, `tcp://HOST:PORT`; empty for that of
            its own role `cloud`, or for none.
        controller_name: under which the controller's key is trusted.
        landing: address that frames of other nodes come to, `tcp://HOST:PORT`; beyond loopback with
            keys only. Empty for a free port of loopback, if the node's address is there.
        limits: how workers are limited: by control groups, or by the weaker means.
        sample_interval_s: between looks at the machine's state.
        start_timeout_s: for workers to load their models.
    """

    name: str = "node"
    roles: tuple[str, ...] = ("service",)
    role: Literal["cloud", "edge", "host"] = "cloud"
    address: str = ""
    folder: Path | None = None
    state: Path | None = None
    keys: Path | None = None
    controller: str = ""
    controller_name: str = "cloud"
    landing: str = ""
    limits: Literal["cgroup", "rlimit"] = "cgroup"
    sample_interval_s: float = 1.0
    start_timeout_s: float = 120.0

    @property
    def all_roles(self) -> frozenset[str]:
        """The roles one by one: `all` is written out."""
        roles = frozenset(self.roles)
        if "all" not in roles:
            return roles
        return (roles - {"all"}) | {"cloud", "edge", "service"}


@dataclass(frozen=True, slots=True)
class Config:
    """All settings; a section each."""

    node: NodeConfig = NodeConfig()
    service: ServiceConfig = ServiceConfig()
    edge: EdgeConfig = EdgeConfig()
    cloud: CloudConfig = CloudConfig()
    collector: CollectorConfig = CollectorConfig()
