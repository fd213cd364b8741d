"""`Node`: everything that a node runs, in one process beside its workers.

    worksite      exchange, workers, limits           roles service, edge
    affiliation   records and controller              role cloud
                  agent, which speaks to a controller
    peers         frames from and to other nodes      with a landing
    jobs          the jobs of the node's videos       role edge
    doors         :5500 service, :5001 jobs, :5000 queries, :5100 and :5101 live pictures, :9001
                  reports of nodes of other makes; in the event loop of the main thread

They are opened in this order and closed in the reverse one. systemd is told when the node serves,
and from time to time that it still does; it stays silent when the exchange, the controller or the
agent has failed, so that the node is started anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING

import uvloop

from vdag.config import Config, DoorConfig
from vdag.control import queries as query
from vdag.control import service, sidechannel
from vdag.control.affiliation import Affiliation
from vdag.control.cluster import NodeView
from vdag.control.exposition import (
    add_metrics,
    chronicle_figures,
    courier_figures,
    record_figures,
)
from vdag.control.http.doorkeeper import Doorkeeper
from vdag.control.http.gate import BodyRoom
from vdag.control.http.listening import bind
from vdag.control.jobs import app as job
from vdag.control.service.execution import Execution
from vdag.control.service.replies import Place
from vdag.node.collecting import open_collector
from vdag.node.listening import Door, Servers, address_of
from vdag.node.systemd import notify_systemd, watch_interval_s
from vdag.node.workplace import Workplace
from vdag.node.worksite import Worksite
from vdag.signals import ended_by_signals

if TYPE_CHECKING:
    import socket

    from prometheus_client.core import Metric
    from starlette.types import ASGIApp
    from typing_extensions import Self

    from vdag.control.service.staff import Staff

__all__ = ["Node", "notify_systemd", "run"]

logger = logging.getLogger(__name__)

#: Of pictures that wait in the kernel for a thin link: what waits there is old when it arrives.
LIVE_NBYTES = 1 << 16
#: Sections of the settings, the one by whose port others are most likely to know the node first.
ROLES = ("edge", "service", "cloud", "collector")


class Node:
    """A node with its roles; closed by `close` or a `with` block.

        with Node(load_config(Path("node.toml"))) as node:
            node.serve()

    Its workers have loaded their models, and its ports are bound, when the constructor returns.

    Args:
        config: all its settings.

    Raises:
        ConfigError: a setting does not fit this machine: a port is taken, a model is missing.
        VdagError: a worker could not load its task, or shared memory cannot be had.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        roles = config.node.all_roles
        with ExitStack() as stack:
            self._sockets = _bind_all(config, stack)
            # Servers close the sockets they were given, before the rest of the node has ended.
            self._ports = {name: at.getsockname()[1] for name, at in self._sockets.items()}
            self._address = config.node.address or address_of(_host(config))
            self._worksite: Worksite | None = None
            if roles & {"service", "edge"}:
                self._worksite = stack.enter_context(Worksite(config))
            self.affiliation = stack.enter_context(Affiliation(config, view=self._view))
            workplace = None
            if self._worksite is not None:
                workplace = stack.enter_context(
                    Workplace(
                        config, self._worksite, self.affiliation, self._address, self.node_addr
                    )
                )
            self._servers = Servers([*self._doors(workplace), *self._collector_door(stack)])
            self.affiliation.join(
                self.node_addr,
                landing="" if workplace is None else workplace.landing,
                videos={} if workplace is None else workplace.videos,
                jobs=None if workplace is None else workplace.jobs,
                limits=None if self._worksite is None else self._worksite.limits,
                openings=None if self._worksite is None else self._worksite.openings,
                bandwidth=dict if workplace is None else workplace.bandwidth,
                look=None if self._worksite is None else self._worksite.glimpse,
            )
            self._stack = stack.pop_all()

    @property
    def ports(self) -> Mapping[str, int]:
        """The ports it listens on, by the section of the settings."""
        return self._ports

    @property
    def node_addr(self) -> str:
        """What names this node to others: its address, with the port of its jobs or another."""
        host = f"[{self._address}]" if ":" in self._address else self._address
        ports = self.ports
        port = next(ports[name] for name in ROLES if name in ports)
        return f"{host}:{port}"

    @property
    def staff(self) -> Staff:
        """Its workers; it must have some."""
        assert self._worksite is not None, "the caller asks a node with workers"
        return self._worksite.staff

    def serve(self) -> None:
        """Answer requests until `stop` is called; in the main thread also until a signal comes.

        SIGINT and SIGTERM end it in good order: what is under way is answered first.
        """
        uvloop.run(self._serve())

    def wait_started(self, timeout_s: float) -> bool:
        """Wait until requests are answered; return whether they are within `timeout_s`."""
        return self._servers.wait_started(timeout_s)

    def stop(self) -> None:
        """End `serve`, from any thread."""
        self._servers.stop()

    def close(self) -> None:
        """Stop the workers, lift every limit, and give everything back."""
        notify_systemd("STOPPING=1")
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _doors(self, workplace: Workplace | None) -> Iterator[Door]:
        """Yield the apps of the node's roles, with where they listen."""
        config, sockets = self._config, self._sockets
        if "service" in sockets:
            assert self._worksite is not None, "services have workers"
            limit = config.service.max_in_flight
            parts = service.Parts(
                config.service,
                Execution(self._worksite.exchange, max_in_flight=limit),
                self._worksite.staff,
                self.affiliation.cluster,
                Place(self._address, config.node.role),
                self._worksite.packages,
                self._courier_figures,
            )
            app = _guarded(service.create_app(parts), config.service)
            yield Door(app, sockets["service"])
        if "edge" in sockets:
            assert workplace is not None, "edges have jobs"
            jobs = job.create_app(workplace.parts())
            if "service" not in sockets:
                add_metrics(jobs, self._courier_figures)
            yield Door(_guarded(jobs, config.edge), sockets["edge"])
            live = sidechannel.create_node_app(
                workplace.live_view, token=config.edge.token, cors=config.edge.cors
            )
            close = live.state.audience.close
            yield Door(_guarded(live, config.edge), sockets["edge.live"], close)
        if "cloud" in sockets:
            yield self._query_door(sockets["cloud"])
            yield self._live_door(sockets["cloud.live"])

    def _query_door(self, found: socket.socket) -> Door:
        cloud, affiliation = self._config.cloud, self.affiliation
        assert affiliation.controller is not None, "clouds have a controller"
        assert affiliation.store is not None, "and records"
        room = BodyRoom(max_nbytes=cloud.max_body_nbytes, total_nbytes=cloud.max_bodies_nbytes)
        app = query.create_app(
            query.Parts(
                affiliation.controller,
                affiliation.store,
                room,
                cloud.token,
                cloud.cors,
                cloud.max_streams,
                cloud.node_live_port,
            )
        )
        add_metrics(app, self._record_figures)
        return Door(_guarded(app, cloud), found, app.state.close_streams)

    def _live_door(self, found: socket.socket) -> Door:
        cloud, controller = self._config.cloud, self.affiliation.controller
        assert controller is not None, "clouds have one"

        def node_of(query_id: str) -> str:
            view = controller.query(query_id)
            return "" if view is None else view.node_addr

        app = sidechannel.create_cloud_app(
            node_of,
            live_port=cloud.node_live_port,
            codec=cloud.live_codec,
            token=cloud.token,
            cors=cloud.cors,
        )
        return Door(_guarded(app, cloud), found, app.state.audience.close)

    def _collector_door(self, stack: ExitStack) -> Iterator[Door]:
        if "collector" in self._sockets:
            app = open_collector(self._config, self.affiliation.store, stack)
            yield Door(app, self._sockets["collector"])

    def _courier_figures(self) -> Iterator[Metric]:
        courier = self.affiliation.courier
        return courier_figures(None if courier is None else courier.stats())

    def _record_figures(self) -> Iterator[Metric]:
        controller, store = self.affiliation.controller, self.affiliation.store
        assert controller is not None, "clouds have a controller"
        assert store is not None, "and records"
        yield from chronicle_figures(controller.stats().chronicle)
        yield from record_figures(store.log.stats())

    async def _serve(self) -> None:
        watcher = asyncio.ensure_future(self._watch())
        try:
            await self._servers.serve()
        finally:
            watcher.cancel()

    async def _watch(self) -> None:
        """Tell systemd that the node serves, and that it still does."""
        interval_s = watch_interval_s()
        while not self._servers.have_started:
            await asyncio.sleep(0.02)
        ports = ", ".join(f"{name} on port {port}" for name, port in self.ports.items())
        for name, port in self.ports.items():
            host = getattr(self._config, name.partition(".")[0]).host
            logger.info("%s at http://%s:%d", name, host, port)
        notify_systemd(f"READY=1\nSTATUS=serving {ports}")
        while True:
            if not self._fault:
                notify_systemd("WATCHDOG=1")
            await asyncio.sleep(interval_s)

    @property
    def _fault(self) -> str:
        """What has failed of exchange, controller and agent; empty for nothing."""
        staff = "" if self._worksite is None else self._worksite.staff.fault
        return staff or self.affiliation.fault

    def _view(self) -> NodeView:
        """Return how this node is now."""
        if self._worksite is None:
            return NodeView(self._address, 0, self._config.node.role)
        return self._worksite.view(self._address, self.ports.get("service", 0))


