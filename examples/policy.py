r"""A policy of your own: the sharpest pictures whose results come in time.

    [cloud]
    policies = ["/srv/vdag/policy.py:sharpest_in_time"]

    vdag submit examples/faces.json --node 127.0.0.1:5001 --delay 0.3 \
      --policy /srv/vdag/policy.py:sharpest_in_time

It has the documented signature, and takes by its name one thing more that policies are told: the
plan in force. It keeps nothing between two calls, for its process may be started anew at any time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vdag.plan import Plan

#: Names of resolutions to their pixels, smallest first.
STEPS = {
    "360p": 480 * 360,
    "480p": 640 * 480,
    "540p": 960 * 540,
    "720p": 1280 * 720,
    "1080p": 1920 * 1080,
}
FIRST = "540p"
FPS = 10
#: Of the delay that is wanted: what results of sharper pictures may be expected to take.
SHARE = 0.8


def sharpest_in_time(
    job_uid: str,
    dag: Mapping[str, Any],
    resource_info: Mapping[str, Any],
    runtime_info: Mapping[str, Any],
    user_constraint: Mapping[str, Any],
    previous: Plan | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Go a step down while results are late, and up while the next step is expected in time."""
    resolution = FIRST if previous is None else previous.video_conf.resolution
    if resolution not in STEPS:  # that of a plan which somebody has preferred
        resolution = FIRST
    delay, limit = runtime_info.get("delay"), _upper_bound(user_constraint.get("delay"))
    if delay is not None and limit is not None:
        resolution = _next_step(resolution, delay, limit)
    video_conf = {"resolution": resolution, "fps": FPS, "encoder": "JPEG"}
    return video_conf, {task: _place(task, resource_info) for task in dag["flow"]}


def _next_step(resolution: str, delay: float, limit: float) -> str:
    """Return the resolution to go on with, at most one step from this one."""
    names = list(STEPS)
    at = names.index(resolution)
    if delay > limit:
        return names[max(at - 1, 0)]
    sharper = names[min(at + 1, len(names) - 1)]
    # A picture takes at most as much longer as it has more pixels.
    expected = delay * STEPS[sharper] / STEPS[resolution]
    return sharper if expected <= SHARE * limit else resolution


def _upper_bound(delay: Any) -> float | None:
    """Return the longest delay that is wanted, of a number or [low, high]; below 0 means none."""
    high = delay[1] if isinstance(delay, list) else delay
    return None if high is None or high < 0 else float(high)


def _place(task: str, resource_info: Mapping[str, Any]) -> dict[str, Any]:
    """Return the node nearest to the video that does a task."""
    for role in ("host", "edge", "cloud"):
        for node_ip, tasks in resource_info.get(role, {}).items():
            if task in tasks:
                return {"node_role": role, "node_ip": node_ip, "model_id": 0}
    raise LookupError(f"no node does {task}")
