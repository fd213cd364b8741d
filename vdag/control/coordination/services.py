"""Services: what their files say, checked until nothing is left that could not run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from graphlib import CycleError
from pathlib import Path
from typing import Annotated, Any

import msgspec

from vdag.control.coordination.folding import fold
from vdag.control.coordination.reading import Id, Name, expect_new, read_folder, sentence
from vdag.control.coordination.types import HANDLER_TYPES, HandlerType, check_params
from vdag.control.coordination.values import HandlerSpec, Link, Node, Service
from vdag.errors import ConfigError

__all__ = [
    "ALGORITHM_NAMES",
    "DEFAULT_ALGORITHM",
    "check_algorithm",
    "read_services",
    "service_of",
]

#: What a service may ask for; `policy` and `policy:NAME` are those of the scheduler.
ALGORITHM_NAMES = ("static", "greedy", "min_delay", "policy")
DEFAULT_ALGORITHM = "min_delay"
MAX_HANDLERS = 64
MAX_LINKS = 512


class _Handler(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    handler_id: Id
    handler_name: Name
    handler_type: Id | Name
    params: dict[str, Any] = {}
    node_id: Id | None = None


class _Link(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    source_handler: Id
    source_output: Id = 0
    target_handler: Id
    target_input: Id = 0


class _Blueprint(msgspec.Struct, forbid_unknown_fields=True):
    handlers: list[_Handler]
    links: list[_Link]


class _Part(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    node_id: Id | None = None
    blueprint: _Blueprint


class _ServiceFile(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    service_id: Id
    service_name: Name
    algorithm: Annotated[str, msgspec.Meta(max_length=255)] = ""
    template: list[_Part] | None = None
    handlers: list[_Handler] | None = None
    links: list[_Link] | None = None


def read_services(
    folder: Path,
    nodes: Iterable[Node],
    types: Mapping[int, HandlerType] = HANDLER_TYPES,
    *,
    algorithm: str = DEFAULT_ALGORITHM,
) -> tuple[Service, ...]:
    """Read the services of a folder, by their numbers.

    Args:
        folder: that is read.
        nodes: that they may name.
        types: of handlers, by their numbers.
        algorithm: of services that name none and have handlers which no `node_id` ties.

    Raises:
        ConfigError: a file is not JSON or is no service that can run; the text says where.
    """
    known = tuple(nodes)
    found: dict[int, tuple[Path, Service]] = {}
    for path, file in read_folder(folder, "service", _ServiceFile):
        expect_new(found, "service", "service_id", file.service_id, path)
        service = _service(file, known, types, f"service file {path}", algorithm)
        found[file.service_id] = path, service
    return tuple(service for _, (_, service) in sorted(found.items()))


def service_of(
    document: Any,
    nodes: Iterable[Node],
    types: Mapping[int, HandlerType] = HANDLER_TYPES,
    *,
    origin: str = "service",
    algorithm: str = DEFAULT_ALGORITHM,
) -> Service:
    """Return the service that a document describes.

    Args:
        document: the content of a service file.
        nodes: that it may name.
        types: of handlers, by their numbers.
        origin: how the text of errors starts.
        algorithm: if it names none and has handlers which no `node_id` ties.

    Raises:
        ConfigError: as of `read_services`.
    """
    try:
        file = msgspec.convert(document, _ServiceFile)
    except msgspec.ValidationError as err:
        raise ConfigError(f"{origin}: {sentence(err)}") from err
    return _service(file, tuple(nodes), types, origin, algorithm)


def check_algorithm(name: str) -> str:
    """Return the name of an algorithm; a `ConfigError` if there is none of that name."""
    if name not in ALGORITHM_NAMES and not (name.startswith("policy:") and len(name) > 7):
        known = ", ".join(ALGORITHM_NAMES)
        raise ConfigError(f"algorithm is {name[:80]!r}, expected {known} or policy:NAME")
    return name


def _service(
    file: _ServiceFile,
    nodes: Sequence[Node],
    types: Mapping[int, HandlerType],
    origin: str,
    algorithm: str,
) -> Service:
    try:
        written, between, groups = _flat(file)
        specs = _handlers(written, nodes, types)
        _check_links(between, specs, types)
        addresses = {node.node_id: node.addr for node in nodes}
        handlers, links, cuts = fold(specs, between, groups, addresses)
        service = Service(file.service_id, file.service_name, handlers, links, "", cuts)
        _check_order(service)
        return replace(service, algorithm=_algorithm(file.algorithm, handlers, algorithm))
    except ConfigError as err:
        raise ConfigError(f"{origin}: {err}") from err


def _flat(file: _ServiceFile) -> tuple[list[_Handler], list[Link], dict[int, int | None]]:
    """Return handlers, links, and for each handler which part of the template it is from."""
    if file.template is None:
        if file.handlers is None or file.links is None:
            raise ConfigError("has neither a template nor handlers and links")
        return file.handlers, _links(file.links), {each.handler_id: None for each in file.handlers}
    if file.handlers is not None or file.links is not None:
        raise ConfigError("has a template beside handlers or links")
    handlers: list[_Handler] = []
    links: list[Link] = []
    groups: dict[int, int | None] = {}
    for index, part in enumerate(file.template):
        for each in part.blueprint.handlers:
            if each.node_id not in (None, part.node_id) and part.node_id is not None:
                raise ConfigError(
                    f"handler {each.handler_id}: node_id is {each.node_id}, "
                    f"and {part.node_id} in template[{index}]"
                )
            if each.node_id is None:
                each.node_id = part.node_id
            groups[each.handler_id] = index
            handlers.append(each)
        links += _links(part.blueprint.links)
    return handlers, links, groups


def _links(files: Sequence[_Link]) -> list[Link]:
    return [
        Link(each.source_handler, each.source_output, each.target_handler, each.target_input)
        for each in files
    ]


def _handlers(
    files: Sequence[_Handler], nodes: Sequence[Node], types: Mapping[int, HandlerType]
) -> tuple[HandlerSpec, ...]:
    if not 1 <= len(files) <= MAX_HANDLERS:
        raise ConfigError(f"has {len(files)} handlers, expected 1 to {MAX_HANDLERS}")
    numbers = {name.name: number for number, name in types.items()}
    by_id = {node.node_id: node for node in nodes}
    found: dict[int, HandlerSpec] = {}
    for file in files:
        if file.handler_id in found:
            raise ConfigError(f"handler_id {file.handler_id} is there twice")
        found[file.handler_id] = _handler(file, numbers, by_id, types)
    return tuple(found.values())


def _handler(
    file: _Handler,
    numbers: Mapping[str, int],
    nodes: Mapping[int, Node],
    types: Mapping[int, HandlerType],
) -> HandlerSpec:
    here = f"handler {file.handler_id} {file.handler_name}"
    kind = file.handler_type
    number = numbers.get(kind, -1) if isinstance(kind, str) else kind
    if number not in types:
        raise ConfigError(f"{here}: handler_type {kind!r} is unknown")
    node_id = file.node_id
    if node_id is not None:
        if node_id not in nodes:
            raise ConfigError(f"{here}: node_id {node_id} is of no node file")
        if not nodes[node_id].offers(number):
            raise ConfigError(
                f"{here}: node {node_id} {nodes[node_id].name} has no {types[number].name}"
            )
    try:
        params = check_params(types[number], file.params)
    except ConfigError as err:
        raise ConfigError(f"{here}: {err}") from err
    return HandlerSpec(file.handler_id, file.handler_name, number, params, node_id)


def _check_links(
    links: Sequence[Link], handlers: Sequence[HandlerSpec], types: Mapping[int, HandlerType]
) -> None:
    if len(links) > MAX_LINKS:
        raise ConfigError(f"has {len(links)} links, more than {MAX_LINKS}")
    kinds = {each.handler_id: types[each.kind] for each in handlers}
    fed: dict[tuple[int, int], int] = {}
    for index, link in enumerate(links):
        for field in ("source_handler", "target_handler"):
            if getattr(link, field) not in kinds:
                raise ConfigError(f"links[{index}].{field} {getattr(link, field)} is no handler")
        _expect_below(
            f"links[{index}].source_output",
            link.source_output,
            kinds[link.source_handler].outputs,
            f"outputs of handler {link.source_handler}",
        )
        _expect_below(
            f"links[{index}].target_input",
            link.target_input,
            kinds[link.target_handler].inputs,
            f"inputs of handler {link.target_handler}",
        )
        target = link.target_handler, link.target_input
        fed[target] = fed.get(target, 0) + 1
    for each in handlers:
        for number in range(kinds[each.handler_id].inputs):
            count = fed.get((each.handler_id, number), 0)
            if count != 1:
                raise ConfigError(f"{each}: input {number} has {count or 'no'} links, expected 1")


def _expect_below(field: str, value: int, count: int, what: str) -> None:
    if value >= count:
        raise ConfigError(f"{field} {value} is not among the {count} {what}")


def _check_order(service: Service) -> None:
    try:
        _ = service.order
    except CycleError as err:
        way = " -> ".join(map(str, err.args[1]))
        raise ConfigError(f"links form a cycle: {way}") from err


def _algorithm(name: str, handlers: Collection[HandlerSpec], default: str) -> str:
    loose = [each for each in handlers if each.node_id is None]
    name = check_algorithm(name or (default if loose else "static"))
    if name == "static" and loose:
        raise ConfigError(f"algorithm is static, and {loose[0]} has no node_id")
    return name
