"""The batch rule: each reason to leave by hand, then any story that hypothesis can think of."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vdag.engines.batching import Batcher, BatchRule, CostTable
from vdag.errors import ConfigError, EngineError


def _linear(batch: int) -> int:
    """10 ns, and 5 for each item."""
    return 10 + 5 * batch


def _batcher(
    max_batch: int = 4,
    max_wait_ns: int = 100,
    cost_ns: Callable[[int], int] | None = _linear,
    *,
    capacity: int = 16,
) -> Batcher[str]:
    return Batcher(BatchRule(max_batch, max_wait_ns, capacity), cost_ns)


def _add(batcher: Batcher[str], names: str, now_ns: int, deadline_ns: int | None = None) -> None:
    for name in names:
        batcher.add(name, now_ns, deadline_ns)


def test_an_empty_batcher_is_never_due() -> None:
    batcher = _batcher()
    assert batcher.next_due_ns() is None
    assert not batcher.ready(10**18)
    assert batcher.take(10**18) == []
    assert batcher.expired(10**18) == []
    assert len(batcher) == 0


def test_a_full_batch_leaves_at_once() -> None:
    batcher = _batcher()
    _add(batcher, "abc", 7)
    assert not batcher.ready(7)
    _add(batcher, "d", 8)
    assert batcher.next_due_ns() == 7
    assert batcher.ready(8)
    assert batcher.take(8) == ["a", "b", "c", "d"]
    assert batcher.next_due_ns() is None


def test_a_batch_leaves_when_its_oldest_item_has_waited_enough() -> None:
    batcher = _batcher()
    _add(batcher, "a", 5)
    _add(batcher, "b", 90)
    assert batcher.next_due_ns() == 105
    assert not batcher.ready(104)
    assert batcher.take(104) == []
    assert batcher.take(105) == ["a", "b"]


def test_without_patience_every_item_leaves_as_it_comes() -> None:
    batcher = _batcher(max_wait_ns=0)
    _add(batcher, "a", 5)
    assert batcher.take(5) == ["a"]


def test_more_items_than_a_batch_leave_in_order() -> None:
    batcher = _batcher()
    _add(batcher, "abcdef", 0)
    assert batcher.take(0) == ["a", "b", "c", "d"]
    assert not batcher.ready(99)
    assert batcher.take(100) == ["e", "f"]


def test_a_batch_leaves_while_it_could_still_take_one_more_along() -> None:
    batcher = _batcher()
    _add(batcher, "a", 0, deadline_ns=60)
    assert batcher.next_due_ns() == 60 - _linear(2)
    _add(batcher, "b", 30)
    assert batcher.next_due_ns() == 60 - _linear(3)
    assert not batcher.ready(34)
    assert batcher.take(35) == ["a", "b"]


def test_the_most_urgent_item_decides_wherever_it_is() -> None:
    batcher = _batcher()
    _add(batcher, "a", 0, deadline_ns=99)
    _add(batcher, "b", 1, deadline_ns=50)
    _add(batcher, "c", 2, deadline_ns=70)
    assert batcher.next_due_ns() == 50 - _linear(4)
    assert batcher.take(20) == ["a", "b", "c"]


def test_patience_counts_where_the_deadline_is_far() -> None:
    batcher = _batcher()
    _add(batcher, "a", 0, deadline_ns=10**9)
    assert batcher.next_due_ns() == 100


def test_a_late_look_takes_no_more_than_the_first_can_bear() -> None:
    batcher = _batcher()
    _add(batcher, "a", 0, deadline_ns=50)
    _add(batcher, "bc", 28)
    assert batcher.take(30) == ["a", "b"]  # three would be done at 55, two are at 50
    assert batcher.next_due_ns() == 128
    assert batcher.take(128) == ["c"]


def test_an_item_that_nothing_can_help_does_not_make_the_batch_smaller() -> None:
    batcher = _batcher()
    _add(batcher, "a", 0, deadline_ns=50)
    _add(batcher, "bc", 28)
    assert batcher.take(40) == ["a", "b", "c"]


def test_an_urgent_item_behind_others_is_taken_with_them() -> None:
    batcher = _batcher()
    _add(batcher, "ab", 0)
    _add(batcher, "c", 0, deadline_ns=26)
    assert batcher.take(1) == ["a", "b", "c"]


def test_an_urgent_item_that_is_late_in_any_case_does_not_wait_for_another_batch() -> None:
    batcher = _batcher()
    _add(batcher, "ab", 0)
    _add(batcher, "c", 0, deadline_ns=24)
    assert batcher.take(1) == ["a", "b", "c"]


def test_expired_items_are_in_no_batch_and_handed_out_once() -> None:
    batcher = _batcher()
    _add(batcher, "a", 0)
    _add(batcher, "b", 0, deadline_ns=30)
    _add(batcher, "c", 0, deadline_ns=90)
    assert batcher.take(31) == []
    assert len(batcher) == 3
    assert batcher.expired(31) == ["b"]
    assert batcher.expired(31) == []
    assert len(batcher) == 2
    assert batcher.next_due_ns() == 90 - _linear(3)
    assert batcher.take(91) == []
    assert batcher.expired(91) == ["c"]
    assert batcher.take(100) == ["a"]


def test_an_item_is_not_expired_at_its_deadline() -> None:
    batcher = _batcher(cost_ns=None)
    _add(batcher, "a", 0, deadline_ns=29)
    _add(batcher, "b", 0, deadline_ns=30)
    assert batcher.expired(30) == ["a"]
    assert batcher.next_due_ns() == 30
    assert batcher.take(30) == ["b"]


def test_drain_returns_everything_in_order() -> None:
    batcher = _batcher()
    _add(batcher, "a", 0, deadline_ns=5)
    _add(batcher, "bcdefg", 1)
    assert batcher.take(6) == ["b", "c", "d", "e"]
    assert batcher.drain() == ["a", "f", "g"]
    assert len(batcher) == 0
    assert batcher.next_due_ns() is None


def test_a_full_batcher_refuses_and_says_its_room() -> None:
    batcher = _batcher(capacity=4)
    _add(batcher, "abc", 0)
    assert batcher.room == 1
    _add(batcher, "d", 0, deadline_ns=1)
    with pytest.raises(EngineError, match=r"^4 items wait already, capacity 4$"):
        batcher.add("e", 0)
    assert batcher.take(2) == []  # "d" waits to be counted and takes room until then
    assert batcher.room == 0
    assert batcher.expired(2) == ["d"]
    assert batcher.room == 1


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((0, 1), "max_batch 0 is below 1"),
        ((1, -1), "max_wait_ns -1 is below 0"),
        ((8, 0, 7), "capacity 7 is below max_batch 8"),
    ],
)
def test_a_rule_without_meaning_is_refused(numbers: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        BatchRule(*numbers)
    assert str(caught.value) == message


def test_costs_are_learned_from_what_batches_took() -> None:
    batcher = _batcher(cost_ns=None)
    _add(batcher, "a", 0, deadline_ns=80)
    assert batcher.next_due_ns() == 80
    batcher.observed(2, 30)
    assert batcher.next_due_ns() == 50


def test_given_costs_are_not_overruled() -> None:
    batcher = _batcher()
    batcher.observed(2, 79)
    _add(batcher, "a", 0, deadline_ns=80)
    assert batcher.next_due_ns() == 80 - _linear(2)


def test_a_cost_table_knows_nothing_at_first() -> None:
    assert CostTable()(1) == 0
    assert CostTable()(100) == 0


def test_sizes_in_between_are_interpolated_and_beyond_are_in_proportion() -> None:
    costs = CostTable()
    costs.observe(8, 400)
    assert [costs(1), costs(8), costs(16)] == [400, 400, 800]
    costs.observe(2, 100)
    assert [costs(1), costs(2), costs(5), costs(8), costs(12)] == [100, 100, 250, 400, 600]


def test_a_cost_is_the_mean_and_two_deviations() -> None:
    costs = CostTable()
    costs.observe(1, 800)
    costs.observe(1, 1600)
    assert costs(1) == (800 + 100) + 2 * 200  # gains 1/8 and 1/4 of an error of 800


@pytest.mark.parametrize(("first", "then"), [(10_000, 13), (13, 10_000), (7, 7)])
def test_costs_arrive_exactly_at_what_stays_the_same(first: int, then: int) -> None:
    costs = CostTable()
    costs.observe(1, first)
    for _ in range(400):
        costs.observe(1, then)
    assert costs(1) == then


@pytest.mark.parametrize(("batch", "elapsed_ns"), [(0, 5), (-1, 5), (1, -1)])
def test_a_cost_that_cannot_be_is_refused(batch: int, elapsed_ns: int) -> None:
    costs = CostTable()
    with pytest.raises(ConfigError) as caught:
        costs.observe(batch, elapsed_ns)
    assert str(caught.value) == f"a batch of {batch} cannot take {elapsed_ns} ns"
    assert costs(1) == 0


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 10**10)), min_size=1))
def test_a_larger_batch_never_counts_as_faster(observed: list[tuple[int, int]]) -> None:
    costs = CostTable()
    for batch, elapsed_ns in observed:
        costs.observe(batch, elapsed_ns)
    table = [costs(batch) for batch in range(1, 50)]
    assert table == sorted(table)


class Story(RuleBasedStateMachine):
    """Items come and go; a model beside the batcher knows what must be true of each.

    An item is `watched` as long as somebody looked after every arrival and whenever a batch was
    due: for these the theory promises that they are not late.
    """

    @initialize(
        max_batch=st.integers(1, 6),
        max_wait_ns=st.integers(0, 60),
        base_ns=st.integers(0, 40),
        per_item_ns=st.integers(0, 15),
    )
    def begin(self, max_batch: int, max_wait_ns: int, base_ns: int, per_item_ns: int) -> None:
        self.rule = BatchRule(max_batch, max_wait_ns, capacity=40)
        self.cost_ns: Callable[[int], int] = lambda batch: base_ns + per_item_ns * batch
        self.batcher: Batcher[int] = Batcher(self.rule, self.cost_ns)
        self.now_ns = 0
        self.added: list[tuple[int, int | None]] = []
        self.waiting: list[int] = []
        self.watched: set[int] = set()

    def _add(self, slack_ns: int | None) -> None:
        number = len(self.added)
        deadline_ns = None if slack_ns is None else self.now_ns + slack_ns
        self.batcher.add(number, self.now_ns, deadline_ns)
        self.added.append((self.now_ns, deadline_ns))
        self.waiting.append(number)

    def _look(self) -> None:
        """Do what a worker does when it wakes and its engine is idle."""
        self._count_expired()
        while self.batcher.ready(self.now_ns):
            self._take()

    def _count_expired(self) -> None:
        over = self._over()
        assert self.batcher.expired(self.now_ns) == over
        assert not self.watched.intersection(n for n in over if self._had_a_chance(n))
        self.waiting = [number for number in self.waiting if number not in over]

    def _over(self) -> list[int]:
        deadlines_ns = [(number, self.added[number][1]) for number in self.waiting]
        return [n for n, end_ns in deadlines_ns if end_ns is not None and end_ns < self.now_ns]

    def _take(self) -> None:
        batch = self.batcher.take(self.now_ns)
        assert 1 <= len(batch) <= self.rule.max_batch
        assert batch == self.waiting[: len(batch)]
        del self.waiting[: len(batch)]
        done_ns = self.now_ns + self.cost_ns(len(batch))
        for number in self.watched.intersection(batch):
            since_ns, deadline_ns = self.added[number]
            assert self.now_ns <= since_ns + self.rule.max_wait_ns
            if self._had_a_chance(number):
                assert deadline_ns is None or done_ns <= deadline_ns
        self._no_smaller_than_needed(batch, done_ns)

    def _no_smaller_than_needed(self, batch: list[int], done_ns: int) -> None:
        """Who is late in this batch would have been late in every batch that includes it."""
        for position, number in enumerate(batch):
            deadline_ns = self.added[number][1]
            if deadline_ns is not None and done_ns > deadline_ns:
                assert self.now_ns + self.cost_ns(position + 1) > deadline_ns

    def _had_a_chance(self, number: int) -> bool:
        since_ns, deadline_ns = self.added[number]
        return deadline_ns is None or deadline_ns - since_ns >= self.cost_ns(self.rule.max_batch)

    @rule(slack_ns=st.none() | st.integers(0, 200))
    def an_item_arrives_and_somebody_looks(self, slack_ns: int | None) -> None:
        if self.batcher.room:
            self._add(slack_ns)
            if not self.waiting[:-1] or self.watched.issuperset(self.waiting[:-1]):
                self.watched.add(self.waiting[-1])
            self._look()

    @rule(slacks_ns=st.lists(st.none() | st.integers(-20, 200), max_size=9))
    def items_arrive_while_the_engine_is_busy(self, slacks_ns: list[int | None]) -> None:
        for slack_ns in slacks_ns[: self.batcher.room]:
            self._add(slack_ns)
        self.watched.clear()

    @precondition(lambda self: self.waiting)
    @rule()
    def time_passes_until_a_batch_is_due(self) -> None:
        due_ns = self.batcher.next_due_ns()
        assert due_ns is not None
        self.now_ns = max(self.now_ns, due_ns)
        assert self.batcher.ready(self.now_ns) or self._over()
        self._look()

    @precondition(lambda self: self.waiting)
    @rule(part=st.floats(0, 1, exclude_max=True))
    def nothing_leaves_before_it_is_due(self, part: float) -> None:
        due_ns = self.batcher.next_due_ns()
        assert due_ns is not None
        if due_ns > self.now_ns:
            self.now_ns += int((due_ns - self.now_ns) * part)
            assert not self.batcher.ready(self.now_ns)
            assert self.batcher.take(self.now_ns) == []

    @rule(late_ns=st.integers(0, 300))
    def the_engine_is_busy_past_that(self, late_ns: int) -> None:
        self.now_ns += late_ns
        self.watched.clear()
        self._look()

    @rule()
    def it_shuts_down_and_starts_again(self) -> None:
        self._count_expired()
        assert self.batcher.drain() == self.waiting
        self.waiting = []

    @invariant()
    def nothing_is_lost(self) -> None:
        assert len(self.batcher) == len(self.waiting)
        assert (self.batcher.next_due_ns() is None) == (not self.waiting)


TestStory = Story.TestCase
TestStory.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
