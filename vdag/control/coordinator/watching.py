"""`Watch`: what happens to sessions on our nodes without anybody being told.

Their job ends or fails; a node is lost, or has more to do than it can; somebody else has made their
plan: the scheduler, which helps itself at once when a node is lost, or a policy. A session that has
lost a node, or lies on one that is overloaded, is placed anew, if that is any better.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from dataclasses import replace
from typing import Any

from vdag.control.coordination.placing import Part, Placement
from vdag.control.coordination.values import Node
from vdag.control.coordinator.costs import Situation
from vdag.control.coordinator.graphs import Chart
from vdag.control.coordinator.measured import (
    delay_of,
    foretold_parts,
    measured_parts,
    slowest_way,
)
from vdag.control.coordinator.ours import OurNodes, placed_by
from vdag.control.coordinator.placer import POLICY, Placer, split_algorithm
from vdag.control.coordinator.roster import Roster
from vdag.control.coordinator.states import Session, State
from vdag.control.coordinator.steps import Event, Lost, MoveWanted, Over
from vdag.control.coordinator.values import Deployment
from vdag.control.desk import QueryView
from vdag.control.scheduling.events import QueryState
from vdag.errors import PlanError, VdagError

__all__ = ["Watch"]

#: Between two attempts to place a session that cannot be placed, and two looks at its nodes' load.
RETRY_NS = 2_000_000_000
REVIEW_NS = 5_000_000_000
#: Between two lessons that a session gives.
LESSON_NS = 1_000_000_000
#: A node is overloaded whose cores do nothing else for so long, in looks at it.
FULL, LOOKS = 0.95, 3
#: A session is moved for what is better by that.
GAIN = 0.2
#: Characters of what a policy says why.
MAX_WHY = 400
#: What is measured so soon after a change may be of before.
FRESH_S = 2.0


class Watch:
    """See above; for one thread.

    Args:
        ours: the nodes.
        placer: places anew, and learns.
        nodes: of the files.
    """

    def __init__(self, ours: OurNodes, placer: Placer, nodes: Sequence[Node]) -> None:
        self._ours, self._placer, self._nodes = ours, placer, tuple(nodes)
        self._next_ns: dict[int, int] = {}
        self._reviews: dict[int, int] = {}
        self._lessons: dict[int, int] = {}
        self._plans: dict[int, tuple[Any, bool]] = {}
        self._full: dict[tuple[int, int], int] = {}

    def look(self, deployment: Deployment, session: Session, now_ns: int) -> list[Event]:
        """Return what has happened to a session; its placement may be another then.

        Raises:
            PlanError: something of it cannot be told now.
        """
        if deployment.speaks != "vdag":
            return []
        roster = self._ours.roster(self._nodes)
        lost = [each for each in deployment.nodes if not roster.is_there(each)]
        if session.state is not State.RUNNING:
            return self._lost_under_way(session, lost, now_ns)
        view = self._ours.look(deployment)
        if view is None or view.state >= QueryState.ENDED:
            reason = "its job is not known any more" if view is None else view.reason
            has_failed = view is None or view.state == QueryState.FAILED
            return [Over(now_ns, session.session_id, reason or "its job is over", has_failed)]
        deployment.trouble = ""
        if deployment.home in lost:
            deployment.trouble = f"node {deployment.home}, which captures, is away"
            return []
        if session.move is not None:
            return self._lost_under_way(session, lost, now_ns)
        self._follow(deployment, view, roster)
        if now_ns >= self._lessons.get(session.session_id, 0):
            self._lessons[session.session_id] = now_ns + LESSON_NS
            self._learn(deployment, view, roster)
        lost = [each for each in lost if each in deployment.placement.nodes.values()]
        if lost:
            return self._leave(deployment, lost, roster, now_ns)
        return self._review(deployment, roster, now_ns)

    def forget(self, session_id: int) -> None:
        """Forget a session."""
        for known in (self._next_ns, self._reviews, self._lessons):
            known.pop(session_id, None)
        self._plans.pop(session_id, None)
        self._full = {key: looks for key, looks in self._full.items() if key[0] != session_id}

    def follow(self, deployment: Deployment) -> None:
        """Take note of the plan that a session has begun with, if it can be told what that is."""
        view = self._ours.look(deployment) if deployment.speaks == "vdag" else None
        if view is not None:
            with suppress(VdagError, FutureTimeout):
                self._follow(deployment, view, self._ours.roster(self._nodes))

    def measured(self, deployment: Deployment) -> dict[str, Any]:
        """Return what the session's job has measured last; empty for nothing."""
        view = self._ours.look(deployment)
        if view is None or deployment.chart is None:
            return {}
        found = measured_parts(view, deployment.chart)
        if not found:
            return {}
        return {
            "delay_s": delay_of(found, deployment.chart),
            "parts": {str(number): each._asdict() for number, each in sorted(found.items())},
        }

    def _lost_under_way(self, session: Session, lost: Sequence[int], now_ns: int) -> list[Event]:
        waits_for = session.waiting if session.step is not None else set()
        moving = set() if session.move is None else session.move.nodes
        return [
            Lost(now_ns, session.session_id, node_id, "it is away")
            for node_id in lost
            if node_id in waits_for or node_id in moving
        ]

    def _follow(self, deployment: Deployment, view: QueryView, roster: Roster) -> None:
        """Take note of a plan that somebody else has made."""
        chart = deployment.chart
        assert chart is not None, "it is on our nodes"
        names = placed_by(view)
        if names.keys() != chart.handlers.keys():
            return
        placed = roster.numbers({chart.handlers[task]: name for task, name in names.items()})
        if placed is None:
            deployment.trouble = "its plan names a node that is of no node file"
            return
        placed[chart.capture] = deployment.home
        is_elsewhere = placed != dict(deployment.placement.nodes)
        is_policy = split_algorithm(deployment.service.algorithm)[0] == POLICY
        # A plan is news, and so is that its policy has been heard.
        number = None if view.plan is None else view.plan.get("number")
        stamp = number, bool(foretold_parts(view, chart))
        is_news = is_policy and self._plans.get(deployment.session_id) != stamp
        if not (is_elsewhere or is_news):
            return
        deployment.cause = "policy" if is_policy else "node lost"
        told = self._told(deployment, placed, roster)
        deployment.placement = _foretold(told, view, chart) if is_policy else told
        self._plans[deployment.session_id] = stamp
        if is_elsewhere:
            deployment.changed_s = time.time()

    def _told(self, deployment: Deployment, placed: Mapping[int, int], roster: Roster) -> Placement:
        situation = self._situation(deployment, roster)
        nodes = [node for node in self._nodes if node.node_id in set(placed.values())]
        found = self._placer.tell(deployment.service, placed, nodes, situation)
        why = f"as the scheduler has planned it: {found.delay_s * 1e3:.1f} ms"
        return replace(found, why=why, algorithm=deployment.service.algorithm)

    def _learn(self, deployment: Deployment, view: QueryView, roster: Roster) -> None:
        """Take in what packets have taken, unless it may be of another placement."""
        chart = deployment.chart
        assert chart is not None, "it is on our nodes"
        if time.time() - deployment.changed_s >= FRESH_S:
            found = measured_parts(view, chart)
            if found:
                self._placer.learn(deployment, found, self._situation(deployment, roster))

    def _leave(
        self, deployment: Deployment, lost: Sequence[int], roster: Roster, now_ns: int
    ) -> list[Event]:
        """Place a session anew that has lost nodes."""
        names = ", ".join(f"node {each}" for each in lost)
        deployment.trouble = f"{names} is away"
        if now_ns < self._next_ns.get(deployment.session_id, 0):
            return []
        self._next_ns[deployment.session_id] = now_ns + RETRY_NS
        try:
            target = self._place(deployment, roster, without=lost)
        except PlanError as err:
            deployment.trouble = f"{names} is away, and it cannot be placed otherwise: {err}"
            return []
        return [self._move(deployment, target, f"{names} lost", now_ns)]

    def _review(self, deployment: Deployment, roster: Roster, now_ns: int) -> list[Event]:
        """See whether a node of a session has too much to do, and another has not."""
        if now_ns < self._reviews.get(deployment.session_id, 0) or deployment.open_to:
            return []
        self._reviews[deployment.session_id] = now_ns + REVIEW_NS
        situation = self._situation(deployment, roster)
        full = [each for each in deployment.nodes if self._is_full(deployment, each, situation)]
        if not full:
            return []
        try:
            target = self._place(deployment, roster)
        except PlanError:
            return []
        now = self._told(deployment, deployment.placement.nodes, roster)
        is_better = target.delay_s < (1 - GAIN) * now.delay_s or (
            bool(now.overloads) and not target.overloads
        )
        if not is_better or target.nodes == deployment.placement.nodes:
            return []
        names = ", ".join(f"node {each}" for each in full)
        return [self._move(deployment, target, f"{names} overloaded", now_ns)]

    def _is_full(self, deployment: Deployment, node_id: int, situation: Situation) -> bool:
        key = deployment.session_id, node_id
        info = situation.infos.get(node_id)
        ratios = [] if info is None else info.resources.get("cpu_ratio") or []
        is_full = bool(ratios) and sum(ratios) / len(ratios) / 100 >= FULL
        self._full[key] = self._full.get(key, 0) + 1 if is_full else 0
        return self._full[key] >= LOOKS

    def _place(
        self, deployment: Deployment, roster: Roster, without: Sequence[int] = ()
    ) -> Placement:
        nodes = [
            node for node in self._nodes if node.speaks == "vdag" and roster.is_there(node.node_id)
        ]
        situation = self._situation(deployment, roster)
        return self._placer.place(deployment.service, nodes, situation, without=without)

    def _situation(self, deployment: Deployment, roster: Roster) -> Situation:
        situation = self._ours.situation(
            deployment.service, deployment.chart, roster, deployment.query_id
        )
        fps = self._placer.fps(deployment.service)
        own: dict[int, float] = {}
        for number, node_id in deployment.placement.nodes.items():
            seconds = self._placer.learned.at(deployment.service.by_id[number], node_id)
            own[node_id] = own.get(node_id, 0.0) + fps * (seconds or 0.0)
        return replace(situation, own=own)

    @staticmethod
    def _move(deployment: Deployment, target: Placement, cause: str, now_ns: int) -> MoveWanted:
        before = deployment.placement
        deployment.target, deployment.target_cause = target, cause
        gains = tuple(
            node_id
            for node_id in sorted(set(target.nodes.values()))
            if deployment.tasks_on(node_id, target) - deployment.tasks_on(node_id, before)
        )
        return MoveWanted(now_ns, deployment.session_id, cause, gains)


def _foretold(told: Placement, view: QueryView, chart: Chart) -> Placement:
    """Return a placement with what the policy that has made it says it comes to, if it does."""
    found = foretold_parts(view, chart)
    delay_s = delay_of(found, chart)
    if delay_s is None:
        return told
    parts: list[Part] = []
    for number in slowest_way(found, chart):
        transfer_s, queue_s, compute_s, _ = found[number]
        node_id = told.nodes[number]
        parts += [
            Part("transfer", number, node_id, transfer_s),
            Part("wait", number, node_id, queue_s),
            Part("compute", number, node_id, compute_s),
        ]
    reason = str(view.decision["explanation"].get("why", ""))[:MAX_WHY]
    return replace(
        told,
        delay_s=delay_s,
        parts=tuple(part for part in parts if part.seconds > 0),
        why=f"{view.policy}: {delay_s * 1e3:.1f} ms, {reason}",
    )
