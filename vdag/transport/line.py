"""The sending end of a link: the socket, the numbers, the other host's clock, and when to ask."""

from __future__ import annotations

import logging
import secrets
import time
from typing import TYPE_CHECKING

import zmq

from vdag.errors import FrameFormatError
from vdag.transport import link
from vdag.transport.channel import Outgoing, open_push, try_send, try_send_leased
from vdag.transport.link import Hello, Notice, Probe, Receipt, Stamp
from vdag.transport.meter import Meter
from vdag.transport.roundtrip import RemoteClock
from vdag.transport.sockets import Curve

if TYPE_CHECKING:
    from vdag.transport.departures import Parcel
    from vdag.transport.encoders import Coded

__all__ = ["Line"]

logger = logging.getLogger(__name__)

#: A `Hello` at most this often, while there is something to ask about.
HELLO_INTERVAL_NS = 250_000_000
#: An edge that asks and gets no answer says so in the log, this often.
PATIENCE_NS = 10_000_000_000

#: What the kernel holds of the messages. It is little, so that a frame goes through the caches from
#: one end to the other, which is twice as fast on one host, and none waits there on a thin link.
SNDBUF_NBYTES = 512 << 10
#: How long ZeroMQ may take to let go of memory after its socket was closed.
CLOSE_TIMEOUT_S = 5.0


class Line:
    """What one edge sends; for one thread, but for `edge`.

    Args:
        address: of the other node's landing.
        inbox: address of the landing of this node.
        depth: most messages in the socket.
        curve: keys, with that of the other node.
        meter: of all edges to that node; None for one of its own.

    Attributes:
        edge: id of the edge, drawn at random.
        socket: the PUSH, to be polled.
        outgoing: leases of frames that are sent from where they lie.
        clock: of the other host; nothing may be sent before it is known.
        meter: is told what is sent and what has come.
        number: of the latest message.
        nbytes: sent up to now.
    """

    def __init__(
        self,
        address: str,
        *,
        inbox: str,
        depth: int,
        curve: Curve | None,
        meter: Meter | None = None,
    ) -> None:
        self.edge = secrets.randbits(63) | 1
        self.number = self.nbytes = 0
        self.outgoing = Outgoing(2 * depth)
        self.clock = RemoteClock()
        self.meter = meter or Meter()
        self._inbox, self._address = inbox, address
        self._hello_due_ns = 0
        self._heard_ns = time.monotonic_ns()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            self.socket = open_push(
                address,
                context=self._context,
                depth=depth,
                curve=curve,
                sndbuf_nbytes=SNDBUF_NBYTES,
            )
        except BaseException:
            self._context.term()
            raise

    @property
    def is_ready(self) -> bool:
        """Whether the socket is connected and not full: it then takes the next message."""
        return bool(int(self.socket.getsockopt(zmq.EVENTS)) & zmq.POLLOUT)

    def hello_due_ns(self, *, travelling: bool) -> int | None:
        """Return when it is time for a hello, or None if there is nothing to ask about."""
        return self._hello_due_ns if travelling or not self.clock.is_known else None

    def send_hello(self, now_ns: int) -> None:
        """Introduce this edge, or ask for a receipt; if the socket is full, another time."""
        self._send(link.encode(Hello(self.edge, self.number + 1, self._inbox, now_ns)))
        self._hello_due_ns = now_ns + HELLO_INTERVAL_NS
        if now_ns - self._heard_ns > PATIENCE_NS:
            self._heard_ns = now_ns
            logger.warning(
                "edge to %s gets no answers: frames wait until they come in at %s",
                self._address,
                self._inbox,
            )

    def hear(self, receipt: Receipt, now_ns: int) -> bool:
        """Learn from a receipt; False if it is not about what was sent here."""
        if receipt.ranges and receipt.ranges[-1][1] > self.number:
            return False
        self._heard_ns, self._hello_due_ns = now_ns, now_ns + HELLO_INTERVAL_NS
        if receipt.hello_ns:
            self.clock.observe(receipt.hello_ns, receipt.heard_ns, receipt.now_ns, now_ns)
        if receipt.last_ns and receipt.ranges:
            number, held_ns = receipt.ranges[-1][1], receipt.now_ns - receipt.last_ns
            self.meter.came(self.edge, number, receipt.last_ns, held_ns, now_ns)
        return True

    def start_over(self) -> None:
        """Ask again before anything else is sent: what is at the other end may have changed."""
        self.clock = RemoteClock()
        self.meter.gone(self.edge, time.monotonic_ns())
        self._hello_due_ns = 0

    def send_probe(self, nbytes: int) -> bool:
        """Send bytes that nobody reads; False if the socket does not take them now."""
        return self._send(link.encode(Probe(self.edge, self.number + 1, bytes(nbytes))))

    def send_notice(self, body: bytes) -> bool:
        """Send a message for the other exchange; False if the socket does not take it now."""
        return self._send(link.encode(Notice(self.edge, self.number + 1, body)))

    def send_frame(self, parcel: Parcel, coded: Coded) -> bool:
        """Send a frame, its times turned into those of the other host.

        The parcel's lease is taken over if the frame is sent from where it lies, and sent at all.

        Returns:
            False if the socket does not take it now.

        Raises:
            FrameFormatError: its times cannot be told by the other host's clock.
        """
        header, clock = coded.header, self.clock
        try:
            header = header.replace(
                capture_ns=clock.there(header.capture_ns),
                # 0 would mean that there is none
                deadline_ns=(clock.there(header.deadline_ns) or 1) if header.deadline_ns else 0,
            )
        except (OverflowError, ValueError) as err:
            raise FrameFormatError(f"frame of another age: {err}") from err
        stamp = Stamp(self.edge, self.number + 1, coded.picture, coded.since_key)
        parts = link.repack(parcel.message, link.stamped(header, stamp), coded.payload)
        now_ns = time.monotonic_ns()  # it may be there before the socket says that it took it
        if not coded.is_pixels or len(parts) == 1:
            is_sent = try_send(self.socket, parts)
        else:
            is_sent = try_send_leased(self.socket, parts, parcel.lease, self.outgoing)
            if is_sent:
                parcel.lease = None
        if is_sent:
            self._count(sum(memoryview(part).nbytes for part in parts), now_ns)
        return is_sent

    def close(self) -> int:
        """Close the socket and wait until ZeroMQ has let go of all memory.

        Returns:
            How many leases it still holds; they will never be released.
        """
        self.socket.close(linger=0)
        self._context.term()
        self.meter.forget(self.edge)
        return self.outgoing.close(CLOSE_TIMEOUT_S)

    def _send(self, message: bytes) -> bool:
        now_ns = time.monotonic_ns()
        if not try_send(self.socket, [message]):
            return False
        self._count(len(message), now_ns)
        return True

    def _count(self, nbytes: int, now_ns: int) -> None:
        self.number += 1
        self.nbytes += nbytes
        self.meter.sent(self.edge, self.number, nbytes, now_ns)
