from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from vdag.errors import ConfigError
from vdag.graph import Graph
from vdag.pipeline.dispatch import Dispatcher, Work

#: Two chains on the same frame, joined by nobody.
BRANCHES = Graph.from_dag(
    {
        "flow": ["faces", "pose", "cars"],
        "input": {"pose": {"bbox": "faces.bbox"}},
    }
)


def make(graph=BRANCHES, *, in_flight=2, policy="block", batch=1, instances=1) -> Dispatcher:
    return Dispatcher(
        graph,
        max_in_flight=in_flight,
        policy=policy,
        batch=dict.fromkeys(graph.tasks, batch),
        instances=dict.fromkeys(graph.tasks, instances),
    )


def test_downstream_work_comes_first():
    dispatcher = make(Graph.from_dag(BRANCHES.to_dag() | {"flow": ["faces", "pose"]}))
    dispatcher.admit(0)
    faces = dispatcher.take()
    assert faces == Work("faces", 0, (0,))
    dispatcher.admit(1)
    dispatcher.done(faces)
    assert dispatcher.take() == Work("pose", 0, (0,))
    assert dispatcher.take() == Work("faces", 0, (1,))


def test_frames_leave_in_the_order_they_came():
    dispatcher = make(Graph.chain("faces"), instances=2)
    dispatcher.admit(0)
    first = dispatcher.take()
    dispatcher.admit(1)
    second = dispatcher.take()
    dispatcher.done(second)
    assert dispatcher.next_complete() is None
    dispatcher.done(first)
    assert dispatcher.next_complete() == 0
    dispatcher.deliver(0)
    assert dispatcher.next_complete() == 1


def test_a_slow_consumer_holds_up_the_source():
    dispatcher = make(Graph.chain("faces"), in_flight=1)
    dispatcher.admit(0)
    dispatcher.done(dispatcher.take())
    dispatcher.admit(1)
    assert dispatcher.take() is None
    assert not dispatcher.has_room()
    dispatcher.deliver(0)
    assert dispatcher.take() == Work("faces", 0, (1,))
    assert dispatcher.has_room()


def test_latest_drops_the_waiting_frame_for_a_newer_one():
    dispatcher = make(in_flight=1, policy="latest")
    assert dispatcher.admit(0) is None
    dispatcher.take()
    assert dispatcher.admit(1) is None
    assert dispatcher.admit(2) == 1
    assert dispatcher.dropped == {"superseded": 1}


def test_a_batch_takes_what_is_ready_and_waits_for_nobody():
    dispatcher = make(Graph.chain("faces"), in_flight=8, batch=4)
    for seq in range(3):
        dispatcher.admit(seq)
    assert dispatcher.take() == Work("faces", 0, (0, 1, 2))


def test_an_abandoned_frame_leaves_at_its_turn_and_no_task_sees_it_again():
    dispatcher = make()
    dispatcher.admit(0)
    cars = dispatcher.take()
    faces = dispatcher.take()
    assert (cars.task, faces.task) == ("cars", "faces")
    dispatcher.done(cars)
    dispatcher.abandon(0)
    dispatcher.done(faces)
    assert dispatcher.take() is None
    assert dispatcher.next_complete() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policy": "newest"}, "policy is 'newest', expected block or latest"),
        ({"in_flight": 0}, "max_in_flight is 0, expected at least 1"),
    ],
)
def test_arguments_without_meaning_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        make(**arguments)


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens in whatever order, no frame is lost, doubled, or out of order."""

    @initialize(
        policy=st.sampled_from(["block", "latest"]),
        in_flight=st.integers(1, 4),
        batch=st.integers(1, 3),
        instances=st.integers(1, 2),
    )
    def start(self, policy, in_flight, batch, instances):
        self.dispatcher = make(policy=policy, in_flight=in_flight, batch=batch, instances=instances)
        self.limit = in_flight + (1 if policy == "latest" else batch)
        self.instances = instances
        self.seq = 0
        self.gone: set[int] = set()
        self.working: list[Work] = []
        self.seen: dict[str, set[int]] = {task: set() for task in BRANCHES.tasks}
        self.delivered: list[int] = []

    @precondition(lambda self: self.dispatcher.has_room())
    @rule()
    def admit(self):
        superseded = self.dispatcher.admit(self.seq)
        if superseded is not None:
            assert not any(superseded in seen for seen in self.seen.values())
            self.gone.add(superseded)
        self.seq += 1

    @rule()
    def take(self):
        work = self.dispatcher.take()
        if work is None:
            return
        for seq in work.seqs:
            assert seq not in self.seen[work.task]
            assert seq not in self.gone
            for producer in BRANCHES.producers(work.task):
                assert seq in self.seen[producer]
        self.seen[work.task].update(work.seqs)
        self.working.append(work)
        busy = [(w.task, w.instance) for w in self.working]
        assert len(busy) == len(set(busy))

    @precondition(lambda self: self.working)
    @rule(data=st.data(), fail=st.sampled_from(["no", "no", "no", "drop", "abandon"]))
    def done(self, data, fail):
        work = self.working.pop(data.draw(st.integers(0, len(self.working) - 1)))
        self.dispatcher.done(work)
        if fail == "drop" and self.dispatcher.drop(work.seqs[0], "error"):
            self.gone.add(work.seqs[0])
        elif fail == "abandon":
            self.dispatcher.abandon(work.seqs[0])

    @rule()
    def deliver(self):
        seq = self.dispatcher.next_complete()
        if seq is not None:
            self.dispatcher.deliver(seq)
            self.delivered.append(seq)

    @invariant()
    def every_frame_is_counted_once(self):
        dispatcher = self.dispatcher
        assert dispatcher.in_flight <= self.limit
        assert (
            dispatcher.admitted
            == dispatcher.delivered + dispatcher.dropped.total() + dispatcher.in_flight
        )
        assert self.delivered == sorted(set(self.delivered))
        assert not set(self.delivered) & self.gone

    def teardown(self):
        if not hasattr(self, "dispatcher"):
            return
        while self.dispatcher.in_flight:
            if (work := self.dispatcher.take()) is not None:
                self.working.append(work)
            elif self.working:
                self.dispatcher.done(self.working.pop())
            else:
                assert self.dispatcher.next_complete() is not None
            self.deliver()
        assert self.dispatcher.in_flight == 0
        assert set(self.delivered) | self.gone == set(range(self.seq))


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
test_any_order = AnyOrder.TestCase
