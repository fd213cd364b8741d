"""Questions and answers between hosts: a REQ that never hangs, a ROUTER that answers at leisure.

The side that can be reached binds a `Replier`, the others dial it with a `Requester`, so that a
node behind a NAT takes part. The framing on the wire is REQ's (ZeroMQ RFC 28), so that any REQ can
ask. What a question says is the caller's affair: one part of bytes, bounded.

    Requester     ask -> take            one question at a time, with a dead-line for each
    Replier       receive -> reply       in any order, each question once, or never

A question that is not answered in time is given up together with its socket: the next one goes out
over a fresh connection, after a pause that doubles from `MIN_PAUSE_S` to `MAX_PAUSE_S`. So an
answer can never be taken for that of another question, and whoever asks again after a loss may be
heard twice: questions have to be idempotent, or carry numbers.

Neither end has a thread or a clock: they belong to a loop that polls `socket` and says what time it
is (`now_ns`, `time.monotonic_ns()`).
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from typing import Any

import zmq

from vdag.errors import ChannelClosed, FrameFormatError, TransportError
from vdag.transport.channel import bound_address
from vdag.transport.sockets import (
    HEARTBEAT_MS,
    SILENCE_MS,
    Curve,
    attach,
    check_to_bind,
    check_to_connect,
    new_socket,
)

__all__ = ["MAX_NBYTES", "Backoff", "Question", "Replier", "ReplierStats", "Requester"]

logger = logging.getLogger(__name__)

#: Most bytes of a question or an answer, unless the caller says otherwise.
MAX_NBYTES = 4 << 20
#: Questions, and answers, that a ROUTER holds of each peer. A REQ has one under way.
DEPTH = 8
#: Frames before the empty one: the connection, REQ's number, and those of a proxy or two.
MAX_ENVELOPE = 6
#: Longest frame of an envelope: names of connections are no longer.
MAX_NAME_NBYTES = 256
MIN_PAUSE_S, MAX_PAUSE_S = 0.1, 1.0


class Backoff:
    """How long to wait after the nth failure in a row: from `MIN_PAUSE_S`, doubled each time.

    Of each pause, up to half is left to chance, so that a thousand nodes that lost the same
    controller do not come back in the same moment.
    """

    def __init__(self, *, least_s: float = MIN_PAUSE_S, most_s: float = MAX_PAUSE_S) -> None:
        self._least_s, self._most_s = least_s, most_s
        self._failures = 0
        self._chance = random.Random()

    @property
    def failures(self) -> int:
        """In a row, up to now."""
        return self._failures

    def fail(self) -> int:
        """Count a failure; return how long to wait, in ns."""
        # 2**30 pauses are more than a century; the exponent must not grow for ever.
        pause_s = min(self._least_s * 2.0 ** min(self._failures, 30), self._most_s)
        self._failures += 1
        return int(pause_s * (1.0 - self._chance.random() / 2) * 1e9)

    def succeed(self) -> None:
        """Begin anew."""
        self._failures = 0


class Requester:
    """The end that asks; for one thread.

    Args:
        address: of a `Replier`, which need not exist yet: `tcp://HOST:PORT`.
        context: of the caller, who ends it after `close`.
        curve: keys, with the public one of the other end; beyond loopback there is no way without.
        max_nbytes: longest answer; the connection that announces a longer one is closed.

    Raises:
        ConfigError: the address has no meaning, or is beyond loopback without keys.

    Attributes:
        socket: to be polled for input. It is another one after each failure: look again.
    """

    def __init__(
        self,
        address: str,
        *,
        context: zmq.Context[zmq.Socket[bytes]],
        curve: Curve | None = None,
        max_nbytes: int = MAX_NBYTES,
    ) -> None:
        self._target = check_to_connect(address, DEPTH, curve)
        self._address, self._context = address, context
        self._curve, self._max_nbytes = curve, max_nbytes
        self._backoff = Backoff()
        self._answer_due_ns: int | None = None
        self._pause_until_ns = 0
        self.socket = self._connect()

    @property
    def failures(self) -> int:
        """Questions in a row that got no answer."""
        return self._backoff.failures

    @property
    def is_waiting(self) -> bool:
        """Whether a question is under way."""
        return self._answer_due_ns is not None

    def may_ask(self, now_ns: int) -> bool:
        """Say whether a question may be asked: none is under way, and no pause is being made."""
        return self._answer_due_ns is None and now_ns >= self._pause_until_ns

    def due_ns(self, now_ns: int) -> int | None:
        """Return when `expire` or `may_ask` will next say something else, None for never."""
        if self._answer_due_ns is not None:
            return self._answer_due_ns
        return self._pause_until_ns if self._pause_until_ns > now_ns else None

    def ask(self, body: bytes, *, now_ns: int, timeout_s: float) -> None:
        """Ask; the answer comes by `take`, or `expire` says that none does.

        Raises:
            TransportError: a question is under way, a pause is being made, or the socket broke.
            ChannelClosed: after `close`.
        """
        if self.socket.closed:
            raise ChannelClosed(f"requester to {self._address} is closed")
        if not self.may_ask(now_ns):
            raise TransportError(f"a question to {self._address} is under way, or a pause")
        try:
            self.socket.send(body, zmq.NOBLOCK)
        except zmq.ZMQError as err:
            self.fail(now_ns)
            raise TransportError(
                f"question to {self._address} cannot be sent: {str(err).lower()}"
            ) from err
        self._answer_due_ns, self._pause_until_ns = now_ns + int(timeout_s * 1e9), 0

    def take(self, now_ns: int) -> bytes | None:
        """Return the answer if it has come; it is then for the caller to say if it makes sense.

        An answer of several parts is none: the question has failed then.
        """
        try:
            parts = self.socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return None
        except zmq.ZMQError as err:
            # EFSM: nothing was asked, or what came was no answer to it.
            logger.debug("no answer from %s: %s", self._address, err)
            return None
        if self._answer_due_ns is None:
            return None
        if len(parts) != 1:
            logger.debug("answer of %d parts from %s ignored", len(parts), self._address)
            self.fail(now_ns)
            return None
        self._answer_due_ns = None
        self._backoff.succeed()
        return parts[0]

    def expire(self, now_ns: int) -> bool:
        """Give the question up if its time is over; return whether that is so."""
        if self._answer_due_ns is None or now_ns < self._answer_due_ns:
            return False
        self.fail(now_ns)
        return True

    def fail(self, now_ns: int) -> None:
        """Give up the question, if there is one, and the connection; the next may be after a pause.

        The caller's way to refuse an answer that makes no sense.
        """
        self.socket.close(linger=0)
        self._answer_due_ns = None
        self._pause_until_ns = now_ns + self._backoff.fail()
        self.socket = self._connect()

    def close(self) -> None:
        """Give up whatever is under way; may be called again."""
        self._answer_due_ns = None
        self.socket.close(linger=0)

    def __enter__(self) -> Requester:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _connect(self) -> zmq.Socket[bytes]:
        socket = new_socket(self._context, zmq.REQ, self._target, self._curve)
        socket.setsockopt(zmq.SNDHWM, DEPTH)
        socket.setsockopt(zmq.RCVHWM, DEPTH)
        # The number that goes with the question has to come back with the answer.
        socket.setsockopt(zmq.REQ_CORRELATE, 1)
        socket.setsockopt(zmq.REQ_RELAXED, 1)
        if self._target.scheme == "tcp":
            socket.setsockopt(zmq.MAXMSGSIZE, self._max_nbytes)
            # Otherwise a connection that a NAT forgot is found out by the time-out alone.
            socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
            socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, SILENCE_MS)
        return attach(socket, self._address, bind=False)


@dataclass(frozen=True, slots=True)
class Question:
    """What came in at a `Replier`.

    Attributes:
        envelope: the way back.
        body: what is asked.
        peer: public key of who asks, empty without keys.
    """

    envelope: tuple[bytes, ...]
    body: bytes
    peer: str = ""


@dataclass(frozen=True, slots=True)
class ReplierStats:
    """What became of the messages.

    Attributes:
        questions: that could be read.
        malformed: messages that no REQ sends; they were ignored.
        answers: that went out.
        gone: answers to somebody who is not connected any more, or does not read them.
    """

    questions: int
    malformed: int
    answers: int
    gone: int


class Replier:
    """The end that answers; for one thread.

    Args:
        address: to listen at: `tcp://HOST:PORT`, port 0 for any free one.
        context: of the caller, who ends it after `close`. With keys, a `keys.Gate` guards it.
        curve: keys; beyond loopback there is no way without.
        max_nbytes: longest question; the connection that announces a longer one is closed.

    Raises:
        ConfigError: the address has no meaning, or is beyond loopback without keys.
        TransportError: the address cannot be bound.

    Attributes:
        socket: to be polled for input.
        bound: where it listens, with the port that was free.
    """

    def __init__(
        self,
        address: str,
        *,
        context: zmq.Context[zmq.Socket[bytes]],
        curve: Curve | None = None,
        max_nbytes: int = MAX_NBYTES,
    ) -> None:
        target = check_to_bind(address, DEPTH, curve)
        self._has_keys = curve is not None
        self._questions = self._malformed = self._answers = self._gone = 0
        socket = new_socket(context, zmq.ROUTER, target, curve)
        socket.setsockopt(zmq.SNDHWM, DEPTH)
        socket.setsockopt(zmq.RCVHWM, DEPTH)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # so that `reply` knows who is gone
        if target.scheme == "tcp":
            socket.setsockopt(zmq.MAXMSGSIZE, max_nbytes)
        self.socket = attach(socket, address, bind=True)
        self.bound = bound_address(self.socket)

    def receive(self) -> Question | None:
        """Return the next question, None if there is none now; what is no question is counted."""
        while True:
            try:
                frames = self._read()
            except zmq.Again:
                return None
            except FrameFormatError as err:
                logger.debug("message at %s ignored: %s", self.bound, err)
                self._malformed += 1
                continue
            self._questions += 1
            peer = str(frames[-1].get("User-Id")) if self._has_keys else ""
            return Question(tuple(frame.bytes for frame in frames[:-2]), frames[-1].bytes, peer)

    def reply(self, question: Question, body: bytes) -> bool:
        """Answer a question; False if who asked is gone, which is nobody's fault.

        The same question must not be answered twice: REQ ignores the second answer, but somebody
        has to be wrong then.
        """
        try:
            self.socket.send_multipart([*question.envelope, b"", body], zmq.NOBLOCK)
        except zmq.ZMQError as err:
            if err.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise TransportError(f"answer cannot be sent: {str(err).lower()}") from err
            self._gone += 1
            return False
        self._answers += 1
        return True

    def stats(self) -> ReplierStats:
        """Return what became of the messages."""
        return ReplierStats(self._questions, self._malformed, self._answers, self._gone)

    def close(self) -> None:
        """Listen no more; may be called again."""
        self.socket.close(linger=0)

    def __enter__(self) -> Replier:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _read(self) -> list[zmq.Frame]:
        """Return one message: envelope, empty frame, body.

        A message comes whole, so that reading its frames never waits; those of one that is too long
        are let go at once.
        """
        frames: list[Any] = [self.socket.recv(zmq.NOBLOCK, copy=False)]
        count = 1
        while frames[-1].more:
            frame = self.socket.recv(zmq.NOBLOCK, copy=False)
            count += 1
            if count > MAX_ENVELOPE + 2:
                frames[-1] = frame
            else:
                frames.append(frame)
        _check_frames(frames, count)
        return frames


def _check_frames(frames: list[zmq.Frame], count: int) -> None:
    if not 3 <= count <= MAX_ENVELOPE + 2:
        raise FrameFormatError(f"message of {count} frames is not 3 to {MAX_ENVELOPE + 2}")
    if len(frames[-2]):
        raise FrameFormatError("no empty frame before the body")
    if any(not 1 <= len(frame) <= MAX_NAME_NBYTES for frame in frames[:-2]):
        raise FrameFormatError(f"frame of an envelope is not 1 to {MAX_NAME_NBYTES} bytes")
