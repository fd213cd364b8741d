"""The coordinator's settings.

    [coordinator]
    node_path         = config/nodes           documented, and needed: folders of JSON files
    handler_type_path = config/handlers
    service_type_path = config/services
    algorithm         = min_delay              ours, and optional: of services that name none
    coordinator_addr  = 127.0.0.1              where it takes orders over REST
    coordinator_port  = 5002
    token_file        = /etc/vdag/token        that callers show; needed beyond loopback
    channel           = tcp://127.0.0.1:5010   that nodes of ours dial
    keys_path         = /etc/vdag/keys         as of `vdag keys`; needed beyond loopback

`[database]` is that of the collector, see `vdag.config.conf`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vdag.config.checks import is_loopback, read_token
from vdag.config.conf import Conf, DatabaseConf
from vdag.control.coordination.documents import (
    DEFAULT_ALGORITHM,
    Node,
    Service,
    check_algorithm,
    read_handler_types,
    read_nodes,
    read_services,
)
from vdag.control.coordination.types import HandlerType
from vdag.errors import ConfigError

__all__ = ["CoordinatorConf", "read_conf"]

SECTION = "coordinator"
HOST = "127.0.0.1"
PORT = 5002
CHANNEL = "tcp://127.0.0.1:5010"
_CHANNEL = re.compile(r"tcp://(?P<host>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9.-]{1,255}):[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class CoordinatorConf:
    """What `coordinator.conf` says, and the files that it names.

    Attributes:
        nodes: by their numbers.
        types: of handlers, by their numbers.
        services: by their numbers.
        database: where it is recorded.
        algorithm: of services that name none and have handlers which no `node_id` ties.
        host: to listen on for REST.
        port: likewise; 0 for any free one.
        token: that callers show; empty for none.
        channel: address of the plan channel.
        keys: folder of keys and of whom they are trusted; None for that of `vdag keys`.
    """

    nodes: tuple[Node, ...]
    types: Mapping[int, HandlerType]
    services: tuple[Service, ...]
    database: DatabaseConf
    algorithm: str = DEFAULT_ALGORITHM
    host: str = HOST
    port: int = PORT
    token: str = field(default="", repr=False)
    channel: str = CHANNEL
    keys: Path | None = None


def read_conf(path: Path) -> CoordinatorConf:
    """Read the settings of a coordinator, and the files that they name.

    Raises:
        ConfigError: a key is missing or has no meaning, or a file does; the text says which.
    """
    conf = Conf(path)
    nodes = read_nodes(conf.folder(SECTION, "node_path"))
    types = read_handler_types(conf.folder(SECTION, "handler_type_path"))
    services = conf.folder(SECTION, "service_type_path")
    algorithm = _algorithm(conf)
    host = conf.text(SECTION, "coordinator_addr", HOST)
    return CoordinatorConf(
        nodes,
        types,
        read_services(services, nodes, types, algorithm=algorithm),
        conf.database(),
        algorithm,
        host,
        conf.port(SECTION, "coordinator_port", PORT, least=0),
        _token(conf, host),
        _channel(conf),
        conf.folder(SECTION, "keys_path") if conf.text(SECTION, "keys_path", "") else None,
    )


def _algorithm(conf: Conf) -> str:
    try:
        return check_algorithm(conf.text(SECTION, "algorithm", DEFAULT_ALGORITHM))
    except ConfigError as err:
        raise ConfigError(f"conf {conf.path}: [{SECTION}] {err}") from err


def _token(conf: Conf, host: str) -> str:
    name = conf.text(SECTION, "token_file", "")
    if name:
        return read_token(Path(name))
    if is_loopback(host):
        return ""
    raise ConfigError(
        f"conf {conf.path}: [{SECTION}] coordinator_addr {host} is beyond loopback: "
        "set token_file, so that callers have to show a token"
    )


def _channel(conf: Conf) -> str:
    value = conf.text(SECTION, "channel", CHANNEL)
    if not _CHANNEL.fullmatch(value):
        raise ConfigError(
            f"conf {conf.path}: [{SECTION}] channel is {value[:80]!r}, expected tcp://HOST:PORT"
        )
    return value
