"""Any story at all: a model that only follows the instructions must agree with the machine."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vdag.transport.flow import Deliver, Drop, Flow, Grant, Instruction, Item, Release

TASK = "face_detection"
LIMIT = 4
COST_NS = 10

streams = st.sampled_from("abc")
workers = st.sampled_from("uvwxyz")
producers = st.sampled_from(["", "cam", "link"])


def urgency(item: Item) -> int:
    return item.deadline_ns or 1 << 63


class Stories(RuleBasedStateMachine):
    """Carries instructions out in dicts, and knows nothing of how they came about."""

    def __init__(self) -> None:
        super().__init__()
        self.flow = Flow()
        self.now_ns = 1
        self.seq = 0
        self.fate: dict[Item, str] = {}  # waiting, at a worker, completed, or why it was dropped
        self.losses: dict[Item, int] = {}
        self.cancelled: set[Item] = set()
        self.held: dict[str, list[Item]] = {}
        self.credit: dict[str, int] = {}
        self.max_batch: dict[str, int] = {}
        self.retired: set[str] = set()
        self.granted = dict.fromkeys(["", "cam", "link"], 0)
        self.first_served: dict[str, list[int]] = {}

    @initialize(policy=st.sampled_from(["block", "fifo", "latest", "deadline"]))
    def open(self, policy: str) -> None:
        self.policy = policy
        self.flow.open_task(TASK, policy=policy, limit=LIMIT, cost_ns=COST_NS)
        self.flow.weigh("a", 2)

    @rule(stream=streams, slack_ns=st.sampled_from([0, 5, 15, 100]), producer=producers)
    def submit(self, stream: str, slack_ns: int, producer: str) -> None:
        self.seq += 1
        deadline_ns = self.now_ns + slack_ns if slack_ns else 0
        item = Item(
            stream, self.seq, TASK, deadline_ns, nbytes=7, job=stream * 2, producer=producer
        )
        was_granted = self.granted[producer] > 0
        if self.policy == "block" and was_granted:
            self.granted[producer] -= 1
        self.fate[item] = "waiting"
        self.carry_out(self.flow.submit(item, self.now_ns))
        if self.policy == "block" and was_granted:
            assert self.fate[item] != "full"

    @rule(producer=producers, wanted=st.integers(1, 5))
    def ask(self, producer: str, wanted: int) -> None:
        self.carry_out(self.flow.producer_ready(TASK, producer, wanted=wanted, now_ns=self.now_ns))

    @rule(producer=producers)
    def lose_producer(self, producer: str) -> None:
        self.granted[producer] = 0
        self.carry_out(self.flow.producer_lost(producer, self.now_ns))

    @rule(worker=workers, credit=st.integers(1, 4), max_batch=st.integers(1, 3))
    def announce(self, worker: str, credit: int, max_batch: int) -> None:
        if worker not in self.retired:
            self.held.setdefault(worker, [])
            self.credit[worker] = self.credit.get(worker, 0) + credit
            self.max_batch[worker] = max_batch
        self.carry_out(
            self.flow.worker_ready(
                TASK, worker, credit=credit, max_batch=max_batch, now_ns=self.now_ns
            )
        )

    @precondition(lambda self: any(self.held.values()))
    @rule(data=st.data(), failed=st.booleans())
    def finish(self, data: st.DataObject, failed: bool) -> None:
        worker = data.draw(st.sampled_from([w for w, held in self.held.items() if held]))
        items = data.draw(st.lists(st.sampled_from(self.held[worker]), min_size=1, unique=True))
        self.held[worker] = [item for item in self.held[worker] if item not in items]
        if failed:
            for item in items:
                self.fate[item] = "waiting"
            out = self.flow.worker_failed(worker, items, self.now_ns)
            assert [Drop(item, "failed", TASK) for item in items] == out[: len(items)]
        else:
            self.fate.update(dict.fromkeys(items, "completed"))
            out = self.flow.worker_done(worker, items, self.now_ns)
        self.carry_out(out)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def lose_worker(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.held)))
        for item in self.held.pop(worker):
            self.fate[item] = "waiting"
            self.losses[item] = self.losses.get(item, 0) + 1
        del self.credit[worker]
        self.retired.discard(worker)
        out = self.flow.worker_lost(worker, self.now_ns)
        self.carry_out(out)
        for item in self.cancelled:
            assert self.fate[item] != "waiting"

    @precondition(lambda self: self.held.keys() - self.retired)
    @rule(data=st.data())
    def retire(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.held.keys() - self.retired)))
        self.retired.add(worker)
        self.credit[worker] = 0
        self.carry_out(self.flow.worker_retired(worker, self.now_ns))

    @rule(stream=streams, by_job=st.booleans())
    def cancel(self, stream: str, by_job: bool) -> None:
        self.cancelled.update(
            item for held in self.held.values() for item in held if item.stream == stream
        )
        target = {"job": stream * 2} if by_job else {"stream": stream}
        self.carry_out(self.flow.cancel(self.now_ns, **target))
        assert not [item for item in self.waiting() if item.stream == stream]

    @rule(passed_ns=st.integers(1, 20))
    def tick(self, passed_ns: int) -> None:
        due_ns = self.flow.next_due_ns()
        self.now_ns += passed_ns
        out = self.flow.tick(self.now_ns)
        assert bool(out) == (due_ns is not None and due_ns <= self.now_ns)
        self.carry_out(out)
        assert not [item for item in self.waiting() if self.is_late(item)]

    @rule()
    def close_and_open(self) -> None:
        self.granted = dict.fromkeys(self.granted, 0)
        for worker in self.held:
            self.retired.add(worker)
            self.credit[worker] = 0
        self.carry_out(self.flow.close_task(TASK, self.now_ns))
        assert not self.waiting()
        self.flow.open_task(TASK, policy=self.policy, limit=LIMIT, cost_ns=COST_NS)

    def waiting(self) -> list[Item]:
        return [item for item, fate in self.fate.items() if fate == "waiting"]

    def is_late(self, item: Item) -> bool:
        in_time = self.now_ns + COST_NS <= item.deadline_ns
        return self.policy == "deadline" and item.deadline_ns != 0 and not in_time

    def carry_out(self, out: list[Instruction]) -> None:
        for each in out:
            if isinstance(each, Deliver):
                self.deliver(each.worker, each.items)
            elif isinstance(each, Drop):
                self.drop(each)
            elif isinstance(each, Grant):
                self.granted[each.producer] += each.credit
            else:
                assert isinstance(each, Release)
                assert each.worker in self.retired
                assert self.held.pop(each.worker) == []
                del self.credit[each.worker]
                self.retired.discard(each.worker)

    def deliver(self, worker: str, items: tuple[Item, ...]) -> None:
        assert worker not in self.retired
        assert 1 <= len(items) <= min(self.credit[worker], self.max_batch[worker])
        self.credit[worker] -= len(items)
        for item in items:
            assert self.fate[item] == "waiting"
            assert not self.is_late(item)
            self.fate[item] = f"at {worker}"
            if item in self.losses:
                assert self.losses[item] == 1
                assert len(items) == 1
                assert not self.held[worker]
            else:
                assert not any(held in self.losses for held in self.held[worker])
                self.first_served.setdefault(item.stream, []).append(item.seq)
        self.held[worker] += items
        if self.policy == "deadline" and items[0] not in self.losses:
            later = [item for item in self.waiting() if item not in self.losses]
            assert max(map(urgency, items)) <= min(map(urgency, later), default=1 << 63)

    def drop(self, drop: Drop) -> None:
        assert self.fate[drop.item] == "waiting"
        assert drop.where == TASK
        self.fate[drop.item] = drop.reason
        if drop.reason == "poison":
            assert self.losses[drop.item] == 2
        if drop.reason == "superseded":
            newer = [i for i in self.fate if i.stream == drop.item.stream and i.seq > drop.item.seq]
            assert self.policy == "latest"
            assert newer
        if drop.reason == "deadline":
            assert self.is_late(drop.item)

    @invariant()
    def books_agree_with_every_frames_fate(self) -> None:
        self.flow.check()
        stats = self.flow.stats().tasks.get(TASK)
        if stats is None:
            return
        for stream, counts in stats.streams.items():
            fates = [fate for item, fate in self.fate.items() if item.stream == stream]
            assert counts.submitted == len(fates)
            assert counts.completed == fates.count("completed")
            assert counts.waiting == fates.count("waiting")
            assert counts.outstanding == sum(fate.startswith("at ") for fate in fates)
            for reason, number in counts.dropped.items():
                assert fates.count(reason) == number
            assert counts.balance == 0
        assert stats.counts.submitted == len(self.fate)
        assert stats.credit == sum(self.credit.values())

    @invariant()
    def nobody_waits_while_a_worker_has_credit(self) -> None:
        free = [self.held[worker] for worker, credit in self.credit.items() if credit]
        waiting = self.waiting()
        if any(item in self.losses for item in waiting):
            assert all(free)  # whoever is idle would take the suspect
        elif waiting:
            assert all(len(held) == 1 and held[0] in self.losses for held in free)

    @invariant()
    def queues_are_bounded(self) -> None:
        waiting = self.waiting()
        suspects = [item for item in waiting if item in self.losses]
        assert len(waiting) - len(suspects) <= LIMIT
        assert len(suspects) <= LIMIT

    @invariant()
    def streams_are_served_in_order(self) -> None:
        if getattr(self, "policy", "deadline") != "deadline":
            for seqs in self.first_served.values():
                assert seqs == sorted(seqs)

    @invariant()
    def latest_keeps_only_the_newest(self) -> None:
        if getattr(self, "policy", "") == "latest":
            waiting = [item.stream for item in self.waiting()]
            assert len(set(waiting)) == len(waiting)


Stories.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestStories = Stories.TestCase


@pytest.mark.parametrize("policy", ["block", "fifo", "deadline"])
@given(
    weights=st.lists(st.integers(1, 16), min_size=2, max_size=4),
    batches=st.lists(st.integers(1, 5), min_size=20, max_size=60),
)
@settings(max_examples=60, deadline=None)
def test_backlogged_streams_never_get_apart_by_more_than_a_frame_each(policy, weights, batches):
    """The bound of start-time fair queueing: served frames by weight, 1/w1 + 1/w2 apart."""
    flow = Flow()
    flow.open_task(TASK, policy=policy, limit=1024)
    for stream, weight in enumerate(weights):
        flow.weigh(stream, weight)
        for seq in range(16):
            flow.submit(Item(stream, seq, TASK), 0)
    served = [0] * len(weights)
    order: list[list[int]] = [list(served)]
    for batch in batches:
        (deliver, *_) = flow.worker_ready(TASK, "w", credit=batch, max_batch=batch, now_ns=0)
        flow.worker_done("w", deliver.items, 0)
        for item in deliver.items:
            served[item.stream] += 1
            order.append(list(served))
            flow.submit(Item(item.stream, 16 + served[item.stream], TASK), 0)
    for i, first in enumerate(weights):
        for j, second in enumerate(weights):
            apart = [counts[i] / first - counts[j] / second for counts in order]
            assert max(apart) - min(apart) <= 1 / first + 1 / second + 1e-9
