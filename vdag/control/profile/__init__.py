"""`Profile`: the knowledge base of what tasks cost and what they are worth.

It holds what was measured before, by `vdag profile` on machines like those that run, and refines it
by what running queries report:

    costbook, costs       what a task takes of a node, by model and resolution
    learning              by how much each node is slower or faster than that, right now
    judging, accuracy     how good results are against the golden configuration
    frames                how large encoded frames are
    document, files       the file that it is kept in; `foreign` reads and writes others
    refining              the reports of jobs, taken in

None of these has a clock, a thread or a socket, and none looks at pixels. What measures does:
`campaign`, `measuring`, `matching` and `cells`, which only the command imports.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdag.control.profile.accuracy import AccuracyPoint, Scene
from vdag.control.profile.costbook import ANY, MAX_NAME, CostBook, CostRow, granted, places_of
from vdag.control.profile.costs import Cost, pixels_of
from vdag.control.profile.document import (
    MAX_NBYTES,
    AccuracyEntry,
    CostEntry,
    Document,
    FrameEntry,
    NodeEntry,
    decode,
    encode,
)
from vdag.control.profile.files import read_bounded, write_atomically
from vdag.control.profile.frames import FrameSize, FrameSizes
from vdag.control.profile.judging import Accuracies, AccuracyRow
from vdag.control.profile.learning import (
    HALF_LIFE_FRAMES,
    Experience,
    Learned,
    is_slowdown,
    read_report,
)
from vdag.errors import ConfigError

if TYPE_CHECKING:
    from vdag.control.scheduling.events import NodeInfo, ServiceInfo

__all__ = ["ANY", "DEFAULT_PATH", "AccuracyPoint", "Cost", "FrameSize", "Profile", "Scene"]

#: What comes with the package: all built-in tasks and models, measured on the machine it names.
DEFAULT_PATH = Path(__file__).with_name("default.json")
#: Nodes for which predicted costs are kept, and how many of them for each.
MAX_NODES, MAX_CACHED = 20_000, 1024


@dataclass(slots=True)
class _Seen:
    """What was worked out of a node, and what of it that depends on."""

    role: str
    services: Mapping[str, ServiceInfo]
    costs: dict[tuple[str, int, str], Cost | None] = field(default_factory=dict)
    learned: dict[str, Learned] = field(default_factory=dict)


class Profile:
    """What is known of tasks, nodes and frames; for one thread.

    Args:
        half_life_frames: observed frames after which earlier ones count half.

    Attributes:
        about: where it comes from, words for people.
    """

    def __init__(self, *, half_life_frames: float = HALF_LIFE_FRAMES) -> None:
        self.about: dict[str, str] = {}
        self._costs = CostBook()
        self._accuracies = Accuracies()
        self._sizes = FrameSizes()
        self._experience = Experience(half_life_frames)
        self._seen: dict[str, _Seen] = {}
        self._version = 0

    def cost(self, task: str, model_id: int, resolution: str, node: NodeInfo) -> Cost | None:
        """Return what a task takes of a node per frame, None if nothing is known of the task.

        What was measured on this node counts first, then on its role, then anywhere; a missing
        resolution is interpolated in the pixels, and of a missing model the nearest stands in. All
        of it is then scaled by what the node has taught since. Of a node that has taught nothing it
        is scaled by what is known of it: what was measured on it for other tasks, else the share of
        its cores that it grants the task.

        Raises:
            ConfigError: the resolution is none.
        """
        known, key = self._look_at(node).costs, (task, model_id, resolution)
        try:
            return known[key]
        except KeyError:
            if len(known) >= MAX_CACHED:
                known.clear()
            cost = known[key] = self._predict(task, model_id, pixels_of(resolution), node)
            return cost

    @property
    def version(self) -> int:
        """Rises whenever anything measured is set; what is learned of nodes does not count."""
        return self._version

    def knows(self, task: str) -> bool:
        """Whether a cost of a task was measured anywhere."""
        return task in self._costs

    def prior(self, task: str, model_id: int, resolution: str, node: NodeInfo) -> Cost | None:
        """Return `cost` without what the node has taught since; it depends on `place` alone."""
        return self._costs.prior(task, model_id, pixels_of(resolution), node)

    def place(self, node: NodeInfo) -> tuple[str, ...]:
        """Return what `prior` depends on: the node if anything was measured there, or its role."""
        return places_of(node)[0 if self._costs.has_place(node) else 2 :]

    def learned(self, task: str, node: NodeInfo) -> Learned:
        """Return what a node has taught of a task: `prior` with that is `cost`. For reading."""
        known = self._look_at(node).learned
        if task not in known:
            learned = self._experience.of(node.node_addr, task)
            if len(known) >= MAX_CACHED:
                known.clear()
            known[task] = Learned(self._start(task, node)) if learned is None else learned
        return known[task]

    def frame_nbytes(self, resolution: str, encoder: str) -> float:
        """Return the bytes of an encoded frame.

        Raises:
            ConfigError: the resolution or the encoder, one of `vdag.plan.ENCODERS`, is unknown.
        """
        return self._sizes.nbytes(resolution, encoder)

    def accuracy(
        self,
        task: str,
        model_id: int,
        resolution: str,
        fps: float,
        *,
        obj_size: float | None = None,
        obj_speed: float | None = None,
        cam_fps: float | None = None,
    ) -> float:
        """Return how good the results of a configuration are against the golden one, 0 to 1.

        It never falls when the resolution or the rate rises; that of a chain of tasks is the
        product. Measured points are interpolated, see `accuracy.Surface`; where there are none for
        the task, it is `accuracy.assumed_accuracy`.

        Args:
            task: its name.
            model_id: 0 large to 2 small.
            resolution: of the frames.
            fps: at which they are processed.
            obj_size: mean area of objects in px^2 at 1080p; None and -1 for unknown.
            obj_speed: their speed in px/s at 1080p, 0 for none; None and -1 for unknown.
            cam_fps: rate of the camera, above which even the golden configuration has no frames.

        Raises:
            ConfigError: the resolution or a rate is none.
        """
        return self._accuracies.at(task, model_id, resolution, fps, obj_size, obj_speed, cam_fps)

    def accuracies_at(
        self, task: str, model_id: int, names: Sequence[str], rates: Sequence[float], **scene: Any
    ) -> list[list[float]]:
        """Return `accuracy` of all of some resolutions, at all of some rates each."""
        return self._accuracies.grid(task, model_id, names, rates, **scene)

    def observe(
        self,
        task: str,
        model_id: int,
        resolution: str,
        node: NodeInfo,
        compute_s: float,
        compute_p95_s: float,
        frames: float,
        *,
        obj_n: float | None = None,
        batch: float = 1.0,
    ) -> bool:
        """Take in what frames took on a node; return whether that was believed.

        What is not a number, negative or absurd is refused, and changes nothing.

        Args:
            task: its name.
            model_id: which of its models.
            resolution: of the frames.
            node: where it ran.
            compute_s: mean seconds of the batches that the frames were in, objects and all.
            compute_p95_s: what 95 % of the frames did not exceed.
            frames: how many there were.
            obj_n: objects per frame; None for as many as when the profile was measured.
            batch: mean of the frames in a batch; 0 for not said.

        Raises:
            ConfigError: the resolution is none.
        """
        pixels = pixels_of(resolution)
        report = read_report(compute_s, compute_p95_s, frames, obj_n, batch)
        if report is None or not 0 < len(task) <= MAX_NAME:
            return False
        cost = self._costs.prior(task, model_id, pixels, node)
        if cost is None:
            cost = Cost(report.mean_s, report.p95_s, samples=1)
            try:
                self.put_cost(task, model_id, resolution, cost, node.node_addr)
            except ConfigError:  # no room, or no name of a node or model
                return False
        self._seen.pop(node.node_addr, None)
        return self._experience.take(
            node.node_addr,
            task,
            start=self._start(task, node),
            cost=cost,
            model_id=model_id,
            pixels=pixels,
            report=report,
        )

    def observe_frame(self, resolution: str, encoder: str, nbytes: float) -> bool:
        """Take in the bytes of an encoded frame; return whether they were believed."""
        return self._sizes.observe(resolution, encoder, nbytes)

    def observe_load(self, node: NodeInfo, slowdown: float) -> bool:
        """Take in by how much a node is slower than was measured, at tasks not observed there.

        Without it, that is the mean of those that are. A thousandth to a thousand is believed.
        """
        if not is_slowdown(slowdown):
            return False
        self._experience.tell(node.node_addr, slowdown)
        self._seen.pop(node.node_addr, None)
        return True

    def slowdown(self, node: NodeInfo, task: str = "") -> float:
        """Return by how much a node is slower at a task than was measured; 1 for as fast."""
        learned = self._experience.of(node.node_addr, task)
        return math.exp(self._start(task, node) if learned is None else learned.log_factor)

    def forget(self, node_addr: str) -> None:
        """Forget what a node has taught; what was measured on it before stays."""
        self._experience.forget(node_addr)
        self._seen.pop(node_addr, None)

    def put_cost(
        self, task: str, model_id: int, resolution: str, cost: Cost, place: str = ANY
    ) -> None:
        """Set a measured cost.

        Args:
            task: its name.
            model_id: which of its models.
            resolution: of the frames.
            cost: what it took.
            place: where that holds: a node's address or ip, `edge`, `cloud`, or `ANY`.

        Raises:
            ConfigError: something is out of bounds; nothing has changed.
        """
        self._costs.put(CostRow(task, model_id, resolution, place, cost))
        self._seen.clear()
        self._version += 1

    def put_accuracy(self, task: str, model_id: int, point: AccuracyPoint) -> None:
        """Set a measured accuracy; ConfigError if it is out of bounds, and nothing has changed."""
        self._accuracies.put(AccuracyRow(task, model_id, point))
        self._version += 1

    def put_frame(self, size: FrameSize) -> None:
        """Set the measured size of an encoded frame; errors as `put_accuracy`."""
        self._sizes.put(size)

    def costs(self) -> Iterator[CostRow]:
        """Yield the measured costs."""
        return iter(self._costs)

    def accuracies(self) -> Iterator[AccuracyRow]:
        """Yield the measured accuracies."""
        return iter(self._accuracies)

    def frames(self) -> Iterator[FrameSize]:
        """Yield the measured sizes of encoded frames."""
        return iter(self._sizes)

    def merge(self, other: Profile) -> None:
        """Take in all that another profile has measured.

        What both have becomes the mean, weighted by samples; what the other has learned replaces.
        """
        for cost in other.costs():
            self._costs.merge(cost)
        for accuracy in other.accuracies():
            self._accuracies.merge(accuracy)
        for size in other.frames():
            self._sizes.merge(size)
        for node_addr, task, learned in other._experience:
            self._experience.put(node_addr, task, learned.copy())
        self.about = {**other.about, **self.about}
        self._seen.clear()
        self._version += 1

    def to_bytes(self) -> bytes:
        """Return the profile as a document, see `document`."""
        return encode(
            Document.of(
                self.about,
                [CostEntry.of(row) for row in self.costs()],
                [FrameEntry.of(size) for size in self.frames()],
                [AccuracyEntry.of(row) for row in self.accuracies()],
                [NodeEntry.of(*each) for each in self._experience],
            )
        )

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "profile") -> Profile:
        """Read a document.

        Args:
            data: the document.
            name: of its file, for texts of errors.

        Raises:
            ConfigError: it is none, is of a later version, or has something out of bounds.
        """
        document = decode(data, name)
        profile = cls()
        profile.about = document.about
        try:
            for cost in document.costs:
                profile._costs.put(cost.row)
            for frame in document.frames:
                profile._sizes.put(frame.size)
            for accuracy in document.accuracy:
                profile._accuracies.put(accuracy.row)
        except ConfigError as err:
            raise ConfigError(f"{name}: {err}") from err
        for node in document.nodes:
            profile._experience.put(node.node_addr, node.task, node.learned)
        return profile

    @classmethod
    def load(cls, path: Path) -> Profile:
        """Read a file.

        Raises:
            ConfigError: it cannot be read, or as `from_bytes`.
        """
        return cls.from_bytes(read_bounded(path, MAX_NBYTES), str(path))

    @classmethod
    def default(cls) -> Profile:
        """Return the profile that comes with the package; the caller may change it."""
        return cls.load(DEFAULT_PATH)

    def save(self, path: Path) -> None:
        """Write a file as a whole; ConfigError if that cannot be, and an older one is as it was."""
        write_atomically(path, self.to_bytes())

    def _look_at(self, node: NodeInfo) -> _Seen:
        seen = self._seen.get(node.node_addr)
        if (
            seen is None
            or seen.role != node.role
            # The same object unless it has changed, mostly; comparing takes longer than predicting.
            or (seen.services is not node.services and seen.services != node.services)
        ):
            if len(self._seen) >= MAX_NODES:
                self._seen.clear()
            seen = self._seen[node.node_addr] = _Seen(node.role, node.services)
        return seen

    def _predict(self, task: str, model_id: int, pixels: int, node: NodeInfo) -> Cost | None:
        cost = self._costs.prior(task, model_id, pixels, node)
        if cost is None:
            return None
        return self.learned(task, node).applied(cost, model_id, pixels)

    def _start(self, task: str, node: NodeInfo) -> float:
        """Return the logarithm of a node's slowdown at a task that it was not seen at."""
        log = self._experience.log_factor(node.node_addr)
        if log is not None:
            return log
        # What was measured on the node itself was measured with what it grants.
        return 0.0 if self._costs.has_place(node) else math.log(granted(task, node))
