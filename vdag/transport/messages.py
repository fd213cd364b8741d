"""What exchanges, workers and jobs of a node tell each other beside descriptors; no I/O.

A message is one part: `MAGIC`, then the MessagePack of an array whose first item names the kind.
A descriptor begins with another magic, so that both travel over the same sockets:

    Join, Leave, CreditWanted        job -> exchange
    Dropped, Grant                   exchange -> job's home, among the descriptors that come home
    Hello, Ready, Done               worker -> exchange
    Batch, Stop                      exchange -> worker

Everything is checked before it becomes objects: the size of the whole, then the fields' types and
lengths while they are read. Whatever is not exactly such a message is a `FrameFormatError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from vdag._native import header
from vdag.errors import FrameFormatError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "MAGIC",
    "MAX_BATCH",
    "MAX_NBYTES",
    "TIMES",
    "Batch",
    "CreditWanted",
    "Done",
    "Dropped",
    "Failure",
    "Grant",
    "Hello",
    "Join",
    "Leave",
    "Message",
    "Ready",
    "Stop",
    "Way",
    "clip",
    "decode",
    "encode",
    "is_control",
]

MAGIC = b"VCTL"
#: Most bytes of a message: a few of the largest contexts.
MAX_NBYTES = 4 * header.MAX_CONTEXT_NBYTES
#: Most frames of one `Batch` or `Done`.
MAX_BATCH = 256
#: Most characters of an error text or a traceback.
MAX_TEXT = 16_384
#: Pseudo-task in the context of a frame that workers have seen: task to `[start_ns, end_ns, pid,
#: arrived_ns, nbytes, batch]`, begin and end of the batch the frame was in, the worker's process,
#: and when its exchange got the frame, all by `time.monotonic_ns()` of that host; of a frame that
#: came from another node, the bytes of the message; the frames of the batch. What comes last may be
#: left out if it is 0, or a batch of 1. No task can be named so.
TIMES = "@times"

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
Endpoint = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
Token = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
Count = Annotated[int, msgspec.Meta(ge=1, le=4096)]
Number = Annotated[int, msgspec.Meta(ge=0)]
Part = Annotated[bytes, msgspec.Meta(max_length=MAX_NBYTES)]
#: A `Graph` that `Graph.check` has completed: the JSON of its `to_dag()`.
Dag = Annotated[bytes, msgspec.Meta(max_length=1 << 18)]


class Way(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How a job's frames go on from a node that they visit to the next one.

    Attributes:
        address: of the next node's landing.
        name: under which keys know it; empty without keys.
        policy: see `vdag.transport.edge.Edge`.
        encoder: what becomes of the pixels.
        number: of `jpeg` the quality, of `h264` the bits per second, else 0.
        fps: of `h264`, else 0.
    """

    address: Endpoint
    name: Annotated[str, msgspec.Meta(max_length=64)]
    policy: Literal["block", "latest"]
    encoder: Literal["raw", "jpeg", "h264"]
    number: Annotated[int, msgspec.Meta(ge=0, le=1 << 40)] = 0
    fps: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.0


class Join(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="join"):
    """A job is going to send frames.

    Attributes:
        job: its id, unique on the node; joining again replaces what was said before.
        home: address of the socket its descriptors come home to, in the exchange's folder.
        graph: see `Dag`; tells its workers where a task's inputs come from. Empty: inputs are
            matched by field name along the route, the latest task before first.
        ways: to another node: where its frames go on to from there, other than home.
    """

    job: Name
    home: Endpoint
    graph: Dag = b""
    ways: Annotated[list[Way], msgspec.Meta(max_length=256)] = []


class Leave(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="leave"):
    """A job has ended: its waiting frames are dropped as `cancelled`, its home is forgotten."""

    job: Name


class CreditWanted(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="wanted"
):
    """A job asks for places for `count` frames at a task of policy `block`; see `Grant`."""

    job: Name
    task: Name
    count: Count


class Grant(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="grant"):
    """A job may send `count` more frames to a task."""

    task: Name
    count: Count


class Dropped(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="dropped"
):
    """A frame will not come home.

    Attributes:
        job: the job it belongs to.
        stream: number of its stream.
        seq: position in the stream.
        plan: number of its plan.
        task: where on its route it was.
        reason: one of `vdag.transport.books.REASONS`.
        where: address of the exchange that dropped it.
        detail: for people: the error and traceback of the task, the end of the worker; may be
            empty.
    """

    job: Name
    stream: Number
    seq: Number
    plan: Number
    task: Name
    reason: Name
    where: Endpoint
    detail: Text = ""


