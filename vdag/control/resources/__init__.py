"""The state of this machine, sampled by a thread of its own: no caller ever waits for a sensor.

CPU, memory, swap and network come from psutil; GPUs from NVML, or from sysfs on a Jetson.
`DeviceState` speaks three tongues: `to_dict` is the documents' `device_state`, `to_summary` the
older object that web pages read, `to_sys_info` a row of the record table `sys_info`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from vdag.control.resources.gpu import GpuReader, GpuState
from vdag.control.resources.jetson import JetsonGpu
from vdag.control.resources.nvml import NvmlGpus
from vdag.control.resources.processes import ProcessMeter, ProcessUse
from vdag.control.resources.quota import Spending, read_quota
from vdag.errors import ConfigError

__all__ = [
    "Counters",
    "DeviceState",
    "Sampler",
    "default_interfaces",
    "find_gpus",
    "state_between",
]

_LOG = logging.getLogger(__name__)

MIN_INTERVAL_S = 0.05
MAX_INTERVAL_S = 60.0
#: The first interval is short, so that a node that has just started knows its GPUs and its load.
FIRST_INTERVAL_S = 0.1
#: How long `close` waits for a driver that does not come back.
CLOSE_TIMEOUT_S = 5.0

#: Flag of a route that is up, of Linux's `route.h`.
_RTF_UP = 1


@dataclass(frozen=True, slots=True)
class DeviceState:
    """A machine over one interval.

    Attributes:
        sampled_ns: end of the interval, on the monotonic clock; an old one means a stuck driver.
        cpu_ratio: busy share of every core over the interval, percent 0 to 100.
        mem_ratio: share of memory that is not available, percent.
        mem_total_nbytes: memory of the machine.
        net_ratio: sent plus received on the interfaces of default routes, 10**6 bytes a second.
        swap_ratio: share of swap in use, percent; 0 without swap.
        gpus: the GPUs that answered, by rising index.
        spending: of the CPU quota that binds this node; None if none does.
    """

    sampled_ns: int
    cpu_ratio: tuple[float, ...]
    mem_ratio: float
    mem_total_nbytes: int
    net_ratio: float
    swap_ratio: float
    gpus: tuple[GpuState, ...] = ()
    spending: Spending | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the documents' `device_state`; a GPU that does not tell a value has no key.

        `cpu_quota` is beyond the documents, and only there if one binds: see `Spending`.
        """
        found: dict[str, Any] = {
            "cpu_ratio": [round(ratio, 1) for ratio in self.cpu_ratio],
            "mem_ratio": round(self.mem_ratio, 1),
            "mem_total": round(self.mem_total_nbytes / 2**30, 2),
            "net_ratio(MBps)": round(self.net_ratio, 5),
            "swap_ratio": round(self.swap_ratio, 1),
            "gpu_mem": {str(g.index): g.mem_ratio for g in self.gpus if g.mem_ratio is not None},
            "gpu_utilization": {
                str(g.index): g.utilization for g in self.gpus if g.utilization is not None
            },
        }
        if self.spending is not None:
            found["cpu_quota"] = self.spending.to_dict()
        return found

    def to_summary(self) -> dict[str, Any]:
        """Return what stands beside `device_state` for older pages: cores, and cores busy."""
        return {"n_cpu": len(self.cpu_ratio), "cpu_ratio": round(sum(self.cpu_ratio) / 100, 2)}

    def to_sys_info(self, timestamp_s: float) -> dict[str, Any]:
        """Return a report of the table `sys_info`: percents, MiB, MHz and W, with every GPU.

        Args:
            timestamp_s: time of the sample, seconds of the epoch.
        """
        cores = len(self.cpu_ratio)
        return {
            "timestamp": timestamp_s,
            "cpu_util": round(sum(self.cpu_ratio) / cores, 1) if cores else 0.0,
            "mem_total": self.mem_total_nbytes >> 20,
            "mem_util": round(self.mem_ratio, 1),
            "gpu_info": [
                {
                    "gpu_id": gpu.index,
                    "gpu_power": round(gpu.power_w) if gpu.power_w is not None else None,
                    "gpu_util": gpu.utilization,
                    "gpu_mem_util": gpu.mem_utilization,
                    "gpu_clock": gpu.clock_mhz,
                }
                for gpu in self.gpus
            ],
        }


