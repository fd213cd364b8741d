"""What is recorded of a session so that it can be taken up again."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vdag.control.coordination.documents import service_of
from vdag.control.coordination.placing import Placement
from vdag.control.coordination.types import HandlerType
from vdag.control.coordination.values import Node
from vdag.control.coordinator.graphs import chart_of
from vdag.control.coordinator.states import State
from vdag.control.coordinator.values import Deployment, written
from vdag.control.records import SessionRecord, Store, write_query_id
from vdag.errors import ConfigError, VdagError

__all__ = ["Remembered", "blueprint_of", "remembered", "spared"]

logger = logging.getLogger(__name__)

#: A session that went on when the coordinator ended, and how it stood.
Remembered = tuple[Deployment, State]
#: Sessions that are looked through at the start.
MAX_SESSIONS = 1_000
OVER = frozenset({State.STOPPED, State.FAILED, State.DELETED})

#: Marks what a coordinator has recorded: queries have sessions, too.
MAKER = "coordinator"


def blueprint_of(deployment: Deployment) -> dict[str, Any]:
    """Return the document that a session can be made of again."""
    return {
        "made_by": MAKER,
        "speaks": deployment.speaks,
        "service": written(deployment.service),
        "placement": {str(number): node for number, node in deployment.placement.nodes.items()},
        "blueprints": {str(node): each for node, each in deployment.blueprints.items()},
        "open_to": {str(node): sorted(each) for node, each in deployment.open_to.items()},
    }


def remembered(
    store: Store, nodes: Sequence[Node], types: Mapping[int, HandlerType]
) -> list[Remembered]:
    """Return the sessions that a coordinator has made and that were not over when it ended.

    Those that cannot go on, since what they need is not there any more, have failed from now on.

    Raises:
        Saturated: the records cannot be read.
    """
    found: list[Remembered] = []
    for record in store.log.sessions(limit=MAX_SESSIONS):
        try:
            state = State(record.state)
            if state in OVER:
                continue
            placed = {
                each.handler_id: each.node_id
                for each in store.log.placements(record.session_id)
                if each.until_s is None
            }
            deployment = _read(record, placed, nodes, types)
        except (VdagError, ValueError, LookupError, TypeError) as err:
            logger.warning("session %d cannot go on: %s", record.session_id, err)
            store.log.set_session_state(record.session_id, State.FAILED.value, str(err))
            continue
        if deployment is not None:
            found.append((deployment, state))
    return found


def spared(sessions: Iterable[Remembered]) -> frozenset[str]:
    """Return the tasks that nodes go on with for these sessions."""
    charts = (deployment.chart for deployment, state in sessions if state is State.RUNNING)
    return frozenset(task for chart in charts if chart is not None for task in chart.tasks.values())


def _read(
    record: SessionRecord,
    latest: Mapping[int, int],
    nodes: Sequence[Node],
    types: Mapping[int, HandlerType],
) -> Deployment | None:
    """Return a session that was recorded; None for one that no coordinator has made.

    Args:
        record: of it.
        latest: where its handlers were last; empty for where they were first.
        nodes: of the files.
        types: of handlers.

    Raises:
        VdagError: what it needs is not there any more.
    """
    found = record.blueprint or {}
    if found.get("made_by") != MAKER:
        return None
    service = service_of(found["service"], nodes, types, origin=f"session {record.session_id}")
    placed = {int(number): int(node) for number, node in found["placement"].items()}
    placed.update(latest)
    numbers = {node.node_id for node in nodes}
    if gone := sorted(set(placed.values()) - numbers):
        raise ConfigError(f"node {gone[0]} is of no node file any more")
    is_ours = found["speaks"] == "vdag"
    return Deployment(
        record.session_id,
        record.name,
        service,
        found["speaks"],
        Placement(placed, 0.0, (), "as it was", (), service.algorithm),
        cause="the coordinator was started",
        chart=chart_of(service, types, record.session_id) if is_ours else None,
        query_id="" if record.query_id is None else write_query_id(record.query_id),
        blueprints={int(node): each for node, each in found["blueprints"].items()},
        changed_s=record.started_s or 0.0,
        created_s=record.created_s,
        open_to={int(node): frozenset(each) for node, each in found["open_to"].items()},
    )
