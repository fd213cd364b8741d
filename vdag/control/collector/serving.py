"""`Collector`: the app, its records and its port, until a signal comes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from vdag.control.collector.app import create_app
from vdag.control.collector.conf import CollectorConf
from vdag.control.collector.senders import Senders
from vdag.control.http.listening import bind, lone_server
from vdag.control.records import Store, database_url

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Collector"]

logger = logging.getLogger(__name__)

BACKLOG = 1024


class Collector:
    """A collector; closed by `close` or a `with` block.

        with Collector(read_conf(path)) as collector:
            collector.serve()

    Its port is bound, and its database has our tables, when the constructor returns.

    Args:
        conf: its settings.

    Attributes:
        store: its records.
        port: that it listens on.

    Raises:
        ConfigError: a setting does not fit this machine, or the database cannot be opened.
        DependencyMissing: the database's driver is not installed.
    """

    def __init__(self, conf: CollectorConf) -> None:
        senders = Senders(conf.nodes)
        self._socket = bind(
            conf.addr, conf.port,
            host_key="collector_addr", port_key="collector_port", backlog=BACKLOG,
        )  # fmt: skip
        self.port: int = self._socket.getsockname()[1]
        try:
            self.store = Store(database_url(conf.database))
        except BaseException:
            self._socket.close()
            raise
        self.store.log.set_nodes(conf.nodes)
        self._server = lone_server(create_app(self.store.log, senders))
        logger.info("collector at http://%s:%d", conf.addr, self.port)

    def serve(self) -> None:
        """Answer until `stop` is called; in the main thread also until a signal comes."""
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """End `serve`, from any thread."""
        self._server.should_exit = True

    def close(self) -> None:
        """Write what waits, and give everything back."""
        self._socket.close()
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
