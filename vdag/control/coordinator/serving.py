"""`Coordinator`: records, plan channel, sessions and their REST side, until a signal comes."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from vdag.config import CloudConfig
from vdag.control.controller import Controller, ControllerSettings
from vdag.control.coordinator.app import Parts, create_app
from vdag.control.coordinator.conf import CoordinatorConf
from vdag.control.coordinator.foreign import ForeignNodes
from vdag.control.coordinator.memory import remembered, spared
from vdag.control.coordinator.office import Office
from vdag.control.coordinator.ours import OurNodes
from vdag.control.coordinator.sessions import Sessions
from vdag.control.coordinator.states import Patience
from vdag.control.exposition import (
    add_metrics,
    chronicle_figures,
    record_figures,
    session_figures,
)
from vdag.control.http.listening import bind, lone_server
from vdag.control.records import Store, database_url
from vdag.transport.address import Address
from vdag.transport.keys import KeyFolder, default_folder

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from typing_extensions import Self

__all__ = ["Coordinator"]

logger = logging.getLogger(__name__)

BACKLOG = 256


class Coordinator:
    """A coordinator; closed by `close` or a `with` block.

        with Coordinator(read_conf(path)) as coordinator:
            coordinator.serve()

    Its port and its plan channel are bound, and its database has our tables, when the constructor
    returns. Nodes dial the channel as they would that of a cloud.

    Args:
        conf: its settings.
        patience: with nodes.

    Attributes:
        store: its records.
        controller: that nodes join.
        sessions: that it has.
        port: that it listens on.

    Raises:
        ConfigError: a setting does not fit this machine, or the database cannot be opened.
        TransportError: the plan channel's address cannot be bound.
        DependencyMissing: the database's driver is not installed.
    """

    def __init__(self, conf: CoordinatorConf, patience: Patience | None = None) -> None:
        patience = patience or Patience()
        with ExitStack() as stack:
            self._socket = stack.enter_context(_bind(conf))
            self.port: int = self._socket.getsockname()[1]
            self.store = stack.enter_context(Store(database_url(conf.database)))
            before = remembered(self.store, conf.nodes, conf.types)
            settings = ControllerSettings(conf.channel, CloudConfig().policy, spared=spared(before))
            self.controller = stack.enter_context(
                Controller(self.store, settings, keys=_keys(conf.channel, conf.keys))
            )
            office = Office(
                conf.nodes,
                conf.services,
                conf.types,
                ours=OurNodes(self.controller, self.store, conf.types),
                foreign=stack.enter_context(ForeignNodes()),
                store=self.store,
                patience=patience,
            )
            self.sessions = stack.enter_context(Sessions(office, patience, before))
            app = create_app(Parts(self.sessions, office, conf.token))
            add_metrics(app, self._figures)
            self._server = lone_server(app)
            self._stack = stack.pop_all()
        logger.info("coordinator at http://%s:%d", conf.host, self.port)
        logger.info("plan channel at %s", self.controller.channel)

    def serve(self) -> None:
        """Answer until `stop` is called; in the main thread also until a signal comes."""
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """End `serve`, from any thread."""
        self._server.should_exit = True

    def close(self) -> None:
        """Give everything back; sessions on nodes go on."""
        self._stack.close()

    def _figures(self) -> Iterator[Metric]:
        yield from session_figures(view.state for view in self.sessions.all())
        yield from chronicle_figures(self.controller.stats().chronicle)
        yield from record_figures(self.store.log.stats())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _bind(conf: CoordinatorConf) -> socket.socket:
    return bind(
        conf.host,
        conf.port,
        host_key="coordinator_addr",
        port_key="coordinator_port",
        backlog=BACKLOG,
    )


def _keys(channel: str, folder: Path | None) -> KeyFolder | None:
    """Return the keys for the channel: on loopback only if they are asked for."""
    if folder is None and Address.parse(channel).is_loopback:
        return None
    return KeyFolder(folder or default_folder())
