"""The collector's settings, and the files that say which nodes there are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from vdag.config.conf import Conf, DatabaseConf
from vdag.control.records import NodeRecord
from vdag.errors import ConfigError

__all__ = ["CollectorConf", "read_conf", "read_nodes"]

MAX_NODE_NBYTES = 1 << 20
#: INT of the documents.
MAX_ID = (1 << 31) - 1


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


class _NodeFile(msgspec.Struct, forbid_unknown_fields=True):
    node_id: Annotated[int, msgspec.Meta(ge=0, le=MAX_ID)]
    node_name: Annotated[str, msgspec.Meta(max_length=255)]
    node_type: Annotated[str, msgspec.Meta(max_length=45)]
    node_addr: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    node_port: Annotated[int, msgspec.Meta(ge=0, le=65535)]


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
    found: dict[int, tuple[Path, NodeRecord]] = {}
    for path in sorted(each for each in folder.iterdir() if each.is_file()):
        node = _read_node(path)
        if node.node_id in found:
            raise ConfigError(
                f"node file {path} has node_id {node.node_id}, as {found[node.node_id][0]} has"
            )
        found[node.node_id] = path, node
    if not found:
        raise ConfigError(f"folder {folder} has no node files")
    return tuple(node for _, (_, node) in sorted(found.items()))


def _read_node(path: Path) -> NodeRecord:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_NODE_NBYTES + 1)
    except OSError as err:
        raise ConfigError(f"node file {path} cannot be read: {err.strerror}") from err
    if len(content) > MAX_NODE_NBYTES:
        raise ConfigError(f"node file {path} exceeds {MAX_NODE_NBYTES} bytes")
    try:
        node = msgspec.json.decode(content, type=_NodeFile)
    except msgspec.ValidationError as err:
        text = str(err)
        raise ConfigError(f"node file {path}: {text[:1].lower()}{text[1:]}") from err
    except (msgspec.DecodeError, UnicodeDecodeError) as err:
        raise ConfigError(f"node file {path} is not JSON: {err}") from err
    return NodeRecord(node.node_id, node.node_name, node.node_type, node.node_addr, node.node_port)
