"""Decisions: one per plan, with what was foretold and what was measured next to it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdag.control.controller.decisions import WRITE_NS, Decisions, Measured
from vdag.control.scheduling.instructions import RecordDecision

QUERY = "GLOBAL_ID_1"
WHY = {"why": "it is fast enough", "predicted": {"delay_p95": 0.2}}


class Books:
    """What was written and what is shown, latest of each plan."""

    def __init__(self):
        self.written, self.shown, self.writes = {}, {}, 0
        self.decisions = Decisions(self._write, self._show)

    def _write(self, query_id, document):
        self.written[query_id, document["number"]] = document
        self.writes += 1

    def _show(self, query_id, document):
        self.shown[query_id] = document


def decision(number=1, *, is_change=True, cause="submitted", explanation=WHY):
    return RecordDecision(QUERY, number, is_change, cause, "pid", 1.0, {"delay": 0.4}, explanation)


def runtime(delay, p95, frames=10, **more):
    return {"delay": delay, "delay_p95": p95, "frames": frames, "fps": 5.0, **more}


def test_a_decision_is_written_at_once_with_what_it_was_made_of():
    books = Books()
    books.decisions.take(decision(), 0)
    document = books.written[QUERY, 1]
    assert document == books.shown[QUERY]
    assert document["policy"] == "pid"
    assert document["runtime"] == {"delay": 0.4}
    assert document["explanation"] == WHY
    assert document["measured"]["reports"] == 0


def test_what_is_measured_under_the_plan_stands_beside_what_was_foretold():
    books = Books()
    books.decisions.take(decision(), 0)
    books.decisions.measure(QUERY, 1, runtime(0.1, 0.2, 30), 0.3, 1)
    books.decisions.measure(QUERY, 1, runtime(0.5, 0.6, 10, accuracy=0.8), 0.3, 2)
    books.decisions.measure(QUERY, 2, runtime(9.0, 9.0), 0.3, 3)  # of another plan
    measured = books.shown[QUERY]["measured"]
    assert measured == {
        "reports": 2, "within": 1, "delay": pytest.approx(0.3),
        "delay_p95": pytest.approx(0.4), "delay_worst": 0.6, "fps": 5.0, "accuracy": 0.8,
    }  # fmt: skip
    assert books.writes == 1, "reports come often; the records are written now and then"
    books.decisions.measure(QUERY, 1, runtime(0.1, 0.2), -1.0, WRITE_NS)
    assert books.writes == 2
    assert books.written[QUERY, 1]["measured"]["within"] == 2, "without a bound all are within"


def test_looks_that_change_nothing_are_counted():
    books = Books()
    books.decisions.take(decision(), 0)
    for n in range(3):
        books.decisions.take(decision(is_change=False, cause="period", explanation={"why": n}), n)
    assert (books.shown[QUERY]["looks"], books.shown[QUERY]["latest"]) == (3, {"why": 2})
    assert books.shown[QUERY]["cause"] == "submitted"
    assert books.writes == 1


def test_another_plan_puts_the_one_before_down():
    books = Books()
    books.decisions.take(decision(), 0)
    books.decisions.measure(QUERY, 1, runtime(0.1, 0.2), 0.3, 1)
    books.decisions.take(decision(2, cause="period"), 2)
    assert books.written[QUERY, 1]["measured"]["reports"] == 1
    assert books.shown[QUERY]["number"] == 2
    books.decisions.end(QUERY)
    books.decisions.measure(QUERY, 2, runtime(0.1, 0.2), 0.3, 3)
    assert books.shown[QUERY]["measured"]["reports"] == 0, "it is over"


def test_a_deleted_query_is_not_written_again():
    books = Books()
    books.decisions.take(decision(), 0)
    books.decisions.forget(QUERY)
    books.decisions.end(QUERY)
    assert books.writes == 1


anything = st.one_of(st.floats(), st.integers(), st.none(), st.text(max_size=3), st.booleans())


@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional=dict.fromkeys(("delay", "delay_p95", "frames", "fps", "accuracy"), anything),
        ),
        max_size=20,
    ),
    st.floats(-1, 10),
)
def test_whatever_nodes_say_the_numbers_stay_numbers(reports, bound_s):
    measured = Measured()
    for each in reports:
        measured.add(each, bound_s)
    assert all(math.isfinite(value) and value >= 0 for value in measured.to_document().values())
    assert measured.within <= measured.reports <= len(reports)
