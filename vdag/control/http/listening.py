"""Where a daemon listens over HTTP, and what serves there."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import uvicorn

from vdag.errors import ConfigError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

__all__ = ["bind", "lone_server", "new_server"]

#: Of tcp(7); `socket` names it from Python 3.12 on.
TCP_NOTSENT_LOWAT = 25
#: Replies that are being written when a lone server ends may take so long.
GRACE_S = 5


def bind(
    host: str,
    port: int,
    *,
    host_key: str,
    port_key: str = "port",
    backlog: int | None = None,
    unsent_nbytes: int = 0,
) -> socket.socket:
    """Return a socket that is bound.

    Args:
        host: address to listen on.
        port: 0 for any free one.
        host_key: what the settings call the address.
        port_key: likewise the port.
        backlog: listen at once, so that who calls while a server starts is answered when it has;
            None leaves it to the server.
        unsent_nbytes: of each connection, that the kernel keeps before it takes more; 0 for as much
            as it likes.

    Raises:
        ConfigError: the address cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as err:
        raise ConfigError(f"{host_key} {host}: {err.strerror}") from err
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if unsent_nbytes:  # its connections have it from the listener
            listener.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, unsent_nbytes)
        listener.bind(address)
        if backlog is not None:
            listener.listen(backlog)
    except OSError as err:
        listener.close()
        raise ConfigError(f"{port_key} {port} of {host} cannot be had: {err.strerror}") from err
    return listener


def lone_server(app: ASGIApp) -> uvicorn.Server:
    """Return a server for an app that has nothing to start or end with it."""
    return new_server(app, lifespan="off", timeout_graceful_shutdown=GRACE_S)


def new_server(app: ASGIApp, **settings: Any) -> uvicorn.Server:
    """Return a server that leaves logging to us, and believes nothing that proxies say.

    Args:
        app: that answers.
        **settings: more, of `uvicorn.Config`.
    """
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            ws="none",
            server_header=False,
            proxy_headers=False,
            **settings,
        )
    )
