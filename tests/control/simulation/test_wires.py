from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdag.control.simulation.scenario import LinkSpec, NodeSpec, Scenario, Step
from vdag.control.simulation.wires import Pipe, Wires

S = 1_000_000_000
MS = 1_000_000

messages = st.lists(
    st.tuples(st.integers(0, 50 * MS), st.integers(1, 1_000_000)), min_size=1, max_size=30
)
changes = st.lists(
    st.tuples(st.integers(1, 400 * MS), st.floats(1e5, 1e9)), max_size=4, unique_by=lambda c: c[0]
)


@given(messages, changes)
def test_a_pipe_serves_in_order_at_no_more_than_its_rate(sent, planned):
    pipe = Pipe(1e7, 2 * MS)
    rates = [(0, 1e7), *sorted(planned)]
    for at_ns, rate in rates[1:]:
        pipe.change(at_ns, rate, None)
    now_ns, before_ns, total = 0, 0, 0
    for gap_ns, nbytes in sent:
        now_ns += gap_ns
        first_ns, last_ns = pipe.send(now_ns, nbytes)
        total += nbytes
        assert now_ns + 2 * MS <= first_ns < last_ns
        assert last_ns > before_ns
        before_ns = last_ns
        # By then no more can have gone through than the rates allow from the beginning.
        assert total <= _capacity(rates, last_ns - 2 * MS) + 1.0
    assert pipe.nbytes == total


def _capacity(rates: list[tuple[int, float]], until_ns: int) -> float:
    ends = [at_ns for at_ns, _ in rates[1:]] + [until_ns]
    return sum(
        rate * max(min(end_ns, until_ns) - at_ns, 0) / S
        for (at_ns, rate), end_ns in zip(rates, ends, strict=True)
    )


def test_a_message_takes_its_bytes_by_the_rate_and_the_latency():
    pipe = Pipe(1e6, 5 * MS)
    assert pipe.send(0, 500_000) == (5 * MS, 505 * MS)
    # The next waits until the wire is free, not until the first has arrived.
    assert pipe.send(100 * MS, 100_000) == (505 * MS, 605 * MS)


def test_a_rate_that_changes_while_a_message_is_sent_counts_from_then_on():
    pipe = Pipe(1e6, 0)
    pipe.change(S, 5e5, None)
    # A second at the first rate, and the rest at half of it.
    assert pipe.send(0, 1_500_000)[1] == 2 * S


def test_a_way_over_two_accesses_is_as_fast_as_the_slower_and_has_the_latency_of_both():
    wires = Wires(
        Scenario(
            nodes=(
                NodeSpec(name="a", mbit=8, latency_ms=3),
                NodeSpec(name="b", mbit=80, latency_ms=4),
            )
        )
    )
    assert wires.rate("a", "b", 0) == 1e6
    assert wires.latency_ns("a", "b", 0) == 7 * MS
    assert wires.send("a", "b", 1_000_000, 0) == pytest.approx(S + 7 * MS, rel=0.001)


def test_a_slow_sender_does_not_keep_a_fast_receiver_from_others():
    nodes = [NodeSpec(name=name, mbit=8, latency_ms=0) for name in ("a", "b")]
    wires = Wires(Scenario(nodes=(*nodes, NodeSpec(name="c", mbit=8000, latency_ms=0))))
    times = [wires.send(name, "c", 1_000_000, 0) for name in ("a", "b")]
    assert times == [pytest.approx(S, rel=0.01)] * 2


def test_directions_of_a_link_do_not_meet():
    wires = Wires(
        Scenario(
            nodes=(NodeSpec(name="a"), NodeSpec(name="b")),
            links=(LinkSpec(between=("a", "b"), mbit=8, latency_ms=0),),
        )
    )
    assert wires.send("a", "b", 1_000_000, 0) == S
    assert wires.send("b", "a", 1_000_000, 0) == S


def test_a_step_changes_a_link_in_both_directions():
    wires = Wires(
        Scenario(
            nodes=(NodeSpec(name="a"), NodeSpec(name="b")),
            links=(LinkSpec(between=("a", "b"), mbit=8, latency_ms=1),),
            steps=(Step(at_s=1, link=("b", "a"), mbit=80, latency_ms=2),),
        )
    )
    assert [wires.rate("a", "b", at_ns) for at_ns in (0, S)] == [1e6, 1e7]
    assert [wires.latency_ns("b", "a", at_ns) for at_ns in (0, S)] == [MS, 2 * MS]
