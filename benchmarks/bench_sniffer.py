"""What the run-time context costs a frame, on the way of its result.

Measured: taking in one frame with `OBJECTS` boxes and two tasks, and telling the context of the
latest 51, as a job does with every frame. The windows are full: with each frame one goes.

    sniffer.frame_vs_plain    against the same numbers from lists, by numpy and `statistics`: what
                              one writes first
    report                    the context of the latest 512 frames with all quantiles, which is told
                              when the node reports, and not with every frame

Outside: making the frames. What both say is compared afterwards.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from itertools import cycle
from typing import Any

import numpy as np
import pytest

from vdag.control.sniffing import CONTEXT_FRAMES, MAX_FRAMES, Sniffer
from vdag.results import Result, TaskParts

OBJECTS = 20
FRAMES = 256
WIDTH, HEIGHT = 1280, 720
TASKS = ("face_detection", "face_alignment")
#: All frames of a window have come within its time.
INTERVAL_S = 0.01


def frames() -> list[Result]:
    """Frames of objects that wander about."""
    random = np.random.default_rng(7)
    corners = random.uniform(0, 600, (OBJECTS, 2))
    sides = random.uniform(40, 100, (OBJECTS, 2))
    found = []
    for seq in range(FRAMES):
        corners = corners + random.normal(0, 2, corners.shape)
        boxes = np.hstack([corners, corners + sides]).astype(np.float32)
        times = random.uniform(0.001, 0.02, (2, 3))
        parts = {
            task: TaskParts(*map(float, each), 1, 40_000)
            for task, each in zip(TASKS, times, strict=True)
        }
        outputs = {TASKS[0]: {"bbox": boxes}, TASKS[1]: {"head_pose": boxes[:, :3]}}
        found.append(
            Result("cam", seq, seq, seq / 25, WIDTH, HEIGHT, outputs, float(times.sum()), plan=1,
                   parts=parts, home_s=0.001)
        )  # fmt: skip
    return found


class Plain:
    """The same context from the latest frames, computed anew with each."""

    def __init__(self) -> None:
        self._frames: deque[Result] = deque(maxlen=CONTEXT_FRAMES)
        self._speeds: deque[float] = deque(maxlen=CONTEXT_FRAMES)

    def observe(self, result: Result) -> dict[str, Any]:
        if self._frames:
            before = self._frames[-1]
            self._speeds.append(speed(before, result) / (result.pts_s - before.pts_s))
        self._frames.append(result)
        delays = sorted(each.delay_s for each in self._frames)
        counts = [len(each.outputs[TASKS[0]]["bbox"]) for each in self._frames]
        sizes = [float(np.mean(areas(each.outputs[TASKS[0]]["bbox"]))) for each in self._frames]
        found = {
            "delay": statistics.fmean(delays),
            "delay_p50": delays[math.ceil(0.5 * len(delays)) - 1],
            "delay_p95": delays[math.ceil(0.95 * len(delays)) - 1],
            "obj_n": statistics.fmean(counts),
            "obj_size": statistics.fmean(sizes),
            "obj_stable": statistics.pstdev(counts) < 0.3,
            "obj_speed": statistics.fmean(self._speeds) if self._speeds else -1.0,
        }
        found["process_delay"] = {
            task: statistics.fmean(each.parts[task].compute_s for each in self._frames)
            for task in TASKS
        }
        found["data_trans_size"] = {
            task: statistics.fmean(each.parts[task].nbytes for each in self._frames)
            for task in TASKS
        }
        return found


def areas(boxes: np.ndarray) -> np.ndarray:
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0).astype(np.float64)
    return sides[:, 0] * sides[:, 1]


def speed(before: Result, after: Result) -> float:
    """The longest way of a box that overlaps with one before, in pixels at 1080p; greedy."""
    was, now = before.outputs[TASKS[0]]["bbox"], after.outputs[TASKS[0]]["bbox"]
    corner = np.maximum(was[:, None, :2], now[None, :, :2])
    sides = np.maximum(np.minimum(was[:, None, 2:], now[None, :, 2:]) - corner, 0)
    inter = sides[..., 0] * sides[..., 1]
    iou = inter / (areas(was)[:, None] + areas(now) - inter)
    longest = 0.0
    while iou.max() >= 0.1:
        i, j = np.unravel_index(iou.argmax(), iou.shape)
        step = (now[j, :2] + now[j, 2:] - was[i, :2] - was[i, 2:]) / 2
        longest = max(longest, math.hypot(step[0] * 1920 / WIDTH, step[1] * 1080 / HEIGHT))
        iou[i, :] = iou[:, j] = 0
    return longest


@pytest.fixture(scope="module")
def results() -> list[Result]:
    return frames()


def filled(results: list[Result]) -> Sniffer:
    sniffer = Sniffer()
    for count, result in enumerate(cycle(results)):
        if count == MAX_FRAMES:
            return sniffer
        sniffer.observe(result, count * INTERVAL_S)
    raise AssertionError("a cycle has no end")


def bench_frame_vs_plain(compare, results):
    sniffer, following = filled(results), enumerate(cycle(results), MAX_FRAMES)
    plain, theirs = Plain(), cycle(results)
    for _ in range(CONTEXT_FRAMES):
        plain.observe(next(theirs))

    def observe() -> dict[str, Any]:
        count, result = next(following)
        sniffer.observe(result, count * INTERVAL_S)
        return sniffer.context()

    compare(
        "sniffer.frame_vs_plain",
        subject=("vdag", observe),
        against=("numpy and statistics", lambda: plain.observe(next(theirs))),
        unit="us",
    )
    check(results)


def bench_report(benchmark, results):
    benchmark.group = "sniffer"
    assert benchmark(filled(results).report)["frames"] == MAX_FRAMES


def check(results: list[Result]) -> None:
    sniffer, plain = Sniffer(), Plain()
    for count, result in enumerate(results):
        sniffer.observe(result, count * INTERVAL_S)
        expected = plain.observe(result)
    context = sniffer.context()
    context["process_delay"] = context["plan_result"]["process_delay"]
    for name, value in expected.items():
        assert context[name] == pytest.approx(value, rel=1e-4), name
