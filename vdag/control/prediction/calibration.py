"""`Calibration`: how what was measured under the present plan differs from what is predicted.

The profile says what is known of tasks and nodes in general. A query knows better about the part
of the world that its own frames pass through: for each task, link and queue it keeps a ratio or
an excess, bounded, and follows what is measured within a few windows. What the plan does not use
any more cannot be measured; it is believed less and less, so that a node that was slow once is
not avoided for ever.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["LEAST_LINK", "MOST_LINK", "QUEUE_FLOOR_S", "Calibration"]

#: Frames after which a new window outweighs all earlier ones together.
HALF_FRAMES = 8.0
#: A change of this, in the logarithm, is no noise, and counts at least so much.
LEAP, LEAP_SHARE = 0.7, 0.8
#: Seconds after which a correction of what is not in use counts half, in its logarithm.
HALF_LIFE_S = 60.0
#: Corrections smaller than this are forgotten; nobody could tell them from none.
LEAST = 0.02
#: The most that is believed, as a factor, of work and of waits.
MOST_COMPUTE = 8.0
MOST_QUEUE = 8.0
#: A link that is full looks slower than it is by any factor. Faster than reported it is hardly
#: ever; frames may be somewhat smaller than the profile says.
LEAST_LINK, MOST_LINK = 0.7, 16.0
#: Of what measured frames scatter more than predicted ones.
MOST_SPREAD = 3.0
#: A link that is reported so much faster than before, or slower than what it carried by so much, is
#: another one; what was learned of it is void.
FASTER, SLOWER = 3.0, 0.7
#: Waits below this are noise, and would give ratios of any size.
QUEUE_FLOOR_S = 0.002
#: The most that is believed of delays that nothing explains, in seconds.
MOST_EXCESS_S = 0.5
#: Entries of a kind; a query has a few tasks on a few nodes.
MOST_ENTRIES = 64
#: What is remembered, as it is kept: logarithms, seconds, and bytes per second.
BOUNDS: Mapping[str, tuple[float, float]] = {
    "compute": (-math.log(MOST_COMPUTE), math.log(MOST_COMPUTE)),
    "queue": (-math.log(MOST_QUEUE), math.log(MOST_QUEUE)),
    "link": (math.log(LEAST_LINK), math.log(MOST_LINK)),
    "hop": (-MOST_EXCESS_S, MOST_EXCESS_S),
    "bandwidth": (1.0, 1e12),
    "spread": (-math.log(MOST_SPREAD), math.log(MOST_SPREAD)),
    "at_s": (0.0, 1e12),
}


@dataclass(slots=True)
class Calibration:
    """Corrections of predictions; ratios as logarithms, excesses in seconds.

    Attributes:
        compute: `task@node_addr` to the ratio of measured to predicted work.
        queue: likewise of waits, both with `QUEUE_FLOOR_S` added.
        link: `sender>receiver` to the ratio of the time on the link, that of bytes alone.
        hop: `sender>receiver` to the excess of the rest of a way, in seconds.
        bandwidth: `sender>receiver` to the bytes per second that `link` is about.
        spread: ratio of measured to predicted distance between 95th percentile and mean.
        at_s: when it was brought up to date.
    """

    compute: dict[str, float] = field(default_factory=dict)
    queue: dict[str, float] = field(default_factory=dict)
    link: dict[str, float] = field(default_factory=dict)
    hop: dict[str, float] = field(default_factory=dict)
    bandwidth: dict[str, float] = field(default_factory=dict)
    spread: float = 0.0
    at_s: float = 0.0

    @classmethod
    def read(cls, document: Any) -> Calibration:
        """Read what `to_document` has written; what makes no sense is left out."""
        found = cls()
        if not isinstance(document, Mapping):
            return found
        for name, kept in found._kinds():
            entries = document.get(name)
            if isinstance(entries, Mapping):
                low, high = BOUNDS[name]
                kept.update(
                    (str(key), min(max(float(value), low), high))
                    for key, value in [*entries.items()][:MOST_ENTRIES]
                    if _is_sane(value)
                )
        for name in ("spread", "at_s"):
            value = document.get(name)
            if value is not None and _is_sane(value):
                low, high = BOUNDS[name]
                setattr(found, name, min(max(float(value), low), high))
        return found

    def to_document(self) -> dict[str, Any]:
        """Return what is to be remembered, JSON-able."""
        document: dict[str, Any] = {
            name: {key: round(value, 6) for key, value in kept.items()}
            for name, kept in self._kinds()
            if kept
        }
        return {**document, "spread": round(self.spread, 4), "at_s": self.at_s}

    def compute_ratio(self, task: str, node_addr: str) -> float:
        """Return how much longer work takes than predicted."""
        log = self.compute.get(f"{task}@{node_addr}")
        return 1.0 if log is None else math.exp(log)

    def compute_ratios(self) -> Iterator[tuple[tuple[str, str], float]]:
        """Yield `(task, node_addr)` and the ratio of work, where it is known."""
        return _places(self.compute)

    def queue_ratios(self) -> Iterator[tuple[tuple[str, str], float]]:
        """Likewise of waits."""
        return _places(self.queue)

    def knows_links_of(self, sender: str) -> bool:
        """Whether `link_ratio` is anything but 1 for links of a sender."""
        return any(name.startswith(f"{sender}>") for name in self.link)

    def knows_ways_of(self, sender: str) -> bool:
        """Whether `excess_s` is anything but 0 for ways of a sender."""
        return any(name.startswith(f"{sender}>") for name in self.hop)

    def queue_ratio(self, task: str, node_addr: str) -> float:
        """Return how much longer frames wait, both with the floor added."""
        log = self.queue.get(f"{task}@{node_addr}")
        return 1.0 if log is None else math.exp(log)

    def link_ratio(self, sender: str, receiver: str, bandwidth: float) -> float:
        """Return how much longer bytes take; `bandwidth`: as it is measured now.

        Of a link that was not used it is that of the sender's thinnest: it is mostly the access
        of a node that gets thin, and then all its links do.
        """
        name = f"{sender}>{receiver}"
        log = self.link.get(name)
        if log is None:
            return self._access_ratio(f"{sender}>", bandwidth) if self.link else 1.0
        if self._is_other(name, bandwidth):
            return 1.0
        # Reports of a bandwidth go up and down; what the link carried is known.
        carried = self.bandwidth[name] / math.exp(log)
        return min(max(bandwidth / carried, LEAST_LINK), MOST_LINK)

    def _is_other(self, name: str, bandwidth: float) -> bool:
        """Whether a link is not what it was: it carries less than it did, or is reported faster."""
        reported = self.bandwidth.get(name, 0.0)
        carried = reported / math.exp(self.link.get(name, 0.0))
        return bandwidth > FASTER * reported or bandwidth < SLOWER * min(reported, carried)

    def _access_ratio(self, sender: str, bandwidth: float) -> float:
        carried = [
            self.bandwidth[name] / math.exp(log)
            for name, log in self.link.items()
            if log > LEAP and name.startswith(sender) and self.bandwidth.get(name)
        ]
        return min(max(bandwidth / min(carried, default=bandwidth), 1.0), MOST_LINK)

    def excess_s(self, sender: str, receiver: str) -> float:
        """Return the seconds that a way takes more than predicted, or fewer."""
        return self.hop.get(f"{sender}>{receiver}", 0.0)

    @property
    def spread_ratio(self) -> float:
        """How much wider delays scatter than predicted."""
        return math.exp(self.spread)

    def fade(self, now_s: float, held: Collection[str] = ()) -> None:
        """Believe everything a little less, for time has passed; what is used is learned again.

        Args:
            now_s: the time.
            held: nodes of which everything is believed as before.
        """
        passed_s = min(max(now_s - self.at_s, 0.0), 3600.0) if self.at_s else 0.0
        self.at_s = now_s
        keep = 0.5 ** (passed_s / HALF_LIFE_S)
        for name, kept in self._kinds():
            if name == "bandwidth":
                continue
            least = 1e-4 if name == "hop" else LEAST
            for key in [*kept]:
                if re.split("[@>]", key)[-1] in held:
                    continue
                kept[key] *= keep
                if abs(kept[key]) < least:
                    del kept[key]
        for key in self.bandwidth.keys() - self.link.keys():
            del self.bandwidth[key]

    def learn_compute(self, task: str, node_addr: str, ratio: float, frames: float) -> None:
        """Take in the ratio of measured to uncorrected predicted work."""
        _follow(self.compute, f"{task}@{node_addr}", _log(ratio, MOST_COMPUTE), frames)

    def learn_queue(self, task: str, node_addr: str, ratio: float, frames: float) -> None:
        """Likewise of waits."""
        _follow(self.queue, f"{task}@{node_addr}", _log(ratio, MOST_QUEUE), frames)

    def learn_link(
        self, sender: str, receiver: str, bandwidth: float, ratio: float, frames: float
    ) -> None:
        """Likewise of bytes on a link, under a bandwidth as it is measured now."""
        name = f"{sender}>{receiver}"
        if self._is_other(name, bandwidth):
            self.link.pop(name, None)
        _follow(self.link, name, _log(max(ratio, LEAST_LINK), MOST_LINK), frames)
        self.bandwidth[name] = bandwidth

    def learn_excess(self, sender: str, receiver: str, excess_s: float, frames: float) -> None:
        """Take in what a way takes more than predicted."""
        bounded_s = min(max(excess_s, -MOST_EXCESS_S), MOST_EXCESS_S)
        _follow(self.hop, f"{sender}>{receiver}", bounded_s, frames)

    def learn_spread(self, ratio: float, frames: float) -> None:
        """Take in how much wider delays scatter than is predicted without this."""
        share = frames / (frames + HALF_FRAMES)
        self.spread += (_log(ratio, MOST_SPREAD) - self.spread) * share

    def _kinds(self) -> Iterator[tuple[str, dict[str, float]]]:
        for name in ("compute", "queue", "link", "hop", "bandwidth"):
            yield name, getattr(self, name)


def _places(kept: Mapping[str, float]) -> Iterator[tuple[tuple[str, str], float]]:
    for name, log in kept.items():
        task, _, node_addr = name.rpartition("@")
        yield (task, node_addr), math.exp(log)


def _is_sane(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) <= 1e12


def _log(ratio: float, most: float) -> float:
    limit = math.log(most)
    return min(max(math.log(max(ratio, 1e-9)), -limit), limit)


def _follow(kept: dict[str, float], key: str, value: float, frames: float) -> None:
    """Move an entry towards a value, by as much as the frames are worth; a new one jumps."""
    share = frames / (frames + HALF_FRAMES) if key in kept else 1.0
    before = kept.get(key, 0.0)
    if abs(value - before) > LEAP:
        share = max(share, LEAP_SHARE)
    if key not in kept and len(kept) >= MOST_ENTRIES:
        del kept[next(iter(kept))]
    kept[key] = before + (value - before) * share
