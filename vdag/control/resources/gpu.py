"""What is read of one GPU, and the seam behind which it is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["GpuReader", "GpuState"]


@dataclass(frozen=True, slots=True)
class GpuState:
    """One GPU at one moment; None stands for what this GPU or its driver does not tell.

    Attributes:
        index: number of the GPU on its machine, from 0.
        mem_ratio: share of its memory in use, 0 to 1.
        utilization: percent of the last interval in which a kernel ran, 0 to 100.
        mem_utilization: percent of the last interval in which its memory was read or written.
        clock_mhz: clock of its multiprocessors.
        power_w: power it draws, watts; on Jetson the rail may feed a neighbour too.
        temperature_c: degrees Celsius.
    """

    index: int
    mem_ratio: float | None = None
    utilization: int | None = None
    mem_utilization: int | None = None
    clock_mhz: int | None = None
    power_w: float | None = None
    temperature_c: float | None = None


class GpuReader(Protocol):
    """Reads the GPUs of this machine; called by one thread at a time."""

    def read(self) -> tuple[GpuState, ...]:
        """Return the GPUs that answer, by rising index; never raises for one that does not."""
        ...

    def close(self) -> None:
        """Release the driver; nothing is read afterwards."""
        ...
