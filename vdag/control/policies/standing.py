"""`Standing`: what an adaptive policy remembers of a query from question to question.

Beside the calibration of its predictions that is what did not work. A plan that was left because it
missed the bound is *barred*, with all that ask at least as much of the same nodes, for a time that
doubles whenever a plan fails there again, or until what made it fail has changed. So a policy that
errs about a plan errs once, then rarely, and never goes round in circles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vdag.control.prediction import Calibration, Candidate, Outlook
from vdag.control.prediction.measured import read_number
from vdag.control.profile.costs import pixels_of
from vdag.errors import VdagError

__all__ = ["BAR_S", "Bar", "Standing"]

#: For how long a plan is barred at first, and at most, in seconds.
BAR_S = 60.0
MAX_BAR_S = 3600.0
#: Bars that are kept; the one that ends first goes.
MAX_BARS = 16
#: What has changed for the better if it is less, or more, than this share of what it was: reports
#: and the plans of others go up and down by less all the time.
LESS, MORE = 0.6, 3.0
#: And of objects, how many fewer there have to be.
FEWER = 3.0
#: A time that no controller reaches.
MOST_S = 1e12


@dataclass(frozen=True, slots=True)
class Bar:
    """A candidate that did not keep the bound.

    Attributes:
        candidate: it.
        until_s: when it may be tried again.
        length_s: for how long it is barred this time.
        bound_s: the bound that it missed, `MOST_S` for none.
        obj_n: objects in the scene then, 0 for unknown.
        bandwidth: of the slowest link that it used, 0 for none.
        others: workers that other queries kept busy where it ran.
    """

    candidate: Candidate
    until_s: float
    length_s: float
    bound_s: float
    obj_n: float = 0.0
    bandwidth: float = 0.0
    others: float = 0.0

    def covers(self, other: Candidate) -> bool:
        """Whether another candidate asks at least as much of the same nodes."""
        mine = self.candidate
        return (
            other.nodes == mine.nodes
            and other.fps >= mine.fps
            and pixels_of(other.resolution) >= pixels_of(mine.resolution)
            and all(other.models[task] <= model_id for task, model_id in mine.models.items())
        )

    def is_void(self, outlook: Outlook) -> bool:
        """Whether what made it fail has changed for the better."""
        if min(outlook.bound_s, MOST_S) > self.bound_s * (1 + 1e-9):
            return True
        obj_n = outlook.measured.obj_n
        if obj_n is not None and obj_n < min(LESS * self.obj_n, self.obj_n - FEWER):
            return True
        bandwidth = slowest_link(self.candidate, outlook)
        if self.bandwidth and bandwidth > MORE * self.bandwidth:
            return True
        return self.others > 0.2 and others_at(self.candidate, outlook) < LESS * self.others

    def to_document(self) -> dict[str, Any]:
        """Return what `read` reads."""
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        return {"candidate": candidate_document(self.candidate), **numbers}

    @classmethod
    def read(cls, document: Any) -> Bar | None:
        """Read what `to_document` has written, None for anything else."""
        if not isinstance(document, Mapping):
            return None
        candidate = read_candidate(document.get("candidate"))
        numbers = [read_number(document.get(name), MOST_S) for name in _NUMBERS]
        if candidate is None or any(number is None for number in numbers):
            return None
        return cls(candidate, *(number or 0.0 for number in numbers))


_NUMBERS = ("until_s", "length_s", "bound_s", "obj_n", "bandwidth", "others")


@dataclass(slots=True)
class Standing:
    """See the module.

    Attributes:
        calibration: of predictions.
        bars: see `Bar`.
        key: of the plan that was chosen last; empty for none.
        changed_s: when that was.
        origin: of a plan that was tried for its quality: the one before, which did well; None for
            a plan that was needed.
        hold_s: until when nothing is tried.
        failures: trials in a row that failed.
        p95_s: 95th percentile that was measured last under the plan, 0 for none.
        delay_s: likewise the mean.
        bound: the constraint, as `delay accuracy`.
        extra: numbers of one policy alone.
    """

    calibration: Calibration = field(default_factory=Calibration)
    bars: list[Bar] = field(default_factory=list)
    key: str = ""
    changed_s: float = 0.0
    origin: Candidate | None = None
    hold_s: float = 0.0
    failures: int = 0
    p95_s: float = 0.0
    delay_s: float = 0.0
    bound: str = ""
    extra: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, document: Any) -> Standing:
        """Read what `to_document` has written; what makes no sense is left out."""
        if not isinstance(document, Mapping):
            return cls()
        bars, key, bound = (document.get(name) for name in ("bars", "key", "bound"))
        read = [Bar.read(each) for each in bars[:MAX_BARS]] if isinstance(bars, list) else []
        extra = document.get("extra")
        return cls(
            Calibration.read(document.get("calibration")),
            [each for each in read if each is not None],
            key if isinstance(key, str) else "",
            read_number(document.get("changed_s"), MOST_S) or 0.0,
            read_candidate(document.get("origin")),
            read_number(document.get("hold_s"), MOST_S) or 0.0,
            int(read_number(document.get("failures"), 1000.0) or 0),
            read_number(document.get("p95_s"), MOST_S) or 0.0,
            read_number(document.get("delay_s"), MOST_S) or 0.0,
            bound if isinstance(bound, str) else "",
            _read_extra(extra),
        )

    def to_document(self) -> dict[str, Any]:
        """Return what is to be remembered, JSON-able."""
        document: dict[str, Any] = {
            "calibration": self.calibration.to_document(),
            "key": self.key,
            "changed_s": self.changed_s,
            "hold_s": self.hold_s,
            "failures": self.failures,
            "p95_s": self.p95_s,
            "delay_s": self.delay_s,
            "bound": self.bound,
        }
        if self.bars:
            document["bars"] = [each.to_document() for each in self.bars]
        if self.origin is not None:
            document["origin"] = candidate_document(self.origin)
        return {**document, "extra": dict(self.extra)} if self.extra else document

    def see(self, outlook: Outlook) -> None:
        """Notice what has changed for the better, or altogether."""
        now_s = outlook.question.now_s
        if self.changed_s > now_s:  # a clock of another controller
            self.changed_s, self.hold_s = now_s, 0.0
        self.hold_s = min(self.hold_s, now_s + MAX_BAR_S)
        bound = f"{outlook.bound_s:g} {outlook.asked}"
        if bound != self.bound:
            self.bound, self.hold_s, self.failures = bound, 0.0, 0
        kept = [each for each in self.bars if not each.is_void(outlook)]
        if len(kept) < len(self.bars):
            self.hold_s, self.failures = 0.0, 0
        # A bar that is over still says how long the next one is; after a while it is history.
        self.bars = [each for each in kept if now_s < each.until_s + MAX_BAR_S]

    def refuses(self, candidate: Candidate, now_s: float) -> bool:
        """Whether a candidate is barred."""
        return any(now_s < each.until_s and each.covers(candidate) for each in self.bars)

    def bar(self, candidate: Candidate, outlook: Outlook) -> None:
        """Bar a candidate that missed the bound; for twice as long as the last one on its nodes."""
        now_s = outlook.question.now_s
        before = [each.length_s for each in self.bars if each.candidate.nodes == candidate.nodes]
        longest_s = max(before, default=0.0)
        length_s = min(max(2 * longest_s, BAR_S), MAX_BAR_S)
        # Those that this one covers have nothing more to say.
        kept = [each for each in self.bars if not _says_all(candidate, each)]
        kept.append(
            Bar(
                candidate,
                now_s + length_s,
                length_s,
                min(outlook.bound_s, MOST_S),
                outlook.measured.obj_n or 0.0,
                slowest_link(candidate, outlook),
                others_at(candidate, outlook),
            )
        )
        self.bars = sorted(kept, key=lambda each: each.until_s)[-MAX_BARS:]

    def settle(self, candidate: Candidate, now_s: float, origin: Candidate | None = None) -> None:
        """Note that a candidate is the plan from now on; `origin`: it is tried in place of that."""
        self.key, self.changed_s, self.origin = candidate.key, now_s, origin
        self.p95_s = self.delay_s = 0.0

    def remember(self, outlook: Outlook) -> None:
        """Note what was measured under the plan in force, for the next look."""
        seen = outlook.measured
        if outlook.is_current and seen.delay_s is not None and seen.delay_p95_s is not None:
            self.p95_s, self.delay_s = seen.delay_p95_s, seen.delay_s

    def held(self, now_s: float) -> set[str]:
        """Return the nodes on which something is barred."""
        bars = (each for each in self.bars if now_s < each.until_s)
        return {addr for each in bars for addr in each.candidate.nodes.values()}

    def forgiven(self, outlook: Outlook) -> dict[tuple[str, str], float]:
        """Return what work is expected to take where a bar has ended, over what the profile says.

        A node that this query left because it had become slow is known as slow for as long as
        nobody works there. When the bar has ended it is taken to be as fast as it was.
        """
        placed = outlook.question.previous
        used = set() if placed is None else {p.node_addr for p in placed.flow_mapping.values()}
        every = {addr for each in self.bars for addr in each.candidate.nodes.values()}
        again = every - self.held(outlook.question.now_s) - used
        found = {}
        for addr in again:
            node = outlook.question.around.get(addr)
            for task in outlook.tasks if node is not None else ():
                assert node is not None, "nobody asks after a node that is gone"
                slowdown = outlook.profile.slowdown(node, task)
                if outlook.room(task, node).queries == 0:
                    found[task, addr] = 1 / max(slowdown, 1.0)
        return found


def _says_all(candidate: Candidate, bar: Bar) -> bool:
    """Whether a bar on a candidate would cover that of another bar."""
    return Bar(candidate, 0.0, 0.0, 0.0).covers(bar.candidate)


def slowest_link(candidate: Candidate, outlook: Outlook) -> float:
    """Return the bandwidth of the slowest link that a candidate uses, 0 for none."""
    slowest = math.inf
    for branch in outlook.branches:
        sender = outlook.question.around.host.node_addr
        for index in branch:
            receiver = candidate.nodes.get(outlook.tasks[index], sender)
            if receiver != sender:
                slowest = min(slowest, outlook.bandwidth(sender, receiver))
            sender = receiver
    return slowest if slowest < math.inf else 0.0


def others_at(candidate: Candidate, outlook: Outlook) -> float:
    """Return the workers that other queries keep busy at a candidate's tasks."""
    around = outlook.question.around
    loads = (around.load(addr, task) for task, addr in candidate.nodes.items())
    return float(sum(max(load.busy, 0.0) for load in loads))


