"""The book of sessions: what follows from what, and what can never be."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from vdag.control.coordinator.book import SessionBook
from vdag.control.coordinator.states import Patience, State
from vdag.control.coordinator.steps import (
    Answered,
    Began,
    Event,
    Forget,
    Instruction,
    Lost,
    Moved,
    MoveWanted,
    Note,
    Order,
    Over,
    Step,
    SwitchOver,
    Tick,
    Wanted,
)
from vdag.errors import InvalidTransition

S = 1_000_000_000
PATIENCE = Patience(init_s=30, start_s=5, stop_s=10, delete_s=5, move_s=5)


class Told:
    """A book, told one thing after the other."""

    def __init__(self) -> None:
        self.book = SessionBook(PATIENCE)
        self.notes: list[tuple[str, str]] = []

    def tell(self, event: Event) -> list[Instruction]:
        found = self.book.handle(event)
        self.notes += [(each.state, each.reason) for each in found if isinstance(each, Note)]
        return found

    def answer(self, step: Step, *nodes: int, reason: str = "", now_ns: int = 0) -> list[str]:
        out: list[Instruction] = []
        for node in nodes:
            out += self.tell(Answered(now_ns, 1, node, step, reason))
        return shown(out)

    @property
    def state(self) -> State:
        session = self.book.get(1)
        return State.DELETED if session is None else session.state


def shown(out: Iterable[Instruction]) -> list[str]:
    """Return instructions but for notes, in short."""
    found = []
    for each in out:
        if isinstance(each, Order):
            found.append(f"{each.step} {each.node_id}")
        elif isinstance(each, SwitchOver):
            found.append("switch")
        elif isinstance(each, Forget):
            found.append("stay" if each.nodes is None else "forget")
    return found


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def running(told: Told) -> Told:
    told.tell(Began(0, 1, (1, 2)))
    told.tell(Wanted(0, 1, "start"))
    told.answer("init", 1, 2)
    told.answer("start", 1, 2)
    assert told.state is State.RUNNING
    return told


def test_a_session_goes_through_its_life_when_all_nodes_succeed(told: Told):
    assert shown(told.tell(Began(0, 1, (1, 2)))) == ["init 1", "init 2"]
    assert told.answer("init", 1) == []
    assert told.answer("init", 2) == []
    assert shown(told.tell(Wanted(0, 1, "start"))) == ["start 1", "start 2"]
    told.answer("start", 1, 2)
    assert shown(told.tell(Wanted(0, 1, "stop"))) == ["stop 1", "stop 2"]
    told.answer("stop", 1, 2)
    assert shown(told.tell(Wanted(0, 1, "delete"))) == ["delete 1", "delete 2"]
    told.answer("delete", 1, 2)
    assert [state for state, _ in told.notes] == [
        "initialising", "initialized", "starting", "running",
        "stopping", "stopped", "deleting", "deleted",
    ]  # fmt: skip
    assert told.book.get(1) is None


def test_a_session_that_is_to_run_starts_when_the_last_node_is_ready(told: Told):
    told.tell(Began(0, 1, (1, 2)))
    assert shown(told.tell(Wanted(0, 1, "start"))) == []
    assert told.answer("init", 1) == []
    assert told.answer("init", 2) == ["start 1", "start 2"]


def test_a_node_that_fails_to_init_has_all_of_them_delete(told: Told):
    told.tell(Began(0, 1, (1, 2)))
    assert told.answer("init", 2, reason="no such model") == ["delete 1", "delete 2"]
    assert told.notes[-1] == ("failed", "node 2: no such model")
    told.answer("init", 1)  # too late to matter
    told.answer("delete", 1, 2)
    assert told.state is State.FAILED
    assert told.book.get(1).is_settled  # type: ignore[union-attr]


def test_a_node_that_fails_to_start_has_all_of_them_stop_and_then_delete(told: Told):
    told.tell(Began(0, 1, (1, 2)))
    told.tell(Wanted(0, 1, "start"))
    told.answer("init", 1, 2)
    assert told.answer("start", 1, reason="no camera") == ["stop 1", "stop 2"]
    assert told.answer("stop", 1, 2) == ["delete 1", "delete 2"]
    told.answer("delete", 1, 2)
    assert told.notes[-1] == ("failed", "node 1: no camera")


def test_a_node_that_does_not_answer_fails_the_session_in_time(told: Told):
    told.tell(Began(0, 1, (1, 2)))
    told.answer("init", 1)
    assert told.book.next_due_ns() == 30 * S
    assert told.tell(Tick(30 * S - 1)) == []
    assert shown(told.tell(Tick(30 * S))) == ["delete 1", "delete 2"]
    assert told.notes[-1] == ("failed", "node 2: no answer within 30 s")


def test_an_end_that_a_node_refuses_is_an_end_with_a_reason(running: Told):
    running.tell(Wanted(0, 1, "stop"))
    running.answer("stop", 1, reason="Session is not running.")
    running.answer("stop", 2)
    assert running.notes[-1] == ("stopped", "stop: node 1: Session is not running.")


def test_a_running_session_is_stopped_before_it_is_deleted(running: Told):
    assert shown(running.tell(Wanted(0, 1, "delete"))) == ["stop 1", "stop 2"]
    assert running.answer("stop", 1, 2) == ["delete 1", "delete 2"]
    running.answer("delete", 1, 2)
    assert running.state is State.DELETED


def test_a_failed_session_can_be_deleted_while_it_is_undone(told: Told):
    told.tell(Began(0, 1, (1,)))
    told.answer("init", 1, reason="no")
    assert told.tell(Wanted(0, 1, "delete")) == []
    told.answer("delete", 1)
    assert told.state is State.DELETED
    assert told.notes[-1] == ("deleted", "node 1: no")


def test_a_job_that_fails_fails_its_session(running: Told):
    out = running.tell(Over(0, 1, "the camera is gone", has_failed=True))
    assert shown(out) == ["stop 1", "stop 2"]
    running.answer("stop", 1, 2)
    running.answer("delete", 1, 2)
    assert running.notes[-1] == ("failed", "the camera is gone")


def test_a_job_that_is_over_stops_its_session(running: Told):
    running.tell(Over(0, 1, "the video is over"))
    running.answer("stop", 1, 2)
    assert running.notes[-1] == ("stopped", "the video is over")


@pytest.mark.parametrize("wish", ["start", "stop"])
def test_what_makes_no_sense_now_is_refused_and_changes_nothing(told: Told, wish: str):
    told.tell(Began(0, 1, (1,)))
    told.answer("init", 1, reason="no")
    with pytest.raises(InvalidTransition, match=rf"session 1: state failed takes no {wish}"):
        told.tell(Wanted(0, 1, wish))  # type: ignore[arg-type]
    assert told.state is State.FAILED


def test_what_is_not_known_is_refused(told: Told):
    with pytest.raises(InvalidTransition, match="7: state ABSENT takes no stop"):
        told.tell(Wanted(0, 7, "stop"))
    assert told.tell(Answered(0, 7, 1, "init")) == []


def test_a_session_moves_only_when_its_new_nodes_are_ready(running: Told):
    assert shown(running.tell(MoveWanted(0, 1, "node 2 lost", (3, 4)))) == ["init 3", "init 4"]
    assert running.answer("init", 3) == []
    assert running.answer("init", 4) == ["switch"]
    assert shown(running.tell(Moved(0, 1, (1, 3, 4)))) == ["forget"]
    assert running.book.get(1).nodes == (1, 3, 4)  # type: ignore[union-attr]
    assert shown(running.tell(Wanted(0, 1, "stop"))) == ["stop 1", "stop 3", "stop 4"]
    running.answer("stop", 1, 3, 4)
    assert shown(running.tell(Wanted(0, 1, "delete"))) == [f"delete {n}" for n in (1, 2, 3, 4)]


def test_a_move_to_nodes_that_are_ready_changes_over_at_once(running: Told):
    assert shown(running.tell(MoveWanted(0, 1, "overload", ()))) == ["switch"]


@pytest.mark.parametrize("how", ["refused", "late", "lost", "not switched"])
def test_a_move_that_fails_leaves_the_session_where_it_is(running: Told, how: str):
    running.tell(MoveWanted(0, 1, "node 2 lost", (3,)))
    if how == "refused":
        out = running.answer("init", 3, reason="no memory")
    elif how == "late":
        out = shown(running.tell(Tick(30 * S)))
    elif how == "lost":
        out = shown(running.tell(Lost(0, 1, 3, "it is away")))
    else:
        running.answer("init", 3)
        out = shown(running.tell(Moved(0, 1, (1, 2), "its job is over")))
    assert out == ["stay"]
    assert running.state is State.RUNNING
    assert running.notes[-1][1].startswith("not moved (node 2 lost): ")


def test_a_stop_ends_a_move(running: Told):
    running.tell(MoveWanted(0, 1, "overload", (3,)))
    assert shown(running.tell(Wanted(0, 1, "stop"))) == ["stay", "stop 1", "stop 2", "stop 3"]
    assert running.answer("init", 3) == []


def test_a_session_that_has_gone_on_runs_from_the_beginning(told: Told):
    assert shown(told.tell(Began(0, 1, (1, 2), is_running=True))) == []
    assert told.state is State.RUNNING


NODES = st.integers(1, 4)
STEPS = st.sampled_from(["init", "start", "stop", "delete"])
REASONS = st.sampled_from(["", "", "", "no"])


class Sessions(RuleBasedStateMachine):
    """Anything may happen at any time; a session always comes to an end, and leaves nothing."""

    @initialize(nodes=st.sets(NODES, min_size=1), running=st.booleans())
    def begin(self, nodes: set[int], running: bool) -> None:
        self.book, self.now_ns = SessionBook(PATIENCE), 0
        self.open: set[int] = set(nodes) if running else set()
        self.started: set[int] = set()
        self.states = [State.CREATED]
        self.tell(Began(0, 1, tuple(nodes), running))

    def tell(self, event: Event) -> None:
        for each in self.book.handle(event):
            if isinstance(each, Order):
                self.obey(each)
            elif isinstance(each, Note):
                self.states.append(State(each.state))

    def obey(self, order: Order) -> None:
        if order.step == "init":
            self.open.add(order.node_id)
        elif order.step == "start":
            assert order.node_id in self.open
            self.started.add(order.node_id)
        elif order.step == "stop":
            self.started.discard(order.node_id)
        else:
            assert order.node_id not in self.started
            self.open.discard(order.node_id)

    @rule(node=NODES, step=STEPS, reason=REASONS)
    def answered(self, node: int, step: Step, reason: str) -> None:
        self.tell(Answered(self.now_ns, 1, node, step, reason))

    @rule(wish=st.sampled_from(["start", "stop", "delete"]))
    def wanted(self, wish: str) -> None:
        before = self.book.get(1)
        state = None if before is None else before.state
        try:
            self.tell(Wanted(self.now_ns, 1, wish))  # type: ignore[arg-type]
        except InvalidTransition:
            after = self.book.get(1)
            assert (None if after is None else after.state) == state

    @rule(seconds=st.integers(0, 40))
    def passes(self, seconds: int) -> None:
        self.now_ns += seconds * S
        self.tell(Tick(self.now_ns))

    @rule(node=NODES)
    def lost(self, node: int) -> None:
        self.tell(Lost(self.now_ns, 1, node, "it is away"))

    @rule(failed=st.booleans())
    def over(self, failed: bool) -> None:
        self.tell(Over(self.now_ns, 1, "over", failed))

    @rule(gains=st.sets(NODES, max_size=2))
    def move(self, gains: set[int]) -> None:
        self.tell(MoveWanted(self.now_ns, 1, "overload", tuple(gains)))

    @rule(nodes=st.sets(NODES, min_size=1), reason=REASONS)
    def moved(self, nodes: set[int], reason: str) -> None:
        session = self.book.get(1)
        if session is not None and session.move is not None and not session.move.nodes:
            nodes &= session.ordered
            if nodes:
                self.tell(Moved(self.now_ns, 1, tuple(nodes), reason))

    @invariant()
    def nothing_is_waited_for_without_an_end(self) -> None:
        session = self.book.get(1)
        if session is not None and session.step is not None:
            assert session.waiting
            assert self.book.next_due_ns() is not None
        if session is None:
            assert not self.open
            assert self.states[-1] is State.DELETED

    def teardown(self) -> None:
        """Delete it, and let time pass: it is gone."""
        if self.book.get(1) is not None:
            self.tell(Wanted(self.now_ns, 1, "delete"))
        for _ in range(4):
            self.now_ns += 60 * S
            self.tell(Tick(self.now_ns))
        assert self.book.get(1) is None
        assert not self.open


Sessions.TestCase.settings = settings(max_examples=200, stateful_step_count=25, deadline=None)
test_whatever_happens = Sessions.TestCase
