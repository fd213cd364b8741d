"""Nodes that were started anew while their controller was, too: the others notice it."""

from __future__ import annotations

from typing import Any

from channel_kit import NotedJobs

from vdag.control import wire
from vdag.control.agent.acquaintances import Acquaintances
from vdag.control.agent.errands import Errands
from vdag.control.agent.notebook import Notebook
from vdag.control.scheduling.events import JobInfo

LANDING = "tcp://10.0.0.9:5020"
FIRST, SECOND = "a" * 16, "b" * 16


def view(*sessions: str, **more: Any) -> wire.View:
    cards = [
        wire.Card(f"10.0.0.9:{5001 + n}", "edge", landing=LANDING, session=session, **more)
        for n, session in enumerate(sessions)
    ]
    return wire.View(1, [card.node_addr for card in cards], cards)


def test_a_node_that_another_controller_finds_started_anew_has_lost_its_frames():
    known = Acquaintances()
    assert known.hear(FIRST, view("1" * 16)) == []
    assert known.hear(SECOND, None) == []
    assert known.hear(SECOND, view("2" * 16)) == [LANDING]
    assert known.hear(SECOND, view("2" * 16)) == []


def test_what_one_controller_sees_itself_it_tells_itself():
    known = Acquaintances()
    assert known.hear(FIRST, view("1" * 16)) == []
    assert known.hear(FIRST, view("2" * 16)) == []
    assert known.hear(SECOND, view("2" * 16)) == []
    assert known.hear(SECOND, view("3" * 16)) == []


def test_a_node_that_was_not_known_has_lost_nothing():
    assert Acquaintances().hear(FIRST, view("1" * 16, "2" * 16)) == []


def test_there_are_not_more_of_them_than_a_controller_has_nodes(monkeypatch):
    monkeypatch.setattr(wire, "MAX_RESULTS", 2)
    known = Acquaintances()
    known.hear(FIRST, view(*(f"{n}" * 16 for n in range(5))))
    assert len(known._known) == len(known._introduced) == 2


def test_all_jobs_give_up_the_frames_that_were_there():
    jobs, notebook = NotedJobs(), Notebook(FIRST)
    jobs.jobs = {uid: JobInfo(uid, 1) for uid in ("GLOBAL_ID_1", "GLOBAL_ID_2")}
    errands = Errands(jobs, notebook)
    errands.hear(FIRST, view("1" * 16))
    errands.hear(SECOND, view("2" * 16))
    calls = [jobs.calls.get_nowait() for _ in range(2)]
    assert calls == [("give_up", uid, [LANDING]) for uid in jobs.jobs]
    assert jobs.calls.empty()
    notebook.close()
