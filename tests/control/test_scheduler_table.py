"""A walk over the scheduler's whole table: every state, every event, and what becomes of it."""

from __future__ import annotations

import typing
from typing import Any

import pytest
from scheduler_kit import CLOUD, CONF, HOST, QUERY, Story, mapping, node, query

from vdag.control.profile import Profile
from vdag.control.scheduling import consequences, events, instructions
from vdag.control.scheduling.cases import Case, Cases
from vdag.control.scheduling.events import (
    ConstraintChanged,
    JobReported,
    NodeJoined,
    NodeLeft,
    PlanProposed,
    PlanTaken,
    PolicyFailed,
    QueryDeleted,
    QueryRestored,
    QueryState,
    QueryStopped,
    QuerySubmitted,
    RuntimeReported,
)
from vdag.control.scheduling.loads import Loads
from vdag.control.scheduling.moves import TABLE, Moves
from vdag.control.scheduling.nodes import Nodes
from vdag.control.scheduling.settings import SchedulerSettings
from vdag.control.scheduling.timers import Timers
from vdag.errors import InvalidTransition
from vdag.plan import Constraint

SPLIT = mapping(face_detection=HOST, face_alignment=CLOUD)
OTHER = mapping(face_detection=HOST, face_alignment=HOST)
STATES = ("ABSENT", *(state.name for state in QueryState))
PUBLIC = typing.get_args(events.QueryEvent)
INNER = typing.get_args(consequences.Consequence)


def brought_to(state: str, limit: Any = None) -> Story:
    """A story whose query is in a state; if it lives, a question about it is open."""
    story = Story(node(HOST), node(CLOUD))
    if state == "ABSENT":
        return story
    story.submit()
    if state == "UNSCHEDULED":
        return story
    story.propose(QUERY, SPLIT, CONF, limit)
    if state != "READY":
        story.tell(RuntimeReported, QUERY, {"delay": 0.2}, 1)
    if state in ("ENDED", "FAILED"):
        story.tell(JobReported, QUERY, HOST, QueryState[state], "")
    else:
        story.tell(ConstraintChanged, QUERY, Constraint())
    return story


#: Event to its fields.
FIELDS = {
    "QuerySubmitted": (QuerySubmitted, query()),
    "QueryRestored": (QueryRestored, query(), QueryState.UNSCHEDULED, None, 1),
    "ConstraintChanged": (ConstraintChanged, QUERY, Constraint()),
    "QueryStopped": (QueryStopped, QUERY),
    "QueryDeleted": (QueryDeleted, QUERY),
    "RuntimeReported": (RuntimeReported, QUERY, {"delay": 0.1}, 1),
    "JobRuns": (JobReported, QUERY, HOST, QueryState.RUNNING),
    "JobEnded": (JobReported, QUERY, HOST, QueryState.ENDED),
    "JobFailed": (JobReported, QUERY, HOST, QueryState.FAILED, "why"),
    "PlanTaken": (PlanTaken, QUERY, 1),
    "PlanProposed": (PlanProposed, QUERY, None, CONF, OTHER),
    "PolicyFailed": (PolicyFailed, QUERY, None, "why"),
    "HostLost": (NodeLeft, HOST),
    "HostBack": (NodeJoined, node(HOST, session="second")),
    "PeerLost": (NodeLeft, CLOUD),
    "PeerBack": (NodeJoined, node(CLOUD, session="second")),
}
#: What becomes of the query, and the instructions: R record, P plan, F fault, A ask, S start,
#: s send, X stop; `!` for illegal, `.` for ignored.
WALK = """
event              ABSENT          UNSCHEDULED      READY          RUNNING        ENDED     FAILED
QuerySubmitted     UNSCHEDULED:RA  !                !              !              !         !
QueryRestored      UNSCHEDULED:RRA !                !              !              !         !
ConstraintChanged  !               UNSCHEDULED:     READY:         RUNNING:       !         !
QueryStopped       !               ENDED:R          ENDED:XR       ENDED:XR       .         .
QueryDeleted       !               ABSENT:          ABSENT:X       ABSENT:X       ABSENT:   ABSENT:
RuntimeReported    .               .                RUNNING:R      RUNNING:       .         .
JobRuns            ABSENT:X        .                RUNNING:R      RUNNING:       ENDED:X   FAILED:X
JobEnded           .               .                ENDED:R        ENDED:R        .         .
JobFailed          .               .                FAILED:R       FAILED:R       .         .
PlanTaken          .               .                READY:         RUNNING:       .         .
PlanProposed       .               READY:PSRD       READY:PsD      RUNNING:PsD    .         .
PolicyFailed       .               UNSCHEDULED:F    READY:F        RUNNING:F      .         .
HostLost           .               UNSCHEDULED:R    READY:R        RUNNING:R      .         .
HostBack           .               UNSCHEDULED:     READY:S        READY:SR       .         .
PeerLost           .               UNSCHEDULED:     READY:         RUNNING:       .         .
PeerBack           .               UNSCHEDULED:     READY:s        RUNNING:s      .         .
"""
#: The same of a query whose plan limits what is done by the server: L limit. Of the plan that is
#: proposed, the limit is at the host. What is not here does as above.
LIMITED = """
event              READY           RUNNING
QueryStopped       ENDED:XLR       ENDED:XLR
QueryDeleted       ABSENT:XL       ABSENT:XL
JobEnded           ENDED:LR        ENDED:LR
JobFailed          FAILED:LR       FAILED:LR
PlanProposed       READY:PLLsD     RUNNING:PLLsD
PeerLost           READY:          RUNNING:
PeerBack           READY:Ls        RUNNING:Ls
"""
LIMIT = {"face_alignment": {"cpu_util_limit": 0.5}}
LETTERS = {
    "RecordState": "R", "RecordPlan": "P", "RecordFault": "F", "RecordDecision": "D",
    "AskPolicy": "A", "StartJob": "S", "SendPlan": "s", "StopJob": "X", "LimitTask": "L",
}  # fmt: skip