class Hello(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="hello"):
    """A worker has loaded its task and listens."""

    worker: Name
    token: Token
    pid: Annotated[int, msgspec.Meta(ge=1, le=1 << 22)]


class Ready(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="ready"):
    """A worker will take `credit` more frames, at most `max_batch` of them at once."""

    worker: Name
    token: Token
    credit: Count
    max_batch: Annotated[int, msgspec.Meta(ge=1, le=MAX_BATCH)]


class Failure(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="failure"
):
    """A task raised on one frame; the worker is well.

    Attributes:
        error: type and text of the exception.
        traceback: as Python prints it.
    """

    error: Text
    traceback: Text = ""


class Found(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="found"):
    """A task is through with one frame: its whole context from now on, packed as in `context`."""

    context: Part


class Done(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="done"):
    """What a worker made of one `Batch`.

    Attributes:
        worker: its name.
        token: what it was given at its start.
        batch: `Batch.id`.
        frames: one per frame of the batch, in its order.
        start_ns: when the task began, `time.monotonic_ns()`; several batches worked on together
            have the same.
        end_ns: when it ended.
        credit: frames that the worker will take beyond those it had credit for, as in `Ready`.
    """

    worker: Name
    token: Token
    batch: Number
    frames: Annotated[list[Found | Failure], msgspec.Meta(min_length=1, max_length=MAX_BATCH)]
    start_ns: Number
    end_ns: Number
    credit: Annotated[int, msgspec.Meta(ge=0, le=4096)] = 0


class Batch(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="batch"):
    """Frames for a worker to work on.

    Attributes:
        id: for the answer.
        frames: descriptors, each its first part; there is no second.
        graphs: per job its `Join.graph`, for jobs this worker has not been told about yet.
        ended: jobs that it need not remember.
        arrived_ns: per frame when the exchange got it, `time.monotonic_ns()`; empty for not said.
    """

    id: Number
    frames: Annotated[list[Part], msgspec.Meta(min_length=1, max_length=MAX_BATCH)]
    graphs: Annotated[dict[Name, Dag], msgspec.Meta(max_length=MAX_BATCH)] = {}
    ended: Annotated[list[Name], msgspec.Meta(max_length=4096)] = []
    arrived_ns: Annotated[list[Number], msgspec.Meta(max_length=MAX_BATCH)] = []


class Stop(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="stop"):
    """The worker holds nothing any more and ends."""


Message = Batch | CreditWanted | Done | Dropped | Grant | Hello | Join | Leave | Ready | Stop

_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(Message)


def is_control(part: Buffer) -> bool:
    """Say whether a received part is one of these messages, rather than a descriptor."""
    return bytes(memoryview(part)[: len(MAGIC)]) == MAGIC


def encode(message: Message) -> bytes:
    """Write a message.

    Raises:
        FrameFormatError: it is larger than `MAX_NBYTES`, or a text is no valid text.
    """
    try:
        body = _ENCODER.encode(message)
    except (UnicodeEncodeError, OverflowError) as err:
        raise FrameFormatError(f"{type(message).__name__} cannot travel: {err}") from err
    if len(MAGIC) + len(body) > MAX_NBYTES:
        raise FrameFormatError(
            f"{type(message).__name__} of {len(MAGIC) + len(body)} bytes exceeds limit {MAX_NBYTES}"
        )
    return MAGIC + body


def decode(part: Buffer) -> Message:
    """Read a message.

    Args:
        part: as it was received: a contiguous buffer.

    Raises:
        FrameFormatError: it is no message, or a limit is exceeded.
    """
    view = memoryview(part)
    if view.nbytes > MAX_NBYTES:
        raise FrameFormatError(f"message of {view.nbytes} bytes exceeds limit {MAX_NBYTES}")
    if not is_control(view):
        raise FrameFormatError(f"magic {bytes(view[: len(MAGIC)])!r} is not {MAGIC!r}")
    try:
        message: Message = _DECODER.decode(view[len(MAGIC) :])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise FrameFormatError(f"message is malformed: {err}") from err
    return message


def clip(text: str, limit: int = MAX_TEXT) -> str:
    """Shorten a text to what may travel; of a traceback the end says most, so the end stays."""
    clean = text.encode("utf-8", "replace").decode()
    return clean if len(clean) <= limit else f"...{clean[3 - limit :]}"
