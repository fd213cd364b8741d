"""Any story at all: what a model counts frame by frame must be what the books say."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vdag.job.homecoming import Homecoming

BRANCHES = 2
TIMEOUT_NS = 50
reasons = st.sampled_from(["full", "poison", "superseded"])


class Stories(RuleBasedStateMachine):
    """Keeps a fate per frame, and what is on its way home; knows no rule but the documented."""

    @initialize(policy=st.sampled_from(["block", "latest"]), max_in_flight=st.integers(1, 4))
    def open(self, policy: str, max_in_flight: int) -> None:
        self.policy, self.max_in_flight = policy, max_in_flight
        self.job = Homecoming(
            branches=BRANCHES,
            max_in_flight=max_in_flight,
            policy=policy,  # type: ignore[arg-type]
            timeout_ns=TIMEOUT_NS,
        )
        self.now_ns = 0
        self.refused = self.late = 0
        self.fate: list[str] = []  # waiting, travelling, home, failed:why, delivered, dropped:why
        self.out: list[tuple[int, int]] = []  # descriptors under way
        self.home: dict[int, set[int]] = {}
        self.clock_ns: dict[int, int] = {}
        self.delivered: list[int] = []

    def with_fate(self, *fates: str) -> list[int]:
        return [seq for seq, fate in enumerate(self.fate) if fate.split(":")[0] in fates]

    def inside(self) -> list[int]:
        return self.with_fate("waiting", "travelling", "home", "failed")

    @rule()
    def admit(self) -> None:
        waiting = self.with_fate("waiting")
        assert self.job.has_room() == (not waiting or self.policy == "latest")
        if not self.job.has_room():
            return
        superseded = self.job.admit(len(self.fate))
        assert superseded == (waiting[0] if waiting else None)
        for seq in waiting:
            self.fate[seq] = "dropped:superseded"
        self.fate.append("waiting")

    @rule()
    def refuse(self) -> None:
        self.job.refuse("arena_full")
        self.refused += 1

    @rule(granted=st.booleans())
    def depart(self, granted: bool) -> None:
        waiting = self.with_fate("waiting")
        room = len(self.with_fate("travelling", "home", "failed")) < self.max_in_flight
        seq = self.job.depart(self.now_ns, granted=granted)
        assert seq == (waiting[0] if waiting and room and granted else None)
        if waiting and room and not granted:
            self.clock_ns.setdefault(waiting[0], self.now_ns)
        if seq is not None:
            self.fate[seq] = "travelling"
            self.clock_ns[seq] = self.now_ns
            self.home[seq] = set()
            self.out += [(seq, branch) for branch in range(BRANCHES)]

    @precondition(lambda self: self.out)
    @rule(data=st.data(), twice=st.booleans())
    def arrive(self, data: st.DataObject, twice: bool) -> None:
        seq, branch = data.draw(st.sampled_from(self.out))
        if not twice:
            self.out.remove((seq, branch))
        wanted = self.fate[seq] == "travelling" and branch not in self.home[seq]
        assert self.job.arrive(seq, branch) == wanted
        self.late += not wanted
        if wanted:
            self.home[seq].add(branch)
            if len(self.home[seq]) == BRANCHES:
                self.fate[seq] = "home"

    @precondition(lambda self: self.home)
    @rule(data=st.data(), reason=reasons, keep=st.booleans())
    def lose(self, data: st.DataObject, reason: str, keep: bool) -> None:
        seq = data.draw(st.sampled_from(sorted(self.home)))
        counted = self.fate[seq] == "travelling"
        lose = self.job.fail if keep else self.job.drop
        assert lose(seq, reason) == counted
        if counted:
            self.fate[seq] = f"{'failed' if keep else 'dropped'}:{reason}"

    @rule(step_ns=st.integers(0, 30))
    def wait(self, step_ns: int) -> None:
        self.now_ns += step_ns
        due = {
            seq: self.clock_ns[seq] + TIMEOUT_NS
            for seq in self.with_fate("waiting", "travelling")
            if seq in self.clock_ns
        }
        assert self.job.next_due_ns() == min(due.values(), default=None)
        expired = [seq for seq, due_ns in due.items() if due_ns <= self.now_ns]
        assert self.job.expire(self.now_ns) == expired
        for seq in expired:
            self.fate[seq] = "dropped:timeout"

    @rule()
    def leave(self) -> None:
        oldest = self.inside()[:1]
        ready = [seq for seq in oldest if self.fate[seq].split(":")[0] in ("home", "failed")]
        seq = self.job.next_turn()
        assert seq == (ready[0] if ready else None)
        if seq is None:
            return
        fate, _, reason = self.fate[seq].partition(":")
        assert self.job.leave(seq) == (fate == "home")
        self.fate[seq] = "delivered" if fate == "home" else f"dropped:{reason}"
        if fate == "home":
            self.delivered.append(seq)

    @rule()
    def close(self) -> None:
        assert self.job.drop_all("closed") == self.inside()
        for seq in self.inside():
            self.fate[seq] = "dropped:closed"

    @invariant()
    def the_books_agree_with_every_fate(self) -> None:
        if not hasattr(self, "job"):
            return
        job = self.job
        dropped = Counter(fate[8:] for fate in self.fate if fate.startswith("dropped:"))
        if self.refused:
            dropped["arena_full"] = self.refused
        assert job.dropped == dropped
        assert job.admitted == len(self.fate) + self.refused
        assert job.delivered == len(self.delivered)
        assert job.in_flight == len(self.inside())
        assert job.admitted == job.delivered + job.dropped.total() + job.in_flight
        assert job.late == self.late

    @invariant()
    def results_leave_in_order_and_once(self) -> None:
        if hasattr(self, "job"):
            assert self.delivered == sorted(set(self.delivered))


TestStories = Stories.TestCase
TestStories.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
