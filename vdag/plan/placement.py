"""`Placement` and `ResourceLimit`: where a task runs, and what it may use there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vdag.errors import PlanError
from vdag.plan.fields import expect_number, expect_object, expect_text, told

__all__ = ["ROLES", "Placement", "ResourceLimit"]

#: What a node is to a query: the one that owns its video, another edge, a server.
ROLES = ("host", "edge", "cloud")
#: The documents say 0 large, 1 medium, 2 small; tasks of the user's own may have more.
MAX_MODEL_ID = 99
#: Of addresses; a name of the domain name system has at most 253 characters, a port at most 5.
MAX_ADDRESS = 260


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a task runs.

    The documents name a node by its `node_ip`. Several nodes may share one, so the scheduler also
    writes down which node it means: every placement of a plan that was sent has its `node_addr`.

    Attributes:
        node_ip: address of the node, without a port; empty if the role alone says enough.
        node_role: what the node is to the query: `host`, `edge`, `cloud`; empty for not said.
        model_id: which of the task's models.
        node_addr: `ip:port`, the node's name everywhere; empty until the scheduler has chosen.

    Raises:
        PlanError: it names no node at all, or a value is out of range.
    """

    node_ip: str
    node_role: str = "host"
    model_id: int = 0
    node_addr: str = ""

    def __post_init__(self) -> None:
        if self.node_role and self.node_role not in ROLES:
            raise PlanError(f"node_role {self.node_role!r} is unknown, expected {', '.join(ROLES)}")
        if not (self.node_ip or self.node_role or self.node_addr):
            raise PlanError("node_ip is missing, and so are node_role and node_addr")
        for name, address in (("node_ip", self.node_ip), ("node_addr", self.node_addr)):
            if len(address) > MAX_ADDRESS:
                raise PlanError(f"{name} of {len(address)} characters exceeds {MAX_ADDRESS}")
        if not 0 <= self.model_id <= MAX_MODEL_ID:
            raise PlanError(f"model_id {self.model_id} is not between 0 and {MAX_MODEL_ID}")

    @classmethod
    def from_document(cls, task: str, document: Any) -> Placement:
        """Read one entry of `flow_mapping`; a role that is not said stays open.

        Raises:
            PlanError: a field is of the wrong type or out of range; the text names the task.
        """
        where = f"flow_mapping.{task}"
        given = expect_object(where, document)
        model_id = given.get("model_id")
        if isinstance(model_id, bool) or not isinstance(model_id, (int, type(None))):
            raise PlanError(f"{where}.model_id is a number of a model, not {model_id!r}")
        texts = [expect_text(where, given, name) for name in ("node_ip", "node_role", "node_addr")]
        ip, role, addr = texts
        with told(where):
            return cls(ip, role, model_id or 0, addr)

    def to_document(self) -> dict[str, Any]:
        """Return the documents' form; `node_addr` is in it once it is known."""
        document: dict[str, Any] = {
            "model_id": self.model_id,
            "node_role": self.node_role,
            "node_ip": self.node_ip,
        }
        return {**document, "node_addr": self.node_addr} if self.node_addr else document


@dataclass(frozen=True, slots=True)
class ResourceLimit:
    """What the workers of a task may use of their machine, both above 0 to 1.

    Attributes:
        cpu_util_limit: share of the time of all cores.
        mem_util_limit: share of the memory.

    Raises:
        PlanError: a value is out of range.
    """

    cpu_util_limit: float = 1.0
    mem_util_limit: float = 1.0

    def __post_init__(self) -> None:
        for name in ("cpu_util_limit", "mem_util_limit"):
            value = getattr(self, name)
            if not 0 < value <= 1:
                raise PlanError(f"{name} {value:g} is not above 0 to 1")

    @classmethod
    def from_document(cls, task: str, document: Any) -> ResourceLimit:
        """Read one entry of `resource_limit`; what is left out is not limited.

        Raises:
            PlanError: a field is no number or out of range; the text names the task.
        """
        where = f"resource_limit.{task}"
        given = expect_object(where, document)
        with told(where):
            return cls(
                *(
                    1.0 if given.get(name) is None else expect_number(name, given[name])
                    for name in ("cpu_util_limit", "mem_util_limit")
                )
            )

    @classmethod
    def largest(cls, limits: Iterable[ResourceLimit | None]) -> ResourceLimit | None:
        """Return what gives nobody less than his own limit, None for no limit.

        Args:
            limits: of each who shares the workers; None for one who is not limited.
        """
        each = [cls() if limit is None else limit for limit in limits]
        found = cls(
            max((limit.cpu_util_limit for limit in each), default=1.0),
            max((limit.mem_util_limit for limit in each), default=1.0),
        )
        return None if found == cls() else found

    def to_document(self) -> dict[str, float]:
        """Return the documents' form."""
        return {"cpu_util_limit": self.cpu_util_limit, "mem_util_limit": self.mem_util_limit}
