"""`Candidate`: one way to run a query; `Prediction`: how it would go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vdag.control.scheduling.events import NodeInfo
from vdag.plan import Plan

__all__ = ["Candidate", "Prediction", "TaskPrediction", "role_of"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A plan without its number.

    Attributes:
        resolution: a name of `vdag.sampling.RESOLUTIONS`, or another that a plan may have.
        fps: frames per second.
        encoder: of pixels between hosts.
        models: task to `model_id`, all tasks.
        nodes: task to `node_addr`, all tasks.
    """

    resolution: str
    fps: float
    encoder: str
    models: Mapping[str, int]
    nodes: Mapping[str, str]

    @classmethod
    def of_plan(cls, plan: Plan) -> Candidate:
        """Return what a plan in force asks for; every placement of one has its node."""
        conf, mapping = plan.video_conf, plan.flow_mapping
        return cls(
            conf.resolution,
            conf.fps,
            conf.encoder,
            {task: placement.model_id for task, placement in mapping.items()},
            {task: placement.node_addr for task, placement in mapping.items()},
        )

    @property
    def key(self) -> str:
        """A text that no other candidate of the same query has."""
        placed = " ".join(f"{task}={self.models[task]}@{addr}" for task, addr in self.nodes.items())
        return f"{self.resolution} {self.fps:g} {self.encoder} {placed}"

    def conf_document(self) -> dict[str, Any]:
        """Return the documents' `video_conf`."""
        fps = int(self.fps) if float(self.fps).is_integer() else self.fps
        return {"resolution": self.resolution, "fps": fps, "encoder": self.encoder}

    def mapping_document(self, host: NodeInfo, nodes: Mapping[str, NodeInfo]) -> dict[str, Any]:
        """Return the documents' `flow_mapping`; `nodes`: `node_addr` to node, all it needs."""
        return {
            task: {
                "model_id": self.models[task],
                "node_role": role_of(nodes[addr], host),
                "node_ip": nodes[addr].ip,
                "node_addr": addr,
            }
            for task, addr in self.nodes.items()
        }


@dataclass(frozen=True, slots=True)
class TaskPrediction:
    """Where a frame's time at one task would go, in seconds."""

    node_addr: str
    transfer_s: float
    queue_s: float
    compute_s: float

    def to_document(self) -> dict[str, Any]:
        """Return the form of an explanation."""
        return {
            "node": self.node_addr,
            "transfer": _short(self.transfer_s),
            "queue": _short(self.queue_s),
            "compute": _short(self.compute_s),
        }


@dataclass(frozen=True, slots=True)
class Prediction:
    """How a candidate would go.

    Attributes:
        delay_s: mean seconds between a frame and its result.
        delay_p95_s: what 95 % of frames do not exceed.
        accuracy: 0 to 1: that of the worst task, for no result is better than what it is made of.
        fps: frames per second that would come through.
        tasks: task to where its time would go, in the order of the graph.
        home_s: of the way home, on the branch that takes longest.
        workers: `(node_addr, task)` to the share of the workers' time that all queries would take.
        nodes: `node_addr` to the share of its cores, where their number is known.
        links: `node_addr` of the sender to the share of its uplink, as far as frames leave it.
        crowding: the largest ratio of what would be taken of a worker, node or link to what may be,
            or of frames under way to those that a job has at a time; the plan can be run if it is
            at most 1.
    """

    delay_s: float
    delay_p95_s: float
    accuracy: float
    fps: float
    tasks: Mapping[str, TaskPrediction]
    home_s: float
    workers: Mapping[tuple[str, str], float]
    nodes: Mapping[str, float]
    links: Mapping[str, float]
    crowding: float

    @property
    def fits(self) -> bool:
        """Whether no worker, node or link would be over its share."""
        return self.crowding <= 1

    def to_document(self) -> dict[str, Any]:
        """Return the form of an explanation."""
        return {
            "delay": _short(self.delay_s),
            "delay_p95": _short(self.delay_p95_s),
            "accuracy": _short(self.accuracy),
            "fps": self.fps,
            "tasks": {task: each.to_document() for task, each in self.tasks.items()},
        }


def role_of(node: NodeInfo, host: NodeInfo) -> str:
    """Return what a node is to a query whose video is on `host`, in the documents' words."""
    if node.node_addr == host.node_addr:
        return "host"
    return "cloud" if node.role == "cloud" else "edge"


def _short(value: float) -> float:
    """Return a number with as many digits as mean something: explanations are kept."""
    return float(f"{value:.4g}")
