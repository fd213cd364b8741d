"""The document that a profile is kept as: JSON with a version.

    {"format": "vdag-profile", "version": 1, "about": {...}, "costs": [...], "frames": [...],
     "accuracy": [...], "nodes": [...]}

A later version is refused, not guessed at. So is whatever has another type or is out of bounds, and
a document with more entries than any fleet has cells.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from vdag.control.profile.accuracy import AccuracyPoint, Scene
from vdag.control.profile.costbook import MAX_NAME, CostRow
from vdag.control.profile.costs import MAX_SAMPLES, BatchPoint, Cost, pixels_of
from vdag.control.profile.frames import FrameSize
from vdag.control.profile.judging import AccuracyRow
from vdag.control.profile.learning import MAX_CORRECTIONS, MAX_TAIL, Learned, is_slowdown
from vdag.errors import ConfigError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["FORMAT", "MAX_ENTRIES", "MAX_NBYTES", "VERSION", "Document", "decode", "encode"]

FORMAT = "vdag-profile"
VERSION = 1
MAX_NBYTES = 64 << 20
#: Of each kind.
MAX_ENTRIES = 200_000
MAX_ABOUT = 4096


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An entry of the document: a misspelt key is an error."""


class BatchEntry(_Entry, frozen=True):
    """What batches of a size take of a worker."""

    batch: int
    seconds: float
    mem_nbytes: int = 0
    device_nbytes: int = 0


class CostEntry(_Entry, frozen=True):
    """A cost and what of; `place` is a node's address, a role, or empty for anywhere."""

    task: str
    model_id: int
    resolution: str
    compute_s: float
    compute_p95_s: float
    place: str = ""
    per_object_s: float = 0.0
    mem_nbytes: int = 0
    out_nbytes: int = 0
    samples: int = 0
    obj_n: float = 0.0
    compute_p50_s: float = 0.0
    compute_p99_s: float = 0.0
    batches: tuple[BatchEntry, ...] = ()

    @classmethod
    def of(cls, row: CostRow) -> Self:
        """Return the entry of a cost."""
        task, model_id, resolution, place, cost = row
        return cls(
            task,
            model_id,
            resolution,
            _short(cost.compute_s),
            _short(cost.compute_p95_s),
            place,
            _short(cost.per_object_s),
            cost.mem_nbytes,
            cost.out_nbytes,
            cost.samples,
            _short(cost.obj_n),
            _short(cost.compute_p50_s),
            _short(cost.compute_p99_s),
            tuple(
                BatchEntry(batch, _short(seconds), *nbytes)
                for batch, seconds, *nbytes in cost.batches
            ),
        )

    @property
    def row(self) -> CostRow:
        """The same as a value of ours."""
        cost = Cost(
            self.compute_s,
            self.compute_p95_s,
            self.per_object_s,
            self.mem_nbytes,
            self.out_nbytes,
            min(self.samples, MAX_SAMPLES),
            self.obj_n,
            self.compute_p50_s,
            self.compute_p99_s,
            tuple(
                BatchPoint(each.batch, each.seconds, each.mem_nbytes, each.device_nbytes)
                for each in self.batches
            ),
        )
        return CostRow(self.task, self.model_id, self.resolution, self.place, cost)


class FrameEntry(_Entry, frozen=True):
    """Bytes of an encoded frame."""

    resolution: str
    encoder: str
    nbytes: float
    samples: int = 1

    @classmethod
    def of(cls, size: FrameSize) -> Self:
        """Return the entry of a size."""
        return cls(size.resolution, size.encoder, _short(size.nbytes), size.samples)

    @property
    def size(self) -> FrameSize:
        """The same as a value of ours."""
        return FrameSize(self.resolution, self.encoder, self.nbytes, self.samples)


class AccuracyEntry(_Entry, frozen=True):
    """An accuracy and what of."""

    task: str
    model_id: int
    resolution: str
    fps: float
    accuracy: float
    samples: int = 1
    obj_size: float = 0.0
    obj_speed: float = 0.0
    cam_fps: float = 30.0

    @classmethod
    def of(cls, row: AccuracyRow) -> Self:
        """Return the entry of a point."""
        task, model_id, point = row
        scene = point.scene
        numbers = map(_short, (scene.obj_size, scene.obj_speed, scene.cam_fps))
        return cls(
            task,
            model_id,
            point.resolution,
            _short(point.fps),
            _short(point.accuracy),
            point.samples,
            *numbers,
        )

    @property
    def row(self) -> AccuracyRow:
        """The same as a value of ours."""
        scene = Scene(self.obj_size, self.obj_speed, self.cam_fps)
        point = AccuracyPoint(self.resolution, self.fps, self.accuracy, self.samples, scene)
        return AccuracyRow(self.task, self.model_id, point)


