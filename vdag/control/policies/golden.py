"""`golden`: the best quality there is, on servers, whatever the delay; what others are held to."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from vdag.control.scheduling.events import NodeInfo, VideoInfo
from vdag.errors import PlanError
from vdag.plan import Plan
from vdag.sampling import RESOLUTIONS

__all__ = ["golden"]

#: Where the video does not say: what most cameras have.
BEST_RESOLUTION = "1080p"
BEST_FPS = 30.0
#: More tells results apart no better, and no camera of the documents has it.
MAX_FPS = 30.0


def golden(
    job_uid: str,
    dag: Mapping[str, Any],
    nodes: Sequence[NodeInfo],
    video: VideoInfo,
    previous: Plan | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the sharpest and fastest conf that the video has, with all tasks on one server.

    A task that no server offers runs on the node that owns the video, else on any that offers it.
    Queries are spread over the servers by their ids, and stay where they are when others come.

    Raises:
        PlanError: no node offers a task.
    """
    tasks: list[str] = dag["flow"]
    present = previous.nodes() if previous is not None else frozenset()
    servers = _servers(job_uid, tasks, nodes, present)
    mapping = {task: _place(task, nodes[0], servers, nodes) for task in tasks}
    conf = {"resolution": _resolution(video), "fps": _fps(video), "encoder": "JPEG"}
    return conf, mapping


def _servers(
    job_uid: str, tasks: list[str], nodes: Sequence[NodeInfo], present: frozenset[str]
) -> list[NodeInfo]:
    """Return the servers that frames can be sent to, those that offer most first."""
    host = nodes[0]
    servers = [
        node
        for node in nodes
        if node.role == "cloud" and (node is host or node.landing or host.dialect != "channel")
    ]
    turn = zlib.crc32(job_uid.encode()) % max(1, len(servers))
    turned = servers[turn:] + servers[:turn]
    # One server for all tasks where possible: frames do not leave its shared memory between them.
    return sorted(
        turned,
        key=lambda node: (
            -sum(node.offers(task) for task in tasks),
            node.node_addr not in present,
        ),
    )


def _place(
    task: str, host: NodeInfo, servers: list[NodeInfo], nodes: Sequence[NodeInfo]
) -> dict[str, Any]:
    others = [node for node in nodes if node.landing or host.dialect != "channel"]
    for node in (*servers, host, *others):
        if node.offers(task):
            role = "cloud" if node.role == "cloud" else "host" if node is host else "edge"
            return {
                "model_id": _best_model(task, node),
                "node_role": role,
                "node_ip": node.ip,
                "node_addr": node.node_addr,
            }
    raise PlanError(f"no live node offers {task}")


def _best_model(task: str, node: NodeInfo) -> int:
    """Return the largest model: the documents number them from large to small."""
    service = node.services.get(task)
    return min(service.models, default=0) if service is not None else 0


def _resolution(video: VideoInfo) -> str:
    """Return the largest resolution that does not invent pixels; the smallest if all would."""
    if not (video.width and video.height):
        return BEST_RESOLUTION
    fitting = [
        name
        for name, (width, height) in RESOLUTIONS.items()
        if width <= video.width and height <= video.height
    ]
    return fitting[-1] if fitting else next(iter(RESOLUTIONS))


def _fps(video: VideoInfo) -> float:
    return min(video.fps, MAX_FPS) if video.fps else BEST_FPS