def candidate_document(candidate: Candidate) -> dict[str, Any]:
    """Return the fields of a candidate, JSON-able."""
    return {
        "resolution": candidate.resolution,
        "fps": candidate.fps,
        "encoder": candidate.encoder,
        "models": dict(candidate.models),
        "nodes": dict(candidate.nodes),
    }


def read_candidate(document: Any) -> Candidate | None:
    """Read what `candidate_document` has written, None for anything else."""
    if not isinstance(document, Mapping):
        return None
    models, nodes = document.get("models"), document.get("nodes")
    fps, names = read_number(document.get("fps"), 1000.0), ("resolution", "encoder")
    texts = [document.get(name) for name in names]
    if not (isinstance(models, Mapping) and isinstance(nodes, Mapping) and fps):
        return None
    if models.keys() != nodes.keys() or not all(isinstance(text, str) for text in texts):
        return None
    whole = all(isinstance(m, int) and not isinstance(m, bool) for m in models.values())
    if not whole or not all(isinstance(addr, str) for addr in nodes.values()):
        return None
    try:
        pixels_of(str(texts[0]))
    except VdagError:
        return None
    return Candidate(str(texts[0]), fps, str(texts[1]), dict(models), dict(nodes))


def _read_extra(document: Any) -> dict[str, float]:
    if not isinstance(document, Mapping):
        return {}
    return {
        str(name): float(value)
        for name, value in [*document.items()][:64]
        if isinstance(value, (int, float)) and abs(value) <= MOST_S
    }
