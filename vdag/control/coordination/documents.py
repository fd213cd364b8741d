"""The files of a coordinator: nodes, handler types and services.

A service has one of two forms. The documents' is a template: per node a blueprint of handlers and
links, and pairs of tx and rx where packets go from node to node. Ours is one list of handlers and
one of links, whatever the nodes; what no `node_id` ties to a node is placed by an algorithm. Both
become a `Service`, in which pairs of tx and rx are links again (see `folding`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import msgspec

from vdag.control.coordination.reading import LINE, Id, Name, expect_new, read_folder
from vdag.control.coordination.services import (
    ALGORITHM_NAMES,
    DEFAULT_ALGORITHM,
    check_algorithm,
    read_services,
    service_of,
)
from vdag.control.coordination.types import HANDLER_TYPES, HandlerType, Param
from vdag.control.coordination.values import Cut, HandlerSpec, Link, Node, Service, Speaks
from vdag.errors import ConfigError

__all__ = [
    "ALGORITHM_NAMES",
    "DEFAULT_ALGORITHM",
    "Cut",
    "HandlerSpec",
    "Link",
    "Node",
    "Service",
    "check_algorithm",
    "read_handler_types",
    "read_nodes",
    "read_services",
    "service_of",
]

_Word = Annotated[str, msgspec.Meta(max_length=45, pattern=LINE)]
_Amount = Annotated[float, msgspec.Meta(ge=0, le=1e15)]


class _NodeFile(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    node_id: Id
    node_name: Annotated[str, msgspec.Meta(max_length=255, pattern=LINE)]
    node_type: _Word
    node_addr: Name
    node_port: Annotated[int, msgspec.Meta(ge=0, le=65535)]
    handlers: list[Id] | None = None
    speaks: Speaks = "http"
    cores: Annotated[float, msgspec.Meta(gt=0, le=65536)] | None = None


class _Param(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    type: _Word
    default: Any
    values: list[Any] = []
    least: float | None = None
    most: float | None = None


class _TypeFile(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    handler_type: Id
    handler_name: _Word = ""
    inputs: Annotated[int, msgspec.Meta(ge=0, le=16)] | None = None
    outputs: Annotated[int, msgspec.Meta(ge=0, le=1)] | None = None
    params: dict[Name, _Param] | None = None
    task: Annotated[str, msgspec.Meta(max_length=255)] = ""
    compute_s: _Amount | None = None
    nbytes: _Amount | None = None


def read_nodes(folder: Path) -> tuple[Node, ...]:
    """Read the nodes of a folder, by their numbers.

    Raises:
        ConfigError: a file is not JSON, is not what describes a node, or has another's number.
    """
    found: dict[int, tuple[Path, Node]] = {}
    for path, file in read_folder(folder, "node", _NodeFile):
        expect_new(found, "node", "node_id", file.node_id, path)
        node = Node(
            file.node_id,
            file.node_name,
            file.node_type,
            file.node_addr,
            file.node_port,
            None if file.handlers is None else frozenset(file.handlers),
            file.speaks,
            file.cores,
        )
        found[file.node_id] = path, node
    return tuple(node for _, (_, node) in sorted(found.items()))


def read_handler_types(folder: Path) -> Mapping[int, HandlerType]:
    """Return the documented types, with what the files of a folder say of them, and its own.

    A file that names a documented type may say which task does it and what it costs. Files without
    content say nothing: the documents have one.

    Raises:
        ConfigError: a file is not JSON, is not what describes a type, or has another's number.
    """
    types = dict(HANDLER_TYPES)
    found: dict[int, tuple[Path, HandlerType]] = {}
    for path, file in read_folder(folder, "handler", _TypeFile, may_be_empty=True):
        number = file.handler_type
        expect_new(found, "handler", "handler_type", number, path)
        origin = f"handler file {path}"
        kind = _documented(file, origin) if number in HANDLER_TYPES else _own(file, types, origin)
        found[number] = path, kind
        types[number] = kind
    return types


def _documented(file: _TypeFile, origin: str) -> HandlerType:
    kind = HANDLER_TYPES[file.handler_type]
    for field in ("handler_name", "inputs", "outputs", "params"):
        if getattr(file, field) not in ("", None):
            raise ConfigError(f"{origin}: {field} of the documented type {kind.kind} is as it is")
    return replace(kind, task=file.task, compute_s=file.compute_s, nbytes=file.nbytes)


def _own(file: _TypeFile, types: Mapping[int, HandlerType], origin: str) -> HandlerType:
    if not (file.handler_name and file.task):
        missing = "task" if file.handler_name else "handler_name"
        raise ConfigError(f"{origin}: type {file.handler_type} has no {missing}")
    for other in types.values():
        if other.name == file.handler_name:
            raise ConfigError(f"{origin}: handler_name {other.name} is that of type {other.kind}")
    return HandlerType(
        file.handler_type,
        file.handler_name,
        1 if file.inputs is None else file.inputs,
        1 if file.outputs is None else file.outputs,
        {
            name: _param(each, f"{origin}: params.{name}")
            for name, each in (file.params or {}).items()
        },
        file.task,
        file.compute_s,
        file.nbytes,
    )


def _param(file: _Param, origin: str) -> Param:
    known = ("int", "float", "bool", "str", "list", "null")
    if not set(file.type.split(" or ")) <= set(known):
        raise ConfigError(f"{origin}.type is {file.type!r}, expected {', '.join(known)}")
    param = Param(file.type, None, tuple(file.values), file.least, file.most)
    try:
        return replace(param, default=param.read(file.default))
    except ConfigError as err:
        raise ConfigError(f"{origin}.default {err}") from err
