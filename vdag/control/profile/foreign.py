"""Profiles in other forms: the two that older systems keep are read, tables are written.

A `.pf` file has a line per cell, three columns with tabs between: resolution, role, and seconds per
processed frame. The task is the file's name.

A file of keys is a JSON object from configurations to seconds, or to lists of them:

    {"reso=720p fps=10 encoder=JPEG face_detection_ip=10.0.0.4
      face_detection_cpu_util_limit=0.15 face_detection_mem_util_limit=0.014 ": 0.68, ...}

Both come from elsewhere: sizes are bounded, and numbers are read as numbers.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from vdag.control.profile import Cost, Profile
from vdag.control.profile.costs import MAX_COMPUTE_S, MIN_COMPUTE_S
from vdag.control.profile.files import read_bounded
from vdag.errors import ConfigError
from vdag.sampling import RESOLUTIONS

__all__ = ["TABLES", "read_foreign", "table"]

MAX_NBYTES = 32 << 20
MAX_LINES, MAX_KEYS, MAX_SAMPLES = 10_000, 100_000, 10_000
MAX_KEY = 4096
#: A file's name that is misspelt wherever it is found, and what is meant.
TASKS = {"face_aligment": "face_alignment"}
ROLES = {"edge": "edge", "host": "edge", "cloud": "cloud"}
#: A name as it stands in a key, and its value.
_PAIR = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(\S+)")
_TASK_IP = re.compile(r"([A-Za-z_][A-Za-z0-9_]*?)_ip")


def read_foreign(path: Path, place: str | None = None) -> Profile:
    """Read a file of another form: `.pf`, or `.json` with keys.

    Args:
        path: the file.
        place: what it holds for; None for what the file says, roles or addresses.

    Raises:
        ConfigError: it is none of the two, or a line of it cannot be read; the text names it.
    """
    data = read_bounded(path, MAX_NBYTES)
    if path.suffix == ".pf":
        cells = _read_lines(data, TASKS.get(path.stem, path.stem), str(path))
    elif path.suffix == ".json":
        cells = _read_keys(data, str(path))
    else:
        raise ConfigError(f"{path} ends in neither .pf nor .json")
    profile = Profile()
    profile.about = {"imported": path.name}
    for (task, resolution, said), samples in cells.items():
        try:
            cost = _cost(samples)
            profile.put_cost(task, 0, resolution, cost, said if place is None else place)
        except ConfigError as err:
            raise ConfigError(f"{path}: {err}") from err
    if not cells:
        raise ConfigError(f"{path} has nothing in it")
    return profile


Cell = tuple[str, str, str]


def _cost(samples: list[float]) -> Cost:
    ordered = sorted(samples)
    mean_s = sum(ordered) / len(ordered)
    p95_s, p99_s = (ordered[math.ceil(q * len(ordered)) - 1] for q in (0.95, 0.99))
    median_s = ordered[(len(ordered) - 1) // 2]
    return Cost(
        mean_s,
        max(p95_s, mean_s),
        samples=len(ordered),
        compute_p50_s=median_s,
        compute_p99_s=p99_s,
    )


def _read_lines(data: bytes, task: str, name: str) -> dict[Cell, list[float]]:
    lines = _text(data, name).splitlines()
    if len(lines) > MAX_LINES:
        raise ConfigError(f"{name} has {len(lines)} lines, expected at most {MAX_LINES}")
    cells: dict[Cell, list[float]] = {}
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields:
            continue
        where = f"{name}:{number}"
        if len(fields) != 3 or fields[1] not in ROLES:
            raise ConfigError(f"{where}: expected resolution, edge or cloud, and seconds")
        cell = task, _resolution(fields[0], where), ROLES[fields[1]]
        cells.setdefault(cell, []).append(_seconds(fields[2], where))
    return cells


def _read_keys(data: bytes, name: str) -> dict[Cell, list[float]]:
    """Return the samples of each cell, of the keys that grant the task most of the CPU."""
    try:
        document = msgspec.json.decode(data, type=dict[str, float | list[float]])
    except (msgspec.MsgspecError, RecursionError) as err:
        raise ConfigError(f"{name} has no keys with seconds: {err}") from err
    if len(document) > MAX_KEYS:
        raise ConfigError(f"{name} has {len(document)} keys, expected at most {MAX_KEYS}")
    best: dict[Cell, tuple[float, list[float]]] = {}
    for key, value in document.items():
        cell, limit = _read_key(key, name)
        values = value if isinstance(value, list) else [value]
        if not 0 < len(values) <= MAX_SAMPLES:
            raise ConfigError(f"{name}: {key[:80]!r} has {len(values)} samples")
        granted, samples = best.get(cell, (0.0, []))
        if limit > granted:
            granted, samples = limit, []
        if limit == granted:
            samples += [_seconds(each, f"{name}: {key[:80]!r}") for each in values]
        best[cell] = granted, samples
    return {cell: samples for cell, (_, samples) in best.items()}


def _read_key(key: str, name: str) -> tuple[Cell, float]:
    """Return a key's cell, and the share of the CPU that it grants."""
    where = f"{name}: {key[:80]!r}"
    if len(key) > MAX_KEY:
        raise ConfigError(f"{where} is a key of {len(key)} characters")
    pairs = dict(_PAIR.findall(key))
    tasks = [match[1] for each in pairs if (match := _TASK_IP.fullmatch(each))]
    resolution = pairs.get("reso", pairs.get("resolution"))
    if len(tasks) != 1 or resolution is None:
        raise ConfigError(f"{where} is no key: it names no resolution or not one task")
    limit = _seconds(pairs.get(f"{tasks[0]}_cpu_util_limit", "1"), where)
    return (tasks[0], _resolution(resolution, where), pairs[f"{tasks[0]}_ip"]), limit


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as err:
        raise ConfigError(f"{name} is no text") from err