@dataclass(frozen=True, slots=True)
class Counters:
    """What only grows.

    Attributes:
        taken_ns: when, on the monotonic clock.
        cores: seconds of every core since boot, as (busy, all).
        nbytes: sent plus received, by interface.
    """

    taken_ns: int
    cores: tuple[tuple[float, float], ...]
    nbytes: Mapping[str, int]


def find_gpus(sys_root: Path = Path("/sys")) -> GpuReader:
    """Return the reader that fits this machine: a Jetson's where sysfs shows one, else NVML."""
    jetson = JetsonGpu(sys_root)
    return jetson if jetson.found else NvmlGpus()


def default_interfaces(proc_net: Path = Path("/proc/net")) -> frozenset[str]:
    """Return the network interfaces that default routes lead through, never loopback.

    Args:
        proc_net: where `route` and `ipv6_route` lie, in the formats of proc(5); either may miss.
    """
    names = set()
    for line in _lines(proc_net / "route")[1:]:
        name, destination, _, flags, *_, mask = line.split()[:8]
        if int(destination, 16) == int(mask, 16) == 0 and int(flags, 16) & _RTF_UP:
            names.add(name)
    for line in _lines(proc_net / "ipv6_route"):
        destination, prefix, *_, flags, name = line.split()
        if int(destination, 16) == int(prefix, 16) == 0 and int(flags, 16) & _RTF_UP:
            names.add(name)
    return frozenset(names - {"lo"})


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("ascii").splitlines()
    except OSError:
        return []


def _count() -> Counters:
    cores = []
    for times in psutil.cpu_times(percpu=True):
        # The kernel counts guest time in user time as well; psutil has it in both.
        everything = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        idle = times.idle + getattr(times, "iowait", 0.0)
        cores.append((everything - idle, everything))
    interfaces = psutil.net_io_counters(pernic=True, nowrap=False)
    chosen = default_interfaces() or frozenset(interfaces) - {"lo"}
    nbytes = {
        name: counter.bytes_sent + counter.bytes_recv
        for name, counter in interfaces.items()
        if name in chosen
    }
    return Counters(time.monotonic_ns(), tuple(cores), nbytes)


def state_between(before: Counters, now: Counters, gpus: tuple[GpuState, ...]) -> DeviceState:
    """Return the state over the interval between two counts, with memory as it is now."""
    memory = psutil.virtual_memory()
    # A core that has just come, or an interface, has no past: it counts from the next interval.
    olds = before.cores if len(before.cores) == len(now.cores) else now.cores
    sent = sum(
        max(0, nbytes - before.nbytes[name])
        for name, nbytes in now.nbytes.items()
        if name in before.nbytes
    )
    elapsed_s = (now.taken_ns - before.taken_ns) / 1e9
    return DeviceState(
        sampled_ns=now.taken_ns,
        cpu_ratio=tuple(_busy(*pair) for pair in zip(olds, now.cores, strict=True)),
        mem_ratio=float(memory.percent),
        mem_total_nbytes=int(memory.total),
        net_ratio=sent / elapsed_s / 1e6 if elapsed_s > 0 else 0.0,
        swap_ratio=float(psutil.swap_memory().percent),
        gpus=gpus,
    )


def _busy(before: tuple[float, float], now: tuple[float, float]) -> float:
    everything = now[1] - before[1]
    if everything <= 0:
        return 0.0
    return min(100.0, max(0.0, 100 * (now[0] - before[0]) / everything))


