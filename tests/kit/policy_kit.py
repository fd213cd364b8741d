"""Nodes, profiles and questions for policies, without a scheduler."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from vdag.control.policies import BUILT_IN, Answer
from vdag.control.prediction import Candidate
from vdag.control.profile import AccuracyPoint, Cost, Profile
from vdag.control.scheduling.events import NodeInfo, ServiceInfo, VideoInfo
from vdag.control.scheduling.instructions import Question
from vdag.control.scheduling.surroundings import Snapshot, TaskLoad
from vdag.graph import Graph
from vdag.plan import Constraint, Plan
from vdag.sampling import RESOLUTIONS

TASKS = ("face_detection", "face_alignment")
CHAIN = (*TASKS, "car_detection")
HOST, EDGE, CLOUD = "10.0.0.1:5001", "10.0.0.2:5001", "10.0.0.9:5001"
QUERY = "GLOBAL_ID_1"
MBIT = 125_000.0
#: The documents' example.
NEWER_CONSTRAINT = {"delay": 0.3, "accuracy": 0.9}
#: Seconds of a frame of 1920x1080 on an edge and in the cloud, by task.
SECONDS = {
    "face_detection": (0.080, 0.020),
    "face_alignment": (0.060, 0.015),
    "car_detection": (0.120, 0.025),
}
#: Of those, what does not grow with the pixels.
FIXED = 0.15


def node(node_addr: str = HOST, workers: int = 1, cores: int = 4, **changes: Any) -> NodeInfo:
    """A node that offers all tasks with models 0 and 1; `10.0.0.9` and up are servers."""
    ip = node_addr.partition(":")[0]
    known: dict[str, Any] = {
        "role": "cloud" if int(ip.rpartition(".")[2]) >= 9 else "edge",
        "services": {task: ServiceInfo(workers, (0, 1)) for task in SECONDS},
        "landing": f"tcp://{ip}:5020",
        "resources": {"cpu_ratio": [5.0] * cores},
    }
    return NodeInfo(node_addr, ip, **{**known, **changes})


def nodes(*, cloud_workers: int = 4) -> tuple[NodeInfo, ...]:
    """The host, another edge and a server."""
    return node(HOST), node(EDGE), node(CLOUD, cloud_workers, cores=16)


def profile() -> Profile:
    """What tasks cost on an edge and in the cloud, and how good they are."""
    known = Profile()
    for task, (edge_s, cloud_s) in SECONDS.items():
        for name, (width, height) in RESOLUTIONS.items():
            size = FIXED + (1 - FIXED) * width * height / (1920 * 1080)
            for model_id, share in ((0, 1.0), (1, 0.4)):
                for role, seconds in (("edge", edge_s), ("cloud", cloud_s)):
                    took = seconds * size * share
                    cost = Cost(took, 1.2 * took, out_nbytes=2_000, samples=100)
                    known.put_cost(task, model_id, name, cost, role)
                accuracy = (0.99 - 0.10 * (1 - size)) * (1 - 0.06 * model_id)
                for fps in (1.0, 5.0, 30.0):
                    late = 0.12 * (30.0 / fps - 1) / 29
                    point = AccuracyPoint(name, fps, max(accuracy - late, 0.0), 100)
                    known.put_accuracy(task, model_id, point)
    return known


class Around:
    """`Surroundings` that a test may change between questions."""

    def __init__(
        self,
        *around: NodeInfo,
        known: Profile | None = None,
        links: Mapping[str, Mapping[str, float]] | None = None,
        loads: Mapping[str, Mapping[str, TaskLoad]] | None = None,
    ) -> None:
        self.profile = profile() if known is None else known
        self.still = Snapshot(around or nodes(), links=links or {}, loads=loads or {})

    def change(self, **changes: Any) -> None:
        """Change nodes (`around`), `links` or `loads`."""
        self.still = replace(self.still, **changes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.still, name)


def question(around: Around | None = None, **changes: Any) -> Question:
    """A question about a chain of two tasks over a video of 1080p and 30 fps."""
    graph = changes.pop("graph", None) or Graph.chain(*changes.pop("tasks", TASKS))
    delay = changes.pop("delay", 0.3)
    accuracy = changes.pop("accuracy", 0.9)
    document = {"delay": delay, "accuracy": accuracy}
    known: dict[str, Any] = {
        "constraint": Constraint.from_document(document),
        "video": VideoInfo("people", 1920, 1080, 30.0),
        "now_s": 100.0,
    }
    return Question(QUERY, graph.to_dag(), around or Around(), **{**known, **changes})


def plan_of(asked: Question, answer: Any, number: int = 1) -> Plan:
    """The plan that an answer makes, as the scheduler would."""
    return Plan.from_documents(
        asked.dag_flow,
        answer.video_conf,
        answer.flow_mapping,
        answer.resource_limit,
        number=number,
        previous=asked.previous,
    )


class Plant:
    """A query's world in fast motion: what its job would report under a plan, by other formulas.

    Work takes what the profile says times `speed` of the node, and a few percent more or less;
    workers that are asked for more than they can do make frames wait for `PATIENCE_S`, and give up
    the rest.

    Attributes:
        speed: `node_addr` to how many times as long work takes there as the profile says.
        objects: by how much the scene makes all work longer.
        links: `(sender, receiver)` to the bytes per second there really are.
    """

    PATIENCE_S = 1.0

    def __init__(self, seed: int = 1, *fleet: NodeInfo, learns: bool = True, **around: Any) -> None:
        self.around = Around(*fleet, **around)
        self.truth = profile()
        self.random = Random(seed)
        self.learns = learns
        self.speed: dict[str, float] = {}
        self.objects = 1.0
        self.links: dict[tuple[str, str], float] = {}

    def report(self, plan: Plan, tasks: Sequence[str], window_s: float = 2.0) -> dict[str, Any]:
        """Return the runtime document of a window under a plan."""
        fps, resolution = plan.video_conf.fps, plan.video_conf.resolution
        parts: dict[str, dict[str, float]] = {
            name: {} for name in ("process_delay", "queue_delay", "transfer_delay")
        }
        sender, goodput = HOST, fps
        away: dict[str, float] = {}
        for task in tasks:
            placement = plan.flow_mapping[task]
            where = self.around.get(placement.node_addr)
            cost = self.truth.cost(task, placement.model_id, resolution, where)
            work_s = cost.compute_s * self.speed.get(placement.node_addr, 1.0)
            work_s *= self.objects * self.random.uniform(0.97, 1.03)
            load = self.around.load(placement.node_addr, task)
            busy = fps * work_s + load.busy
            workers = where.services[task].workers
            wait_s = self.PATIENCE_S if busy >= workers else 0.1 * work_s * busy / (workers - busy)
            goodput = min(goodput, fps * min(workers / busy, 1.0))
            took_s, share = self._way(sender, placement.node_addr, resolution, fps)
            if sender != placement.node_addr:
                away[task] = took_s
            goodput = min(goodput, fps * share)
            parts["process_delay"][task] = work_s
            parts["queue_delay"][task] = min(wait_s, self.PATIENCE_S)
            parts["transfer_delay"][task] = took_s
            sender = placement.node_addr
            if self.learns:
                self.around.profile.observe(
                    task, placement.model_id, resolution, where, work_s, 1.1 * work_s,
                    max(fps * window_s, 1.0),
                )  # fmt: skip
        home_s = 0.001 if sender == HOST else 0.004
        if sender != HOST:
            away["home"] = home_s
        # Clocks differ: what all ways of a trip took together is told in equal shares.
        shares = dict.fromkeys(away, sum(away.values()) / max(len(away), 1))
        home_s = shares.pop("home", home_s)
        parts["transfer_delay"].update(shares)
        delay = home_s + sum(sum(each.values()) for each in parts.values())
        frames = goodput * window_s
        return {
            "delay": delay,
            "delay_p95": delay * self.random.uniform(1.05, 1.12),
            "frames": round(frames),
            "window_s": window_s,
            "fps": goodput,
            "dropped": max(round((fps - goodput) * window_s), 0),
            "obj_n": 5.0 * self.objects,
            "plan_result": parts,
            "home_delay": home_s,
        }

    def _way(self, sender: str, receiver: str, resolution: str, fps: float) -> tuple[float, float]:
        if sender == receiver:
            return 0.0015, 1.0
        known = self.around.bandwidth_between(sender, receiver) or 12.5e6
        nbytes = self.truth.frame_nbytes(resolution, "JPEG")
        use = fps * nbytes / self.links.get((sender, receiver), known)
        if use >= 1:
            return self.PATIENCE_S, 1 / use
        pixels = RESOLUTIONS[resolution][0] * RESOLUTIONS[resolution][1]
        return 0.003 + 8e-9 * pixels + use / fps * (1 + 0.2 * use), 1.0


class Loop:
    """A policy over a plant, asked every two seconds.

    Attributes:
        now_s: the time.
        plan: in force.
        changes: when it was changed, after the first.
        p95: times and the delays that were measured.
        answers: all of them.
    """

    def __init__(self, decide: Callable[[Question], Any], plant: Plant, **asked: Any) -> None:
        self.decide, self.plant, self.asked = decide, plant, asked
        self.now_s, self.number = 1000.0, 0
        self.plan: Plan | None = None
        self.memory: Any = {}
        self.changes: list[float] = []
        self.p95: list[tuple[float, float]] = []
        self.answers: list[Any] = []
        self.ask("submitted", {})

    def ask(self, cause: str, runtime: Mapping[str, Any]) -> None:
        """Ask once, and put the answer in force."""
        told = question(
            self.plant.around,
            runtime_info=runtime,
            measured=self.number if runtime else 0,
            memory=self.memory,
            previous=self.plan,
            now_s=self.now_s,
            cause=cause,
            **self.asked,
        )
        answer = self.decide(told)
        json.dumps(answer.memory)
        json.dumps(answer.explanation)
        self.memory, self.number = answer.memory, self.number + 1
        self.answers.append(answer)
        plan = plan_of(told, answer, self.number)
        if plan.orders_as(self.plan):
            self.number -= 1
            return
        if self.plan is not None:
            self.changes.append(self.now_s)
        self.plan = plan

    def run(self, seconds: float, period_s: float = 2.0) -> list[float]:
        """Let time pass; return the delays that were measured."""
        start = len(self.p95)
        for _ in range(round(seconds / period_s)):
            self.now_s += period_s
            assert self.plan is not None
            runtime = self.plant.report(self.plan, [*self.plan.flow_mapping], period_s)
            self.p95.append((self.now_s, runtime["delay_p95"]))
            self.ask("period", runtime)
        return [delay for _, delay in self.p95[start:]]

    def changed_in(self, since_s: float) -> int:
        """Return how often the plan was changed since then."""
        return sum(at > since_s for at in self.changes)


def candidate(
    tasks: Sequence[str] = TASKS,
    at: str | Sequence[str] = HOST,
    resolution: str = "480p",
    fps: float = 10.0,
    encoder: str = "JPEG",
    model: int = 0,
) -> Candidate:
    """A plan to be predicted; `at` is a node for all tasks, or one for each."""
    where = (at,) * len(tasks) if isinstance(at, str) else at
    return Candidate(
        resolution, fps, encoder, dict.fromkeys(tasks, model), dict(zip(tasks, where, strict=True))
    )


def ask(name: str, asked: Question) -> Answer:
    """What a policy of ours answers."""
    return BUILT_IN[name].answer(asked)


def documents(host: str, cloud: str, constraint: dict[str, Any], **changes: Any) -> Question:
    """A question about the documents' two nodes: both offer both tasks, with 0.8 of the CPU."""
    services = {task: ServiceInfo(1, (), 0.8, 0.4) for task in TASKS}
    around = Around(
        node(f"{host}:7000", services=services, role="edge"),
        node(f"{cloud}:8000", services=services, role="cloud"),
    )
    shares = {task: {"n_process": 1, "cpu_ratio": 0.8, "mem_ratio": 0.4} for task in TASKS}
    roles = {"host": {host: shares}, "cloud": {cloud: shares}, "edge": {}}
    around.change(resources=roles)
    return question(around, constraint=Constraint.from_document(constraint), **changes)


def in_force(asked: Question, answer: Answer, number: int = 1, **changes: Any) -> Question:
    """The next question, the answer having become the plan."""
    plan = plan_of(asked, answer, number)
    mapping = {
        task: replace(each, node_addr=each.node_addr or addr_of(asked, each.node_ip))
        for task, each in plan.flow_mapping.items()
    }
    return replace(
        asked, previous=replace(plan, flow_mapping=mapping), measured=number,
        memory=answer.memory or {}, now_s=asked.now_s + 2, cause="period", **changes,
    )  # fmt: skip


def addr_of(asked: Question, ip: str) -> str:
    return next(each.node_addr for each in asked.around.nodes() if each.ip == ip)


def refuses(kind: type[Exception], text: str) -> pytest.RaisesExc[Exception]:
    return pytest.raises(kind, match=f"^{re.escape(text)}$")
