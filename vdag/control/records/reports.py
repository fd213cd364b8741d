"""`Report`: what a node says of itself, its handlers and their packets, typed; `read_report`.

The rows are tuples in the order of their tables' columns: they go to the database as they are.

A report comes as JSON too, from nodes that know no other way:

    {"sys_info":    [{"timestamp": 1795302130.80, "cpu_util": 5.9, "mem_total": 24152,
                      "mem_util": 6.9, "gpu_info": [{"gpu_id": 0, "gpu_util": 10, ...}]}],
     "proc_info":   [{"timestamp": 1795302130.81, "session_id": 3, "handler_id": 0,
                      "cpu_util": 0.0, "mem_util": 0.24, "gpu_info": []}],
     "packet_info": [{"timestamp": 1795302130.78, "session_id": 3, "handler_id": 2,
                      "sequence": 2, "event": "sent", "size": 17875}]}

Whoever takes it in knows whose it is; a `node_id` that it may have is not looked at here. Events
are `start`, `end`, `sent` and `recv`; `send` and `receive` are the same in other words, and
`session_ID` is `session_id`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from vdag.errors import ConfigError

__all__ = ["EVENTS", "GpuSample", "HandlerGpu", "HandlerSample", "NodeSample", "Packet",
           "PacketRow", "Report", "read_owner", "read_report"]  # fmt: skip

#: In the order in which a packet has them.
EVENTS = ("recv", "start", "end", "sent")
#: INT of the documents, in every database.
MAX_INT = (1 << 31) - 1
#: Year 5138; a double holds it to 16 microseconds.
MAX_TIMESTAMP = 1e11
#: Tables of a report.
TABLES = frozenset({"packet_info", "proc_info", "sys_info"})
#: What bytes that are no report may lead to.
MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class NodeSample(NamedTuple):
    """A row of `sys_info`: a node at a time; the GPU is its first one.

    Attributes:
        timestamp: seconds since the epoch.
        node_id: of the node.
        cpu_util: of all cores, 0 to 100.
        mem_total: MiB.
        mem_util: 0 to 100.
        gpu_util: 0 to 100; None without a GPU, as of the others.
        gpu_mem_util: likewise, of its memory's bandwidth.
        gpu_clock: MHz.
        gpu_power: W.
    """

    timestamp: float
    node_id: int
    cpu_util: float | None = None
    mem_total: int | None = None
    mem_util: float | None = None
    gpu_util: int | None = None
    gpu_mem_util: int | None = None
    gpu_clock: int | None = None
    gpu_power: int | None = None


class GpuSample(NamedTuple):
    """A row of `gpu_info`: any GPU of a node at a time."""

    timestamp: float
    node_id: int
    gpu_id: int
    gpu_util: int | None = None
    gpu_mem_util: int | None = None
    gpu_clock: int | None = None
    gpu_power: int | None = None


class HandlerSample(NamedTuple):
    """A row of `proc_info`: a handler at a time; fields as of `NodeSample`."""

    timestamp: float
    session_id: int
    handler_id: int
    cpu_util: float | None = None
    mem_util: float | None = None
    gpu_util: int | None = None
    gpu_mem_util: int | None = None
    node_id: int | None = None


class HandlerGpu(NamedTuple):
    """A row of `proc_gpu_info`: what a handler takes of any GPU."""

    timestamp: float
    session_id: int
    handler_id: int
    gpu_id: int
    gpu_util: int | None = None
    gpu_mem_util: int | None = None


class Packet(NamedTuple):
    """A row of `packet_info`: what became of a packet at a handler.

    Attributes:
        timestamp: when, seconds since the epoch.
        session_id: of the session.
        handler_id: of the handler, within its session.
        sequence: of the packet, from 0.
        event: one of `EVENTS`.
        size: bytes that were sent or received; None of the others.
        node_id: where the handler is; None if that is not known.
    """

    timestamp: float
    session_id: int
    handler_id: int
    sequence: int
    event: str
    size: int | None = None
    node_id: int | None = None


#: A `Packet`, or the plain tuple of its fields, which is made in a third of the time.
PacketRow = tuple[float, int, int, int, str, int | None, int | None]


@dataclass(frozen=True, slots=True)
class Report:
    """Rows that are recorded together, or not at all.

    Attributes:
        packets: events of packets, in any order.
        nodes: samples of nodes.
        gpus: of all their GPUs.
        handlers: samples of handlers.
        handler_gpus: what these take of all GPUs.
    """

    packets: Sequence[PacketRow] = ()
    nodes: Sequence[NodeSample] = ()
    gpus: Sequence[GpuSample] = ()
    handlers: Sequence[HandlerSample] = ()
    handler_gpus: Sequence[HandlerGpu] = ()

    @property
    def parts(self) -> tuple[Sequence[tuple[Any, ...]], ...]:
        """The rows by table, in the order of the fields."""
        return self.packets, self.nodes, self.gpus, self.handlers, self.handler_gpus

    def __len__(self) -> int:
        return sum(map(len, self.parts))


_Stamp = Annotated[float, msgspec.Meta(ge=0, le=MAX_TIMESTAMP)]
_Id = Annotated[int, msgspec.Meta(ge=0, le=MAX_INT)]
_Int = Annotated[int, msgspec.Meta(ge=-MAX_INT - 1, le=MAX_INT)]
#: Beyond what any of these can be, and well within what MySQL's FLOAT holds.
_Load = Annotated[float, msgspec.Meta(ge=-1e9, le=1e9)]
_Event = Literal["start", "end", "sent", "recv", "send", "receive"]
_EVENT = {"send": "sent", "receive": "recv"} | {event: event for event in EVENTS}


class _Gpu(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    gpu_id: _Id = 0
    gpu_util: _Int | None = None
    gpu_mem_util: _Int | None = None
    gpu_clock: _Int | None = None
    gpu_power: _Int | None = None


class _Node(msgspec.Struct, forbid_unknown_fields=True):
    timestamp: _Stamp
    cpu_util: _Load | None = None
    mem_total: _Id | None = None
    mem_util: _Load | None = None
    gpu_util: _Int | None = None
    gpu_mem_util: _Int | None = None
    gpu_clock: _Int | None = None
    gpu_power: _Int | None = None
    gpu_info: list[_Gpu] = []
    node_id: int | None = None


class _Handler(msgspec.Struct, forbid_unknown_fields=True):
    timestamp: _Stamp
    session_id: _Id
    handler_id: _Id
    cpu_util: _Load | None = None
    mem_util: _Load | None = None
    gpu_util: _Int | None = None
    gpu_mem_util: _Int | None = None
    gpu_info: list[_Gpu] = []
    node_id: int | None = None


class _Packet(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    timestamp: _Stamp
    session_id: _Id
    handler_id: _Id
    sequence: _Id
    event: _Event
    size: _Id | None = None
    node_id: int | None = None


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    node_id: int | None = None
    sys_info: list[_Node] = []
    proc_info: list[_Handler] = []
    packet_info: list[_Packet] = []


class _Owner(msgspec.Struct):
    node_id: int | None = None


_decoder = msgspec.json.Decoder(_Document)
_owner_decoder = msgspec.json.Decoder(_Owner)


def read_report(body: bytes, node_id: int, *, latest_s: float = MAX_TIMESTAMP) -> Report:
    """Read the JSON of a report.

    Args:
        body: of at most as many bytes as the caller takes.
        node_id: whose it is; what the report says of it is passed over.
        latest_s: seconds since the epoch that no row may be after.

    Raises:
        ConfigError: it is malformed: a table or column is unknown, or a value has no meaning.
    """
    try:
        found = _decode(body)
    except MALFORMED as err:
        raise _malformed(err) from err
    rows = (found.packet_info, found.sys_info, found.proc_info)
    newest_s = max((row.timestamp for part in rows for row in part), default=0.0)
    if newest_s > latest_s:
        # It would stay for ever: rows go by their age.
        raise ConfigError(f"timestamp {newest_s:.3f} is ahead of {latest_s:.3f}, the latest")
    return _typed(found, node_id)


def read_owner(body: bytes) -> int | None:
    """Return the `node_id` beside the tables of a report; None if it has none.

    Raises:
        ConfigError: it is no JSON of an object, or that is no number.
    """
    try:
        return _owner_decoder.decode(body).node_id
    except MALFORMED as err:
        raise _malformed(err) from err


def _malformed(err: Exception) -> ConfigError:
    text = str(err)
    return ConfigError(f"report is malformed: {text[:1].lower()}{text[1:300]}")


def _typed(found: _Document, node_id: int) -> Report:
    return Report(
        [
            Packet(p.timestamp, p.session_id, p.handler_id, p.sequence, _EVENT[p.event], p.size,
                   node_id)
            for p in found.packet_info
        ],
        [_node_sample(sample, node_id) for sample in found.sys_info],
        [
            GpuSample(s.timestamp, node_id, g.gpu_id, g.gpu_util, g.gpu_mem_util, g.gpu_clock,
                      g.gpu_power)
            for s in found.sys_info
            for g in s.gpu_info
        ],
        [_handler_sample(sample, node_id) for sample in found.proc_info],
        [
            HandlerGpu(s.timestamp, s.session_id, s.handler_id, g.gpu_id, g.gpu_util,
                       g.gpu_mem_util)
            for s in found.proc_info
            for g in s.gpu_info
        ],
    )  # fmt: skip


def _decode(body: bytes) -> _Document:
    try:
        return _decoder.decode(body)
    except msgspec.ValidationError as err:
        document = msgspec.json.decode(body)
        if not isinstance(document, dict):
            raise
        small = {name: _in_small_letters(name, rows) for name, rows in document.items()}
        try:
            return msgspec.convert(small, _Document)
        except msgspec.ValidationError:
            raise err from None  # it speaks of what was sent


def _in_small_letters(name: str, rows: Any) -> Any:
    """Return the rows of a table with the names of its columns as we write them."""
    if name not in TABLES or not isinstance(rows, list):
        return rows
    return [
        {column.lower(): value for column, value in row.items()} if isinstance(row, dict) else row
        for row in rows
    ]


def _node_sample(sample: _Node, node_id: int) -> NodeSample:
    first = sample.gpu_info[0] if sample.gpu_info else sample
    return NodeSample(
        sample.timestamp,
        node_id,
        sample.cpu_util,
        sample.mem_total,
        sample.mem_util,
        first.gpu_util,
        first.gpu_mem_util,
        first.gpu_clock,
        first.gpu_power,
    )


def _handler_sample(sample: _Handler, node_id: int) -> HandlerSample:
    first = sample.gpu_info[0] if sample.gpu_info else sample
    return HandlerSample(
        sample.timestamp,
        sample.session_id,
        sample.handler_id,
        sample.cpu_util,
        sample.mem_util,
        first.gpu_util,
        first.gpu_mem_util,
        node_id,
    )
