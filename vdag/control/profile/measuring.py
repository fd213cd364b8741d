"""Measuring: the real task in a worker process, on real video, one configuration at a time.

A cell is a model of a task at a resolution. It is run as the daemon runs it, with one worker that
gets one frame at a time, so what is measured is what a frame takes where nothing else happens. What
several at once take comes beside it, see `batching`.
Rates need no runs of their own: what a viewer sees at a lower one follows from what was found in
every frame, see `matching.seen_at`.

This module loads decoders and engines. Nothing but the command imports it.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil

from vdag import _native as native
from vdag.control.jobs.lanes import lane_of
from vdag.control.profile.accuracy import AccuracyPoint, Scene
from vdag.control.profile.batching import SAMPLES, measure_batches, points_of
from vdag.control.profile.cells import (
    BatchRecord,
    CellKey,
    CellRecord,
    Found,
    SizeRecord,
    pack,
)
from vdag.control.profile.costs import MAX_COMPUTE_S, MIN_COMPUTE_S, Cost
from vdag.control.profile.matching import (
    compare,
    findings_of,
    motion,
    objects_in,
    seen_at,
)
from vdag.engines import zoo
from vdag.errors import ConfigError, GraphError, SourceError
from vdag.frame import UInt8Image
from vdag.graph import Graph
from vdag.pipeline import Pipeline
from vdag.plan import VideoConf
from vdag.results import Result
from vdag.sampling import RESOLUTIONS
from vdag.sources import SingleFrameGenerator
from vdag.tasks import names, signatures
from vdag.transport import context as wire_context
from vdag.transport import h264
from vdag.transport.encoders import H264, Jpeg

__all__ = [
    "Clip",
    "accuracies_of",
    "chain_of",
    "cost_of",
    "golden_resolution",
    "look_at",
    "measure",
    "measure_sizes",
    "models_of",
]

#: Frames at the start of a run that are not counted: memory is touched, caches are filled.
WARM_UP_FRAMES = 3
#: The worker's memory is looked at once in so many frames.
MEMORY_EVERY = 10
#: How far apart the numbers of objects are, at least, for a slope; and that over the largest.
MIN_SPREAD, MIN_SPREAD_SHARE = 2, 0.5


@dataclass(frozen=True, slots=True)
class Clip:
    """A video to measure on.

    Attributes:
        address: as sources take it.
        width: of its frames, in pixels.
        height: likewise.
        fps: its rate.
        frames: how many of it are used, at most.
    """

    address: str
    width: int
    height: int
    fps: float
    frames: int


def look_at(address: str, frames: int) -> Clip:
    """Open a video and see what it is.

    Raises:
        SourceError: it cannot be opened, or has no rate, size or end.
    """
    with SingleFrameGenerator(address) as source:
        if source.live:
            raise SourceError(f"{address}: a live source never shows the same frames twice")
        if not (source.fps and source.width and source.height):
            raise SourceError(f"{address}: its rate and its size are not known")
        return Clip(address, source.width, source.height, source.fps, frames)


def chain_of(task: str) -> tuple[str, ...]:
    """Return the tasks that a task needs before it, and itself: the first that give its inputs.

    Raises:
        GraphError: no such task is known, or nothing gives its inputs.
    """
    known = signatures()
    if task not in known:
        raise GraphError(f"unknown task {task!r}: expected one of {', '.join(names())}")
    for chain in ((task,), *((before, task) for before in names() if before != task)):
        try:
            Graph.chain(*chain).check(known)
        except GraphError:
            continue
        return chain
    raise GraphError(f"no task gives what {task} takes: {', '.join(sorted(known[task].inputs))}")


def models_of(task: str) -> list[int]:
    """Return a task's models, the largest first; a task without any counts as one."""
    try:
        return list(zoo.models_for(task))
    except ConfigError:
        return [0]


def golden_resolution(clip: Clip, resolutions: Sequence[str]) -> str:
    """Return the largest resolution that does not enlarge a clip; the smallest if all of them do.

    Args:
        clip: to be measured on.
        resolutions: those that are measured.
    """
    fitting = [
        name
        for name, (width, height) in RESOLUTIONS.items()
        if width <= clip.width and height <= clip.height
    ]
    if fitting:
        return fitting[-1]
    return min(resolutions, key=list(RESOLUTIONS).index)


