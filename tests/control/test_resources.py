from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from vdag.control.resources import (
    Counters,
    DeviceState,
    Sampler,
    default_interfaces,
    state_between,
)
from vdag.control.resources.gpu import GpuState
from vdag.control.resources.processes import ProcessMeter
from vdag.control.resources.quota import CpuQuota, Spending
from vdag.errors import ConfigError

#: Far beyond what any sample takes on a busy machine.
TIMEOUT_S = 60

STATE = DeviceState(
    sampled_ns=1,
    cpu_ratio=(12.5, 100.0, 0.04),
    mem_ratio=5.44,
    mem_total_nbytes=24 * 2**30 + 2**29,
    net_ratio=0.318064,
    swap_ratio=0.0,
    gpus=(
        GpuState(0, 0.0127, 7, 3, 1500, 43.21, 41.0),
        GpuState(2, mem_ratio=None, utilization=None),
    ),
)


class FakeGpus:
    """Tells how often it was read; may hang like a driver, or fail."""

    def __init__(self, hangs: bool = False, fails: bool = False) -> None:
        self.reads = 0
        self.twice = threading.Event()
        self.reading = threading.Event()
        self.may_return = threading.Event()
        self.fails = fails
        self.closed = False
        if not hangs:
            self.may_return.set()

    def read(self) -> tuple[GpuState, ...]:
        self.reading.set()
        assert self.may_return.wait(TIMEOUT_S)
        self.reads += 1
        if self.reads > 1:
            self.twice.set()
        if self.fails:
            raise RuntimeError("a sensor caught fire")
        return (GpuState(0, 0.5, self.reads),)

    def close(self) -> None:
        self.closed = True


def test_the_documented_state_has_exactly_its_keys():
    assert json.loads(json.dumps(STATE.to_dict())) == {
        "cpu_ratio": [12.5, 100.0, 0.0],
        "mem_ratio": 5.4,
        "mem_total": 24.5,
        "net_ratio(MBps)": 0.31806,
        "swap_ratio": 0.0,
        "gpu_mem": {"0": 0.0127},
        "gpu_utilization": {"0": 7},
    }


def test_a_quota_that_binds_the_node_stands_beside_the_documented_keys():
    spending = Spending(CpuQuota(0.5, 0.05), 1.0, 0.25, {})
    told = replace(STATE, spending=spending).to_dict()
    assert told == {**STATE.to_dict(), "cpu_quota": spending.to_dict()}


def test_older_pages_get_cores_and_cores_busy():
    assert STATE.to_summary() == {"n_cpu": 3, "cpu_ratio": 1.13}


def test_a_row_of_the_record_table_has_the_units_of_the_table():
    assert STATE.to_sys_info(1795302130.25) == {
        "timestamp": 1795302130.25,
        "cpu_util": 37.5,
        "mem_total": 25088,
        "mem_util": 5.4,
        "gpu_info": [
            {"gpu_id": 0, "gpu_power": 43, "gpu_util": 7, "gpu_mem_util": 3, "gpu_clock": 1500},
            {
                "gpu_id": 2,
                "gpu_power": None,
                "gpu_util": None,
                "gpu_mem_util": None,
                "gpu_clock": None,
            },
        ],
    }


def test_rates_are_those_of_the_interval():
    before = Counters(0, ((10.0, 100.0), (0.0, 100.0)), {"eth0": 5_000_000, "wlan0": 7})
    after = Counters(
        2_000_000_000, ((10.5, 102.0), (2.0, 102.0)), {"eth0": 6_000_000, "wlan0": 500_007}
    )
    state = state_between(before, after, ())
    assert state.cpu_ratio == (25.0, 100.0)
    assert state.net_ratio == 0.75
    assert state.sampled_ns == 2_000_000_000


def test_what_has_no_past_or_has_started_anew_counts_nothing_yet():
    before = Counters(0, ((10.0, 100.0),), {"eth0": 5_000_000})
    after = Counters(1_000_000_000, ((10.0, 100.0), (5.0, 5.0)), {"eth0": 1_000, "tun0": 9_000_000})
    state = state_between(before, after, ())
    assert state.cpu_ratio == (0.0, 0.0)
    assert state.net_ratio == 0.0


def test_interfaces_of_default_routes_are_found_for_both_protocols(tmp_path: Path):
    zeros = "0" * 32
    (tmp_path / "route").write_text(
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
        "eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
        "eth1\t00000000\t010200C0\t0002\t0\t0\t100\t00000000\t0\t0\t0\n"
        "docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
    )
    (tmp_path / "ipv6_route").write_text(
        f"{zeros} 00 {zeros} 00 fe80{'0' * 27}1 00000400 00000001 00000000 00000003 wlan0\n"
        f"fe80{'0' * 28} 40 {zeros} 00 {zeros} 00000100 00000001 00000000 00000001 eth2\n"
        f"{zeros} 00 {zeros} 00 {zeros} ffffffff 00000001 00000000 00200200 lo\n"
    )
    assert default_interfaces(tmp_path) == {"eth0", "wlan0"}


