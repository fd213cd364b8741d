"""`Machine`: a node at work: the real exchange's queues, and simulated workers that share cores."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from vdag.control.scheduling.events import NodeInfo, ServiceInfo
from vdag.control.simulation.agenda import Agenda
from vdag.control.simulation.cpus import Cpu
from vdag.control.simulation.scenario import NodeSpec, Step
from vdag.transport.flow import Deliver, Drop, Flow, Grant, Instruction, Item

__all__ = ["Batch", "Machine", "node_info"]

_NS = 1_000_000_000
#: A batch costs at least this much, so that time goes on.
MIN_WORK_S = 1e-6

#: Tells what becomes of a frame: the machine, the frame, and either its batch or a reason.
Done = Callable[["Machine", Item, "Batch"], None]
Dropped = Callable[["Machine", Item, str], None]


@dataclass(slots=True)
class Batch:
    """Frames that a worker works on together.

    Attributes:
        items: the frames.
        start_ns: when it began.
        end_ns: when it was through, 0 before.
        pid: of the worker.
    """

    items: Sequence[Item]
    start_ns: int
    end_ns: int = 0
    pid: int = 0


@dataclass(slots=True)
class _Worker:
    """A worker: what it works on, and what it was handed already to go on with."""

    name: str
    task: str
    max_batch: int
    pid: int
    batch: Batch | None = None
    next: list[Item] = field(default_factory=list)


class Machine:
    """A node.

    Frames wait in a `Flow`, the machine of the real exchange. Workers take them as real ones do: a
    batch at work, and credit for as much again. Cores are shared evenly (`Cpu`), so all busy
    workers run at the same rate at all times, and a clock of work done per worker tells in one heap
    who will be through next.

    Args:
        spec: what it has.
        node_addr: its name in plans.
        agenda: the time.
        work_of: returns the seconds of work of a frame at speed 1.
        done: is told of every frame that a worker is through with.
        dropped: is told of every frame that was given up, and why.
        phase: of its quota: which share of a period is over in the beginning.
    """

    def __init__(
        self,
        spec: NodeSpec,
        node_addr: str,
        agenda: Agenda,
        *,
        work_of: Callable[[Machine, Item], float],
        done: Done,
        dropped: Dropped,
        phase: float = 0.0,
    ) -> None:
        self.spec, self.name, self.node_addr = spec, spec.name, node_addr
        self.info = node_info(spec, node_addr)
        self.is_up = True
        self._agenda = agenda
        self._work_of, self._done, self._dropped = work_of, done, dropped
        period_ns = round((spec.cpu_period_s or 0.0) * _NS)
        self._cpu = Cpu(
            spec.cores,
            spec.speed,
            spec.own_load,
            period_ns,
            float(spec.cpus),
            begun_ns=-round(phase * period_ns),
        )
        self._limits: dict[str, float] = {}
        # Work that each busy worker has done since the beginning, in seconds at speed 1.
        self._progress = 0.0
        self._busy: list[tuple[float, int, _Worker]] = []
        self._order = itertools.count()
        self._alarm = 0
        self._since_busy_s = 0.0
        self._since_ns = 0
        self._open()

    def submit(self, item: Item) -> None:
        """Put a frame into the queue of its task; a node that is gone loses it without a word."""
        if self.is_up:
            self._carry_out(self.flow.submit(item, self._agenda.now_ns))

    def take_in(self) -> None:
        """Spend what a frame that comes to the node costs it beside its tasks."""
        if self.spec.frame_cpu_ms and self._cpu.period_ns:
            self._advance()
            self._cpu.spend(self.spec.frame_cpu_ms / 1e3)
            self._expect_next()

    def change(self, step: Step) -> None:
        """Have other cores, another speed, or go, or come back."""
        self._advance()
        self._cpu.cores = step.cores or self._cpu.cores
        self._cpu.speed = step.speed or self._cpu.speed
        if step.up is not None and step.up != self.is_up:
            self.is_up = step.up
            self._busy.clear()
            self._open()
        self._expect_next()

    def wakes_ns(self) -> int:
        """Return when it can do something next: now, unless its quota is used up."""
        if not self._cpu.period_ns:
            return self._agenda.now_ns
        self._advance()
        return self._cpu.wakes_ns()

    def limit(self, limits: Mapping[str, float]) -> None:
        """Grant tasks shares of the time of all cores, from their next batches on."""
        self._limits.update(limits)

    def cancel(self, job: str) -> None:
        """Drop what waits of a job."""
        if self.is_up:
            self._carry_out(self.flow.cancel(self._agenda.now_ns, job=job))

    def resources(self) -> dict[str, object]:
        """Return the documents' `device_state` over the time since the last call."""
        self._advance()
        now_ns = self._agenda.now_ns
        elapsed_s = (now_ns - self._since_ns) / _NS
        busy_s = self._cpu.busy_s - self._since_busy_s
        self._since_ns, self._since_busy_s = now_ns, self._cpu.busy_s
        return device_state(self._cpu.cores, busy_s / elapsed_s if elapsed_s else 0.0)

    def _open(self) -> None:
        """Begin with empty queues and idle workers."""
        self.flow = Flow()
        self._workers: dict[str, _Worker] = {}
        now_ns, pids = self._agenda.now_ns, itertools.count(1000)
        for task, service in self.spec.services.items():
            self.flow.open_task(task, policy=service.policy, limit=service.queue)
            for number in range(service.workers):
                worker = _Worker(f"{task}/{number}", task, service.max_batch, next(pids))
                self._workers[worker.name] = worker
                # A worker has credit for a batch beside the one at hand, see `vdag.worker`.
                self.flow.worker_ready(
                    task, worker.name,
                    credit=2 * service.max_batch, max_batch=service.max_batch, now_ns=now_ns,
                )  # fmt: skip

    def _carry_out(self, instructions: Sequence[Instruction]) -> None:
        for each in instructions:
            if isinstance(each, Deliver):
                worker = self._workers[each.worker]
                worker.next += each.items
                if worker.batch is None:
                    self._begin(worker)
            elif isinstance(each, Drop):
                self._dropped(self, each.item, each.reason)
            else:
                assert isinstance(each, Grant), "no worker is ever retired"

    def _begin(self, worker: _Worker) -> None:
        items, worker.next = worker.next[: worker.max_batch], worker.next[worker.max_batch :]
        now_ns = self._agenda.now_ns
        worker.batch = Batch(items, now_ns, pid=worker.pid)
        work_s = max(sum(self._work_of(self, item) for item in items), MIN_WORK_S)
        self._advance()
        entry = (self._progress + work_s / self._granted(worker.task), next(self._order), worker)
        heapq.heappush(self._busy, entry)
        self._expect_next()

    def _granted(self, task: str) -> float:
        """Return the share of a core that a worker may use by the limit of its task, if any."""
        share = self._limits.get(task, 1.0)
        if share >= 1.0:
            return 1.0
        return min(share * self._cpu.cores / self.spec.services[task].workers, 1.0)

    def _advance(self) -> None:
        """Bring the clock of work up to now."""
        self._progress += self._cpu.advance(self._agenda.now_ns, len(self._busy))

    def _expect_next(self) -> None:
        """Set the alarm for the worker that will be through next; earlier alarms are void."""
        self._alarm += 1
        if self._busy:
            left_s = max(self._busy[0][0] - self._progress, 0.0)
            delay_ns = self._cpu.until_done_ns(len(self._busy), left_s)
            self._agenda.after(delay_ns, self._ring, self._alarm)

    def _ring(self, alarm: int) -> None:
        if alarm != self._alarm:
            return
        self._advance()
        through = []
        while self._busy and self._busy[0][0] <= self._progress + 1e-12:
            through.append(heapq.heappop(self._busy)[2])
        self._expect_next()
        for worker in through:
            self._finish(worker)

    def _finish(self, worker: _Worker) -> None:
        batch, worker.batch = worker.batch, None
        assert batch is not None, "a busy worker has a batch"
        now_ns = batch.end_ns = self._agenda.now_ns
        instructions = self.flow.worker_done(
            worker.name, batch.items, now_ns, credit=len(batch.items)
        )
        if worker.next:
            self._begin(worker)
        self._carry_out(instructions)
        for item in batch.items:
            self._done(self, item, batch)


def node_info(spec: NodeSpec, node_addr: str, session: str = "1") -> NodeInfo:
    """Return a node as it describes itself when it joins."""
    ip = node_addr.rpartition(":")[0]
    services = {
        task: ServiceInfo(service.workers, tuple(service.models))
        for task, service in spec.services.items()
    }
    return NodeInfo(
        node_addr,
        ip,
        role=spec.role,
        name=spec.name,
        services=services,
        landing=f"tcp://{ip}:5020",
        session=session,
        resources=device_state(spec.cores, 0.0),
    )


def device_state(cores: float, busy: float) -> dict[str, object]:
    """Return the documents' `device_state` of a machine.

    Args:
        cores: that it has; a part of one counts as one that is slower.
        busy: of them, on average.
    """
    count = max(round(cores), 1)
    percent = round(100.0 * min(busy / cores, 1.0), 1)
    return {
        "cpu_ratio": [percent] * count,
        "mem_ratio": 30.0,
        "mem_total": 16.0,
        "net_ratio(MBps)": 0.0,
        "swap_ratio": 0.0,
        "gpu_mem": {},
        "gpu_utilization": {},
    }
