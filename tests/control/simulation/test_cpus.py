from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vdag.control.simulation.cpus import Cpu
from vdag.control.simulation.hardware import NodeSpec
from vdag.control.simulation.waits import Wait, on_node, under_quota, work_under_quota

S, MS = 1_000_000_000, 1_000_000
PERIOD_NS = 100 * MS


def half_a_core(**changes: float) -> Cpu:
    return Cpu(0.5, period_ns=PERIOD_NS, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("begin_ms", "work_ms", "took_ms"),
    [
        (0, 40, 40),  # less than the quota: at full speed
        (0, 50, 50),
        (0, 60, 110),  # ten more: they wait for the next period
        (0, 110, 210),
        (70, 60, 60),  # thirty before the period ends, thirty after it
        (70, 80, 80),
        (70, 81, 131),
    ],
)
def test_work_runs_at_full_speed_until_the_quota_is_used_up(
    begin_ms: int, work_ms: int, took_ms: int
):
    cpu = half_a_core()
    cpu.advance(begin_ms * MS, 0)
    due_ns = cpu.until_done_ns(1, work_ms / 1e3)
    assert due_ns == pytest.approx(took_ms * MS, abs=2)
    assert cpu.advance(begin_ms * MS + due_ns, 1) == pytest.approx(work_ms / 1e3, abs=1e-8)


def test_two_workers_use_the_quota_up_twice_as_fast():
    cpu = half_a_core()
    assert cpu.until_done_ns(2, 0.030) == pytest.approx(105 * MS, abs=2)
    assert cpu.advance(50 * MS, 2) == pytest.approx(0.025)
    assert cpu.busy_s == pytest.approx(0.05)
    assert cpu.wakes_ns() == 100 * MS


def test_workers_never_run_on_more_cores_than_there_are():
    cpu = Cpu(3.0, period_ns=PERIOD_NS, cpus=2)
    assert cpu.advance(50 * MS, 4) == pytest.approx(0.025)


def test_what_the_node_does_itself_is_taken_from_the_quota():
    cpu = half_a_core(own_load=0.25)
    # After 60 ms of it 35 are left, which last 28 ms.
    cpu.advance(60 * MS, 0)
    assert cpu.until_done_ns(1, 0.028) == pytest.approx(28 * MS, abs=2)
    assert cpu.until_done_ns(1, 0.029) == pytest.approx(41 * MS, abs=2)


def test_what_a_frame_costs_the_node_is_taken_from_the_quota_at_once():
    cpu = half_a_core()
    cpu.spend(0.02)
    assert cpu.until_done_ns(1, 0.03) == pytest.approx(30 * MS, abs=2)
    assert cpu.until_done_ns(1, 0.031) == pytest.approx(101 * MS, abs=2)
    cpu.spend(0.2)  # more than there is: the next period is whole again
    assert cpu.until_done_ns(1, 0.05) == pytest.approx(150 * MS, abs=2)


def test_without_a_quota_a_part_of_a_core_is_a_slower_one():
    cpu = Cpu(0.5, speed=2.0)
    assert cpu.until_done_ns(1, 1.0) == S + 1
    assert cpu.advance(S, 1) == pytest.approx(1.0)
    assert Cpu(1.0, own_load=0.5).advance(S, 1) == pytest.approx(0.5)


@given(
    cores=st.floats(0.05, 4.0),
    own=st.floats(0.0, 0.9),
    busy=st.integers(1, 4),
    begin_ns=st.integers(0, 3 * PERIOD_NS),
    work_s=st.floats(1e-4, 2.0),
    looks=st.lists(st.floats(0.0, 1.0), max_size=8),
)
def test_it_does_not_matter_how_often_somebody_looks(
    cores: float, own: float, busy: int, begin_ns: int, work_s: float, looks: list[float]
):
    cpu = Cpu(cores, own_load=own * cores, period_ns=PERIOD_NS, cpus=4)
    cpu.advance(begin_ns, 0)
    due_ns = cpu.until_done_ns(busy, work_s)
    done_s = 0.0
    for share in [*sorted(looks), 1.0]:
        done_s += cpu.advance(begin_ns + round(share * due_ns), busy)
    assert done_s == pytest.approx(work_s, rel=1e-6, abs=1e-8)
    assert cpu.busy_s <= cores * (due_ns / S + 2 * PERIOD_NS / S) + 1e-9


@settings(max_examples=25)
@given(work_s=st.floats(0.001, 0.5), cores=st.floats(0.1, 0.9))
def test_in_the_long_run_a_quota_is_what_it_says(work_s: float, cores: float):
    wait = under_quota(work_s, cores, 0.1)
    assert work_s <= wait.mean_s <= wait.p95_s + 1e-9
    # Not more than what a slower core would take, and a period.
    assert wait.p95_s <= work_s / cores + 0.1
    assert work_under_quota(wait.mean_s, cores, 0.1) == pytest.approx(work_s, rel=0.02)


def test_a_node_without_a_quota_stretches_all_work_alike():
    half = NodeSpec(name="n", cores=0.5)
    assert on_node(half, 0.5, 2.0, Wait(0.1, 0.2)) == Wait(0.1, 0.2)
    quota = NodeSpec(name="n", cores=0.5, cpu_period_s=0.1)
    assert on_node(quota, 0.5, 1.0, Wait(0.02, 0.03)).mean_s == pytest.approx(0.02)
