"""Cells: what was measured of one model at one resolution, kept in a file until all are done."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from vdag.control.profile.files import read_bounded, write_atomically
from vdag.control.profile.matching import Findings
from vdag.errors import ConfigError

__all__ = [
    "BatchRecord",
    "CellFolder",
    "CellKey",
    "CellRecord",
    "Found",
    "SizeRecord",
    "fastest",
    "pack",
]

#: Largest file of a cell that is read.
MAX_NBYTES = 64 << 20
DIGITS = 5


class CellKey(msgspec.Struct, frozen=True):
    """Which cell: a model of a task at a resolution."""

    task: str
    model_id: int
    resolution: str

    def __str__(self) -> str:
        return f"{self.task} model {self.model_id} at {self.resolution}"


class SizeRecord(msgspec.Struct, frozen=True):
    """Mean bytes of encoded frames."""

    resolution: str
    encoder: str
    nbytes: float
    samples: int


class Found(msgspec.Struct, frozen=True):
    """The findings of one frame: rows of x1, y1, x2, y2, score, label."""

    rows: list[tuple[float, float, float, float, float, int]]
    judges: bool = False


class BatchRecord(msgspec.Struct, frozen=True):
    """What batches of one size took: seconds, and memory of the process and of its GPU."""

    batch: int
    seconds: float
    mem_nbytes: int = 0
    device_nbytes: int = 0


class CellRecord(msgspec.Struct, frozen=True):
    """What was measured of a cell.

    Attributes:
        key: which cell.
        compute_s: seconds of each frame, in order.
        obj_n: objects in each frame.
        out_nbytes: bytes of each frame's results.
        mem_nbytes: of the worker, resident, the most.
        found: what was found in each frame; None for a task whose results cannot be compared.
        alone_s: of a frame where batches were measured; 0 if they were not.
        batches: by size, the smallest first.
    """

    key: CellKey
    compute_s: list[float]
    obj_n: list[int]
    out_nbytes: list[int]
    mem_nbytes: int
    found: list[Found] | None = None
    alone_s: float = 0.0
    batches: list[BatchRecord] = []

    def findings(self) -> list[Findings] | None:
        """Return what was found in each frame."""
        return None if self.found is None else [_unpacked(each) for each in self.found]


class _Front(msgspec.Struct, frozen=True):
    """What the cells of a folder were measured on."""

    clip: str
    frames: int
    device: str
    engine: str = "onnx"


class CellFolder:
    """The finished cells of a measurement that is under way, one file each.

    Args:
        folder: where they are kept; made when the first is written.
        clip: what tells the video from another one.
        frames: of it that are used.
        device: where models run.
        engine: what runs them.
    """

    def __init__(
        self, folder: Path, *, clip: str, frames: int, device: str, engine: str = "onnx"
    ) -> None:
        self._folder = folder
        self._front = _Front(clip, frames, device, engine)

    @property
    def exists(self) -> bool:
        """Whether there are cells of an earlier run."""
        return (self._folder / "measurement.json").is_file()

    def check(self) -> None:
        """Make sure that the cells that are there are of this measurement.

        Raises:
            ConfigError: they were measured on another video, or otherwise.
        """
        front = _read(self._folder / "measurement.json", _Front)
        for name in ("clip", "frames", "device", "engine"):
            old, new = getattr(front, name), getattr(self._front, name)
            if old != new:
                raise ConfigError(
                    f"{self._folder} has cells of another measurement: {name} was {old}, is {new}"
                )

    def read(self, key: CellKey) -> CellRecord | None:
        """Return a finished cell, None if it is not there."""
        path = self._path(f"{key.task}-{key.model_id}-{key.resolution}")
        return _read(path, CellRecord) if path.is_file() else None

    def write(self, record: CellRecord) -> None:
        """Keep a finished cell."""
        key = record.key
        self._write(f"{key.task}-{key.model_id}-{key.resolution}", record)

    def read_sizes(self, resolution: str) -> list[SizeRecord] | None:
        """Return the sizes of frames at a resolution, None if they are not there."""
        path = self._path(f"frames-{resolution}")
        return _read(path, list[SizeRecord]) if path.is_file() else None

    def write_sizes(self, resolution: str, sizes: list[SizeRecord]) -> None:
        """Keep the sizes of frames at a resolution."""
        self._write(f"frames-{resolution}", sizes)

    def clear(self) -> None:
        """Remove all cells and the folder; nothing else that is in it."""
        if not self._folder.is_dir():
            return
        for path in self._folder.glob("*.json"):
            path.unlink()
        if not any(self._folder.iterdir()):
            self._folder.rmdir()

    def _path(self, name: str) -> Path:
        return self._folder / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}.json"

    def _write(self, name: str, value: object) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        if not self.exists:
            write_atomically(self._folder / "measurement.json", msgspec.json.encode(self._front))
        write_atomically(self._path(name), msgspec.json.encode(value))


def fastest(runs: Sequence[CellRecord]) -> CellRecord:
    """Return one record of several runs of a cell: each frame and batch at its fastest."""
    times = [min(frame) for frame in zip(*(run.compute_s for run in runs), strict=False)]
    batches: dict[int, BatchRecord] = {}
    for run in runs:
        for each in run.batches:
            known = batches.setdefault(each.batch, each)
            if each.seconds < known.seconds:
                batches[each.batch] = each
    return msgspec.structs.replace(
        runs[0],
        compute_s=times,
        alone_s=min(run.alone_s for run in runs),
        batches=[batches[size] for size in sorted(batches)],
    )


def pack(found: Findings) -> Found:
    """Return the findings of a frame as they are kept."""
    rows = zip(
        found.boxes.astype(float).round(DIGITS).tolist(),
        found.scores.astype(float).round(DIGITS).tolist(),
        found.labels.tolist(),
        strict=True,
    )
    return Found([(*box, score, label) for box, score, label in rows], found.judges)


def _unpacked(found: Found) -> Findings:
    rows = np.array(found.rows, np.float64).reshape(-1, 6)
    return Findings(
        rows[:, :4].astype(np.float32),
        rows[:, 4].astype(np.float32),
        rows[:, 5].astype(np.int32),
        found.judges,
    )


T = TypeVar("T")


def _read(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(read_bounded(path, MAX_NBYTES), type=kind)
    except msgspec.MsgspecError as err:
        raise ConfigError(f"{path} is no measured cell: {err}") from err
