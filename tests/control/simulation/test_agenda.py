from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vdag.control.simulation.agenda import Agenda


@given(st.lists(st.integers(0, 1000), max_size=50))
def test_events_happen_by_time_and_those_of_one_moment_in_the_order_put_down(times: list[int]):
    agenda, seen = Agenda(), []
    for index, time_ns in enumerate(times):
        agenda.at(time_ns, lambda index: seen.append((agenda.now_ns, index)), index)
    agenda.run(1000)
    assert seen == sorted((time_ns, index) for index, time_ns in enumerate(times))
    assert len(agenda) == 0
    assert agenda.now_ns == 1000


def test_what_is_due_later_stays_and_the_clock_stops_at_the_end():
    agenda, seen = Agenda(), []
    agenda.at(10, seen.append, "soon")
    agenda.at(30, seen.append, "later")
    agenda.run(20)
    assert (seen, agenda.now_ns, len(agenda)) == (["soon"], 20, 1)
    agenda.run(30)
    assert seen == ["soon", "later"]


def test_an_event_may_put_down_others_and_never_in_the_past():
    agenda, seen = Agenda(), []

    def happen() -> None:
        agenda.at(3, lambda: seen.append(agenda.now_ns))
        agenda.after(5, lambda: seen.append(agenda.now_ns))

    agenda.at(10, happen)
    agenda.run(100)
    assert seen == [10, 15]