def test_a_machine_without_routes_has_no_default_interfaces(tmp_path: Path):
    assert default_interfaces(tmp_path) == frozenset()


def test_the_first_state_is_there_at_once_and_is_the_mean_since_boot():
    with Sampler(60.0, gpus=FakeGpus(hangs=False)) as sampler:
        state = sampler.latest()
    assert len(state.cpu_ratio) == psutil.cpu_count()
    assert all(0 < ratio <= 100 for ratio in state.cpu_ratio)
    assert state.mem_total_nbytes == psutil.virtual_memory().total
    assert state.gpus == ()


def test_the_thread_samples_gpus_and_closes_them():
    gpus = FakeGpus()
    with Sampler(0.05, gpus=gpus) as sampler:
        first = sampler.latest()
        assert gpus.twice.wait(TIMEOUT_S)
        assert sampler.latest().gpus[0].mem_ratio == 0.5
        assert sampler.latest().sampled_ns > first.sampled_ns
    assert gpus.closed
    assert "vdag-resources" not in {thread.name for thread in threading.enumerate()}


def test_a_driver_that_hangs_blocks_nobody_who_asks():
    gpus = FakeGpus(hangs=True)
    with Sampler(0.05, gpus=gpus) as sampler:
        assert gpus.reading.wait(TIMEOUT_S)
        assert sampler.latest() is sampler.latest()
        sampler.watch(os.getpid())
        assert sampler.process(os.getpid()) is not None
        gpus.may_return.set()


def test_a_sensor_that_fails_is_reported_once_and_the_thread_goes_on(
    caplog: pytest.LogCaptureFixture,
):
    gpus = FakeGpus(fails=True)
    with Sampler(0.05, gpus=gpus):
        assert gpus.twice.wait(TIMEOUT_S)
    errors = [record.message for record in caplog.records if record.levelno >= logging.ERROR]
    assert errors == ["the state of this machine could not be sampled"]


@pytest.mark.parametrize("interval_s", [0.0, 0.049, 60.1, float("nan")])
def test_an_interval_out_of_range_is_refused(interval_s: float):
    with pytest.raises(ConfigError, match=rf"^interval_s {interval_s:g} is not 0\.05 to 60$"):
        Sampler(interval_s)


def test_the_use_of_a_process_is_a_share_of_all_cores():
    meter = ProcessMeter(os.getpid())
    meter.read()
    started_s = time.perf_counter()
    busy_until_s = time.process_time() + 0.5
    while time.process_time() < busy_until_s:
        pass
    use = meter.read()
    elapsed_s = time.perf_counter() - started_s
    assert use is not None
    cores = psutil.cpu_count() or 1
    # The kernel counts in ticks of 10 ms.
    assert use.cpu_util_use * cores * elapsed_s == pytest.approx(0.5, abs=0.03)
    total = psutil.virtual_memory().total
    assert use.mem_util_use * total == pytest.approx(psutil.Process().memory_info().rss, rel=0.1)


def test_a_process_that_has_ended_uses_nothing_even_while_it_lingers():
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    try:
        meter = ProcessMeter(child.pid)
        assert child.stdout is not None
        child.stdout.read()
        psutil.Process(child.pid)  # still there: nobody has waited for it
        while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
            os.sched_yield()
        assert meter.read() is None
    finally:
        child.communicate()
    assert meter.read() is None


def test_watched_processes_are_measured_until_they_end():
    gpus = FakeGpus()
    child = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with Sampler(0.05, gpus=gpus) as sampler:
        sampler.watch(child.pid)
        sampler.watch(os.getpid())
        use = sampler.process(child.pid)
        assert use is not None
        assert use.pid == child.pid
        child.communicate(b"\n")
        seen = gpus.reads
        deadline_s = time.monotonic() + TIMEOUT_S
        while gpus.reads < seen + 3 and time.monotonic() < deadline_s:
            gpus.reading.clear()
            assert gpus.reading.wait(TIMEOUT_S)
        assert sampler.process(child.pid) is None
        assert sampler.process(os.getpid()) is not None
        sampler.unwatch(os.getpid())
        assert sampler.process(os.getpid()) is None


@pytest.mark.parametrize("pid", [-1, 2**22 + 1])
def test_a_pid_that_does_not_exist_cannot_be_watched(pid: int):
    with (
        Sampler(60.0, gpus=FakeGpus()) as sampler,
        pytest.raises(ConfigError, match=rf"^pid {pid} does not exist$"),
    ):
        sampler.watch(pid)
