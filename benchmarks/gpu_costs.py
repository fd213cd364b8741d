"""The part `costs` of `bench_gpu.py`: what batches take, in a profile; what the scheduler reads.

A task's cost is measured as `vdag profile` does it: single frames in a worker process, then batches
in this one. Then a worker process gets frames at even steps, of cameras of at most 25 frames per
second which come to a quarter, a half and so on of what it can do at most. What their jobs would
report of that goes into the scheduler's own `Loads`. Shown are

    loads     workers that the cameras take, as the scheduler counts them
    plain     frames per second times the seconds of their batches: as if each had one of its own
    share     of the most frames per second that the worker has done: what it comes to

`VDAG_BENCH_ENGINE` and `VDAG_BENCH_DEVICE` name others, such as `onnx` and `cpu`.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from comparison import quantile
from gpu_parts import Report, pictures
from gpu_workers import IN_FLIGHT, MEASURED_S, TIMEOUT_S, Camera, worker_rate

from vdag import TaskOptions
from vdag.control.profile import Cost, Profile
from vdag.control.profile.batching import SAMPLES, measure_batches, points_of
from vdag.control.profile.cells import CellKey
from vdag.control.scheduling.cases import Case
from vdag.control.scheduling.events import NodeInfo, QueryInfo, ServiceInfo
from vdag.control.scheduling.loads import Loads
from vdag.control.scheduling.nodes import Nodes
from vdag.control.sniffing import Sniffer
from vdag.graph import Graph
from vdag.plan import Placement, Plan, VideoConf
from vdag.results import Result, TaskParts
from vdag.transport import messages

ENGINE = os.environ.get("VDAG_BENCH_ENGINE", "onnx-cuda")
DEVICE = os.environ.get("VDAG_BENCH_DEVICE", "cuda:0")
OPTIONS = TaskOptions(engine=ENGINE, device=DEVICE)
TASKS = ("face_detection", "car_detection")
NODE = "10.0.0.9:5001"
BATCH, FPS, ALONE = 16, 25.0, 40
SHARES = (0.25, 0.5, 0.75, 0.9)
#: Frames that are sent at the same rate before those that count.
BEFORE_S = 1.0


def costs(report: Report) -> None:
    """Measure costs by size of the batch into a profile, and hold loads against what is done."""
    _command(report)
    profile, figures = Profile(), dict[str, Any]()
    frames = pictures(BATCH, 1080, 1920)
    for task in TASKS:
        with (
            tempfile.TemporaryDirectory(prefix="vdag-") as folder,
            Camera(Path(folder), task, frames, BATCH, OPTIONS) as camera,
        ):
            cost = _cost(camera, task, frames)
            profile.put_cost(task, 0, "1080p", cost, "cloud")
            for point in cost.batches:
                report.line(
                    f"{task} {point.batch}: {point.seconds * 1e3:.2f} ms, "
                    f"{point.seconds / point.batch * 1e3:.2f} a frame, "
                    f"{point.device_nbytes >> 20} MiB of the GPU"
                )
            most = worker_rate(camera, IN_FLIGHT * BATCH)["frames_s"]
            figures[task] = {"frames_s": round(most, 1), "busy_ms": cost.busy_s * 1e3}
            report.line(
                f"{task}: {most:.0f}/s at most, {cost.busy_s * 1e3:.2f} ms of a worker each"
            )
            for share in SHARES:
                found = _paced(camera, task, share * most, profile) | {"share": share}
                figures[task][f"share {share}"] = found
                report.line(f"{task}: {found}")
                # Where few frames come, batches are small, and a frame takes more than at best.
                ratio, most_ratio = found["loads"] / share, 2.0 if share < 0.75 else 1.3
                report.expect(0.85 < ratio < most_ratio, f"{task}: loads are {ratio:.2f} of that")
    profile.save(report.path.with_name("costs.json"))
    report.figures["costs"] = figures


def _command(report: Report) -> None:
    """Have the command measure engines into a profile."""
    path = report.path.with_name("engines.json")
    path.unlink(missing_ok=True)
    ended = subprocess.run(
        [
            sys.executable, "-m", "vdag", "engine", "measure", "centerface", "nanodet",
            "--engine", ENGINE, "--device", DEVICE, "--batch", "1,2,4,8,16", "--calls", "10",
            "--profile", str(path), "--place", "cloud",
        ],
        capture_output=True, text=True, timeout=TIMEOUT_S, env={**os.environ, "COLUMNS": "120"},
    )  # fmt: skip
    report.expect(ended.returncode == 0, f"vdag engine measure: {ended.stderr[-600:]!r}")
    for line in ended.stdout.splitlines():
        report.line(line)
    rows = [row for row in Profile.load(path).costs() if len(row.cost.batches) == 5]
    report.expect(len(rows) == 5, f"{len(rows)} cells have five sizes of batches")


def _cost(camera: Camera, task: str, frames: list[np.ndarray]) -> Cost:
    """Return what single frames take in the worker, and batches in this process."""
    times = []
    for _ in range(ALONE):
        camera.send_next()
        times.append(camera.take_times()[1])
    times = times[ALONE // 4 :]  # the first take memory
    cost = Cost(
        float(np.mean(times)),
        max(quantile(times, 0.95), float(np.mean(times))),
        samples=len(times),
    )
    alone_s, records = measure_batches(
        CellKey(task, 0, "1080p"), (task,), frames[:SAMPLES], device=DEVICE, engine=ENGINE,
        sizes=(1, 2, 4, 8, 16),
    )  # fmt: skip
    return Cost(
        cost.compute_s, cost.compute_p95_s, samples=cost.samples,
        batches=points_of(alone_s, records, cost),
    )  # fmt: skip


def _paced(camera: Camera, task: str, rate: float, profile: Profile) -> dict[str, float]:
    """Send frames at even steps; return what the scheduler makes of what they took."""
    cameras, count = math.ceil(rate / FPS), max(int(rate * MEASURED_S), 4)
    before = int(rate * BEFORE_S)
    sniffer, delays = Sniffer(frames=count, seconds=10 * MEASURED_S), list[float]()

    def send() -> None:
        start_s = time.perf_counter()
        for number in range(before + count):
            time.sleep(max(start_s + number / rate - time.perf_counter(), 0.0))
            camera.send_next()

    sender = threading.Thread(target=send)
    sender.start()
    for _ in range(before):
        _take(camera, task)
    for number in range(count):
        delay_s, parts = _take(camera, task)
        delays.append(delay_s)
        sniffer.observe(_result(task, number, parts, delay_s), time.monotonic())
    sender.join()
    runtime = sniffer.report()
    seconds = runtime["plan_result"]["process_delay"][task]
    return {
        "batch": round(runtime["plan_result"]["batch"][task], 2),
        "compute_ms": round(seconds * 1e3, 2),
        "p95_ms": round(quantile(delays, 0.95) * 1e3, 1),
        "plain": round(rate * seconds, 3),
        "loads": round(_loads(task, cameras, rate / cameras, runtime, profile), 3),
    }


def _take(camera: Camera, task: str) -> tuple[float, TaskParts]:
    found = camera.take()
    assert found is not None, str(camera.last_notice)
    delay_s = (time.monotonic_ns() - found.header.capture_ns) / 1e9
    start_ns, end_ns, *rest = found.context[messages.TIMES][task]
    batch = rest[3] if len(rest) > 3 else 1
    return delay_s, TaskParts(0.0, 0.0, (end_ns - start_ns) / 1e9, batch=batch)


def _result(task: str, seq: int, parts: TaskParts, delay_s: float) -> Result:
    return Result("camera", seq, seq, None, 1920, 1080, {}, delay_s, plan=1, parts={task: parts})


def _loads(task: str, cameras: int, fps: float, runtime: dict[str, Any], profile: Profile) -> float:
    """Return the workers that so many queries take, each of which reports the same."""
    nodes = Nodes()
    service = {task: ServiceInfo(workers=1)}
    nodes.join(NodeInfo(NODE, NODE.partition(":")[0], role="cloud", services=service), 0)
    loads = Loads(nodes, profile)
    place = Placement(NODE.partition(":")[0], "cloud", 0, NODE)
    for number in range(cameras):
        query = QueryInfo(
            f"query {number}", NODE, video_id=1, graph=Graph.chain(task),
        )  # fmt: skip
        plan = Plan(1, VideoConf("1080p", fps, "JPEG"), {task: place})
        loads.update(Case(query, plan=plan, runtime=runtime, measured=1))
    return loads.total(NODE, task).busy
