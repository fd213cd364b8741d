"""What one process uses of its machine, between two looks at it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import psutil

from vdag.errors import ConfigError

__all__ = ["ProcessMeter", "ProcessUse"]


@dataclass(frozen=True, slots=True)
class ProcessUse:
    """What a process used over an interval.

    Attributes:
        pid: of the process.
        cpu_util_use: CPU time as a share of the time of ALL cores, 0 to 1.
        mem_util_use: resident memory as a share of the machine's, 0 to 1; a shared segment counts
            in full for every process that has touched it.
    """

    pid: int
    cpu_util_use: float
    mem_util_use: float


class ProcessMeter:
    """Measures a process from one `read` to the next, without waiting in between.

    Attributes:
        cpu_s: CPU seconds of the process until the last `read`.

    Raises:
        ConfigError: there is no process `pid`.
    """

    def __init__(self, pid: int) -> None:
        try:
            self._process = psutil.Process(pid)
            age_s = time.time() - self._process.create_time()
        except (psutil.Error, ValueError) as err:
            raise ConfigError(f"pid {pid} does not exist") from err
        self._cores = psutil.cpu_count() or 1
        self._total_nbytes = psutil.virtual_memory().total
        # As if the last read had been at the start of the process.
        self._read_ns = time.monotonic_ns() - max(1, int(age_s * 1e9))
        self.cpu_s = 0.0

    def read(self) -> ProcessUse | None:
        """Return the use since the last read (the first time: since the start), None once ended.

        The kernel counts CPU time in ticks of 10 ms, so reads should lie some 100 ms apart.
        """
        try:
            # A pid may have passed on to a stranger, and the dead linger until somebody asks.
            if not self._process.is_running():
                return None
            with self._process.oneshot():
                if self._process.status() == psutil.STATUS_ZOMBIE:
                    return None
                times = self._process.cpu_times()
                resident_nbytes = self._process.memory_info().rss
        except psutil.Error:
            return None
        now_ns, cpu_s = time.monotonic_ns(), times.user + times.system
        elapsed_s = max(1, now_ns - self._read_ns) / 1e9
        cpu = (cpu_s - self.cpu_s) / elapsed_s / self._cores
        self._read_ns, self.cpu_s = now_ns, cpu_s
        return ProcessUse(
            self._process.pid,
            cpu_util_use=min(1.0, max(0.0, cpu)),
            mem_util_use=resident_nbytes / self._total_nbytes,
        )
