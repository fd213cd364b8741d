"""`Membership`: which nodes have joined the controller, and what it tells each of the others.

A node is a *member* from its `wire.Join` on. One that is not heard of for a while is *away*: it
stays on the list, so that its queries are shown, but others are told that it is gone. The rule is
pure but for one thing: `nodes` may be called by any thread, and returns a snapshot.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from vdag.control import wire
from vdag.control.cluster import NodeView, view_of_card
from vdag.control.controller.orders import OrderBook
from vdag.control.scheduling.events import JobInfo, NodeInfo, QueryState, ServiceInfo, VideoInfo
from vdag.errors import ConfigError
from vdag.transport.rpc import Question

__all__ = ["Member", "Membership", "draw_session", "ip_of", "node_info", "services_of"]

#: A machine's state is passed on to the other nodes at most this often: it changes all the time.
STATE_INTERVAL_NS = 2_000_000_000
#: One view carries states of at most this many bytes.
VIEW_NBYTES = 1 << 20
MAX_MEMBERS = wire.MAX_RESULTS


def draw_session() -> str:
    """Return the name of a process for as long as it runs; no other gets the same."""
    return secrets.token_hex(8)


def ip_of(node_addr: str) -> str:
    """Return the address in `ip:port`, without the brackets of IPv6.

    Raises:
        ConfigError: it is not such a name.
    """
    ip, _, port = node_addr.rpartition(":")
    if not ip or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"node_addr {node_addr!r} is not IP:PORT")
    return ip.strip("[]")


def services_of(offers: dict[str, wire.Offer]) -> dict[str, ServiceInfo]:
    """Return what a node offers, as the scheduler reads it."""
    return {
        task: ServiceInfo(
            offer.workers, tuple(offer.models), offer.cpu_util_limit, offer.mem_util_limit
        )
        for task, offer in offers.items()
    }


def node_info(join: wire.Join) -> NodeInfo:
    """Return a node that joins, as the scheduler reads it.

    Raises:
        ConfigError: its name is not `ip:port`.
        FrameFormatError: its state is no document.
    """
    return NodeInfo(
        join.node_addr,
        ip_of(join.node_addr),
        join.role,
        join.name,
        "channel",
        {
            number: VideoInfo(video.type, video.width, video.height, video.fps)
            for number, video in join.videos.items()
        },
        services_of(join.services),
        join.landing,
        join.session,
        tuple(
            JobInfo(job.job_uid, job.plan, QueryState(job.state), job.reason, routes=job.routes)
            for job in join.jobs
        ),
        wire.read_document(join.state).get("device_state") or {},
        join.limits,
    )


@dataclass(slots=True)
class Member:
    """A node that has joined by the plan channel.

    Attributes:
        join: how it introduced itself, with what it has reported since.
        peer: public key it came with, empty without keys.
        card: what others are told.
        view: the same, as the documents' overviews have it.
        version: of the view that its card is in.
        card_ns: when its card was last changed.
        is_alive: it was heard of lately.
        report: number of the latest report that was acted on.
        orders: that it has not taken the receipt of.
        waiting: the `Await` that is held back for it, None if there is none.
        answer_due_ns: when that has to be answered.
        offset_ns: its clock minus the controller's, by what it says.
        round_trip_ns: of the message that this comes from, 0 if it is not known.
        opened: what became of orders to do tasks, by task.
    """

    join: wire.Join
    peer: str
    card: wire.Card
    view: NodeView
    version: int
    card_ns: int
    is_alive: bool = True
    report: int = 0
    orders: OrderBook = field(default_factory=OrderBook)
    waiting: Question | None = None
    answer_due_ns: int = 0
    offset_ns: int = 0
    round_trip_ns: int = 0
    opened: dict[str, wire.Opened] = field(default_factory=dict)

    @property
    def node_addr(self) -> str:
        """Its name."""
        return self.join.node_addr


class Membership:
    """See above; for one thread, but for `nodes`. Who is away, others say, by `lose`."""

    def __init__(self) -> None:
        self._members: dict[str, Member] = {}
        self._version = 1
        self._nodes: tuple[NodeView, ...] = ()

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    def __len__(self) -> int:
        return len(self._members)

    @property
    def version(self) -> int:
        """Of the view; rises with every change."""
        return self._version

    def nodes(self) -> Sequence[NodeView]:
        """Return the members that are alive; by any thread, at once."""
        return self._nodes

    def get(self, node_addr: str) -> Member | None:
        """Return a member, alive or away."""
        return self._members.get(node_addr)

    def speaker(self, node_addr: str, session: str, peer: str) -> Member | None:
        """Return the member that a question comes from; None if it has to join first."""
        member = self._members.get(node_addr)
        if member is None or not member.is_alive:
            return None
        return member if (member.join.session, member.peer) == (session, peer) else None

    def join(self, join: wire.Join, peer: str, now_ns: int) -> Member:
        """Take a node in, for the first time or again.

        Raises:
            ConfigError: its name is not `ip:port`, another node has it, or there are too many.
        """
        ip_of(join.node_addr)
        before = self._members.get(join.node_addr)
        if before is not None and before.is_alive and before.peer != peer:
            raise ConfigError(f"node_addr {join.node_addr} is that of a node with another key")
        if before is None and len(self._members) >= MAX_MEMBERS:
            raise ConfigError(f"{len(self._members)} nodes have joined, which is the limit")
        card = wire.Card(
            join.node_addr,
            join.role,
            join.port,
            join.landing,
            join.services,
            join.state,
            join.name,
            join.session,
        )
        self._version += 1
        member = Member(join, peer, card, view_of_card(card), self._version, now_ns)
        self._members[join.node_addr] = member
        self._publish()
        return member

    def update(self, member: Member, report: wire.Report, now_ns: int) -> None:
        """Note what a member reports of itself."""
        member.offset_ns, member.round_trip_ns = -report.offset_ns, report.round_trip_ns
        member.opened.update((found.task, found) for found in report.opened)
        services = member.card.services if report.services is None else report.services
        state = report.state or member.join.state
        member.join = msgspec.structs.replace(member.join, services=services, state=state)
        is_old = now_ns - member.card_ns >= STATE_INTERVAL_NS
        if services == member.card.services and not (is_old and state != member.card.state):
            return
        member.card = msgspec.structs.replace(member.card, services=services, state=state)
        member.view = view_of_card(member.card)
        self._version += 1
        member.version, member.card_ns = self._version, now_ns
        self._publish()

    def lose(self, member: Member) -> None:
        """Note that a member is away."""
        member.is_alive = False
        self._version += 1
        self._publish()

    def view(self, since: int) -> wire.View | None:
        """Return what has changed since a version; None for nothing.

        A version that is none of ours, of a controller before this one, is as good as none.
        """
        if since == self._version:
            return None
        since = since if since < self._version else 0
        alive = [member for member in self._members.values() if member.is_alive]
        news = sorted(
            (member for member in alive if member.version > since), key=lambda each: each.version
        )
        cards: list[wire.Card] = []
        version, nbytes = self._version, 0
        for member in news:
            nbytes += len(member.card.state)
            if cards and nbytes > VIEW_NBYTES:
                version = member.version - 1  # the rest comes when it is asked for
                break
            cards.append(member.card)
        return wire.View(version, [member.node_addr for member in alive], cards)

    def _publish(self) -> None:
        self._nodes = tuple(member.view for member in self._members.values() if member.is_alive)
