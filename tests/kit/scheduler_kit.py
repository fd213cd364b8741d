"""Three nodes, queries over them, and a scheduler that is told of both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from vdag.control.scheduling.events import (
    Event,
    NodeInfo,
    NodeJoined,
    NodeReported,
    PlanProposed,
    QueryInfo,
    QuerySubmitted,
    ServiceInfo,
    Tick,
    VideoInfo,
)
from vdag.control.scheduling.instructions import AskPolicy, Instruction
from vdag.control.scheduling.scheduler import Scheduler, SchedulerSettings
from vdag.graph import Graph
from vdag.plan import Constraint

S = 1_000_000_000
TASKS = ("face_detection", "face_alignment")
HOST, EDGE, CLOUD = "10.0.0.1:5001", "10.0.0.2:5001", "10.0.0.9:5001"
QUERY = "GLOBAL_ID_1"
CONF = {"resolution": "480p", "fps": 30, "encoder": "JPEG"}

T = TypeVar("T")


def node(node_addr: str = HOST, **changes: Any) -> NodeInfo:
    """A node that offers both tasks, and has a video if it is not the server."""
    ip = node_addr.partition(":")[0]
    known: dict[str, Any] = {
        "role": "cloud" if node_addr == CLOUD else "edge",
        "videos": {} if node_addr == CLOUD else {1: VideoInfo("people", 1280, 720, 25.0)},
        "services": {task: ServiceInfo() for task in TASKS},
        "landing": f"tcp://{ip}:5020",
        "session": f"first of {node_addr}",
    }
    return NodeInfo(node_addr, ip, **{**known, **changes})


def query(query_id: str = QUERY, node_addr: str = HOST, **changes: Any) -> QueryInfo:
    """A query of both tasks; its policy is answered by the test."""
    known: dict[str, Any] = {
        "video_id": 1,
        "graph": Graph.chain(*TASKS),
        "constraint": Constraint.from_document({"delay": 0.3, "accuracy": 0.9}),
        "policy": "somebody:policy",
    }
    return QueryInfo(query_id, node_addr, **{**known, **changes})


def mapping(**placed: str) -> dict[str, dict[str, Any]]:
    """A `flow_mapping` by addresses of nodes: `mapping(face_detection=HOST, ...)`."""
    return {
        task: {"model_id": 0, "node_ip": addr.partition(":")[0]} for task, addr in placed.items()
    }


ALL_HOST = mapping(face_detection=HOST, face_alignment=HOST)
SPLIT = mapping(face_detection=HOST, face_alignment=CLOUD)


def questions(out: Iterable[Instruction]) -> list[AskPolicy]:
    """Those of the instructions that ask a policy."""
    return [each for each in out if isinstance(each, AskPolicy)]


class Story:
    """A scheduler with its nodes, whose questions the test answers.

    Attributes:
        now_ns: rises by a millisecond per event, and by `wait`.
        out: the instructions of the latest event.
    """

    def __init__(self, *nodes: NodeInfo, **settings: Any) -> None:
        self.scheduler = Scheduler(SchedulerSettings(**settings))
        self.now_ns = 0
        self.out: list[Instruction] = []
        self.rounds: dict[str, int] = {}
        for each in nodes:
            self.tell(NodeJoined, each)

    def tell(self, event: type[Event], *fields: Any) -> list[Instruction]:
        """Say that something has happened just now."""
        self.now_ns += S // 1000
        return self._handle(event(self.now_ns, *fields))

    def submit(self, info: QueryInfo | None = None, **placed: str) -> list[Instruction]:
        """Submit a query, and have it placed if it says where."""
        info = info or query()
        out = self.tell(QuerySubmitted, info)
        return self.propose(info.query_id, mapping(**placed)) if placed else out

    def propose(
        self, query_id: str, placed: Any, conf: Any = CONF, limit: Any = None
    ) -> list[Instruction]:
        """Answer the open question."""
        return self.tell(PlanProposed, query_id, self.rounds[query_id], conf, placed, limit)

    def wait(self, seconds: float, *silent: str) -> list[Instruction]:
        """Let time pass, in which all nodes report but the silent ones, and ticks come."""
        out: list[Instruction] = []
        end_ns = self.now_ns + round(seconds * S)
        while self.now_ns < end_ns:
            self.now_ns = min(self.now_ns + S // 4, end_ns)
            for each in self.scheduler.nodes():
                if each.node_addr not in silent:
                    out += self._handle(NodeReported(self.now_ns, each.node_addr))
            out += self._handle(Tick(self.now_ns))
        self.out = out
        return out

    def last(self, kind: type[T]) -> T:
        """The latest instruction of a kind; there is one."""
        return self.all(kind)[-1]

    def all(self, kind: type[T]) -> list[T]:
        """The instructions of a kind that the latest event has led to."""
        return [each for each in self.out if isinstance(each, kind)]

    def kinds(self) -> list[str]:
        """The names of the latest instructions' kinds."""
        return [type(each).__name__ for each in self.out]

    def placed(self, query_id: str = QUERY) -> Mapping[str, str]:
        """Task to node of the plan in force."""
        plan = self.scheduler.plan_of(query_id)
        assert plan is not None
        return {task: where.node_addr for task, where in plan.flow_mapping.items()}

    def _handle(self, event: Event) -> list[Instruction]:
        self.out = self.scheduler.handle(event)
        assert self.scheduler.check() == []
        for each in self.out:
            if isinstance(each, AskPolicy):
                self.rounds[each.query_id] = each.round
        return self.out


def three_nodes() -> Story:
    """A host with a video, another, and the server."""
    return Story(node(HOST), node(EDGE), node(CLOUD))
