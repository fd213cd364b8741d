"""Nodes, handlers, links and services, as they are once their documents are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import TopologicalSorter
from typing import Any, Literal

from vdag.control.coordination.types import HANDLER_TYPES, RX, TX

__all__ = ["Cut", "HandlerSpec", "Link", "Node", "Service", "Speaks"]

#: How a node takes orders: over the plan channel, or by the documented messages.
Speaks = Literal["vdag", "http"]


@dataclass(frozen=True, slots=True)
class Node:
    """A node that handlers may be placed on.

    Attributes:
        node_id: its number.
        name: for people.
        kind: `client`, `server` or another word.
        addr: where it is.
        port: that it takes orders on; 0 for none.
        handlers: numbers of the types it can run; None for all that it may know.
        speaks: how it takes orders.
        cores: it has, if that is written down.
    """

    node_id: int
    name: str
    kind: str
    addr: str
    port: int
    handlers: frozenset[int] | None = None
    speaks: Speaks = "http"
    cores: float | None = None

    def offers(self, kind: int) -> bool:
        """Whether it can run a type; tx and rx any can, others of ours not one that speaks http."""
        if kind in (TX, RX):
            return True
        if self.handlers is not None:
            return kind in self.handlers
        return self.speaks == "vdag" or kind in HANDLER_TYPES


@dataclass(frozen=True, slots=True)
class HandlerSpec:
    """A handler of a service.

    Attributes:
        handler_id: its number within the service.
        name: for people.
        kind: number of its type.
        params: that were given, checked, without those left out.
        node_id: where it has to be; None for anywhere.
    """

    handler_id: int
    name: str
    kind: int
    params: Mapping[str, Any] = field(default_factory=dict)
    node_id: int | None = None

    def __str__(self) -> str:
        return f"handler {self.handler_id} {self.name}"


@dataclass(frozen=True, slots=True, order=True)
class Link:
    """What comes out of one handler and goes into another; all numbers count from 0."""

    source_handler: int
    source_output: int
    target_handler: int
    target_input: int


@dataclass(frozen=True, slots=True)
class Cut:
    """A way between two nodes that a service has written out, as a pair of tx and rx.

    Attributes:
        tx: the sender, as it was written.
        rx: the receiver.
        links: that it stands for, all of one output.
    """

    tx: HandlerSpec
    rx: HandlerSpec
    links: tuple[Link, ...]


@dataclass(frozen=True)
class Service:
    """A graph of handlers: acyclic, every input linked once, no tx or rx in it.

    Attributes:
        service_id: its number.
        name: for people.
        handlers: in the order of the file.
        links: likewise; they may go from node to node.
        algorithm: that places the handlers.
        cuts: that the file had in place of links.
    """

    service_id: int
    name: str
    handlers: tuple[HandlerSpec, ...]
    links: tuple[Link, ...]
    algorithm: str
    cuts: tuple[Cut, ...] = ()

    @cached_property
    def by_id(self) -> Mapping[int, HandlerSpec]:
        """The handlers by their numbers."""
        return {each.handler_id: each for each in self.handlers}

    @cached_property
    def order(self) -> tuple[HandlerSpec, ...]:
        """The handlers, each after all that it takes from."""
        before: dict[int, list[int]] = {each.handler_id: [] for each in self.handlers}
        for link in self.links:
            before[link.target_handler].append(link.source_handler)
        return tuple(self.by_id[number] for number in TopologicalSorter(before).static_order())

    @cached_property
    def inputs(self) -> Mapping[int, tuple[Link, ...]]:
        """The links into each handler, by its number."""
        return {
            each.handler_id: tuple(
                link for link in self.links if link.target_handler == each.handler_id
            )
            for each in self.handlers
        }

    @cached_property
    def outputs(self) -> Mapping[int, tuple[Link, ...]]:
        """The links out of each handler, by its number."""
        return {
            each.handler_id: tuple(
                link for link in self.links if link.source_handler == each.handler_id
            )
            for each in self.handlers
        }
