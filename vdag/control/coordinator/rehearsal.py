"""`Rehearsal`: what handlers take where they have never been, found out before a session starts.

A session's nodes open its tasks when it is made. Those that a node has not done yet are tried there
on a picture of the capture's size, and what its placement comes to is said anew by what that took.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vdag.control.coordination.values import Node
from vdag.control.coordinator.ours import OurNodes, Probe
from vdag.control.coordinator.placer import Placer
from vdag.control.coordinator.roster import Roster
from vdag.control.coordinator.values import Deployment
from vdag.errors import PlanError

__all__ = ["Rehearsal"]

#: A prediction is replaced by one that differs by that.
NEWS = 0.01


class Rehearsal:
    """See above; for one thread.

    Args:
        ours: the nodes.
        placer: knows what handlers take, and learns it.
        nodes: of the files.
    """

    def __init__(self, ours: OurNodes, placer: Placer, nodes: Sequence[Node]) -> None:
        self._ours, self._placer, self._nodes = ours, placer, tuple(nodes)

    def init(self, deployment: Deployment, node_id: int, roster: Roster) -> Probe:
        """Have a node open tasks, and try those that it has not done yet.

        Raises:
            PlanError: the node has not joined.
        """
        chart, learned = deployment.chart, self._placer.learned
        assert chart is not None, "it is on our nodes"
        addr = roster.addr(node_id)
        tasks = deployment.tasks_on(node_id, deployment.target)
        specs = {task: deployment.service.by_id[chart.handlers[task]] for task in tasks}
        with_trial = any(
            learned.at(spec, node_id) is None and learned.tried(spec, node_id) is None
            for spec in specs.values()
        )
        probe = self._ours.init(deployment, addr, tasks, with_trial=with_trial)

        def probe_and_learn() -> str | None:
            reason = probe()
            if reason == "" and with_trial:
                for task, seconds in self._ours.trials(addr, tasks).items():
                    learned.add_trial(specs[task], node_id, seconds)
            return reason

        return probe_and_learn

    def foretell(self, deployment: Deployment, roster: Roster) -> None:
        """Say anew what a session's placement comes to.

        Policies are told what they may expect of its handlers, wherever these may be.
        """
        nodes = [
            node for node in self._nodes if node.speaks == "vdag" and roster.is_there(node.node_id)
        ]
        service, before = deployment.service, deployment.placement
        situation = self._ours.situation(service, deployment.chart, roster)
        costs = self._placer.expected(service, nodes, situation)
        self._ours.expect(deployment, costs, roster)
        try:
            told = self._placer.tell(service, before.nodes, nodes, situation)
        except PlanError:  # a node is gone, which the session's start will come upon
            return
        if abs(told.delay_s - before.delay_s) > NEWS * before.delay_s:
            why = f"{before.why}; {1e3 * told.delay_s:.1f} ms since its handlers were tried"
            deployment.placement = replace(told, why=why, algorithm=before.algorithm)
