"""`Collector`: the app, its records and its port, until a signal comes."""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING

import uvicorn

from vdag.control.collector.app import create_app
from vdag.control.collector.conf import CollectorConf
from vdag.control.collector.senders import Senders
from vdag.control.records import Store, database_url
from vdag.errors import ConfigError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Collector"]

logger = logging.getLogger(__name__)

#: For answers that are being written when it ends.
GRACE_S = 5
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
        self._socket = _bind(conf.addr, conf.port)
        self.port: int = self._socket.getsockname()[1]
        try:
            self.store = Store(database_url(conf.database))
        except BaseException:
            self._socket.close()
            raise
        self.store.log.set_nodes(conf.nodes)
        self._server = uvicorn.Server(
            uvicorn.Config(
                create_app(self.store.log, senders),
                log_config=None,
                access_log=False,
                ws="none",
                lifespan="off",
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=GRACE_S,
            )
        )
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


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as err:
        raise ConfigError(f"collector_addr {host}: {err.strerror}") from err
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Who calls while it starts is answered when it has.
        listener.listen(BACKLOG)
    except OSError as err:
        listener.close()
        raise ConfigError(f"collector_port {port} of {host} cannot be had: {err.strerror}") from err
    return listener
