"""`Workplace`: how frames get to and from a node, and the jobs of its videos."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING

from vdag.config import Config
from vdag.control import wire
from vdag.control.affiliation import Affiliation
from vdag.control.jobs import JobManager, Reporter
from vdag.control.jobs import app as job
from vdag.control.jobs.places import PlacesOfPlans
from vdag.control.jobs.run import Site
from vdag.control.rest.envoy import Envoy, Registration
from vdag.control.rest.intake import Intake
from vdag.control.rest.puller import Puller
from vdag.control.rest.services import Services
from vdag.errors import ConfigError
from vdag.node.surveyor import Surveyor
from vdag.node.videos import describe
from vdag.transport.address import Address
from vdag.transport.keys import KeyFolder, default_folder
from vdag.transport.peers import Peers

if TYPE_CHECKING:
    from typing_extensions import Self

    from vdag.control.jobs.live import LiveView
    from vdag.node.worksite import Worksite

__all__ = ["Workplace"]

#: A service of another make that takes longer for one frame is not waited for.
SERVICE_TIMEOUT_S = 10.0


class Workplace:
    """See above; closed by `close` or a `with` block.

    Args:
        config: of the node.
        worksite: where its tasks are done.
        affiliation: whom its jobs report to.
        address: of the node.
        node_addr: that names it.

    Attributes:
        peers: the other nodes; None if no frame leaves this one or comes to it.
        jobs: of its videos; None without role `edge`.
        videos: what the controller is told of them.

    Raises:
        ConfigError: the landing's address has no meaning, or there are no keys for it.
        TransportError: it cannot be bound.
    """

    def __init__(
        self,
        config: Config,
        worksite: Worksite,
        affiliation: Affiliation,
        address: str,
        node_addr: str,
    ) -> None:
        self._config, self._node_addr = config, node_addr
        self._videos = {int(key): video for key, video in config.edge.videos.items()}
        self.videos: Mapping[int, wire.Video] = {}
        with ExitStack() as stack:
            self.peers = _open_peers(config, worksite, stack, address, affiliation)
            self.jobs: JobManager | None = None
            if "edge" in config.node.all_roles:
                self.videos = describe(config.edge.videos)
                self.jobs = self._open_jobs(worksite, affiliation, stack, address)
            self._surveyor = self._open_surveyor(affiliation, stack)
            self._stack = stack.pop_all()

    def _open_jobs(
        self, worksite: Worksite, affiliation: Affiliation, stack: ExitStack, address: str
    ) -> JobManager:
        """Open the jobs, and what they report to that the affiliation does not have."""
        edge = self._config.edge
        envoy = stack.enter_context(self._envoy(address)) if edge.query_addr else None
        reporter: Reporter | None = envoy or affiliation.notebook
        if reporter is None:
            raise ConfigError("a node of role edge needs node.controller or edge.query_addr")
        timeout_s = min(edge.frame_timeout_s, SERVICE_TIMEOUT_S)
        services = stack.enter_context(Services(worksite.exchange, timeout_s=timeout_s))
        site = Site(
            worksite.exchange,
            self.peers,
            address,
            edge.max_in_flight,
            edge.frame_timeout_s,
            services,
            worksite.limits,
            affiliation.frames if edge.events else None,
        )
        jobs = stack.enter_context(
            JobManager(
                site,
                self._videos,
                offered=worksite.offered,
                reporter=reporter,
                max_jobs=edge.max_jobs,
            )
        )
        self._resolve = PlacesOfPlans(address, affiliation.cluster, service_port=edge.service_port)
        if envoy is not None and edge.pull:
            intake = Intake(jobs, self._resolve)
            stack.enter_context(Puller(envoy, intake, jobs.stop, pull_s=edge.pull_s))
        return jobs

    def _open_surveyor(self, affiliation: Affiliation, stack: ExitStack) -> Surveyor | None:
        if self.peers is None:
            return None
        probe_s = self._config.edge.probe_s if self.jobs is not None else 0.0
        return stack.enter_context(Surveyor(self.peers, affiliation.cluster, probe_s))

    def _envoy(self, address: str) -> Envoy:
        edge = self._config.edge
        videos = {number: video.type for number, video in self._videos.items()}
        port = int(self._node_addr.rpartition(":")[2])
        return Envoy(edge.query_addr, Registration(port, videos, address if edge.pull else ""))

    @property
    def landing(self) -> str:
        """Address that frames for this node are sent to, empty for none."""
        return "" if self.peers is None else self.peers.address

    def bandwidth(self) -> Mapping[str, float]:
        """Return bytes per second to other nodes, by `node_addr`; returns at once."""
        return {} if self._surveyor is None else self._surveyor.bandwidth()

    def live_view(self, job_uid: str) -> LiveView | None:
        """Return what a job of this node sees; None for nothing."""
        return None if self.jobs is None else self.jobs.live_view(job_uid)

    def parts(self) -> job.Parts:
        """Return what the app of :5001 works with."""
        assert self.jobs is not None, "the app is of nodes with jobs"
        edge = self._config.edge
        return job.Parts(
            self.jobs, self._resolve, self._videos, self._node_addr, edge.token, edge.cors
        )

    def close(self) -> None:
        """End the jobs, and part with the other nodes."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _open_peers(
    config: Config,
    worksite: Worksite,
    stack: ExitStack,
    address: str,
    affiliation: Affiliation,
) -> Peers | None:
    """Return the way to other nodes: where it is configured, or goes no further than this host."""
    node = config.node
    landing = node.landing
    if not landing:
        default = str(Address("tcp", address, 0)) if affiliation.notebook is not None else ""
        landing = default if default and Address.parse(default).is_loopback else ""
    if not landing:
        return None
    keys = None
    if node.keys is not None or not Address.parse(landing).is_loopback:
        keys = KeyFolder(node.keys or default_folder())
    advertised = _advertised(landing, address)
    return stack.enter_context(Peers(worksite.exchange, landing, keys=keys, advertised=advertised))


def _advertised(landing: str, address: str) -> str | None:
    """Return what others connect to, where that is not what the node listens at."""
    target = Address.parse(landing)
    if not target.is_everywhere:
        return None
    if target.port == 0:
        raise ConfigError(f"node.landing {landing} listens everywhere, and so needs a port")
    return str(Address("tcp", address, target.port))
