"""What a scenario is made of beneath its queries: nodes with their tasks, and links."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from vdag.errors import ConfigError

__all__ = [
    "MAX_MBIT",
    "Cores",
    "LinkSpec",
    "Mbit",
    "Millis",
    "Name",
    "NodeSpec",
    "ServiceSpec",
    "Spec",
    "Speed",
]

#: Beyond, a number is no measurement of anything.
MAX_CORES, MAX_SPEED, MAX_MBIT = 4096.0, 1e3, 1e6

Cores = Annotated[float, msgspec.Meta(gt=0, le=MAX_CORES)]
Speed = Annotated[float, msgspec.Meta(gt=0, le=MAX_SPEED)]
Mbit = Annotated[float, msgspec.Meta(gt=0, le=MAX_MBIT)]
Millis = Annotated[float, msgspec.Meta(ge=0, le=60_000)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a file says; a field that it does not know is an error."""


class ServiceSpec(Spec, frozen=True, kw_only=True):
    """A task that a node offers.

    Attributes:
        workers: its processes.
        models: the `model_id`s that they have; empty for any.
        max_batch: most frames that a worker takes at once.
        queue: most frames that wait.
        policy: of the queue, see `vdag.transport.flow`.
    """

    workers: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 1
    models: tuple[Annotated[int, msgspec.Meta(ge=0, le=99)], ...] = ()
    max_batch: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    queue: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 64
    policy: Literal["fifo", "latest", "block", "deadline"] = "fifo"


class NodeSpec(Spec, frozen=True, kw_only=True):
    """A node.

    Attributes:
        name: unique; `ip:port`, or any word, and then it gets an address.
        role: `cloud` is a server.
        cores: that its workers share; a worker keeps one busy. May be a fraction.
        speed: 2 does the work of a second in half of it. The costs of the profile are at 1.
        services: task to how it is offered.
        cpu_period_s: of a quota: in every period of so many seconds the node has the CPU time of
            `cores` over it. Until that is used up, work goes on at full speed; then everything on
            the node stands still until the next period. None for no quota: `cores` are shared
            evenly, and a part of one is one that is slower.
        cpus: with a quota, the cores of the machine: more workers never run at once.
        own_load: cores that the node keeps busy itself, beside its tasks.
        frame_cpu_ms: with a quota, CPU time that the node itself spends of it on a frame that comes
            to its tasks, at that moment: it takes it in, brings it into its size, hands it over.
        hop_ms: from one queue of the node to the next, or home: descriptors over a socket.
        mbit: of its own access to the network, per second and direction.
        latency_ms: of that access, one way.
    """

    name: Name
    role: Literal["edge", "cloud"] = "edge"
    cores: Cores = 4.0
    speed: Speed = 1.0
    services: dict[str, ServiceSpec] = {}
    cpu_period_s: Annotated[float, msgspec.Meta(ge=0.001, le=10)] | None = None
    cpus: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 4096
    own_load: Annotated[float, msgspec.Meta(ge=0, le=MAX_CORES)] = 0.0
    frame_cpu_ms: Millis = 0.0
    hop_ms: Millis = 0.3
    mbit: Mbit = 1000.0
    latency_ms: Millis = 0.5

    def __post_init__(self) -> None:
        if self.own_load >= self.cores:
            raise ConfigError(
                f"node {self.name!r}: own_load {self.own_load:g} leaves nothing of {self.cores:g}"
                " cores"
            )


class LinkSpec(Spec, frozen=True, kw_only=True):
    """A link of two nodes, in place of the way over both of their accesses.

    Attributes:
        between: the names of the two.
        mbit: per second, in each direction.
        latency_ms: one way.
    """

    between: tuple[Name, Name]
    mbit: Mbit = 100.0
    latency_ms: Millis = 1.0
