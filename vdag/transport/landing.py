"""A landing: takes the frames that other nodes send, and puts them into slots of this node.

It is the one tcp port of a node: the answers that the node's own edges get come in here too. Each
frame that can be read at all is answered for here: handed to the exchange, or counted as dropped
with a reason. Which numbers have come is reported to the edge that sent them. What cannot be read
is counted as hostile and forgotten.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import zmq
from msgspec import structs

from vdag.errors import ChannelClosed, ConfigError, FrameFormatError, TransportError
from vdag.threads import wait_ended
from vdag.transport import link
from vdag.transport.address import Address
from vdag.transport.arrivals import Arrivals, Reason
from vdag.transport.bell import Bell
from vdag.transport.channel import MAX_MESSAGE_NBYTES, bound_address, open_pull
from vdag.transport.codec import decode_head
from vdag.transport.keys import Gate
from vdag.transport.replies import Replies, Source

if TYPE_CHECKING:
    from vdag._native.ring import Arena, SlotRef
    from vdag.transport.codec import Head
    from vdag.transport.keys import KeyFolder
    from vdag.transport.link import Answer

__all__ = ["Landing", "LandingStats"]

logger = logging.getLogger(__name__)

#: Messages that the socket holds of each edge: more than an edge has on its way, because a socket
#: that stops reading does not answer signs of life either.
DEPTH = 24
#: Messages handled before receipts are sent.
BURST = 4
IDLE_MS = 1_000
#: What the field of a header takes.
MAX_LINK_NBYTES = (1 << 32) - 1
JOIN_TIMEOUT_S = 10.0

_count = itertools.count()


@dataclass(frozen=True, slots=True)
class LandingStats:
    """What became of the messages: received = delivered + dropped[reason].

    Attributes:
        received: frames that could be read.
        delivered: frames the exchange has taken.
        dropped: `arena_full`: no slot was free; `oversize`: no slot is large enough; `corrupt`: not
            what the frame says; `decoder`: PyAV is not installed; `gap`: the stream waits for a key
            frame; `order`: a later one came before; `refused`: the exchange did not take it.
        hostile: messages that no edge sends.
        refused_nodes: connections of nodes that are not trusted.
        notices: messages for the exchange.
        edges: edges that are known.
        decoders: H.264 streams being decoded.
        nbytes: of all messages.
    """

    received: int
    delivered: int
    dropped: Mapping[Reason, int]
    hostile: int
    refused_nodes: int
    notices: int
    edges: int
    decoders: int
    nbytes: int

    @property
    def balance(self) -> int:
        """Frames that are in no column: 0, or the books are wrong."""
        return self.received - self.delivered - sum(self.dropped.values())


class Landing:
    """Frames from other nodes; any thread may call its methods.

    Args:
        address: to listen at; beyond loopback with keys only.
        arena: of this node, attached writable. The caller's; it outlives the landing.
        deliver: takes the first part of a frame's descriptor on this node, and with it the lease in
            flight on its slot if it has one; False refuses both. Called by the landing's thread: it
            must not block, and what it raises ends the landing.
        dropped: is told every frame that could be read but not delivered; likewise.
        notice: takes messages for the exchange, see `Edge.notify`, with the public key of the node
            they come from, empty without keys; likewise.
        keys: of this node, and whom it trusts.
        advertised: what other nodes connect to, if that is not `address`.
        loan_timeout_s: how long a frame may hold up those behind it when no slot is free.
        max_message_nbytes: longest part that is taken in.

    Raises:
        ConfigError: an argument has no meaning, or the address is beyond loopback without keys.
        TransportError: the address cannot be bound.
    """

    def __init__(
        self,
        address: str,
        *,
        arena: Arena,
        deliver: Callable[[bytes], bool],
        dropped: Callable[[Head, Reason], None] | None = None,
        notice: Callable[[bytes, str], None] | None = None,
        keys: KeyFolder | None = None,
        advertised: str | None = None,
        loan_timeout_s: float = 0.0,
        max_message_nbytes: int = MAX_MESSAGE_NBYTES,
    ) -> None:
        _check(address, advertised)
        self._deliver, self._tell_dropped, self._notice = deliver, dropped, notice
        self._arena = arena
        self._arrivals = Arrivals(arena, loan_timeout_s)
        self._hears: dict[int, Callable[[Answer, str], None]] = {}
        self._received = self._delivered = self._hostile = self._notices = self._nbytes = 0
        self._dropped: Counter[Reason] = Counter()
        self._lock = threading.Lock()
        self._closing = False
        self._fault: BaseException | None = None
        self._gate: Gate | None = None
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        curve = keys.to_bind() if keys is not None else None
        try:
            self._gate = Gate(self._context, keys) if keys is not None else None
            self._socket = open_pull(
                address,
                context=self._context,
                depth=DEPTH,
                curve=curve,
                max_message_nbytes=max_message_nbytes,
            )
        except BaseException:
            self._end_context()
            raise
        self._bound = bound_address(self._socket)
        self._advertised = advertised or self._bound
        self._bell = Bell()
        self._poller = zmq.Poller()
        self._poller.register(self._bell.fileno(), zmq.POLLIN)
        self._poller.register(self._socket, zmq.POLLIN)
        self._has_keys = curve is not None
        self._replies = Replies(self._context, curve, self._poller)
        name = f"vdag-landing-{next(_count)}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """What other nodes connect to."""
        return self._advertised

    @property
    def bound(self) -> str:
        """Where it listens, with the port that was free."""
        return self._bound

    def register(self, edge: int, hear: Callable[[Answer, str], None]) -> None:
        """Pass on the answers for an edge of this node, see `link.Inbox`."""
        with self._lock:
            self._hears[edge] = hear

    def forget(self, edge: int) -> None:
        """Pass on no more answers for an edge."""
        with self._lock:
            self._hears.pop(edge, None)

    def stats(self) -> LandingStats:
        """Return what became of the messages.

        Raises:
            ChannelClosed: the landing has failed; `__cause__` says how.
        """
        if self._fault is not None:
            raise ChannelClosed(f"landing at {self._bound} failed") from self._fault
        with self._lock:
            return LandingStats(
                received=self._received,
                delivered=self._delivered,
                dropped=dict(self._dropped),
                hostile=self._hostile,
                refused_nodes=self._gate.refused if self._gate is not None else 0,
                notices=self._notices,
                edges=len(self._replies),
                decoders=self._arrivals.decoders,
                nbytes=self._nbytes,
            )

    def close(self) -> None:
        """Listen no more, and end the thread; may be called again."""
        self._closing = True
        self._bell.ring()
        if wait_ended(self._thread, timeout_s=JOIN_TIMEOUT_S):
            self._bell.close()

    def __enter__(self) -> Landing:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _end_context(self) -> None:
        if self._gate is not None:
            self._gate.close()
        self._context.term()

    # From here on everything runs on the landing's own thread.

    def _run(self) -> None:
        try:
            while not self._closing:
                events = dict(self._poller.poll(IDLE_MS))
                if self._bell.fileno() in events:
                    self._bell.hush()
                for _ in range(BURST):
                    if not self._receive():
                        break
                self._replies.flush(time.monotonic_ns())
        except BaseException as err:  # kept for whoever calls next
            logger.exception("landing at %s failed", self._bound)
            self._fault = err
        finally:
            self._replies.close()
            self._socket.close(linger=0)
            self._arrivals.close()
            self._end_context()

    def _receive(self) -> bool:
        """Handle one message; False if there is none."""
        try:
            parts = [self._socket.recv(zmq.NOBLOCK, copy=False)]
        except zmq.Again:
            return False
        is_long = False
        while parts[-1].more:
            part = self._socket.recv(zmq.NOBLOCK, copy=False)  # a message comes whole
            is_long = len(parts) == 2
            parts[1:] = [part]
        peer = parts[0].get("User-Id") if self._has_keys else ""
        try:
            if is_long:
                raise FrameFormatError("message of more than 2 parts")
            self._handle([part.buffer for part in parts], str(peer))
        except (FrameFormatError, ConfigError, TransportError) as err:
            logger.debug("landing at %s: hostile message: %s", self._bound, err)
            with self._lock:
                self._hostile += 1
        return True

    def _handle(self, parts: list[memoryview], peer: str) -> None:
        now_ns = time.monotonic_ns()
        with self._lock:
            self._nbytes += sum(part.nbytes for part in parts)
        if len(parts) == 1 and link.is_link_message(parts[0]):
            self._handle_message(link.decode(parts[0]), peer, now_ns)
        else:
            self._handle_frame(parts, peer, now_ns)

    def _handle_message(self, message: link.LinkMessage, peer: str, now_ns: int) -> None:
        if isinstance(message, (link.Receipt, link.KeyFrameWanted)):
            with self._lock:
                hear = self._hears.get(message.edge)
            if hear is not None:  # it may have been closed while the answer was under way
                hear(message, peer)
            return
        source = peer, message.edge
        if isinstance(message, link.Hello):
            self._replies.greet(source, message, now_ns)
        if self._replies.note(source, message.number, now_ns) == "known":
            raise FrameFormatError(f"number {message.number} has come before")
        if isinstance(message, link.Notice):
            with self._lock:
                self._notices += 1
            if self._notice is not None:
                self._notice(message.body, peer)

    def _handle_frame(self, parts: list[memoryview], peer: str, now_ns: int) -> None:
        head = decode_head(parts)
        stamp = link.stamp_of(head.header)
        nbytes = min(sum(part.nbytes for part in parts), MAX_LINK_NBYTES)
        head = structs.replace(head, header=head.header.replace(link_nbytes=nbytes))
        source: Source = peer, stamp.edge
        kind = self._replies.note(source, stamp.number, now_ns)
        if kind == "known":
            raise FrameFormatError(f"number {stamp.number} has come before")
        with self._lock:
            self._received += 1
        if kind == "old":
            self._drop(head, "order")
            return
        unloaded = self._arrivals.unload(source, parts[0], head, _payload(parts, head), stamp)
        if unloaded.wants_key:
            wanted = link.KeyFrameWanted(stamp.edge, head.job, head.header.stream)
            self._replies.want(source, wanted)
        if unloaded.message is None:
            assert unloaded.reason is not None
            self._drop(head, unloaded.reason)
        elif self._hand_over(unloaded.message, unloaded.ref):
            with self._lock:
                self._delivered += 1
        else:
            self._drop(head, "refused")

    def _hand_over(self, message: bytes, ref: SlotRef | None) -> bool:
        """Deliver a frame, or take its lease back."""
        is_taken = False
        try:
            is_taken = self._deliver(message)
        finally:
            if not is_taken and ref is not None:
                ref.drop()
        return is_taken

    def _drop(self, head: Head, reason: Reason) -> None:
        with self._lock:
            self._dropped[reason] += 1
        if self._tell_dropped is not None:
            self._tell_dropped(head, reason)


def _payload(parts: list[memoryview], head: Head) -> memoryview:
    """Return what the descriptor carries, wherever `codec` says it is."""
    if len(parts) == 2:
        return parts[1]
    header = head.header
    return parts[0][parts[0].nbytes - header.payload_nbytes :]


def _check(address: str, advertised: str | None) -> None:
    target = Address.parse(address)
    if target.scheme != "tcp":
        raise ConfigError(f"landing at {address!r} is not at a tcp address")
    if advertised is None and target.is_everywhere:
        raise ConfigError(f"nobody can answer to {address!r}: advertised has to say where")
    if advertised is not None:
        Address.parse(advertised)
