"""`PlacesOfPlans`: where the nodes that a plan of the documented REST names are."""

from __future__ import annotations

from collections.abc import Mapping

from vdag.control.cluster import Cluster
from vdag.errors import ConfigError
from vdag.plan import Plan

__all__ = ["PlacesOfPlans"]


class PlacesOfPlans:
    """Finds the nodes of plans; see `job.Resolve`.

    Args:
        address: of this node.
        cluster: who knows the others.
    """

    def __init__(self, address: str, cluster: Cluster) -> None:
        self._address, self._cluster = address, cluster

    def __call__(self, plan: Plan) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """Return task to address, and address to name, for the tasks of other nodes.

        Raises:
            ConfigError: there is no way to a node.
        """
        for task, placement in plan.flow_mapping.items():
            if placement.node_role != "host" and placement.node_ip not in ("", self._address):
                raise ConfigError(f"flow_mapping.{task}: there is no way to {placement.node_ip}")
        return {}, {}
