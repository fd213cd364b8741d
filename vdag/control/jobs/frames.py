"""The documents' frame object: one processed frame, as a node reports it to the cloud.

Every version of the documents reads other fields of it, so it has those of all of them: what the
last task has found, `frame_id`, `n_loop` and `delay`, the plan it was made under as `ext_plan`,
the run-time context as `ext_runtime`, and who did the work as `proc_resource_info`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vdag.control.sniffing import Sighting
from vdag.graph import Graph
from vdag.plan import Plan, ResourceLimit
from vdag.results import PICTURES, Result, TaskParts, to_json

__all__ = ["FrameDocuments"]

NO_LIMIT = ResourceLimit()


@dataclass(slots=True)
class FrameDocuments:
    """Writes the frames of one job; one thread at a time.

    Attributes:
        graph: of the job.
        node_ip: of this node, which stands for an address that a plan leaves out.
        n_loop: number of the last frame written, counted from 1.
    """

    graph: Graph
    node_ip: str
    n_loop: int = 0
    _last_frame_id: int = -1

    def write(
        self, result: Result, plan: Plan, sighting: Sighting, context: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the object of the next frame.

        Args:
            result: of the frame.
            plan: that it was made under.
            sighting: what it adds to the run-time context.
            context: the run-time context of the frames up to it.
        """
        self.n_loop += 1
        gap = max(result.cam_frame_id - self._last_frame_id, 1)
        self._last_frame_id = result.cam_frame_id
        found = self._found(result)
        objects = sighting.objects
        found.setdefault("count_result", {"total": 0 if objects is None else objects.n})
        infos = {task: self._info(task, part, plan) for task, part in result.parts.items()}
        conf = plan.video_conf.to_document()
        work_s = sum(part.total_s for part in result.parts.values())
        return {
            **found,
            "frame_id": float(result.cam_frame_id),
            "n_loop": self.n_loop,
            "seq": result.seq,
            "pts_s": result.pts_s,
            "plan": result.plan,
            "delay": result.delay_s,
            # What the first systems called delay: the work, shared among the camera's frames.
            "delay_amortized": work_s / (gap + 1),
            "proc_delay": sum(part.compute_s for part in result.parts.values()),
            "obj_n": None if objects is None else objects.n,
            "obj_size": None if objects is None else objects.size,
            "task_conf": {
                **conf,
                "resolution": {"w": result.width, "h": result.height},
                "reso": conf["reso"],
            },
            "proc_resource_info": infos.get(self.graph.tasks[-1], {}),
            "ext_plan": plan.echo(),
            "ext_runtime": {**context, "proc_resource_info": infos},
        }

    def _found(self, result: Result) -> dict[str, Any]:
        """Return what the last tasks have found, without pictures."""
        return {
            name: to_json(value)
            for task in self.graph.sinks()
            for name, value in result.outputs.get(task, {}).items()
            if name not in PICTURES
        }

    def _info(self, task: str, part: TaskParts, plan: Plan) -> dict[str, Any]:
        placement = plan.flow_mapping[task]
        limit = plan.resource_limit.get(task, NO_LIMIT)
        address = placement.node_ip or self.node_ip
        return {
            "pid": part.pid,
            "compute_latency": part.compute_s,
            "queue_latency": part.queue_s,
            "transfer_latency": part.transfer_s,
            "all_latency": part.total_s,
            "cpu_util_limit": limit.cpu_util_limit,
            "mem_util_limit": limit.mem_util_limit,
            "model_id": placement.model_id,
            "node_ip": address,
            "device_ip": address,
            "node_role": placement.node_role,
        }
