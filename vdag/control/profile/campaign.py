"""`Campaign`: many cells measured one after another, each kept as soon as it is done."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vdag.control.profile import ANY, FrameSize, Profile
from vdag.control.profile.cells import CellFolder, CellKey, CellRecord, fastest
from vdag.control.profile.costs import MAX_BATCH
from vdag.control.profile.measuring import (
    Clip,
    accuracies_of,
    chain_of,
    cost_of,
    golden_resolution,
    look_at,
    measure,
    measure_sizes,
    models_of,
)
from vdag.errors import ConfigError
from vdag.sampling import RESOLUTIONS, check_fps

__all__ = ["RATES", "Campaign", "Step", "Wanted", "this_machine"]

#: Characters for the names of videos.
MAX_VIDEOS = 1024
#: Rates at which accuracy is told, unless others are named.
RATES = (1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be measured.

    Attributes:
        tasks: names.
        video: the clip, a file.
        models: of each task, as far as it has them; empty for all.
        resolutions: names of `vdag.sampling.RESOLUTIONS`.
        rates: frames per second at which accuracy is told.
        frames: of the clip, at most.
        repeat: each cell is run so often, and each frame counts at its fastest, because what else
            the machine does only adds to it.
        exclude_load: leave out the time in which other processes had the cores.
        device: where models run.
        engine: what runs them.
        batches: sizes of batches to be measured; empty for all that save anything.
        place: a node's address, a role, or empty for anywhere.

    Raises:
        ConfigError: a value has no meaning.
        GraphError: a task is unknown, or cannot be run.
    """

    tasks: tuple[str, ...]
    video: Path
    models: tuple[int, ...] = ()
    resolutions: tuple[str, ...] = tuple(RESOLUTIONS)
    rates: tuple[float, ...] = RATES
    frames: int = 120
    repeat: int = 1
    exclude_load: bool = False
    device: str = "auto"
    engine: str = "onnx"
    batches: tuple[int, ...] = ()
    place: str = ANY

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ConfigError("no task is named")
        for name in self.resolutions:
            if name not in RESOLUTIONS:
                known = ", ".join(RESOLUTIONS)
                raise ConfigError(f"resolution {name!r} is unknown, expected {known}")
        for fps in self.rates:
            check_fps("fps", fps)
        if not 10 <= self.frames <= 10_000:
            raise ConfigError(f"frames is {self.frames}, expected 10 to 10000")
        if not 1 <= self.repeat <= 100:
            raise ConfigError(f"repeat is {self.repeat}, expected 1 to 100")
        for batch in self.batches:
            if not 1 <= batch <= MAX_BATCH:
                raise ConfigError(f"batch is {batch}, expected 1 to {MAX_BATCH}")
        if not self.video.is_file():
            raise ConfigError(f"cannot read {self.video}: no such file")
        for task in self.tasks:
            chain_of(task)
            if self.models and not set(self.models) & set(models_of(task)):
                known = ", ".join(map(str, models_of(task)))
                raise ConfigError(f"{task} has none of the models asked for, only {known}")


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do: a cell, or the sizes of frames at a resolution.

    Attributes:
        resolution: of the frames.
        key: the cell; None for the sizes.
        is_golden: whether others are judged by it.
    """

    resolution: str
    key: CellKey | None = None
    is_golden: bool = False

    def __str__(self) -> str:
        return f"frames at {self.resolution}" if self.key is None else str(self.key)


@dataclass(slots=True)
class Campaign:
    """A measurement of many cells.

    Args:
        wanted: what.
        folder: where finished cells are kept meanwhile.

    Raises:
        SourceError: the video cannot be read.
    """

    wanted: Wanted
    folder: Path
    clip: Clip = field(init=False)
    steps: tuple[Step, ...] = field(init=False)
    #: Things worth saying, such as a task whose golden configuration has found nothing.
    notes: list[str] = field(init=False, default_factory=list)
    _cells: CellFolder = field(init=False)
    _golden: dict[str, CellRecord] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        wanted = self.wanted
        self.clip = look_at(str(wanted.video), wanted.frames)
        self.steps = tuple(_steps(wanted, self.clip))
        status = wanted.video.stat()
        self._cells = CellFolder(
            self.folder,
            clip=f"{wanted.video.name}, {status.st_size} bytes",
            frames=wanted.frames,
            device=wanted.device,
            engine=wanted.engine,
        )

    def begin(self, *, resume: bool) -> None:
        """Get ready: keep the cells of an earlier run, or remove them.

        Raises:
            ConfigError: those that are there are of another measurement.
        """
        if self._cells.exists:
            if resume:
                self._cells.check()
            else:
                self._cells.clear()

    def is_done(self, step: Step) -> bool:
        """Whether a step was done before."""
        if step.key is None:
            return self._cells.read_sizes(step.resolution) is not None
        return self._cells.read(step.key) is not None

    def run(self, step: Step, advance: Callable[[], None] = lambda: None) -> None:
        """Do a step, and keep what was measured.

        Raises:
            VdagError: the task or the video fails; steps done before are kept.
        """
        if step.key is None:
            self._cells.write_sizes(step.resolution, measure_sizes(step.resolution, self.clip))
            return
        runs = [
            measure(
                step.key,
                self.clip,
                device=self.wanted.device,
                engine=self.wanted.engine,
                batches=self.wanted.batches,
                exclude_load=self.wanted.exclude_load,
                advance=advance,
            )
            for _ in range(self.wanted.repeat)
        ]
        self._cells.write(fastest(runs))

    def put(self, step: Step, profile: Profile) -> None:
        """Put what a step has measured into a profile, in place of what that had; if it is done.

        The golden step of a task comes first.
        """
        if step.key is None:
            for size in self._cells.read_sizes(step.resolution) or ():
                profile.put_frame(
                    FrameSize(size.resolution, size.encoder, size.nbytes, size.samples)
                )
            return
        record = self._cells.read(step.key)
        if record is None:
            return
        if step.is_golden:
            self._golden[step.key.task] = record
        task, model_id, resolution = step.key.task, step.key.model_id, step.key.resolution
        profile.put_cost(task, model_id, resolution, cost_of(record), self.wanted.place)
        self._judge(profile, record)
        engine = f"{self.wanted.engine} on {self.wanted.device}"
        told = {**this_machine(), "engine": engine, "video": self._videos(profile)}
        profile.about = {**profile.about, **told}

    def finish(self) -> None:
        """Remove the cells, whose use is over."""
        self._cells.clear()

    def _judge(self, profile: Profile, record: CellRecord) -> None:
        key, golden = record.key, self._golden.get(record.key.task)
        # A picture that was enlarged is not better than the one it was made of.
        if golden is None or _pixels(key.resolution) > _pixels(golden.key.resolution):
            return
        points = list(accuracies_of(record, golden, self.clip, self.wanted.rates))
        for point in points:
            profile.put_accuracy(key.task, key.model_id, point)
        if not points and record is golden:
            self.notes.append(
                f"{key.task} finds too little in {self.wanted.video.name}: "
                "its accuracy stays unknown"
            )

    def _videos(self, profile: Profile) -> str:
        names = [*profile.about.get("video", "").split(", "), self.wanted.video.name]
        return ", ".join(dict.fromkeys(filter(None, names)))[:MAX_VIDEOS]


def this_machine() -> dict[str, str]:
    """Return what a profile says about where and when it was measured."""
    return {
        "cpu": _cpu_name(),
        "cores": str(len(os.sched_getaffinity(0))),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def _steps(wanted: Wanted, clip: Clip) -> Iterator[Step]:
    order = sorted(wanted.resolutions, key=_pixels)
    for resolution in order:
        yield Step(resolution)
    for task in wanted.tasks:
        models = models_of(task)
        best = golden_resolution(clip, order)
        golden = CellKey(task, models[0], best)
        yield Step(best, golden, is_golden=True)
        for model_id in models:
            if wanted.models and model_id not in wanted.models:
                continue
            for resolution in order:
                key = CellKey(task, model_id, resolution)
                if key != golden:
                    yield Step(resolution, key)


def _pixels(resolution: str) -> int:
    width, height = RESOLUTIONS[resolution]
    return width * height


def _cpu_name() -> str:
    try:
        lines: Sequence[str] = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = ()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model", "Hardware") and value.strip():
            return value.strip()
    return platform.processor() or platform.machine()