def _spending(workers: dict[int, float]) -> Spending | None:
    """Return what this process and its workers have used of the quota, if there is one."""
    quota = read_quota()
    if quota is None:
        return None
    used_s = time.process_time() + sum(workers.values())
    return Spending(quota, time.monotonic(), used_s, workers)


def _since_boot(now: Counters) -> Counters:
    """Return the counters of the boot, so that the very first state is the mean since then."""
    uptime_ns = int((time.time() - psutil.boot_time()) * 1e9)
    return Counters(
        now.taken_ns - max(1, uptime_ns),
        ((0.0, 0.0),) * len(now.cores),
        dict.fromkeys(now.nbytes, 0),
    )


class Sampler:
    """Keeps the newest state of the machine, and of the processes it is told to watch.

    The thread `vdag-resources` samples; `latest` and `process` return what it left, at once, from
    any thread. The first state is the mean since boot and has no GPUs. A driver that hangs makes
    states old (`sampled_ns`), nothing else.

    Args:
        interval_s: seconds between samples, 0.05 to 60.
        gpus: reads the GPUs, in the sampler's thread, and is closed by it; by default what
            `find_gpus` finds.

    Raises:
        ConfigError: `interval_s` is out of range.
    """

    def __init__(self, interval_s: float = 1.0, *, gpus: GpuReader | None = None) -> None:
        if not MIN_INTERVAL_S <= interval_s <= MAX_INTERVAL_S:
            raise ConfigError(
                f"interval_s {interval_s:g} is not {MIN_INTERVAL_S:g} to {MAX_INTERVAL_S:g}"
            )
        self._interval_s = interval_s
        self._gpus = gpus if gpus is not None else find_gpus()
        self._counters = _count()
        self._latest = state_between(_since_boot(self._counters), self._counters, ())
        self._meters: dict[int, ProcessMeter] = {}
        self._uses: dict[int, ProcessUse] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        # A daemon: a driver stuck in the kernel must not keep the interpreter from ending.
        self._thread = threading.Thread(target=self._run, name="vdag-resources", daemon=True)
        self._thread.start()

    def __enter__(self) -> Sampler:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def latest(self) -> DeviceState:
        """Return the newest state; after `close`, the last."""
        return self._latest

    def watch(self, pid: int) -> None:
        """Measure a process with every sample, until `unwatch` or its end.

        Raises:
            ConfigError: there is no such process.
        """
        meter = ProcessMeter(pid)
        use = meter.read()
        with self._lock:
            self._meters[pid] = meter
            if use is not None:
                self._uses[pid] = use

    def unwatch(self, pid: int) -> None:
        """Forget a process; one that is not watched is none of our business."""
        with self._lock:
            self._meters.pop(pid, None)
            self._uses.pop(pid, None)

    def process(self, pid: int) -> ProcessUse | None:
        """Return what a watched process used over the newest interval, None once it has ended.

        Before the second sample it is the mean since the start of the process.
        """
        return self._uses.get(pid)

    def close(self) -> None:
        """End the thread and release the GPUs' driver."""
        self._stopping.set()
        self._thread.join(CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            _LOG.warning("a GPU driver has not answered for %g s", CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        wait_s = min(FIRST_INTERVAL_S, self._interval_s)
        failed = False
        while not self._stopping.wait(wait_s):
            wait_s = self._interval_s
            try:
                self._sample()
                failed = False
            except Exception:  # whatever a sensor does, the next interval may be better
                if not failed:
                    _LOG.exception("the state of this machine could not be sampled")
                failed = True
        self._gpus.close()

    def _sample(self) -> None:
        gpus = self._gpus.read()
        counters = _count()
        state = state_between(self._counters, counters, gpus)
        self._counters = counters
        with self._lock:
            for pid, meter in list(self._meters.items()):
                if (use := meter.read()) is not None:
                    self._uses[pid] = use
                else:
                    del self._meters[pid]
                    self._uses.pop(pid, None)
            workers = {pid: meter.cpu_s for pid, meter in self._meters.items()}
        self._latest = replace(state, spending=_spending(workers))
