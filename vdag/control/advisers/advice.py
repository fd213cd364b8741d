"""What is said between the controller and an adviser, the process that a user's policy runs in.

Over two pipes, in frames of four bytes of length, least significant first, and as much MessagePack.
The adviser is told its `Instructed` first; it answers `Loaded` or `Refused`. Then it is told one
`Asked` at a time, and answers each by `Advised` or `NoAdvice` of the same number. If its policy
takes the profile, it is told that by `Informed` before the first `Asked`, and again when it has
changed; it answers `Loaded` or `Refused`. Nothing that it says is believed before it is checked.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from vdag.control.profile import Profile
from vdag.control.scheduling.instructions import Question
from vdag.control.scheduling.surroundings import Snapshot, Surroundings
from vdag.errors import FrameFormatError

__all__ = [
    "MAX_ANSWER_NBYTES",
    "MAX_REASON",
    "Advised",
    "Asked",
    "FrameReader",
    "Informed",
    "Instructed",
    "Loaded",
    "NoAdvice",
    "Refused",
    "Reply",
    "decode_order",
    "decode_reply",
    "frame",
]

#: Of a frame from an adviser: a plan of 64 tasks has some 20 KB.
MAX_ANSWER_NBYTES = 1 << 20
#: Of a frame to an adviser, from a controller that it may trust.
MAX_QUESTION_NBYTES = 64 << 20
#: Characters of a reason.
MAX_REASON = 400
PREFIX = 4


class Instructed(msgspec.Struct, tag=True, frozen=True):
    """What an adviser is for.

    Attributes:
        policy: whose function it calls.
        parent: pid of the process that started it, with which it dies.
    """

    policy: str
    parent: int


class Informed(msgspec.Struct, tag=True, frozen=True):
    """What is known of tasks, as the document of a profile; in place of what was told before."""

    document: bytes


class Asked(msgspec.Struct, tag=True, frozen=True):
    """A question to answer.

    Attributes:
        number: of the question.
        question: its surroundings are a `Snapshot`, whose profile does not travel.
        lessons: what has changed of the profile that was told, see `knowledge`; may be empty.
    """

    number: int
    question: Question
    lessons: bytes = b""


class Loaded(msgspec.Struct, tag=True, frozen=True):
    """The policy is there, or what it was informed of.

    Attributes:
        takes_profile: it wants to be informed.
    """

    takes_profile: bool = False


class Refused(msgspec.Struct, tag=True, frozen=True):
    """The policy cannot be loaded, or not informed; the process ends."""

    reason: str


class Advised(msgspec.Struct, tag=True, frozen=True):
    """What the policy has returned, unchecked."""

    number: int
    video_conf: Any
    flow_mapping: Any
    resource_limit: Any
    memory: Any = None
    explanation: Any = None


class NoAdvice(msgspec.Struct, tag=True, frozen=True):
    """The policy has raised, or returned what is no plan by its shape."""

    number: int
    reason: str


Order = Instructed | Informed | Asked
Reply = Loaded | Refused | Advised | NoAdvice

_T = TypeVar("_T")


def _read(kind: type, value: Any) -> Any:
    """Return the surroundings of a question, which travel as a snapshot without a profile."""
    assert kind is Surroundings, "nothing else in a question has more than one form"
    return msgspec.convert(value, Snapshot)


_ORDERS: msgspec.msgpack.Decoder[Order] = msgspec.msgpack.Decoder(Order, dec_hook=_read)
_REPLIES: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def frame(message: Order | Reply) -> bytes:
    """Return a message as it stands in the pipe.

    Raises:
        TypeError: a policy has returned what cannot be said: no text, number, list or mapping.
    """
    body = msgspec.msgpack.encode(message, enc_hook=_plain)
    return len(body).to_bytes(PREFIX, "little") + body


def decode_order(body: bytes) -> Order:
    """Read what the controller has said.

    Raises:
        FrameFormatError: it is something else.
    """
    return _decode(_ORDERS, body)


def decode_reply(body: bytes) -> Reply:
    """Read what an adviser has said.

    Raises:
        FrameFormatError: it is something else.
    """
    return _decode(_REPLIES, body)


class FrameReader:
    """Cuts what comes out of a pipe into frames; holds less than one frame and one read.

    Args:
        max_nbytes: of one frame's body.
    """

    def __init__(self, max_nbytes: int) -> None:
        self._max_nbytes = max_nbytes
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Return the bodies that are complete now.

        Raises:
            FrameFormatError: a frame is too long; what follows makes no sense any more.
        """
        self._rest += data
        bodies = []
        while len(self._rest) >= PREFIX:
            nbytes = int.from_bytes(self._rest[:PREFIX], "little")
            if nbytes > self._max_nbytes:
                raise FrameFormatError(f"frame of {nbytes} bytes exceeds {self._max_nbytes}")
            if len(self._rest) < PREFIX + nbytes:
                break
            bodies.append(bytes(self._rest[PREFIX : PREFIX + nbytes]))
            del self._rest[: PREFIX + nbytes]
        return bodies


def _decode(decoder: msgspec.msgpack.Decoder[_T], body: bytes) -> _T:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise FrameFormatError(f"no message: {err}") from err


def _plain(value: Any) -> Any:
    """Return numbers of numpy and its like as Python's own, and nothing for a profile."""
    if isinstance(value, Profile):
        return None
    item = getattr(value, "item", None)
    if callable(item):
        return item()
    raise TypeError(f"a plan has no {type(value).__name__} in it")
