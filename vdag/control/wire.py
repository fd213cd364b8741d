"""What nodes and the controller tell each other over the plan channel; no I/O.

A message is one part: `MAGIC`, the version, then the MessagePack of an array whose first item names
the kind. A node asks on two lines, and each question has one kind of answer, or `Refused`:

    report      Join    -> Joined         who I am, what I offer, what I run
                Report  -> Reported       how I am, what my jobs found; answered at once
    orders      Await   -> Orders         held back until there is an order, at most `hold_s`

and on a third one says what is for the records alone, see `wire_log`.

Whoever starts draws a *session*. A node that was started anew, or a controller that was, is found
out by it: the one is refused until it has joined, the other says so by refusing everybody.

Orders are numbered within the two sessions, from 1 on; `Await.last_order` takes the receipt of all
up to it. Reports are numbered likewise: a report that comes twice is acted on once. Results carry
the run they belong to and their number in it, so that they can be sent until they are stored.

All of it comes from the network: the size of the whole is checked first, then types, ranges and
lengths while it is read. What nodes say in the documents' words travels as the JSON of an object,
bounded and unread (`Document`); `read_document` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from vdag.control.wire_log import Frames, Log, Logged, Look
from vdag.control.wire_orders import LimitTask, OpenTask, Order, SendPlan, StartJob, StopJob
from vdag.control.wire_terms import (
    MAX_DOCUMENT_NBYTES,
    MAX_RESULTS,
    Amount,
    Card,
    Document,
    Drops,
    Limits,
    Name,
    Number,
    Offer,
    Offers,
    Opened,
    Openings,
    Place,
    Port,
    Positive,
    Result,
    Role,
    Runtime,
    Session,
    Taken,
    Text,
    Video,
    View,
    Work,
    Works,
)
from vdag.errors import FrameFormatError
from vdag.transport.rpc import MAX_NBYTES

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "MAX_DOCUMENT_NBYTES",
    "MAX_NBYTES",
    "MAX_RESULTS",
    "VERSION",
    "Await",
    "Card",
    "Drops",
    "Frames",
    "Join",
    "Joined",
    "LimitTask",
    "Log",
    "Logged",
    "Look",
    "Message",
    "Offer",
    "OpenTask",
    "Opened",
    "Order",
    "Orders",
    "Refused",
    "Report",
    "Reported",
    "Result",
    "Runtime",
    "SendPlan",
    "StartJob",
    "StopJob",
    "Taken",
    "Video",
    "View",
    "Work",
    "decode",
    "encode",
    "read_document",
    "write_document",
]

#: Changes whenever a message does; both ends have to speak the same.
VERSION = 4
MAGIC = b"VPLN"
_PREFIX = MAGIC + bytes([VERSION])


class Join(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="join"):
    """A node introduces itself, again after every refusal.

    Attributes:
        node_addr: `ip:port`, which names it.
        session: drawn when it was started.
        name: of its configuration.
        role: of the device.
        port: of its service, 0 if it has none.
        landing: address that frames for it are sent to, empty for none.
        videos: by number.
        services: tasks it offers.
        jobs: that it runs right now.
        state: its machine: `device_state` and `summary`.
        limits: that it has been ordered to set, and has not been ordered to lift.
        openings: tasks that it has been ordered to do likewise, with the number of their workers.
    """

    node_addr: Name
    session: Session
    name: Text
    role: Role
    port: Port = 0
    landing: Place = ""
    videos: Annotated[dict[Number, Video], msgspec.Meta(max_length=1_024)] = {}
    services: Offers = {}
    jobs: Works = []
    state: Document = b""
    limits: Limits = {}
    openings: Openings = {}


class Joined(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="joined"
):
    """The answer to `Join`.

    Attributes:
        cloud: session of the controller.
        report_s: report at least this often.
        hold_s: `Await` is answered within this time.
        view: all nodes.
    """

    cloud: Session
    report_s: Annotated[float, msgspec.Meta(ge=0.01, le=60)]
    hold_s: Annotated[float, msgspec.Meta(ge=0.01, le=60)]
    view: View


class Report(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="report"
):
    """How a node is, and what its jobs found since the report before.

    Attributes:
        node_addr: who reports.
        session: of the node.
        cloud: of the controller it has joined.
        number: from 1 on, in these two sessions; sent again, it is the same report.
        view: version of the view it has.
        sent_ns: its clock when this leaves.
        offset_ns: the controller's clock minus its own, by what it knows.
        round_trip_ns: of the message this comes from, 0 if it knows nothing yet.
        state: as in `Join`; empty if it has not changed.
        services: likewise None.
        jobs: those that have changed.
        taken: plans that are in force.
        runtimes: latest of each job.
        drops: that have risen.
        bandwidth: bytes per second to other nodes, by `node_addr`.
        results: in the order they were made.
        refusals: tasks that cannot be limited, with the reason; empty for those that now can be.
        opened: what became of orders to do tasks.
    """

    node_addr: Name
    session: Session
    cloud: Session
    number: Positive
    view: Number
    sent_ns: Number
    offset_ns: int = 0
    round_trip_ns: Number = 0
    state: Document = b""
    services: Offers | None = None
    jobs: Works = []
    taken: Annotated[list[Taken], msgspec.Meta(max_length=MAX_RESULTS)] = []
    runtimes: Annotated[list[Runtime], msgspec.Meta(max_length=MAX_RESULTS)] = []
    drops: Annotated[list[Drops], msgspec.Meta(max_length=MAX_RESULTS)] = []
    bandwidth: Annotated[dict[Name, Amount], msgspec.Meta(max_length=MAX_RESULTS)] = {}
    results: Annotated[list[Result], msgspec.Meta(max_length=MAX_RESULTS)] = []
    refusals: Annotated[dict[Name, Text], msgspec.Meta(max_length=MAX_RESULTS)] = {}
    opened: Annotated[list[Opened], msgspec.Meta(max_length=MAX_RESULTS)] = []


class Reported(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="reported"
):
    """The answer to `Report`.

    Attributes:
        number: of the report.
        is_stored: its results need not be sent again.
        heard_ns: the controller's clock when it came.
        answered_ns: when this leaves.
        view: None if it has not changed.
    """

    number: Positive
    is_stored: bool
    heard_ns: Number
    answered_ns: Number
    view: View | None = None


class Await(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="await"):
    """A node is ready for orders, and has all up to `last_order`."""

    node_addr: Name
    session: Session
    cloud: Session
    last_order: Number


class Orders(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="orders"
):
    """All orders a node has not taken the receipt of, numbers rising; none if there are none."""

    orders: Annotated[list[Order], msgspec.Meta(max_length=MAX_RESULTS)] = []


class Refused(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="refused"
):
    """The question is not answered.

    Attributes:
        reason: for people.
        must_join: it would be, after a `Join`.
    """

    reason: Text
    must_join: bool = False


Message = Await | Join | Joined | Log | Logged | Orders | Refused | Report | Reported

_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """Write a message.

    Raises:
        FrameFormatError: it is larger than `MAX_NBYTES`, or a text or a number cannot be written.
    """
    try:
        part = _PREFIX + _ENCODER.encode(message)
    except (UnicodeEncodeError, OverflowError, RecursionError, TypeError) as err:
        raise FrameFormatError(f"{type(message).__name__} cannot travel: {err}") from err
    if len(part) > MAX_NBYTES:
        raise FrameFormatError(
            f"{type(message).__name__} of {len(part)} bytes exceeds limit {MAX_NBYTES}"
        )
    return part


def decode(part: Buffer) -> Message:
    """Read a message.

    Args:
        part: as it was received: a contiguous buffer.

    Raises:
        FrameFormatError: it is no message of this version, or a limit is exceeded.
    """
    view = memoryview(part).cast("B")
    if view.nbytes > MAX_NBYTES:
        raise FrameFormatError(f"message of {view.nbytes} bytes exceeds limit {MAX_NBYTES}")
    prefix = bytes(view[: len(_PREFIX)])
    if prefix[: len(MAGIC)] != MAGIC:
        raise FrameFormatError(f"magic {prefix[: len(MAGIC)]!r} is not {MAGIC!r}")
    if prefix != _PREFIX:
        version = prefix[-1] if len(prefix) == len(_PREFIX) else "none"
        raise FrameFormatError(f"version {version} of the plan channel is not {VERSION}")
    try:
        message: Message = _DECODER.decode(view[len(_PREFIX) :])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise FrameFormatError(f"message is malformed: {err}") from err
    return message


def write_document(document: Mapping[str, Any]) -> bytes:
    """Return the JSON of an object; numbers and arrays have to be Python's own.

    Raises:
        FrameFormatError: it cannot be written, or is longer than `MAX_DOCUMENT_NBYTES`.
    """
    try:
        text = msgspec.json.encode(document)
    except (TypeError, ValueError, OverflowError, RecursionError) as err:
        raise FrameFormatError(f"document cannot travel: {err}") from err
    if len(text) > MAX_DOCUMENT_NBYTES:
        raise FrameFormatError(f"document of {len(text)} bytes exceeds limit {MAX_DOCUMENT_NBYTES}")
    return text


def read_document(document: bytes) -> dict[str, Any]:
    """Return the object in a document, an empty one for none.

    Raises:
        FrameFormatError: it is no JSON of an object.
    """
    if not document:
        return {}
    try:
        found: dict[str, Any] = _DOCUMENTS.decode(document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise FrameFormatError(f"document is malformed: {err}") from err
    return found


_DOCUMENTS: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(dict[str, Any])
