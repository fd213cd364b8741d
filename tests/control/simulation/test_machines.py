from __future__ import annotations

import random
import statistics

import pytest

from vdag.control.simulation.agenda import Agenda
from vdag.control.simulation.machines import Batch, Machine
from vdag.control.simulation.scenario import NodeSpec, ServiceSpec, Step
from vdag.transport.flow import Item

S = 1_000_000_000


class Bench:
    """A machine whose frames take what their tokens say, and what became of them."""

    def __init__(
        self,
        *,
        cores: float = 4,
        speed: float = 1,
        cpu_period_s: float | None = None,
        **service: object,
    ) -> None:
        self.agenda = Agenda()
        spec = NodeSpec(
            name="n",
            cores=cores,
            speed=speed,
            cpu_period_s=cpu_period_s,
            services={"task": ServiceSpec(**service)},
        )
        self.done: list[tuple[int, Batch]] = []
        self.dropped: list[tuple[int, str]] = []
        self.arrived: dict[int, int] = {}
        self.machine = Machine(
            spec,
            "10.0.0.1:5001",
            self.agenda,
            work_of=lambda machine, item: item.token,
            done=lambda machine, item, batch: self.done.append((item.seq, batch)),
            dropped=lambda machine, item, reason: self.dropped.append((item.seq, reason)),
        )

    def submit(self, seq: int, work_s: float, stream: int = 0) -> None:
        self.arrived[seq] = self.agenda.now_ns
        self.machine.submit(Item(stream, seq, "task", token=work_s))

    def at(self, time_s: float, seq: int, work_s: float, stream: int = 0) -> None:
        self.agenda.at(round(time_s * S), self.submit, seq, work_s, stream)

    def ends(self) -> dict[int, float]:
        return {seq: batch.end_ns / S for seq, batch in self.done}


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_worker_of_even_frames_that_come_at_random_waits_as_m_d_1_does(load: float):
    bench, chance, at_s = Bench(workers=1, queue=4096), random.Random("arrivals"), 0.0
    frames, service_s = 40_000, 0.01
    for seq in range(frames):
        at_s += chance.expovariate(load / service_s)
        bench.at(at_s, seq, service_s)
    bench.agenda.run(round((at_s + 60) * S))
    assert len(bench.done) == frames
    waits = [(batch.start_ns - bench.arrived[seq]) / S for seq, batch in bench.done]
    # Pollaczek and Khinchine.
    expected_s = load * service_s / (2 * (1 - load))
    assert statistics.fmean(waits) == pytest.approx(expected_s, rel=0.06)


def test_workers_share_cores_evenly():
    bench = Bench(cores=1, workers=2)
    bench.at(0.0, 0, 1.0)
    bench.at(0.0, 1, 0.5)
    bench.agenda.run(10 * S)
    # Half a core each until the short one is through at 1 s; then the other has all of it.
    assert bench.ends() == {0: pytest.approx(1.5), 1: pytest.approx(1.0)}


def test_speed_and_a_part_of_a_core_scale_the_work():
    bench = Bench(cores=0.5, speed=2, workers=1)
    bench.at(0.0, 0, 1.0)
    bench.agenda.run(10 * S)
    assert bench.ends() == {0: pytest.approx(1.0)}


def test_frames_stand_still_when_the_quota_of_a_period_is_used_up():
    bench = Bench(cores=0.5, cpu_period_s=0.1, workers=2)
    bench.at(0.0, 0, 0.04)
    bench.at(0.3, 1, 0.06)
    bench.at(0.65, 2, 0.02)
    bench.at(0.65, 3, 0.02)
    bench.agenda.at(round(0.37 * S), lambda: wakes.append(bench.machine.wakes_ns()))
    bench.agenda.at(round(0.45 * S), lambda: wakes.append(bench.machine.wakes_ns()))
    wakes: list[int] = []
    bench.agenda.run(S)
    ends = bench.ends()
    assert [ends[seq] for seq in range(4)] == pytest.approx([0.04, 0.41, 0.67, 0.67])
    assert wakes == [round(0.4 * S), round(0.45 * S)]


def test_a_quota_that_changes_counts_from_then_on():
    bench = Bench(cores=0.5, cpu_period_s=0.1, workers=1)
    bench.at(0.0, 0, 0.1)
    bench.agenda.at(S // 20, bench.machine.change, Step(at_s=0.05, node="n", cores=0.25))
    bench.agenda.run(S)
    # Fifty at once, then twenty-five of each period.
    assert bench.ends() == {0: pytest.approx(0.225)}


def test_cores_that_change_count_from_then_on_also_for_frames_at_work():
    bench = Bench(cores=1, workers=1)
    bench.at(0.0, 0, 1.0)
    bench.agenda.at(S // 2, bench.machine.change, Step(at_s=0.5, node="n", cores=0.5))
    bench.agenda.run(10 * S)
    assert bench.ends() == {0: pytest.approx(1.5)}


def test_a_limit_of_a_task_slows_its_next_frames_down():
    bench = Bench(cores=4, workers=2)
    bench.machine.limit({"task": 0.25})
    bench.at(0.0, 0, 1.0)
    bench.agenda.run(10 * S)
    # A quarter of four cores for two workers is half a core for each.
    assert bench.ends() == {0: pytest.approx(2.0)}


def test_a_worker_takes_a_batch_when_more_than_one_frame_waits():
    bench = Bench(workers=1, max_batch=4)
    for seq in range(5):
        bench.at(0.0, seq, 0.1)
    bench.agenda.run(10 * S)
    sizes = {batch.start_ns: len(batch.items) for _, batch in bench.done}
    assert list(sizes.values()) == [1, 4]
    assert bench.ends()[4] == pytest.approx(0.5)


def test_a_full_queue_drops_and_the_books_of_the_real_queue_balance():
    bench = Bench(workers=1, queue=2)
    for seq in range(10):
        bench.at(0.0, seq, 0.1)
    bench.agenda.run(S // 4)
    bench.machine.flow.check()
    counts = bench.machine.flow.stats().tasks["task"].counts
    assert counts.balance == 0
    assert [reason for _, reason in bench.dropped] == ["full"] * 6


def test_a_machine_that_goes_loses_its_frames_and_comes_back_empty():
    bench = Bench(workers=1)
    bench.at(0.0, 0, 1.0)
    bench.agenda.at(S // 2, bench.machine.change, Step(at_s=0.5, node="n", up=False))
    bench.at(0.6, 1, 1.0)
    bench.agenda.at(S, bench.machine.change, Step(at_s=1, node="n", up=True))
    bench.at(1.5, 2, 1.0)
    bench.agenda.run(10 * S)
    assert bench.ends() == {2: pytest.approx(2.5)}
    assert bench.dropped == []


def test_the_state_of_a_machine_says_how_busy_its_cores_were():
    bench = Bench(cores=2, workers=2)
    bench.at(0.0, 0, 0.5)
    bench.agenda.run(S)
    assert bench.machine.resources()["cpu_ratio"] == [25.0, 25.0]
    bench.agenda.run(2 * S)
    assert bench.machine.resources()["cpu_ratio"] == [0.0, 0.0]
