"""What is written and read: values without a database."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

__all__ = [
    "ENDED",
    "NewQuery",
    "PlanRecord",
    "QueryRecord",
    "ResultRecord",
    "read_query_id",
    "write_query_id",
]

#: States from this number on are final: 3 ended, 4 failed.
ENDED = 3
#: Older documents append `.SUB_ID` or `.SUB_ID_<n>`, for parts of a query that they never made.
_QUERY_ID = re.compile(r"GLOBAL_ID_([1-9]\d{0,15})(?:\.SUB_ID\w{0,16})?", re.ASCII)


def write_query_id(number: int) -> str:
    """Return the public name of a query."""
    return f"GLOBAL_ID_{number}"


def read_query_id(query_id: str) -> int:
    """Return the number of a query by its public name, 0 if it is none's."""
    found = _QUERY_ID.fullmatch(query_id) if len(query_id) < 64 else None
    return int(found[1]) if found else 0


@dataclass(frozen=True, slots=True)
class NewQuery:
    """A query that gets its id by being written.

    Attributes:
        node_addr: of the node that owns the video.
        video_id: of that node's videos.
        dag: `Graph.to_dag()`.
        constraint: the user's document.
        policy: name of the one that plans it.
        form: how it was written, see `Form`.
        plan: documents that a `static` policy keeps to, None for none.
    """

    node_addr: str
    video_id: int
    dag: Mapping[str, Any]
    constraint: Mapping[str, Any]
    policy: str = ""
    form: str = "pipeline"
    plan: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class PlanRecord:
    """A plan that a query was given.

    Attributes:
        number: counts the plans of a query.
        documents: `video_conf`, `flow_mapping`, `resource_limit`.
        cause: why it was made.
        at_s: when, seconds since the epoch.
        decision: what its policy was told and what it said, and what was measured then; empty for
            a plan that no policy has made.
    """

    number: int
    documents: Mapping[str, Any]
    cause: str = ""
    at_s: float = 0.0
    decision: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class QueryRecord:
    """A query as it is recorded.

    Attributes:
        query_id: `GLOBAL_ID_<n>`.
        asked: what was written first; its `constraint` is the present one.
        state: as the documents' number.
        reason: why it has ended or failed; empty before.
        suspended: its node was away.
        fault: what went wrong last without ending it; empty for nothing.
        created_s: seconds since the epoch.
        ended_s: likewise; None before.
        plan: the newest; None before the first.
    """

    query_id: str
    asked: NewQuery
    state: int = 0
    reason: str = ""
    suspended: bool = False
    fault: str = ""
    created_s: float = 0.0
    ended_s: float | None = None
    plan: PlanRecord | None = None

    @property
    def is_over(self) -> bool:
        """It has ended or failed, and stays so."""
        return self.state >= ENDED

    @property
    def next_number(self) -> int:
        """Number of the plan to come."""
        return self.plan.number + 1 if self.plan is not None else 1


@dataclass(frozen=True, slots=True)
class ResultRecord:
    """A result as it is recorded.

    Attributes:
        n_loop: position among the results of its query, which only grows.
        document: JSON of the frame object, with that `n_loop`.
    """

    n_loop: int
    document: bytes

    def read(self) -> dict[str, Any]:
        """Return the frame object."""
        found: dict[str, Any] = msgspec.json.decode(self.document)
        return found
