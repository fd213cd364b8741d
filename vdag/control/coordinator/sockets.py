"""Where the coordinator takes orders over REST."""

from __future__ import annotations

import socket

from vdag.errors import ConfigError

__all__ = ["bind"]

BACKLOG = 256


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket; 0 is any free port.

    Raises:
        ConfigError: the address cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as err:
        raise ConfigError(f"coordinator_addr {host}: {err.strerror}") from err
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)  # who calls while it starts is answered when it has
    except OSError as err:
        listener.close()
        raise ConfigError(
            f"coordinator_port {port} of {host} cannot be had: {err.strerror}"
        ) from err
    return listener
