"""`Circumstances`: what is recorded of a session beside its packets, as much as a page shows.

It is made where the records are, and small enough to be told over REST however long a session was.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vdag.control.accounts.account import STRETCHES, Change, Load, Series, stretch_of
from vdag.control.records import NodeSample, PlacementRecord, PlanRecord
from vdag.control.records.inspection import Inspection, Subject

__all__ = ["HOLD_S", "MAX_NODES", "Circumstances", "circumstances_of"]

#: Of each, how many are shown: by number, the newest.
MAX_NODES, MAX_CHANGES, MAX_PLACEMENTS = 12, 100, 200
#: Plans that are read, so many as are kept of a query.
PLANS = 1100
#: A sample stands for what follows it, so long at most.
HOLD_S = 5.0


@dataclass(frozen=True, slots=True)
class Circumstances:
    """See above; attributes as of `Account`."""

    changes: Sequence[Change] = ()
    changes_left_out: int = 0
    loads: Sequence[Load] = ()
    placements: Sequence[PlacementRecord] = ()
    placements_left_out: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)


def circumstances_of(
    inspection: Inspection, subject: Subject, begin_s: float, end_s: float, nodes: frozenset[int]
) -> Circumstances:
    """Return the circumstances of a session.

    Args:
        inspection: of the records.
        subject: the session.
        begin_s: of the time axis, seconds since the epoch.
        end_s: likewise; later.
        nodes: that are of interest, beside those where its handlers were.
    """
    placements = inspection.placements(subject.session_id)
    plans = _plans(inspection, subject)
    nodes |= {each.node_id for each in placements}
    return Circumstances(
        [_change(plan) for plan in plans[-MAX_CHANGES:]],
        max(0, len(plans) - MAX_CHANGES),
        _loads(inspection.samples(begin_s, end_s), nodes, begin_s, end_s),
        placements[-MAX_PLACEMENTS:],
        max(0, len(placements) - MAX_PLACEMENTS),
        _dropped(inspection, subject),
    )


def _plans(inspection: Inspection, subject: Subject) -> list[PlanRecord]:
    number = subject.session.query_id if subject.session is not None else None
    return [] if number is None else inspection.plans(number, limit=PLANS)


def _dropped(inspection: Inspection, subject: Subject) -> dict[str, int]:
    number = subject.session.query_id if subject.session is not None else None
    return {} if number is None else inspection.dropped(number)


def _change(plan: PlanRecord) -> Change:
    explanation = _object(plan.decision.get("explanation"))
    why = explanation.get("why")
    return Change(
        plan.number,
        plan.at_s,
        plan.cause,
        why if isinstance(why, str) else "",
        ", ".join(_settings(_object(plan.documents.get("video_conf")))),
        ", ".join(_places(_object(plan.documents.get("flow_mapping")))),
    )


def _settings(conf: Mapping[str, Any]) -> Iterator[str]:
    size = conf.get("resolution", conf.get("reso"))
    for value, unit in ((size, ""), (conf.get("fps"), " fps"), (conf.get("encoder"), "")):
        if value is not None:
            yield f"{value}{unit}"


def _places(mapping: Mapping[str, Any]) -> Iterator[str]:
    for task, place in mapping.items():
        found = _object(place)
        where = found.get("node_addr") or found.get("node_ip") or "?"
        yield f"{task} on {where}, model {found.get('model_id', '?')}"


def _object(value: Any) -> Mapping[str, Any]:
    """Return an object of a document that others have made."""
    return value if isinstance(value, Mapping) else {}


def _loads(
    samples: Iterable[NodeSample], nodes: Iterable[int], begin_s: float, end_s: float
) -> list[Load]:
    wanted = frozenset(sorted(nodes)[:MAX_NODES])
    scale = STRETCHES / (end_s - begin_s)
    sums: dict[tuple[int, str], list[list[float]]] = {}
    for sample in samples:
        if sample.node_id not in wanted:
            continue
        index = stretch_of(sample.timestamp - begin_s, scale)
        measured = {"cpu": sample.cpu_util, "memory": sample.mem_util, "gpu": sample.gpu_util}
        for name, value in measured.items():
            if value is not None and math.isfinite(value):
                key = (sample.node_id, name)
                cells = sums.setdefault(key, [[0.0, 0.0] for _ in range(STRETCHES)])
                cells[index][0] += value
                cells[index][1] += 1
    found: dict[int, dict[str, Series]] = {}
    for (node_id, name), cells in sums.items():
        means = [total / count if count else None for total, count in cells]
        found.setdefault(node_id, {})[name] = _held(means, int(HOLD_S * scale))
    return [Load(node_id, found[node_id]) for node_id in sorted(found)]


def _held(means: Iterable[float | None], count: int) -> list[float | None]:
    """Return a series in which a value goes on for so many stretches, while there is no other."""
    found: list[float | None] = []
    last, left = None, 0
    for mean in means:
        if mean is not None:
            last, left = mean, count
        found.append(mean if mean is not None or left <= 0 else last)
        left -= mean is None
    return found
