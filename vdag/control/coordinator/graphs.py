"""A service as one job: handlers become tasks, links become edges, and a placement becomes a plan.

The handler that captures is the job's source, on the node that owns the video. Every other handler
is a task of the job's graph, whose name carries its parameters; so nothing has to be registered
anywhere before a node can do it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vdag.control.coordination.types import CAPTURE, HandlerType, with_defaults
from vdag.control.coordination.values import HandlerSpec, Service
from vdag.errors import GraphError
from vdag.graph import Graph
from vdag.plan import Placement, Plan, VideoConf
from vdag.tasks import find
from vdag.tasks.handlers import HandlerSpec as TaskSpec
from vdag.tasks.handlers import LinkSpec, graph_of

__all__ = ["Chart", "capture_of", "chart_of", "conf_of", "plan_of"]


@dataclass(frozen=True, slots=True)
class Chart:
    """A service as a job.

    Attributes:
        capture: number of the handler that is the source.
        tasks: the other handlers' numbers to the names of their tasks.
        graph: of these.
    """

    capture: int
    tasks: Mapping[int, str]
    graph: Graph

    @property
    def handlers(self) -> dict[str, int]:
        """Return the numbers of the handlers by the names of their tasks."""
        return {task: number for number, task in self.tasks.items()}


def capture_of(service: Service) -> HandlerSpec:
    """Return the one handler that captures.

    Raises:
        GraphError: there is none, or more than one: a job has one video.
    """
    found = [each for each in service.handlers if each.kind == CAPTURE]
    if len(found) != 1:
        raise GraphError(
            f"service {service.service_id} {service.name} has {len(found)} handlers that capture, "
            "expected 1"
        )
    return found[0]


def chart_of(service: Service, types: Mapping[int, HandlerType], session_id: int) -> Chart:
    """Return a service as a job.

    Args:
        service: which.
        types: of handlers.
        session_id: tells its tasks from those of other sessions, where that matters.

    Raises:
        GraphError: the service does not capture once, a handler is of a type that is no task, or
            a link brings what its input does not take.
        ConfigError: a task does not take the parameters of its handler.
    """
    handlers = [
        TaskSpec(each.handler_id, each.kind, each.params, types[each.kind].task)
        for each in service.handlers
    ]
    links = [
        LinkSpec(each.source_handler, each.source_output, each.target_handler, each.target_input)
        for each in service.links
    ]
    wiring = graph_of(handlers, links, session=session_id)
    signatures = {task: find(task).signature for task in wiring.graph.tasks}
    return Chart(wiring.capture, dict(wiring.tasks), wiring.graph.check(signatures))


def conf_of(service: Service, types: Mapping[int, HandlerType]) -> VideoConf:
    """Return how frames are taken, as the handler that captures says."""
    params: Mapping[str, Any] = with_defaults(types[CAPTURE], capture_of(service).params)
    return VideoConf(f"{params['width']}x{params['height']}", float(params["fps"]), "JPEG")


def plan_of(chart: Chart, conf: VideoConf, node_addrs: Mapping[int, str]) -> Plan:
    """Return a plan that has each task done where its handler is placed.

    Args:
        chart: of the service.
        conf: of its frames.
        node_addrs: name of the node of each handler.
    """
    host, handlers = node_addrs[chart.capture], chart.handlers
    return Plan(
        0,
        conf,
        {task: _placement(node_addrs[handlers[task]], host) for task in chart.graph.tasks},
    )


def _placement(node_addr: str, host: str) -> Placement:
    ip = node_addr.rpartition(":")[0].strip("[]")
    return Placement(ip, "host" if node_addr == host else "", 0, node_addr)
