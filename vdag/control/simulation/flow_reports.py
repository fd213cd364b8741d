"""What a job of the world of flows reports: the documents' run-time context, as a real one's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vdag.control.profile.costs import pixels_of
from vdag.control.simulation.scenes import View
from vdag.plan import Plan

__all__ = ["Hop", "runtime_of"]

FULL_HD_PIXELS = 1920 * 1080


class Hop(NamedTuple):
    """What becomes of a frame at a task.

    Attributes:
        task: its name.
        node_addr: where it is done.
        mean_s: of work in the mean.
        p95_s: that 95 % do not exceed.
        nbytes: over the network that bring a frame there, 0 for none.
    """

    task: str
    node_addr: str
    mean_s: float
    p95_s: float
    nbytes: float


def runtime_of(
    plan: Plan,
    view: View,
    taken_fps: float,
    fps: float,
    delay: tuple[float, float, float],
    parts: Mapping[str, tuple[float, float, float]],
    hops: Sequence[Hop],
) -> dict[str, Any]:
    """Return what a job reports of a second.

    Args:
        plan: that it was under.
        view: of the scene.
        taken_fps: frames per second that the camera gave.
        fps: results per second.
        delay: mean and 95 % quantile of the delay, and the way home, in seconds.
        parts: task to the mean seconds of transfer, queue and work.
        hops: of its frames.
    """
    mean_s, p95_s, home_s = delay
    transfer = {task: part[0] for task, part in parts.items()}
    queue = {task: part[1] for task, part in parts.items()}
    compute = {task: part[2] for task, part in parts.items()}
    pixels = pixels_of(plan.video_conf.resolution)
    return {
        "delay": mean_s,
        "delay_p50": mean_s,
        "delay_p95": p95_s,
        "delay_max": p95_s,
        "frames": max(round(fps), 1),
        "window_s": 1.0,
        "fps": fps,
        "dropped": max(round(taken_fps - fps), 0),
        "obj_n": float(view.objects),
        "obj_size": view.size * pixels / FULL_HD_PIXELS,
        "obj_size_1080p": view.size,
        "obj_stable": True,
        "obj_speed": view.speed if view.objects else 0.0,
        "plan_result": {
            "delay": {task: sum(part) for task, part in parts.items()},
            "process_delay": compute,
            "queue_delay": queue,
            "transfer_delay": transfer,
            "process_delay_p95": {
                hop.task: compute[hop.task] * hop.p95_s / hop.mean_s for hop in hops
            },
            "queue_delay_p95": queue,
            "transfer_delay_p95": transfer,
        },
        "home_delay": home_s,
        "data_trans_size": {hop.task: hop.nbytes for hop in hops if hop.nbytes},
        "plan_number": plan.number,
    }
