"""The collector's settings, and the files that say which nodes there are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vdag.config.conf import Conf, DatabaseConf
from vdag.control.coordination import documents
from vdag.control.records import NodeRecord

__all__ = ["CollectorConf", "read_conf", "read_nodes"]


@dataclass(frozen=True, slots=True)
class CollectorConf:
    """What `collector.conf` says.

    Attributes:
        addr: to listen on.
        port: 0 for any free one.
        nodes: that may report.
        database: where it is recorded.
    """

    addr: str
    port: int
    nodes: tuple[NodeRecord, ...]
    database: DatabaseConf


def read_conf(path: Path) -> CollectorConf:
    """Read the settings of a collector.

    Raises:
        ConfigError: a key or a node file is missing or has no meaning; the text says which.
    """
    conf = Conf(path)
    return CollectorConf(
        conf.text("collector", "collector_addr"),
        conf.port("collector", "collector_port", least=0),
        read_nodes(conf.folder("collector", "node_path")),
        conf.database(),
    )


def read_nodes(folder: Path) -> tuple[NodeRecord, ...]:
    """Read the nodes of a folder by their numbers: each file is the JSON of one.

    Raises:
        ConfigError: a file is not JSON, is not what describes a node, or has another's number.
    """
    return tuple(
        NodeRecord(node.node_id, node.name, node.kind, node.addr, node.port)
        for node in documents.read_nodes(folder)
    )