def run(config: Config) -> None:
    """Run a node in the main thread until SIGINT or SIGTERM, also while it is still starting.

    Raises:
        VdagError: as of `Node`.
    """
    with ended_by_signals(), Node(config) as node:
        node.serve()


def _bind_all(config: Config, stack: ExitStack) -> dict[str, socket.socket]:
    """Return the listening sockets of the node's roles, by the section of their settings."""
    found: dict[str, socket.socket] = {}
    for section in ("cloud", "edge", "service", "collector"):
        if section in config.node.all_roles:
            settings = getattr(config, section)
            key, host = f"{section}.host", settings.host
            found[section] = stack.enter_context(bind(host, settings.port, host_key=key))
            if section in ("cloud", "edge"):
                live = bind(host, settings.live_port, host_key=key, unsent_nbytes=LIVE_NBYTES)
                found[f"{section}.live"] = stack.enter_context(live)
    return found


def _guarded(app: ASGIApp, section: DoorConfig) -> ASGIApp:
    """Return an app that also lets those in who need not show the token."""
    if not (section.token and section.callers):
        return app
    return Doorkeeper(app, token=section.token, callers=section.callers)


def _host(config: Config) -> str:
    """Return the host that others are most likely to reach the node by."""
    sections = [name for name in ROLES if name in config.node.all_roles]
    return str(getattr(config, sections[0]).host)