class NodeEntry(_Entry, frozen=True):
    """What a node has taught about a task: by how much it is slower than was measured before.

    `corrections` are rows of model, pixels and a further factor.
    """

    node_addr: str
    task: str
    slowdown: float
    frames: float
    tail: float = 0.0
    corrections: tuple[tuple[int, int, float], ...] = ()

    @classmethod
    def of(cls, node_addr: str, task: str, learned: Learned) -> Self:
        """Return the entry of a node's task."""
        rows = ((m, p, _short(math.exp(log))) for (m, p), log in learned.corrections.items())
        slowdown = _short(math.exp(learned.log_factor))
        return cls(
            node_addr,
            task,
            slowdown,
            learned.frames,
            _short(learned.tail),
            tuple(rows),
        )

    @property
    def learned(self) -> Learned:
        """The same as a value of ours."""
        corrections = {(m, pixels): math.log(factor) for m, pixels, factor in self.corrections}
        log = math.log(self.slowdown)
        return Learned(log, self.frames, self.tail, corrections)


class Document(msgspec.Struct, frozen=True):
    """The whole."""

    format: str
    version: int
    about: dict[str, str] = {}
    costs: list[CostEntry] = []
    frames: list[FrameEntry] = []
    accuracy: list[AccuracyEntry] = []
    nodes: list[NodeEntry] = []

    @classmethod
    def of(
        cls,
        about: dict[str, str],
        costs: list[CostEntry],
        frames: list[FrameEntry],
        accuracy: list[AccuracyEntry],
        nodes: list[NodeEntry],
    ) -> Self:
        """Return a document of the latest version, in an order that does not change by chance."""
        return cls(
            FORMAT,
            VERSION,
            about,
            sorted(costs, key=lambda e: (e.task, e.place, e.model_id, pixels_of(e.resolution))),
            sorted(frames, key=lambda e: (e.encoder, pixels_of(e.resolution))),
            sorted(accuracy, key=lambda e: (e.task, e.model_id, pixels_of(e.resolution), e.fps)),
            sorted(nodes, key=lambda e: (e.node_addr, e.task)),
        )


class _Front(msgspec.Struct, frozen=True):
    """What every version has."""

    format: str = ""
    version: int = 0


def decode(data: bytes, name: str) -> Document:
    """Read a document.

    Args:
        data: as it is in the file.
        name: of it, for texts of errors.

    Raises:
        ConfigError: it is none, is of a later version, or has something out of bounds.
    """
    if len(data) > MAX_NBYTES:
        raise ConfigError(f"{name} has {len(data)} bytes, a profile has at most {MAX_NBYTES}")
    try:
        front = msgspec.json.decode(data, type=_Front)
        if front.format != FORMAT:
            raise ConfigError(f"{name} is no profile: format is {front.format!r}, not {FORMAT!r}")
        if not 1 <= front.version <= VERSION:
            raise ConfigError(
                f"{name} is a profile of version {front.version}, known are those up to {VERSION}"
            )
        document = msgspec.json.decode(data, type=Document)
    except (msgspec.MsgspecError, RecursionError) as err:
        raise ConfigError(f"{name} is no profile: {err}") from err
    _check(document, name)
    return document


def encode(document: Document) -> bytes:
    """Return the bytes of a document, an entry a line, so that changes can be seen."""
    lines = []
    for part in ("costs", "frames", "accuracy", "nodes"):
        entries = ",\n  ".join(msgspec.json.encode(e).decode() for e in getattr(document, part))
        lines.append(f' "{part}": [\n  {entries}\n ]' if entries else f' "{part}": []')
    about = msgspec.json.encode(document.about).decode()
    front = f' "format": "{document.format}",\n "version": {document.version},\n "about": {about}'
    return ("{\n" + ",\n".join([front, *lines]) + "\n}\n").encode()


def _check(document: Document, name: str) -> None:
    """Look at what no later check would find."""
    for part in ("costs", "frames", "accuracy", "nodes"):
        if len(getattr(document, part)) > MAX_ENTRIES:
            raise ConfigError(f"{name} has more than {MAX_ENTRIES} {part}")
    tasks = [entry.task for entry in document.costs]
    tasks += [entry.task for entry in document.accuracy]
    tasks += [entry.task for entry in document.nodes]
    for task in tasks:
        if not 0 < len(task) <= MAX_NAME:
            raise ConfigError(
                f"{name}: name of a task has {len(task)} characters, expected 1 to {MAX_NAME}"
            )
    for node in document.nodes:
        _check_node(node, name)
    if len(msgspec.json.encode(document.about)) > MAX_ABOUT:
        raise ConfigError(f"{name}: about exceeds {MAX_ABOUT} bytes")


def _check_node(node: NodeEntry, name: str) -> None:
    factors = (node.slowdown, *(factor for _, _, factor in node.corrections))
    if not (
        all(map(is_slowdown, factors))
        and 0 <= node.frames <= MAX_SAMPLES
        and 0 <= node.tail <= MAX_TAIL
        and len(node.corrections) <= MAX_CORRECTIONS
        and 0 < len(node.node_addr) <= MAX_NAME
    ):
        raise ConfigError(f"{name}: what node {node.node_addr[:64]} has taught is out of bounds")


def _short(value: float) -> float:
    """Return a number with as many digits as mean anything."""
    return float(f"{value:.5g}") if math.isfinite(value) else value
