"""The GPU path on a machine with a GPU: that it is right, and what it is worth.

Not part of `make bench`, which runs where there is no GPU; a program of its own:

    python benchmarks/bench_gpu.py OUT [part ...]

It writes `OUT/gpu.json` and `OUT/gpu.txt`. The parts are

    layer      memory, copies, streams, events, graphs
    kernel     pictures through the GPU's kernel, against the CPU's
    slots      pictures in shared memory
    models     the zoo in ONNX Runtime on CUDA, against the CPU
    endings    engines opened and closed again and again, with the time to the first result
    rates      frames per second and delays, beside ONNX Runtime used plainly
    overlap    copies beside compute
    sizes      batches whose size changes, beside ONNX Runtime used plainly
    workers    a worker process with page-locked slots and two batches at work, and without
    devices    two workers of a task on one GPU and on two
    jpeg       files decoded by nvJPEG, against libjpeg-turbo
    batches    what batches take: time, and memory of the device
    costs      the same in a profile, and what the scheduler's loads make of it
    quiet      engines write nothing to standard error

A part that fails is reported, and the others go on; the exit status is then 1.

Measured in `rates`: pictures in memory to outputs in memory. vdag: bytes of page-locked memory to
the GPU, the tensor made there, two batches in flight (`lanes`) or one (`alone`). Plainly: the
tensor made on the CPU by vdag's own kernel, which is faster than OpenCV's, on one thread and on
all, or by OpenCV (`opencv`), then `InferenceSession.run`. The ratio is against the fastest of them.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpu_costs
import gpu_parts
import gpu_rates
import gpu_sizes
import gpu_workers
from gpu_parts import Report

PARTS: dict[str, Callable[[Report], None]] = {
    "layer": gpu_parts.layer,
    "kernel": gpu_parts.kernel,
    "slots": gpu_parts.slots,
    "models": gpu_parts.models,
    "endings": gpu_rates.endings,
    "rates": gpu_rates.rates,
    "overlap": gpu_rates.overlap,
    "sizes": gpu_sizes.sizes,
    "workers": gpu_workers.workers,
    "devices": gpu_workers.devices,
    "jpeg": gpu_workers.jpeg,
    "batches": gpu_workers.batches,
    "costs": gpu_costs.costs,
    "quiet": gpu_workers.quiet,
}


def machine() -> dict[str, Any]:
    """Describe what the figures are of."""
    import onnxruntime
    import pycuda

    from vdag.engines.gpu.device import open_device

    device = open_device(0)
    return {
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        "device": device.name,
        "compute_capability": list(device.compute_capability),
        "device_gib": round(device.nbytes / 2**30, 1),
        "integrated": device.integrated,
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "pycuda": pycuda.VERSION_TEXT,
    }


def run_part(report: Report, name: str) -> None:
    """Run one part, and note how it went."""
    start = time.monotonic()
    report.line(f"== {name}")
    try:
        PARTS[name](report)
    except Exception:
        report.fail(f"{name}: {traceback.format_exc()}")
    report.line(f"-- {name}: {time.monotonic() - start:.1f} s")


def main() -> int:
    """Run the parts asked for, or all, each in a process of its own: a library may end it."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    names = sys.argv[2:] or list(PARTS)
    if len(names) > 1:
        command = [sys.executable, __file__, str(folder)]
        ended = {name: subprocess.run([*command, name]).returncode for name in names}
        bad = [f"{name} (status {status})" for name, status in ended.items() if status]
        print("FAILED: " + ", ".join(bad) if bad else "all parts passed")
        return 1 if bad else 0
    report = Report(folder / "gpu.txt")
    figures = folder / "gpu.json"
    if figures.exists():
        report.figures.update(json.loads(figures.read_text()))
    report.figures["machine"] = machine()
    run_part(report, names[0])
    figures.write_text(json.dumps(report.figures, indent=1))
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
