"""`Peers`: the other nodes that the frames of this one go to and come from.

It owns the landing of the node and the edges that lead away, and joins both to the exchange:

    exchange  --send-->  Peer  --lanes-->  landing of the other node
    exchange  <--inbox--  Landing  <------  lanes of other nodes

Between two nodes there is a lane, an edge of its own, for every way in which jobs want their frames
sent: what waits behind what, and how pixels are encoded. Results, and everything else without
pixels, share one lane on which nothing is superseded.

A job is introduced to the nodes that its frames visit, so that their workers know its graph and
their exchange opens a way back to its home, and ways on to where the frames go from there. All
nodes know each other under the same names. Notices may get lost, so introductions are repeated;
a node forgets a job that it has not heard of for a while. Only nodes that the landing lets in can
introduce a job, and then the way back leads to whoever has the key that it came with.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

from msgspec import structs

from vdag._native import header as native_header
from vdag.errors import ConfigError, VdagError
from vdag.threads import wait_ended
from vdag.transport import messages
from vdag.transport.address import Address
from vdag.transport.codec import decode_head
from vdag.transport.early import EarlyFrames
from vdag.transport.entrance import Entrance
from vdag.transport.landing import Landing
from vdag.transport.link import MAX_NOTICE_NBYTES
from vdag.transport.messages import Dropped, Join, Leave
from vdag.transport.meter import LinkStats
from vdag.transport.peer import IDLE_S, Lane, Peer
from vdag.transport.peer_values import Guest, PeersStats, Voyage

if TYPE_CHECKING:
    from typing_extensions import Self

    from vdag.transport.codec import Head
    from vdag.transport.departures import Drop
    from vdag.transport.edge import Edge
    from vdag.transport.exchange import Exchange
    from vdag.transport.keys import KeyFolder
    from vdag.transport.sockets import Curve

__all__ = ["Lane", "LinkStats", "Peers", "PeersStats"]

logger = logging.getLogger(__name__)

#: Nodes that there may be edges to.
MAX_PEERS = 256
#: Jobs of other nodes that may be known at a time.
MAX_GUESTS = 1024
#: How often a job is introduced again.
INTRODUCE_S = 1.0
#: A job that is not introduced again for so long has ended, or its node has.
SILENCE_S = 10.0
JOIN_TIMEOUT_S = 10.0


class Peers:
    """Joins an exchange to other nodes; closed by `close` or a `with` block, before the exchange.

        with Exchange(folder, classes=...) as exchange, Peers(exchange, "tcp://...") as peers:
            peers.visit("job", graph, {"tcp://10.0.0.7:5020": Lane("latest", Jpeg())})

    Args:
        exchange: of this node; gets its edges, and its address as an alias.
        address: of the landing, see `Landing`; beyond loopback with keys only.
        keys: of this node, and whom it trusts.
        advertised: what other nodes connect to, if that is not `address`.

    Raises:
        ConfigError: as of `Landing`.
        TransportError: the address cannot be bound.
    """

    def __init__(
        self,
        exchange: Exchange,
        address: str,
        *,
        keys: KeyFolder | None = None,
        advertised: str | None = None,
    ) -> None:
        self._exchange, self._keys = exchange, keys
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._peers: dict[str, Peer] = {}
        self._voyages: dict[str, Voyage] = {}
        self._guests: dict[str, Guest] = {}
        self._idle_since_s: dict[str, float] = {}
        self._refused = 0
        self._closing = False
        self._entrance, self._early = Entrance(exchange.address), EarlyFrames()
        try:
            self.landing = Landing(
                address,
                arena=exchange.arena,
                deliver=self._deliver,
                dropped=self._lost_on_landing,
                notice=self._hear,
                keys=keys,
                advertised=advertised,
            )
        except BaseException:
            self._entrance.close()
            raise
        exchange.add_alias(self.landing.address)
        self._thread = threading.Thread(target=self._run, name="vdag-peers", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Under which other nodes know this one: the endpoint of its tasks in their routes."""
        return self.landing.address

    def visit(
        self,
        job: str,
        graph: bytes,
        lanes: Mapping[str, Lane],
        names: Mapping[str, str] = MappingProxyType({}),
        onward: Mapping[str, Collection[str]] = MappingProxyType({}),
    ) -> None:
        """Prepare other nodes for the frames of a job of this node, or for those of its next plan.

        Nodes of an earlier call that are not named again are not forgotten: frames may still be
        under way to them. `leave` ends it.

        Args:
            job: its id.
            graph: see `messages.Dag`.
            lanes: address of a node's landing to how the frames go there.
            names: address to the name under which the keys know the node; with keys only.
            onward: address to those of `lanes` that frames go on to from there.

        Raises:
            ConfigError: an address or an encoder cannot be had, a node is not trusted, or there are
                too many.
        """
        joins = {}
        for address in lanes:
            following = sorted(onward.get(address, ()))
            ways = [lanes[to].way(to, names.get(to, "")) for to in following]
            joins[address] = join = Join(job, self.address, graph, ways)
            if (nbytes := len(messages.encode(join))) > MAX_NOTICE_NBYTES:
                raise ConfigError(
                    f"graph of job {job} makes {nbytes} bytes, limit {MAX_NOTICE_NBYTES}"
                )
        with self._lock:
            voyage = self._voyages.setdefault(job, Voyage())
            for address, join in joins.items():
                peer = self._peer(address, partial(self._curve, address, names))
                peer.assign(job, lanes[address])
                voyage.joins[address] = join
                peer.notify(join)

    def leave(self, job: str) -> None:
        """Tell other nodes that a job of this node has ended; harmless if it visits none."""
        with self._lock:
            voyage = self._voyages.pop(job, None)
            for address in voyage.joins if voyage is not None else ():
                self._peers[address].notify(Leave(job))
                self._peers[address].release(job)

    def probe(self, address: str, name: str = "", *, after_s: float) -> bool:
        """Measure the link to a node, if nothing has for so long; see `Peer.probe`.

        Args:
            address: of its landing; the way there stays open while it is probed.
            name: under which the keys know it; with keys only.
            after_s: since it was measured last.

        Returns:
            Whether it was time to.

        Raises:
            ConfigError: as of `visit`.
        """
        with self._lock:
            if self._closing:
                return False
            names = {address: name} if name else {}
            return self._peer(address, partial(self._curve, address, names)).probe(after_s)

    def links(self) -> dict[str, LinkStats]:
        """Return what is known of the links to other nodes, by their landings."""
        with self._lock:
            return {address: peer.link() for address, peer in self._peers.items()}

    def stats(self) -> PeersStats:
        """Return what came and went.

        Raises:
            ChannelClosed: the landing or an edge has failed; `__cause__` says how.
        """
        with self._lock:
            edges = {address: peer.stats() for address, peer in self._peers.items()}
            return PeersStats(self.landing.stats(), edges, len(self._guests), self._refused)

    def close(self) -> None:
        """Part with every node; frames under way are dropped, and told."""
        with self._lock:
            self._closing = True
            self._changed.notify_all()
        wait_ended(self._thread, timeout_s=JOIN_TIMEOUT_S)
        for job in tuple(self._voyages):
            self.leave(job)
        for address, peer in tuple(self._peers.items()):
            self._exchange.edges.pop(address, None)
            peer.close()
        self.landing.close()
        self._pass_on(self._early.take_all())
        self._entrance.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _peer(self, address: str, curve: Callable[[], Curve | None]) -> Peer:
        """Return the way to a node, opened if need be; under the lock."""
        if address == self.address:
            raise ConfigError(f"{address} is this node")
        self._idle_since_s.pop(address, None)
        if (peer := self._peers.get(address)) is not None:
            return peer
        if len(self._peers) >= MAX_PEERS:
            raise ConfigError(f"{MAX_PEERS} other nodes are the limit")
        if Address.parse(address).scheme != "tcp":
            raise ConfigError(f"node {address!r} is not at a tcp address")
        peer = Peer(address, inbox=self.landing, curve=curve(), dropped=self._lost_on_edge)
        self._peers[address] = self._exchange.edges[address] = peer
        return peer

    def _curve(self, address: str, names: Mapping[str, str]) -> Curve | None:
        if self._keys is None:
            return None
        if address not in names:
            raise ConfigError(f"node {address} has no name to look its key up by")
        return self._keys.to_connect(names[address])

    def _run(self) -> None:
        """Body of the thread: introduce the jobs again, and forget what is gone."""
        while not self._closing:
            with self._lock:
                self._changed.wait_for(lambda: self._closing, INTRODUCE_S)
                now_s = time.monotonic()
                for voyage in self._voyages.values():
                    for address, join in voyage.joins.items():
                        self._peers[address].notify(join)
                for job, guest in tuple(self._guests.items()):
                    if now_s - guest.heard_s > SILENCE_S:
                        self._part(job)
                idle = self._take_idle(now_s)
                self._pass_on(self._early.take_old(now_s))
            for edge in idle:  # without the lock: an edge that ends may have frames to account for
                edge.close()

    def _take_idle(self, now_s: float) -> list[Peer | Edge]:
        """Take out what nobody has used for a while; under the lock."""
        idle: list[Peer | Edge] = []
        homes = {guest.join.home for guest in self._guests.values()}
        for address, peer in tuple(self._peers.items()):
            idle.extend(peer.take_idle(now_s))
            if peer.is_used or address in homes:
                self._idle_since_s.pop(address, None)
            elif now_s - self._idle_since_s.setdefault(address, now_s) > IDLE_S:
                del self._peers[address], self._idle_since_s[address]
                self._exchange.edges.pop(address, None)
                idle.append(peer)
        return idle

    def _deliver(self, part: bytes) -> bool:
        """Take a frame of another node, on the landing's thread; see `Landing`."""
        job = decode_head([part]).job
        if job not in self._guests and job not in self._voyages:
            with self._lock:
                if self._early.keep(job, part, time.monotonic()):
                    return True
        return self._entrance.send(part)

    def _pass_on(self, parts: Sequence[bytes]) -> None:
        """Give the exchange frames that have waited; if it is full, they are lost."""
        for part in parts:
            if not self._entrance.send(part):
                head = decode_head([part])
                if head.header.kind == native_header.KIND_SLOT:
                    self._exchange.arena.drop(head.header.slot, head.header.generation)
                self._lost_on_landing(head, "refused")

    def _hear(self, body: bytes, key: str) -> None:
        """Take a notice of another node, on the landing's thread."""
        try:
            message = messages.decode(body)
            with self._lock:
                if isinstance(message, Join):
                    self._welcome(message, key)
                elif isinstance(message, Leave):
                    self._check_host(message.job, key)
                    self._part(message.job)
                elif isinstance(message, Dropped):
                    self._entrance.send(body)
                else:
                    raise ConfigError(f"{type(message).__name__} does not travel between nodes")
        except VdagError as err:
            self._refused += 1
            logger.debug("notice of another node refused: %s", err)

    def _welcome(self, join: Join, key: str) -> None:
        """Open the way home for a job of another node, which has its key."""
        if join.job in self._voyages:
            raise ConfigError(f"job {join.job} is of this node")
        if join.job in self._guests:
            self._check_host(join.job, key)
        elif len(self._guests) >= MAX_GUESTS:
            raise ConfigError(f"{MAX_GUESTS} jobs of other nodes are the limit")
        peer = self._peer(join.home, partial(self._curve_back, key))
        if peer.key != key:
            raise ConfigError(f"home {join.home} of job {join.job} is another node's")
        known = self._guests.get(join.job)
        is_told = known is not None and known.join == join
        ways = known.ways if known is not None else frozenset()
        if not is_told:
            ways |= self._open_ways(join)
        # The ways are for this node alone: its exchange finds them among the edges.
        if is_told or self._entrance.send(messages.encode(structs.replace(join, ways=[]))):
            self._pass_on(self._early.take(join.job))
            self._guests[join.job] = Guest(join, key, time.monotonic(), ways)

    def _open_ways(self, join: Join) -> frozenset[str]:
        """Open the ways on for a job of another node; frames for which there is none are lost."""
        opened = set()
        for way in join.ways:
            if way.address == self.address:
                continue
            names = {way.address: way.name}
            try:
                peer = self._peer(way.address, partial(self._curve, way.address, names))
                peer.assign(join.job, Lane.of(way))
            except VdagError as err:
                logger.warning("no way on for frames of job %s: %s", join.job, err)
            else:
                opened.add(way.address)
        return frozenset(opened)

    def _curve_back(self, key: str) -> Curve | None:
        return None if self._keys is None else replace(self._keys.to_bind(), server=key)

    def _check_host(self, job: str, key: str) -> None:
        guest = self._guests.get(job)
        if guest is None or guest.key != key:
            raise ConfigError(f"job {job} is not of that node")

    def _part(self, job: str) -> None:
        for address in self._guests.pop(job).ways:
            if (peer := self._peers.get(address)) is not None:
                peer.release(job)
        self._entrance.send(messages.encode(Leave(job)))

    def _lost_on_edge(self, address: str, drop: Drop) -> None:
        """Tell the home of a frame that it got lost, on an edge's thread or the exchange's."""
        self._tell_home(drop.head, drop.reason, f"edge to {address}")

    def _lost_on_landing(self, head: Head, reason: str) -> None:
        self._tell_home(head, reason, f"landing at {self.address}")

    def _tell_home(self, head: Head, reason: str, detail: str) -> None:
        header, here = head.header, head.here
        notice = Dropped(
            job=head.job,
            stream=header.stream,
            seq=header.seq,
            plan=header.plan,
            task=here.task if here is not None else head.route[-1].task,
            reason=reason,
            where=self.address,
            detail=detail,
        )
        home = head.route[-1].endpoint
        if home == self.address or not home.startswith("tcp://"):
            self._entrance.send(messages.encode(notice))
        elif (peer := self._peers.get(home)) is not None:
            peer.notify(notice)