class OwnTime:
    """The part of a frame's time that is the worker's own, not that of others on its cores.

    Linux counts for each thread how long it has run and how long it was ready to. What it waited is
    taken off, but for what it waited before or after the task was at work, which cannot be told
    apart: so never so much that less is left than the thread has run.
    """

    def __init__(self) -> None:
        self._before: dict[str, tuple[int, int]] = {}

    def of(self, compute_s: float, pid: int) -> float:
        """Return a frame's own seconds; call it once per frame, when its result is there.

        Args:
            compute_s: that the frame took.
            pid: of the worker; where nothing is known of it all of the time counts.
        """
        now = _run_times(pid)
        before, self._before = self._before, now
        spans = [
            (ran - before[thread][0], waited - before[thread][1])
            for thread, (ran, waited) in now.items()
            if thread in before
        ]
        ran, waited = max(spans, default=(0, 0))  # of the thread that works
        return max(compute_s - waited / 1e9, min(compute_s, ran / 1e9), MIN_COMPUTE_S)


def measure(
    key: CellKey,
    clip: Clip,
    *,
    device: str,
    engine: str = "onnx",
    batches: Sequence[int] = (1,),
    exclude_load: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> CellRecord:
    """Run a cell.

    Args:
        key: which.
        clip: to run it on, from its first frame.
        device: where models run.
        engine: what runs them.
        batches: sizes to be measured; empty for all that save anything.
        exclude_load: leave out the time in which others had the cores.
        advance: called for each frame.

    Raises:
        VdagError: the task or the video fails.
    """
    chain = chain_of(key.task)
    record = CellRecord(key, [], [], [], 0, [])
    found: list[Found] | None = []
    memory, own, pictures = 0, OwnTime(), list[UInt8Image]()
    with (
        closing(SingleFrameGenerator(clip.address, resolution=key.resolution)) as source,
        Pipeline(
            Graph.chain(*chain),
            source,
            models={key.task: key.model_id},
            device=device,
            engine=engine,
            workers=1,
            max_in_flight=1,
        ) as pipeline,
    ):
        for count, result in enumerate(itertools.islice(pipeline, clip.frames)):
            if WARM_UP_FRAMES <= count < WARM_UP_FRAMES + SAMPLES and batches != (1,):
                pictures.append(_pixels(result))
            result.drop_frame()
            parts = result.parts[key.task]
            spent_s = own.of(parts.compute_s, parts.pid) if exclude_load else parts.compute_s
            record.compute_s.append(spent_s)
            record.obj_n.append(objects_in(result[chain[0]]))
            record.out_nbytes.append(_travelling_nbytes(key.task, result))
            seen = findings_of(result[key.task], result.width, result.height)
            found = None if found is None or seen is None else [*found, pack(seen)]
            if count % MEMORY_EVERY == 0 and parts.pid:
                memory = max(memory, psutil.Process(parts.pid).memory_info().rss)
            advance()
    if len(record.compute_s) <= WARM_UP_FRAMES:
        raise SourceError(f"{clip.address}: {len(record.compute_s)} frames are too few to measure")
    alone_s, together = 0.0, list[BatchRecord]()
    if pictures:
        alone_s, together = measure_batches(
            key, chain, pictures, device=device, engine=engine, sizes=batches
        )
    return msgspec.structs.replace(
        record, mem_nbytes=memory, found=found, alone_s=alone_s, batches=together
    )


def measure_sizes(resolution: str, clip: Clip) -> list[SizeRecord]:
    """Encode a clip's frames as edges do, and return the mean bytes for each encoder."""
    totals = {"JPEG": 0, "H264": 0}
    count = 0
    lanes = {name: lane_of(VideoConf(resolution, clip.fps, name), "block") for name in totals}
    jpeg, video = lanes["JPEG"].encoder, lanes["H264"].encoder
    assert isinstance(jpeg, Jpeg), "that is what a lane for JPEG has"
    assert isinstance(video, H264), "likewise"
    encoder: h264.Encoder | None = None
    with closing(SingleFrameGenerator(clip.address, resolution=resolution)) as source:
        try:
            for frame in itertools.islice(_frames(source), clip.frames):
                height, width = frame.shape[:2]
                encoder = encoder or h264.Encoder(
                    width, height, bitrate=video.bitrate, fps=video.fps
                )
                totals["JPEG"] += len(native.jpeg.encode(frame, quality=jpeg.quality))
                totals["H264"] += len(encoder.encode(frame).data)
                count += 1
        finally:
            if encoder is not None:
                encoder.close()
    if not count:
        raise SourceError(f"{clip.address}: has no frames")
    return [SizeRecord(resolution, name, total / count, count) for name, total in totals.items()]


def cost_of(record: CellRecord) -> Cost:
    """Return what a cell's frames took, the part of each object apart."""
    times = np.array(record.compute_s[WARM_UP_FRAMES:])
    counts = np.array(record.obj_n[WARM_UP_FRAMES:], np.float64)
    slope = _slope(counts, times)
    # A cost without objects cannot be less than nothing, however the line through the frames goes.
    slope = min(slope, float((times / np.maximum(counts, 1e-9)).min())) if slope else 0.0
    rest = np.clip(times - slope * counts, MIN_COMPUTE_S, MAX_COMPUTE_S)
    p50, p95, p99 = (float(value) for value in np.quantile(rest, (0.5, 0.95, 0.99)))
    cost = Cost(
        float(rest.mean()),
        max(p95, float(rest.mean())),
        slope,
        record.mem_nbytes,
        round(float(np.mean(record.out_nbytes))),
        len(times),
        float(counts.mean()),
        p50,
        p99,
    )
    return replace(cost, batches=points_of(record.alone_s, record.batches, cost))


def accuracies_of(
    record: CellRecord, golden: CellRecord, clip: Clip, rates: Sequence[float]
) -> Iterator[AccuracyPoint]:
    """Yield a cell's accuracy at each rate; nothing if the golden cell has found nothing.

    Args:
        record: of the cell.
        golden: of the golden cell of the same task.
        clip: that both were run on.
        rates: frames per second; those beyond the clip's own are its own.
    """
    best, mine = golden.findings(), record.findings()
    if best is None or mine is None:
        return
    count = min(len(best), len(mine))
    seen = motion(best, clip.fps)
    scene = Scene(seen.obj_size, seen.obj_speed, clip.fps)
    for fps in sorted({min(fps, clip.fps) for fps in rates} | {clip.fps}):
        value = compare(best[:count], seen_at(mine[:count], fps, clip.fps))
        if value is not None:
            yield AccuracyPoint(record.key.resolution, fps, value, count, scene)


def _run_times(pid: int) -> dict[str, tuple[int, int]]:
    """Return what each thread of a process has run and waited for a core, ns; see proc(5)."""
    times = {}
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError, ValueError):  # threads end, and kernels may not tell
            ran, waited, _ = map(int, path.read_text().split())
            times[path.parent.name] = ran, waited
    return times


def _pixels(result: Result) -> UInt8Image:
    assert result.frame is not None, "nobody has dropped it yet"
    return np.array(result.frame.pixels)


def _travelling_nbytes(task: str, result: Result) -> int:
    """Return the bytes of a task's results as they have come home."""
    return sum(len(part) for part in wire_context.pack({task: result[task]}))


def _frames(source: SingleFrameGenerator) -> Iterator[Any]:
    for frame in source:
        yield frame.pixels
        frame.release()


def _slope(counts: np.ndarray[Any, Any], times: np.ndarray[Any, Any]) -> float:
    """Return the seconds that each object adds: the median over all pairs of frames (Theil, Sen).

    A line of least squares would follow the few frames that something else has held up. Where the
    number of objects hardly changes, no line can be told from chance, and there is none.
    """
    low, high = np.quantile(counts, (0.1, 0.9))
    if high - low < max(MIN_SPREAD, MIN_SPREAD_SHARE * high):
        return 0.0
    first, second = np.triu_indices(len(counts), k=1)
    apart = counts[second] - counts[first]
    differing = apart != 0
    slopes = (times[second] - times[first])[differing] / apart[differing]
    return max(float(np.median(slopes)), 0.0)
