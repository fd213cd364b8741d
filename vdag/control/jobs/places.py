"""`PlacesOfPlans`: where the nodes that a plan of the documented REST names are."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from dataclasses import replace

from vdag.control.cluster import Cluster, NodeView
from vdag.control.rest.caller import check_place
from vdag.control.rest.services import SCHEME
from vdag.errors import ConfigError
from vdag.plan import Placement, Plan

__all__ = ["SERVICE_PORT", "PlacesOfPlans"]

#: Where programs of the first system look for the tasks of a node.
SERVICE_PORT = 5500


class PlacesOfPlans:
    """Finds the nodes of plans; see `intake.Resolve`.

    A plan names a node by its address. If that node is known, frames go to its landing; if not,
    it is one that does its tasks only by `/execute_task`. Roles only tell apart nodes that share
    an address, which the documents do not foresee; `host` is this node, unless the address is
    that of another one which is known.

    Args:
        address: of this node.
        cluster: who knows the others.
        service_port: of nodes that are not known.
    """

    def __init__(self, address: str, cluster: Cluster, *, service_port: int = SERVICE_PORT) -> None:
        self._address, self._cluster = _canonical(address), cluster
        self._service_port = service_port

    def __call__(self, plan: Plan) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """Return task to address, and address to name, for the tasks of other nodes.

        Raises:
            ConfigError: an address of the plan is none.
        """
        _, *others = self._cluster.nodes()
        routes: dict[str, str] = {}
        names: dict[str, str] = {}
        for task, placement in plan.flow_mapping.items():
            node = self._known(placement, others)
            if node is not None:
                routes[task] = node.landing
                if node.name:
                    names[node.landing] = node.name
            elif not self._is_here(placement):
                routes[task] = self._service(task, placement)
        return routes, names

    def fit(self, plan: Plan) -> Plan:
        """See `intake.Resolve.fit`."""
        mine, *others = self._cluster.nodes()
        mapping: dict[str, Placement] = {}
        for task, placement in plan.flow_mapping.items():
            node = self._known(placement, others)
            if node is None and self._is_here(placement):
                node = mine
            service = None if node is None else node.services.get(task)
            models = () if service is None else service.models
            mapping[task] = replace(placement, model_id=_nearest(placement.model_id, models))
        return replace(plan, flow_mapping=mapping)

    def _known(self, placement: Placement, others: list[NodeView]) -> NodeView | None:
        """Return the node that a placement means, if it is known, and not this one."""
        address = _canonical(placement.node_ip)
        found = [node for node in others if node.landing and _canonical(node.address) == address]
        if address == self._address:
            # Of two nodes with one address this one is meant, but for a role that it has not.
            found = [
                node
                for node in found
                if placement.node_role == node.role and placement.node_role != "host"
            ]
        return next(iter(sorted(found, key=lambda node: node.role != placement.node_role)), None)

    def _is_here(self, placement: Placement) -> bool:
        address = _canonical(placement.node_ip)
        return placement.node_role == "host" or address in ("", self._address)

    def _service(self, task: str, placement: Placement) -> str:
        ip = placement.node_ip
        place = f"{f'[{ip}]' if ':' in ip else ip}:{self._service_port}"
        try:
            check_place(place)
        except ConfigError as err:
            raise ConfigError(f"flow_mapping.{task}: {err}") from err
        return f"{SCHEME}{place}"


def _nearest(wanted: int, models: Collection[int]) -> int:
    """Return the model itself, the next larger one, or the largest; models not known will do."""
    larger = [model for model in models if model <= wanted]
    return max(larger, default=min(models, default=wanted))


def _canonical(address: str) -> str:
    """Return an address in the one way of writing it; a name as it is."""
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return address.lower()
