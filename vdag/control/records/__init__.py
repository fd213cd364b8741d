"""Records: queries, plans and results, and what became of every packet, in SQL.

Store          opens a database; writes by one thread, in batches; reads past it
ForeignNode    `Store.foreigners`: a node that speaks only the documented REST
Logbook        `Store.log`: reports of nodes, sessions, placements
Journal        `Store.journal`: the same of our own nodes, which name queries and each other
FrameResult    what a node has found in one frame, as it is kept; `read_frame` makes it
Report         what a node says of itself, its handlers and their packets; `read_report` reads one,
               `packets_of` makes the rows of a frame
"""

from __future__ import annotations

from vdag.control.records.ageing import Retention
from vdag.control.records.foreigners import ForeignNode
from vdag.control.records.frames import FrameResult, read_frame
from vdag.control.records.journal import Entry, Journal, NodeLook, Passage
from vdag.control.records.lessons import Lesson, Topic
from vdag.control.records.logbook import Logbook, LogStats
from vdag.control.records.names import Cast, NodePlace
from vdag.control.records.opening import database_url
from vdag.control.records.packets import Stop, packets_of
from vdag.control.records.reports import (
    EVENTS,
    GpuSample,
    HandlerGpu,
    HandlerSample,
    NodeSample,
    Packet,
    Report,
    read_owner,
    read_report,
)
from vdag.control.records.sessions import (
    Handler,
    NewSession,
    NodeRecord,
    PlacementRecord,
    SessionRecord,
)
from vdag.control.records.store import Store, StoreStats
from vdag.control.records.transaction import Stored
from vdag.control.records.values import (
    ENDED,
    NewQuery,
    PlanRecord,
    QueryRecord,
    ResultRecord,
    read_query_id,
    write_query_id,
)

__all__ = [
    "ENDED",
    "EVENTS",
    "Cast",
    "Entry",
    "ForeignNode",
    "FrameResult",
    "GpuSample",
    "Handler",
    "HandlerGpu",
    "HandlerSample",
    "Journal",
    "Lesson",
    "LogStats",
    "Logbook",
    "NewQuery",
    "NewSession",
    "NodeLook",
    "NodePlace",
    "NodeRecord",
    "NodeSample",
    "Packet",
    "Passage",
    "PlacementRecord",
    "PlanRecord",
    "QueryRecord",
    "Report",
    "ResultRecord",
    "Retention",
    "SessionRecord",
    "Stop",
    "Store",
    "StoreStats",
    "Stored",
    "Topic",
    "database_url",
    "packets_of",
    "read_frame",
    "read_owner",
    "read_query_id",
    "read_report",
    "write_query_id",
]
