"""Explanations: what a decision was, what else was weighed, and which bound stands in the way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from vdag.control.policies.calling import Answer
from vdag.control.prediction import Candidate, Outlook, Prediction, predict_on
from vdag.errors import PlanError

__all__ = ["MAX_ALTERNATIVES", "Weighed", "answer_with", "bound_of"]

#: Alternatives that are written down.
MAX_ALTERNATIVES = 12
#: Accuracies are predicted no better than this.
ACCURACY_SLACK = 1e-9

#: A candidate that was weighed, and what became of it.
Weighed = tuple[Candidate, str]


def answer_with(
    chosen: Candidate,
    outlook: Outlook,
    why: str,
    *,
    weighed: Sequence[Weighed] = (),
    memory: Any = None,
    is_kept: bool = False,
    inputs: dict[str, Any] | None = None,
    resource_limit: Any = None,
) -> Answer:
    """Return the answer that asks for a candidate and says why.

    Args:
        chosen: all of whose nodes are alive.
        outlook: that predictions are made with.
        why: in words.
        weighed: what else was looked at.
        memory: see `Answer`.
        is_kept: the constraint is kept, by what was measured; else the explanation says which bound
            the plan is predicted to miss, and by how much, if it is.
        inputs: numbers of the policy's own.
        resource_limit: see `Answer`.
    """
    around = outlook.question.around
    nodes = {addr: around.get(addr) for addr in chosen.nodes.values()}
    alive = {addr: node for addr, node in nodes.items() if node is not None}
    predicted = predict_on(chosen, outlook)
    explanation = {
        "why": why,
        "predicted": predicted.to_document(),
        "alternatives": _alternatives(chosen, outlook, weighed),
        "bound": None if is_kept else bound_of(predicted, outlook),
        "inputs": {**_inputs(outlook), **(inputs or {})},
    }
    mapping = chosen.mapping_document(around.host, alive)
    return Answer(chosen.conf_document(), mapping, resource_limit, memory, explanation)


def bound_of(predicted: Prediction, outlook: Outlook) -> dict[str, Any] | None:
    """Return which bound a prediction misses and by how much, None for none.

    `capacity` is the ratio of what would be taken of a worker, node or link to what may be.
    """
    if predicted.crowding > 1 + 1e-6:
        return _missed("capacity", 1.0, predicted.crowding)
    if predicted.delay_p95_s > outlook.bound_s:
        return _missed("delay", outlook.bound_s, predicted.delay_p95_s)
    if outlook.asked is not None and predicted.accuracy < outlook.asked - ACCURACY_SLACK:
        return _missed("accuracy", outlook.asked, predicted.accuracy)
    return None


def _missed(what: str, limit: float, best: float) -> dict[str, Any]:
    return {
        "what": what,
        "limit": limit,
        "best": round(best, 6),
        "short_by": round(abs(best - limit), 6),
    }


def _alternatives(
    chosen: Candidate, outlook: Outlook, weighed: Sequence[Weighed]
) -> list[dict[str, Any]]:
    seen = {chosen.key}
    found: list[dict[str, Any]] = []
    for candidate, verdict in weighed:
        if candidate.key in seen or len(found) == MAX_ALTERNATIVES:
            continue
        seen.add(candidate.key)
        try:
            predicted = predict_on(candidate, outlook)
        except PlanError:  # a node of it is gone, which the verdict says
            continue
        found.append(
            {
                "video_conf": candidate.conf_document(),
                "flow_mapping": dict(candidate.nodes),
                "models": dict(candidate.models),
                "predicted": predicted.to_document(),
                "verdict": verdict or _verdict(predicted, outlook),
            }
        )
    return found


def _verdict(predicted: Prediction, outlook: Outlook) -> str:
    """Say what stands in the way of a candidate, by its prediction."""
    if predicted.crowding > 1:
        return f"takes {predicted.crowding:.2f} times what it may"
    if predicted.delay_p95_s > outlook.bound_s:
        return f"95 % within {predicted.delay_p95_s:.3g} s, not {outlook.bound_s:.3g} s"
    if outlook.asked is not None and predicted.accuracy < outlook.asked:
        return f"accuracy {predicted.accuracy:.3f}, not {outlook.asked:.3f}"
    return f"95 % within {predicted.delay_p95_s:.3g} s, too close to the bound"


def _inputs(outlook: Outlook) -> dict[str, Any]:
    question = outlook.question
    known: dict[str, Any] = {"cause": question.cause, "now_s": round(question.now_s, 3)}
    if math.isfinite(outlook.bound_s):
        known["bound_delay"] = outlook.bound_s
    if outlook.asked is not None:
        known["bound_accuracy"] = outlook.asked
    # To find the nodes takes longer than all the rest; where nothing was searched, none count.
    searched = {"nodes": len(outlook.nodes)} if outlook.has_searched else {}
    return {**known, **outlook.measured.to_document(), **searched}