def _resolution(text: str, where: str) -> str:
    if text not in RESOLUTIONS:
        raise ConfigError(f"{where}: resolution {text[:32]!r} is unknown")
    return text


def _seconds(value: Any, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as err:
        raise ConfigError(f"{where}: {str(value)[:32]!r} is no number") from err
    if not MIN_COMPUTE_S <= number <= MAX_COMPUTE_S:
        raise ConfigError(
            f"{where}: {number:g} is not between {MIN_COMPUTE_S:g} and {MAX_COMPUTE_S:g}"
        )
    return number


def table(profile: Profile, kind: str) -> str:
    """Return part of a profile as CSV with a header, lines ending in a line feed.

    Args:
        profile: to write.
        kind: one of `TABLES`.

    Raises:
        ConfigError: it is none of these.
    """
    if kind not in TABLES:
        raise ConfigError(f"{kind!r} is no table, expected one of {', '.join(TABLES)}")
    header, rows = TABLES[kind]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows(profile))
    return text.getvalue()


def _cost_rows(profile: Profile) -> Iterator[tuple[Any, ...]]:
    for row in profile.costs():
        cost = row.cost
        yield (
            row.task, row.model_id, row.resolution, row.place or "any",
            *(f"{seconds:.6g}" for seconds in (
                cost.compute_s, cost.compute_p50_s, cost.compute_p95_s, cost.compute_p99_s,
                cost.per_object_s, cost.obj_n,
            )),
            cost.mem_nbytes, cost.out_nbytes, cost.samples,
        )  # fmt: skip


def _batch_rows(profile: Profile) -> Iterator[tuple[Any, ...]]:
    for task, model_id, resolution, place, cost in profile.costs():
        for batch, seconds, *nbytes in cost.batches:
            yield task, model_id, resolution, place or "any", batch, f"{seconds:.6g}", *nbytes


def _accuracy_rows(profile: Profile) -> Iterator[tuple[Any, ...]]:
    for task, model_id, point in profile.accuracies():
        scene = point.scene
        numbers = point.fps, point.accuracy, scene.obj_size, scene.obj_speed, scene.cam_fps
        shown = (f"{number:.6g}" for number in numbers)
        yield task, model_id, point.resolution, *shown, point.samples


def _frame_rows(profile: Profile) -> Iterator[tuple[Any, ...]]:
    for size in profile.frames():
        yield size.resolution, size.encoder, f"{size.nbytes:.6g}", size.samples


#: What can be exported: the header, and the rows.
TABLES: dict[str, tuple[tuple[str, ...], Callable[[Profile], Iterable[tuple[Any, ...]]]]] = {
    "costs": (
        (
            "task", "model_id", "resolution", "place", "compute_s", "compute_p50_s",
            "compute_p95_s", "compute_p99_s", "per_object_s", "obj_n", "mem_nbytes", "out_nbytes",
            "samples",
        ),
        _cost_rows,
    ),
    "batches": (
        (
            "task", "model_id", "resolution", "place", "batch", "seconds", "mem_nbytes",
            "device_nbytes",
        ),
        _batch_rows,
    ),
    "accuracy": (
        (
            "task", "model_id", "resolution", "fps", "accuracy", "obj_size", "obj_speed",
            "cam_fps", "samples",
        ),
        _accuracy_rows,
    ),
    "frames": (("resolution", "encoder", "nbytes", "samples"), _frame_rows),
}  # fmt: skip
