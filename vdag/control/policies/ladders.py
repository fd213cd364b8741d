"""What the documents' system plans with: four resolutions, five rates, a cut of the pipeline.

Its tasks up to the cut run at the host, the others in the cloud; the first is always at the host.
Its table of delays is used for every task: that of face alignment has its name misspelt over there
and is never read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vdag.control.policies.calling import Answer
from vdag.control.prediction.measured import read_number
from vdag.plan import Plan

__all__ = [
    "PROFILE_S",
    "RATES",
    "RESOLUTIONS",
    "Setup",
    "full_rate_s",
    "nodes_of",
    "read_setup",
    "total_delay_s",
]

RESOLUTIONS = ("360p", "480p", "720p", "1080p")
RATES = (1, 5, 10, 20, 30)
#: Seconds of a frame at full rate, at the host and in the cloud, by resolution.
PROFILE_S = ((0.117, 0.022), (0.162, 0.040), (0.382, 0.069), (1.157, 0.141))


@dataclass(frozen=True, slots=True)
class Setup:
    """A plan of theirs.

    Attributes:
        tasks: in their order.
        resolution: index into `resolutions`.
        rate: index into `rates`.
        cut: how many tasks run at the host.
        rates: frames per second to choose from.
    """

    tasks: tuple[str, ...]
    resolution: int = 0
    rate: int = 0
    cut: int = 1
    rates: tuple[int, ...] = RATES

    def slower(self) -> Setup | None:
        """Return it with the next lower rate; like the others, None for there is none."""
        return replace(self, rate=self.rate - 1) if self.rate > 0 else None

    def faster(self) -> Setup | None:
        """Return it with the next higher rate."""
        return replace(self, rate=self.rate + 1) if self.rate + 1 < len(self.rates) else None

    def lower_resolution(self) -> Setup | None:
        """Return it with the next smaller resolution."""
        return replace(self, resolution=self.resolution - 1) if self.resolution > 0 else None

    def raise_resolution(self) -> Setup | None:
        """Return it with the next larger resolution."""
        if self.resolution + 1 == len(RESOLUTIONS):
            return None
        return replace(self, resolution=self.resolution + 1)

    def offload(self) -> Setup | None:
        """Return it with the last task at the host in the cloud."""
        return replace(self, cut=self.cut - 1) if self.cut > 0 else None

    def bring_back(self) -> Setup | None:
        """Return it with the first task in the cloud at the host."""
        return replace(self, cut=self.cut + 1) if self.cut < len(self.tasks) else None

    @property
    def fps(self) -> int:
        """Frames per second."""
        return self.rates[self.rate]

    def answer(self, roles: Mapping[str, str], why: str, memory: Any = None) -> Answer:
        """Return it in the documents' form; `roles`: `host` and `cloud` to an address."""
        conf = {"resolution": RESOLUTIONS[self.resolution], "fps": self.fps, "encoder": "JPEG"}
        mapping = {}
        for index, task in enumerate(self.tasks):
            role = "host" if index < self.cut else "cloud"
            mapping[task] = {"model_id": 0, "node_role": role, "node_ip": roles[role]}
        return Answer(conf, mapping, None, memory, {"why": why})


def full_rate_s(setup: Setup) -> float:
    """Return the delay that they predict at full rate: work alone, for ways cost nothing there."""
    at_host, in_cloud = PROFILE_S[setup.resolution]
    return setup.cut * at_host + (len(setup.tasks) - setup.cut) * in_cloud


def read_setup(plan: Plan, tasks: Sequence[str], rates: tuple[int, ...] = RATES) -> Setup:
    """Return the setup of a plan in force, the nearest one to it if it is none of theirs."""
    size = plan.video_conf.size
    height = 1080 if size is None else size[1]
    heights = (360, 480, 720, 1080)
    resolution = min(range(len(heights)), key=lambda i: abs(heights[i] - height))
    rate = min(range(len(rates)), key=lambda i: abs(rates[i] - plan.video_conf.fps))
    roles = [plan.flow_mapping[task].node_role for task in tasks]
    cut = next((i for i, role in enumerate(roles) if role == "cloud"), len(roles))
    return Setup(tuple(tasks), resolution, rate, cut, rates)


def nodes_of(resource_info: Mapping[str, Any]) -> dict[str, str]:
    """Return the address of each role: the first in alphabetical order, as their JSON has it."""
    return {role: min(resource_info[role]) for role in ("host", "cloud")}


def total_delay_s(last_plan_res: Mapping[str, Any]) -> float | None:
    """Return the sum of the delays of a plan's tasks, None if nothing was measured."""
    delays = last_plan_res.get("delay")
    known = delays.values() if isinstance(delays, Mapping) else ()
    numbers = [read_number(seconds, 1e6) for seconds in known]
    total = [seconds for seconds in numbers if seconds is not None]
    return sum(total) if total else None
