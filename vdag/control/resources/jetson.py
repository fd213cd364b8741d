"""The GPU of a Jetson board, from sysfs: JetPack 4 to 6 bring no NVML that would tell.

Where the kernel of NVIDIA (L4T) puts things, below the root of sysfs:

    devices/gpu.0/load                           busy share of the GPU in 1/1000: Nano, TX2, Xavier
    devices/platform/gpu.0/load                  the same: Xavier, Orin
    class/devfreq/<address>.<gpu>/cur_freq       clock in Hz; <gpu> is gm20b, gp10b, gv11b, ga10b
                                                 or, on Nano and from JetPack 6 on, gpu
    class/thermal/thermal_zone*/{type,temp}      millidegrees Celsius
    bus/i2c/drivers/ina3221x/<device>/iio:device*/{rail_name_N,in_powerN_input}
                                                 power rails in mW, kernel 4.9 (JetPack 4)
    bus/i2c/drivers/ina3221/<device>/hwmon/hwmon*/{inN_label,inN_input,currN_input}
                                                 mV and mA, kernel 5.10 and later; channels 1 to 3,
                                                 see Documentation/hwmon/ina3221.rst of Linux
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from vdag.control.resources.gpu import GpuState

__all__ = ["JetsonGpu", "Rail"]

_DEVFREQ_NAME = re.compile(r"gpu|gm20b|gp10b|gv11b|ga10b|gb10b")


def _read(path: Path | None) -> str | None:
    """Return the text of a file of sysfs, None where it is missing or its device sleeps."""
    if path is None:
        return None
    try:
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None


def _number(path: Path | None) -> int | None:
    text = _read(path)
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None


def _used_memory() -> float:
    return float(psutil.virtual_memory().percent) / 100


@dataclass(frozen=True, slots=True)
class Rail:
    """A power rail that an INA3221 measures.

    Attributes:
        label: the board's name of it, such as `VDD_CPU_GPU_CV`.
        inputs: one file in mW, or two in mV and mA.
    """

    label: str
    inputs: tuple[Path, ...]

    def power_w(self) -> float | None:
        """Return the power in watts, None where the sensor does not answer."""
        values = [_number(path) for path in self.inputs]
        if None in values:
            return None
        numbers = [value for value in values if value is not None]
        return numbers[0] / 1e3 if len(numbers) == 1 else numbers[0] * numbers[1] / 1e6


class JetsonGpu:
    """The one GPU of a Jetson, index 0.

    Its memory is the memory of the whole board: `mem_ratio` is the share of that in use, by
    whomever. `power_w` is the rail that feeds the GPU, which on some boards feeds CPU or SoC too.

    Args:
        sys_root: where sysfs is mounted.
        used_memory: tells the share of the board's memory in use, 0 to 1.
    """

    def __init__(
        self, sys_root: Path = Path("/sys"), used_memory: Callable[[], float] = _used_memory
    ) -> None:
        self._used_memory = used_memory
        devfreq = next(_devfreq(sys_root), None)
        candidates = [sys_root / "devices/gpu.0/load", sys_root / "devices/platform/gpu.0/load"]
        if devfreq is not None:
            candidates.append(devfreq / "device/load")
        self._load = next((path for path in candidates if path.is_file()), None)
        self._clock = devfreq / "cur_freq" if devfreq is not None else None
        self._temperature = next(_gpu_zones(sys_root), None)
        self.rails = tuple(sorted(_rails(sys_root), key=lambda rail: rail.label))
        self._power = next((rail for rail in self.rails if "GPU" in rail.label.upper()), None)

    @property
    def found(self) -> bool:
        """Whether this machine has the GPU of a Jetson."""
        return self._load is not None

    def read(self) -> tuple[GpuState, ...]:
        """Return the GPU, with None for what does not answer; empty where there is none."""
        if not self.found:
            return ()
        load = _number(self._load)
        clock_hz = _number(self._clock)
        millidegrees = _number(self._temperature)
        state = GpuState(
            0,
            mem_ratio=self._used_memory(),
            utilization=min(100, round(load / 10)) if load is not None else None,
            clock_mhz=round(clock_hz / 1e6) if clock_hz is not None else None,
            power_w=self._power.power_w() if self._power is not None else None,
            temperature_c=millidegrees / 1e3 if millidegrees is not None else None,
        )
        return (state,)

    def close(self) -> None:
        """Do nothing: no file stays open."""


def _devfreq(sys_root: Path) -> Iterator[Path]:
    folders = sorted((sys_root / "class/devfreq").glob("*"))
    return (folder for folder in folders if _DEVFREQ_NAME.search(folder.name))


def _gpu_zones(sys_root: Path) -> Iterator[Path]:
    for zone in sorted((sys_root / "class/thermal").glob("thermal_zone*")):
        if "gpu" in (_read(zone / "type") or "").lower():
            yield zone / "temp"


def _rails(sys_root: Path) -> Iterator[Rail]:
    drivers = sys_root / "bus/i2c/drivers"
    # No `**` here: entries below a driver are links, which a recursive pattern does not follow.
    for name in drivers.glob("ina3221*/*-*/iio:device*/rail_name_*"):
        channel = name.name.removeprefix("rail_name_")
        if label := _read(name):
            yield Rail(label, (name.with_name(f"in_power{channel}_input"),))
    for name in drivers.glob("ina3221*/*-*/hwmon/hwmon*/in[123]_label"):
        channel = name.name[2]
        if label := _read(name):
            volts, amperes = f"in{channel}_input", f"curr{channel}_input"
            yield Rail(label, (name.with_name(volts), name.with_name(amperes)))