def cells():
    header, *rows = (line.split() for line in WALK.strip().splitlines())
    assert tuple(header[1:]) == STATES
    for event, *row in rows:
        for state, cell in zip(STATES, row, strict=True):
            yield pytest.param(state, event, cell, id=f"{state}-{event}")


@pytest.mark.parametrize(("state", "event", "cell"), [*cells()])
def test_each_event_does_in_each_state_what_the_walk_says(state, event, cell):
    story = brought_to(state)
    kind, *fields = FIELDS[event]
    if kind in (PlanProposed, PolicyFailed):
        fields[1] = story.rounds.get(QUERY, 1)
    before = story.scheduler.plan_of(QUERY)
    if cell == "!":
        with pytest.raises(InvalidTransition, match=f"{QUERY}: state {state} takes no"):
            story.tell(kind, *fields)
        assert story.scheduler.plan_of(QUERY) == before
        cell = f"{state}:"
    else:
        story.tell(kind, *fields)
        expected = cell.partition(":")[2]
        assert "".join(LETTERS[name] for name in story.kinds()) == expected.strip(".")
    known = story.scheduler.state_of(QUERY)
    after = "ABSENT" if known is None else known.name
    assert after == (state if cell == "." else cell.partition(":")[0])


def limited_cells():
    header, *rows = (line.split() for line in LIMITED.strip().splitlines())
    changed = {event: dict(zip(header[1:], row, strict=True)) for event, *row in rows}
    for case in cells():
        state, event, cell = case.values
        if state in header:
            after = changed.get(event, {}).get(state, cell)
            yield pytest.param(state, event, after, id=f"{state}-{event}")


@pytest.mark.parametrize(("state", "event", "cell"), [*limited_cells()])
def test_each_event_does_with_limits_what_the_walk_says(state, event, cell):
    story = brought_to(state, LIMIT)
    kind, *fields = FIELDS[event]
    if kind in (PlanProposed, PolicyFailed):
        fields[1] = story.rounds[QUERY]
    if cell == "!":
        with pytest.raises(InvalidTransition):
            story.tell(kind, *fields)
        return
    story.tell(kind, *fields)
    after, _, expected = cell.partition(":")
    assert "".join(LETTERS[name] for name in story.kinds()) == expected.strip(".")
    known = story.scheduler.state_of(QUERY)
    assert ("ABSENT" if known is None else known.name) == (state if cell == "." else after)


def test_the_walk_has_every_instruction():
    kinds = typing.get_args(instructions.Instruction)
    assert {kind.__name__ for kind in kinds} == LETTERS.keys()


def test_the_walk_has_every_event_of_a_query():
    walked = {kind for kind, *_ in FIELDS.values()}
    assert set(PUBLIC) <= walked


@pytest.mark.parametrize("event", [*PUBLIC, *INNER])
def test_each_event_is_in_the_table(event):
    assert {state for state, known in TABLE if known is event}


@pytest.mark.parametrize("kind", INNER)
@pytest.mark.parametrize("state", STATES)
def test_what_follows_from_nodes_and_time_is_illegal_for_a_query_that_cannot_be_meant(state, kind):
    known = None if state == "ABSENT" else QueryState[state]
    if (known, kind) in TABLE:
        assert known in (QueryState.UNSCHEDULED, QueryState.READY, QueryState.RUNNING)
        return
    cases, nodes, profile = Cases(10), Nodes(), Profile()
    loads = Loads(nodes, profile)
    moves = Moves(cases, nodes, loads, Timers(), SchedulerSettings(), profile)
    if known is not None:
        cases.add(Case(query(), known))
    rest = {3: ("why",), 2: ()}[len(kind.__slots__)]
    with pytest.raises(InvalidTransition, match=f"{QUERY}: state {state} takes no {kind.__name__}"):
        moves.apply(kind(0, QUERY, *rest))
    assert moves.drain() == []
    assert cases.check() == []


def test_an_illegal_event_tells_the_story_of_the_query():
    story = brought_to("RUNNING")
    with pytest.raises(InvalidTransition) as caught:
        story.tell(QuerySubmitted, query())
    names = [line.split()[1] for line in caught.value.story]
    assert names == ["QuerySubmitted", "PlanProposed", "RuntimeReported", "ConstraintChanged"]
