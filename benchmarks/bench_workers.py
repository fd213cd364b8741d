"""Worker processes: two against one, and batches of up to 8 against batches of 1.

`workers.scale_2` runs face detection over a clip at 480p by a pipeline with two worker processes
and with one: frames per second, without loading the models. With fewer cores than workers,
decoding and the exchange want, it cannot be 2.

`workers.batching_*` sends bursts of 8 frames to one worker of face detection under the policy
`deadline`: frames of many cameras that are triggered together. A frame misses when it is dropped,
or comes home after its dead-line. The figure is the highest rate, in frames per second, at which no
more than 1 % of them miss, found by halving; both sides take turns at every step. The worker has
two cores: an engine divides a batch among them better than a single picture. With one core a batch
gains nothing on a CPU, and the first frame of a burst waits for the last one.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from comparison import Comparison, quantile
from lone_worker import LoneWorker

from vdag import Pipeline, SingleFrameGenerator, TaskOptions

TASK, BURST = "face_detection", 8
#: Of the engine: the cores that its only worker has.
THREADS = 2
SCALE_ROUNDS, BURST_ROUNDS = 5, 5
#: Frames of one try, and the share of them that may miss.
FRAMES, MISSES = 160, 0.01
DEADLINE_S = 0.25
#: Halvings between a third and three times the rate of one frame after the other: 2 % apart.
STEPS = 7
TIMEOUT_S = 60.0


class Site(LoneWorker):
    """A worker and bursts of pictures."""

    def __init__(self, folder: Path, options: TaskOptions, pictures: list[np.ndarray], batch: int):
        super().__init__(
            folder, TASK, options,
            slots=(pictures[0].nbytes, FRAMES), batch=batch, policy="deadline", limit=FRAMES,
        )  # fmt: skip
        self.pictures = pictures
        self.delays_s: list[float] = []

    def send_burst(self, deadline_s: float) -> None:
        for _ in range(BURST):
            pixels = self.pictures[self.sent % len(self.pictures)]
            ref = self.exchange.arena.put(pixels, 1, TIMEOUT_S)
            assert ref is not None
            self.send(ref, pixels.shape, deadline_s=deadline_s)

    def take_delay(self) -> float:
        """Take what became of one frame: its delay in seconds, without end if it was dropped."""
        found = self.take()
        if found is None:
            return float("inf")
        return (time.monotonic_ns() - found.header.capture_ns) / 1e9

    def seconds_per_frame(self) -> float:
        """Measure a long burst."""
        start_s = time.perf_counter()
        for _ in range(2):
            self.send_burst(TIMEOUT_S)
        for _ in range(2 * BURST):
            self.take_delay()
        return (time.perf_counter() - start_s) / (2 * BURST)

    def keeps_up(self, rate: float) -> bool:
        """Send `FRAMES` frames at so many per second, in bursts; say whether they are in time."""
        sender = threading.Thread(target=self._send_all, args=(BURST / rate,))
        sender.start()
        delays_s = [self.take_delay() for _ in range(FRAMES)]
        sender.join()
        if sum(delay_s > DEADLINE_S for delay_s in delays_s) > MISSES * FRAMES:
            return False
        self.delays_s += delays_s
        return True

    def _send_all(self, period_s: float) -> None:
        pause, start_s = threading.Event(), time.monotonic()
        for burst in range(FRAMES // BURST):
            pause.wait(max(start_s + burst * period_s - time.monotonic(), 0.0))
            self.send_burst(DEADLINE_S)


@contextmanager
def open_site(options: TaskOptions, pictures: list[np.ndarray], batch: int) -> Iterator[Site]:
    with (
        tempfile.TemporaryDirectory(prefix="vdag-") as folder,
        Site(Path(folder), options, pictures, batch) as site,
    ):
        yield site


def capacities(sites: list[Site], first: float) -> list[float]:
    """Return the highest rate that each site keeps up with, within 3 of `first` frames/s."""
    low, high = [first / 3] * len(sites), [first * 3] * len(sites)
    for _ in range(STEPS):
        for index, site in enumerate(sites):
            rate = (low[index] * high[index]) ** 0.5
            (low if site.keeps_up(rate) else high)[index] = rate
    return low


def clip_pictures(clips: Path, size: tuple[int, int] | None) -> list[np.ndarray]:
    capture = cv2.VideoCapture(str(clips / "carphone_pristine.mp4"))
    frames = [capture.read()[1] for _ in range(40)]
    return frames if size is None else [cv2.resize(frame, size) for frame in frames]


@pytest.mark.parametrize(
    ("name", "model_id", "size"),
    [("bursty", 0, None), ("bursty_480p", 2, (640, 480))],
)
def bench_batching(clips, record, name, model_id, size):
    options = TaskOptions(model_id=model_id, threads=THREADS)
    pictures = clip_pictures(clips, size)
    with open_site(options, pictures, BURST) as many, open_site(options, pictures, 1) as one:
        for site in (many, one):
            site.seconds_per_frame()
        ratios = []
        for _ in range(BURST_ROUNDS):
            ours, theirs = capacities([many, one], 1 / one.seconds_per_frame())
            print(f"{name}: {ours:.0f} against {theirs:.0f} frames/s")
            ratios.append(ours / theirs)
        record(
            Comparison(
                f"workers.batching_{name}",
                "vdag, batches up to 8",
                "batches of 1",
                round(statistics.median(ratios), 3),
                round(quantile(many.delays_s, 0.5) * 1e3, 2),
                round(quantile(many.delays_s, 0.99) * 1e3, 2),
                "ms",
                BURST_ROUNDS,
            )
        )


def run_pipeline(path: Path, workers: int) -> tuple[float, list[float]]:
    """Return frames per second and the delays."""
    source = SingleFrameGenerator(path, resolution="480p")
    with source, Pipeline([TASK], source, models={TASK: 2}, workers=workers) as run:
        start_s = time.perf_counter()
        delays_s = []
        for result in run:
            delays_s.append(result.delay_s)
            result.drop_frame()
        return len(delays_s) / (time.perf_counter() - start_s), delays_s


def bench_scale_2(clips, record):
    path = clips / "carphone_pristine.mp4"
    ratios, delays_s = [], []
    for _ in range(SCALE_ROUNDS):
        rate, delays = run_pipeline(path, 2)
        single, _ = run_pipeline(path, 1)
        print(f"two workers {rate:.0f}, one {single:.0f} frames/s")
        ratios.append(rate / single)
        delays_s += delays
    record(
        Comparison(
            "workers.scale_2",
            "vdag, 2 workers",
            "1 worker",
            round(statistics.median(ratios), 3),
            round(quantile(delays_s, 0.5) * 1e3, 2),
            round(quantile(delays_s, 0.99) * 1e3, 2),
            "ms",
            SCALE_ROUNDS,
        )
    )
