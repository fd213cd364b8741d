"""Records: queries, plans, results and drops in SQL, so that they outlive the cloud's process.

Store          opens a database; writes by one thread, in batches; reads past it
FrameResult    what a node has found in one frame, as it is kept; `read_frame` makes it
"""

from __future__ import annotations

from vdag.control.records.frames import FrameResult, read_frame
from vdag.control.records.store import Retention, Store, StoreStats
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
    "FrameResult",
    "NewQuery",
    "PlanRecord",
    "QueryRecord",
    "ResultRecord",
    "Retention",
    "Store",
    "StoreStats",
    "read_frame",
    "read_query_id",
    "write_query_id",
]
