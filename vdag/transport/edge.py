"""An edge: takes frames of this node, encodes them, and sends them to the landing of another.

It never makes anybody wait: frames it has no place for are refused or replaced, by its policy. It
sends no more than the link takes without delay (`roundtrip.Window`), and nothing at all before the
other side has answered a `Hello`: a link whose answers do not come back would lose frames unseen.
Whatever happens to the link, it goes on by itself, and every frame is accounted for (`departures`).
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import zmq

from vdag._native import header as native_header
from vdag.errors import ChannelClosed, ConfigError, VdagError
from vdag.threads import wait_ended
from vdag.transport import link, messages
from vdag.transport.bell import Bell
from vdag.transport.codec import decode_head, decode_header
from vdag.transport.departures import Departures, Drop, EdgeStats, Parcel, Policy, Reason
from vdag.transport.encoders import Encoder, Encoders, Raw, pixels_of
from vdag.transport.line import Line
from vdag.transport.pouch import Pouch
from vdag.transport.roundtrip import Window

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vdag._native.ring import View
    from vdag.frame import Lease
    from vdag.transport.link import Answer, Inbox
    from vdag.transport.meter import Meter
    from vdag.transport.sockets import Curve

__all__ = ["Edge"]

logger = logging.getLogger(__name__)

MAX_ANSWERS = 256
#: How often memory that ZeroMQ still reads is looked after when nothing else happens.
SETTLE_MS = 20
IDLE_MS = 1_000
JOIN_TIMEOUT_S = 10.0

_count = itertools.count()


class Edge:
    """Frames to one other node; any thread may call its methods.

    Args:
        address: of the other node's landing.
        inbox: of this node.
        depth: most frames that wait, and most that travel, 1 to 16.
        policy: `latest` keeps per stream the newest frame that waits, and sends no more at once
            than the link takes without delay; `block` keeps the frames in line and refuses more.
        encoder: what becomes of the pixels.
        curve: keys, with that of the other node; needed beyond loopback.
        confirm_timeout_s: a frame that is not confirmed for so long is lost.
        spare_s: `latest`: how long a frame may wait on the link behind others.
        dropped: is told every frame that will not arrive. Called without a lock held, by the
            thread that offers or by the edge's own: it must not block or raise.
        meter: of all edges to that node, which share the link; None for one of its own.
        has_room: `block`: called by the edge's thread when a frame was refused and there is room
            again; likewise.

    Raises:
        ConfigError: an argument has no meaning, or the address is beyond loopback without keys.
        DependencyMissing: PyAV is wanted and not installed.
        NativeUnavailable: libturbojpeg is wanted and not found.
        TransportError: FFmpeg has no libx264.
    """

    def __init__(
        self,
        address: str,
        *,
        inbox: Inbox,
        depth: int = 8,
        policy: Policy = "latest",
        encoder: Encoder | None = None,
        curve: Curve | None = None,
        confirm_timeout_s: float = 5.0,
        spare_s: float = 0.1,
        dropped: Callable[[Drop], None] | None = None,
        has_room: Callable[[], None] | None = None,
        meter: Meter | None = None,
    ) -> None:
        self.address = address
        self.encoder = encoder or Raw()
        self._peer = (curve.server or "") if curve is not None else ""
        self._inbox = inbox
        self._tell_dropped, self._tell_room = dropped, has_room
        self._departures = Departures(policy, depth, confirm_timeout_s)
        self._window = Window(depth, spare_s if policy == "latest" else None)
        self._encoders = Encoders()
        self._pouch = Pouch()
        self._answers: deque[Answer] = deque(maxlen=MAX_ANSWERS)
        self._has_refused = False
        self._changed = threading.Condition()
        self._closing = False
        self._fault: BaseException | None = None
        self._line = Line(address, inbox=inbox.address, depth=depth, curve=curve, meter=meter)
        self._bell = Bell()
        self._poller = zmq.Poller()
        self._poller.register(self._bell.fileno(), zmq.POLLIN)
        inbox.register(self._line.edge, self._hear)
        name = f"vdag-edge-{next(_count)}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def encoder(self) -> Encoder:
        """What becomes of the pixels, from the next frame on; may be set at any time."""
        return self._encoder

    @encoder.setter
    def encoder(self, encoder: Encoder) -> None:
        Encoders.check(encoder)
        self._encoder = encoder

    def send(self, part: bytes, view: View | None = None) -> bool:
        """Take a message of this node's exchange: a frame, or a notice for another job.

        Args:
            part: a descriptor, or a control message of `messages`.
            view: lease on the slot of a descriptor of kind slot; the edge's from now on, if it
                takes the message.

        Returns:
            False if there is no place: nothing is taken then.

        Raises:
            As `offer` and `notify`; `view` is then still the caller's.
        """
        if messages.is_control(part):
            return self.notify(part)
        pixels = None if view is None else pixels_of(decode_header([part]), view)
        return self.offer(part, pixels, view)

    def offer(
        self, message: bytes, pixels: NDArray[Any] | None = None, lease: Lease | None = None
    ) -> bool:
        """Take a frame to the other node, now or when the link has room.

        Args:
            message: the first part of its descriptor, on this node.
            pixels: what its slot holds, in the shape of its header; None if its kind is not slot.
                Must not change before the lease is released.
            lease: on the memory of `pixels`; from now on the edge's to release, unless the frame is
                refused.

        Returns:
            False if the frame is refused for want of room, by the policy `block`.

        Raises:
            FrameFormatError: the message is no descriptor.
            ConfigError: pixels and descriptor do not go together.
            ChannelClosed: the edge is closed, or has failed: `__cause__` says how.
        """
        head = decode_head([message])
        if (head.header.kind == native_header.KIND_SLOT) != (pixels is not None):
            kind = native_header.KINDS[head.header.kind]
            what = "no pixels" if pixels is None else "pixels"
            raise ConfigError(f"{what} do not go with a frame of kind {kind}")
        with self._changed:
            self._require_open()
            drops = self._departures.offer(Parcel(head, message, pixels, lease))
            self._has_refused = self._has_refused or drops is None
        if drops is None:
            return False
        self._bell.ring()
        self._tell(drops)
        return True

    def notify(self, body: bytes) -> bool:
        """Send a small message to the exchange of the other node; it may get lost.

        Args:
            body: up to `link.MAX_NOTICE_NBYTES` bytes.

        Returns:
            False if too many wait already; that is counted.
        """
        with self._changed:
            self._require_open()
            is_taken = self._pouch.put(body)
        self._bell.ring()
        return is_taken

    def probe(self, nbytes: int) -> None:
        """Send so many bytes, for the meter alone, in place of what an earlier call has left."""
        with self._changed:
            self._require_open()
            self._pouch.probe_nbytes = nbytes
        self._bell.ring()

    def drain(self, timeout_s: float) -> bool:
        """Wait until no frame waits or travels; False if the time-out came first."""
        with self._changed:
            return self._changed.wait_for(self._is_empty, timeout_s)

    def stats(self) -> EdgeStats:
        """Return where the frames are."""
        with self._changed:
            if self._fault is not None:
                raise ChannelClosed(f"edge to {self.address} failed") from self._fault
            return replace(
                self._departures.stats(),
                nbytes=self._line.nbytes,
                window=self._window.size,
                notices_lost=self._pouch.lost,
            )

    def close(self) -> None:
        """Drop what has not arrived, and end the thread; may be called again."""
        with self._changed:
            self._closing = True
        self._inbox.forget(self._line.edge)
        self._bell.ring()
        if wait_ended(self._thread, timeout_s=JOIN_TIMEOUT_S):
            self._bell.close()

    def __enter__(self) -> Edge:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _require_open(self) -> None:
        if self._fault is not None:
            raise ChannelClosed(f"edge to {self.address} failed") from self._fault
        if self._closing:
            raise ChannelClosed(f"edge to {self.address} is closed")

    def _is_empty(self) -> bool:
        self._require_open()
        return not (self._departures.waiting or self._departures.travelling)

    def _hear(self, answer: Answer, peer: str) -> None:
        """Take an answer, on the inbox's thread."""
        if peer == self._peer:
            self._answers.append(answer)
            self._bell.ring()

    def _tell(self, drops: Iterable[Drop]) -> None:
        for drop in drops:
            if drop.lease is not None:
                drop.lease.release()
            if self._tell_dropped is not None:
                self._tell_dropped(drop)

    # From here on everything runs on the edge's own thread.

    def _run(self) -> None:
        try:
            while not self._closing:
                self._step(time.monotonic_ns())
        except BaseException as err:  # kept for whoever calls next
            logger.exception("edge to %s failed", self.address)
            self._fault = err
        finally:
            self._finish()

    def _finish(self) -> None:
        with self._changed:
            self._closing = True
            drops = self._departures.close()
            self._changed.notify_all()
        self._tell(drops)
        self._encoders.close()
        if kept := self._line.close():
            logger.error("edge to %s: ZeroMQ still holds %d frames", self.address, kept)

    def _step(self, now_ns: int) -> None:
        self._line.outgoing.settle()
        self._read_answers(now_ns)
        with self._changed:
            drops = self._departures.expire(now_ns)
        self._lose(drops)
        wants_out = self._wants_hello(now_ns) or self._can_send()
        self._poller.register(self._line.socket, zmq.POLLOUT if wants_out else 0)
        events = dict(self._poller.poll(self._timeout_ms(now_ns)))
        if self._bell.fileno() in events:
            self._bell.hush()
        if self._line.socket in events:
            self._send(time.monotonic_ns())

    def _timeout_ms(self, now_ns: int) -> int:
        if len(self._line.outgoing):
            return SETTLE_MS
        # What is due already waits for the socket, not for the clock.
        dues_ns = (self._departures.due_ns(), self._hello_due_ns())
        waits_ns = [due_ns - now_ns for due_ns in dues_ns if due_ns is not None and due_ns > now_ns]
        return min([wait_ns // 1_000_000 + 1 for wait_ns in waits_ns] + [IDLE_MS])

    def _hello_due_ns(self) -> int | None:
        return self._line.hello_due_ns(travelling=self._departures.travelling > 0)

    def _wants_hello(self, now_ns: int) -> bool:
        return (due_ns := self._hello_due_ns()) is not None and now_ns >= due_ns

    def _can_send(self) -> bool:
        if self._pouch.has_notices:
            return True
        return self._line.clock.is_known and (self._pouch.has_probe or self._can_send_frame())

    def _can_send_frame(self) -> bool:
        return (
            self._departures.waiting > 0
            and self._departures.travelling < self._window.size
            and not self._line.outgoing.is_full
        )

    def _send(self, now_ns: int) -> None:
        """Send a hello if it is time, then what the window lets."""
        if self._wants_hello(now_ns):
            self._line.send_hello(now_ns)
        while self._can_send() and self._line.is_ready and not self._closing:
            if self._pouch.has_notices:
                is_sent = self._pouch.send_notice(self._line)
            elif self._can_send_frame():
                is_sent = self._send_frame()
            else:
                is_sent = self._pouch.send_probe(self._line)
            if not is_sent:
                return

    def _send_frame(self) -> bool:
        """Encode the next frame and send it; False if the socket takes no more."""
        with self._changed:
            parcel = self._departures.take()
            has_room = self._has_refused
            self._has_refused = False
        if parcel is None:
            return False
        if has_room and self._tell_room is not None:
            self._tell_room()
        try:
            coded = self._encoders.encode(self.encoder, parcel)
            if not coded.is_pixels:
                parcel.release()
            is_sent = self._line.send_frame(parcel, coded)
        except VdagError as err:
            logger.debug("edge to %s: frame not sent: %s", self.address, err)
            self._fail(parcel, "encoder")
            return True
        if not is_sent:  # the connection went while the frame was encoded
            self._fail(parcel, "link")
            return False
        with self._changed:
            self._departures.sent(self._line.number, time.monotonic_ns(), self._window.size)
        parcel.release()  # copied into the message, unless the line has it
        return True

    def _fail(self, parcel: Parcel, reason: Reason) -> None:
        self._encoders.want_key(parcel.head.job, parcel.head.header.stream)
        with self._changed:
            drop = self._departures.fail(reason)
            self._changed.notify_all()
        self._tell([drop])

    def _read_answers(self, now_ns: int) -> None:
        while self._answers:
            answer = self._answers.popleft()
            if isinstance(answer, link.KeyFrameWanted):
                self._encoders.want_key(answer.job, answer.stream)
            elif self._line.hear(answer, now_ns):
                self._read_receipt(answer, now_ns)

    def _read_receipt(self, receipt: link.Receipt, now_ns: int) -> None:
        with self._changed:
            receipts = self._departures.confirm(receipt.ranges)
            self._changed.notify_all()
        if receipts.arrived:
            trip = receipts.arrived[-1]
            self._window.confirm(now_ns - trip.sent_ns, alone=trip.alone, was_full=trip.was_full)
        self._lose(receipts.lost)

    def _lose(self, drops: list[Drop]) -> None:
        """Start over with a link that has lost frames: what is behind it may have changed."""
        if not drops:
            return
        self._window.lose()
        self._line.start_over()
        for drop in drops:
            self._encoders.want_key(drop.head.job, drop.head.header.stream)
        with self._changed:
            self._changed.notify_all()
        self._tell(drops)
