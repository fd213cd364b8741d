"""Rows as frames: where the time of each went, whatever is missing, doubled or out of step."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packet_kit import (
    CLOUD,
    EDGE,
    EPOCH_S,
    FOREIGN,
    HANDLERS,
    NODES,
    foreign_frames,
    own_frames,
    rows_of,
)

from vdag.control.records import Packet, Stop, packets_of
from vdag.control.tracing import Frame, Role, Roster, frames_of, links_of, roster_of
from vdag.results import TaskParts

CHAIN = [(0, 1), (1, 2), (2, 3)]
OWN = roster_of(HANDLERS, NODES, links=CHAIN, ends=(0, 3))


def parts(frame: Frame) -> dict[tuple[int, str], float]:
    """Seconds by handler and part, of the parts that are more than nothing."""
    found: dict[tuple[int, str], float] = {}
    for span in frame.spans():
        key = span.handler_id, span.part
        found[key] = found.get(key, 0.0) + span.length_s
    return {key: value for key, value in found.items() if value > 1e-9}


def same(found: dict[tuple[int, str], float], expected: dict[tuple[int, str], float]) -> bool:
    return found.keys() == expected.keys() and all(
        math.isclose(found[key], expected[key], abs_tol=1e-6) for key in expected
    )


@pytest.mark.parametrize(
    "roster",
    [OWN, roster_of(HANDLERS, ends=(0, 3)), roster_of(sample=rows_of(own_frames(20)))],
    ids=["recorded", "without links", "from rows alone"],
)
def test_the_parts_of_frames_of_a_query_are_found_again(roster: Roster):
    truths = own_frames(20)
    found = list(frames_of(rows_of(truths), roster))
    assert len(found) == len(truths)
    for frame, truth in zip(found, truths, strict=True):
        expected = dict(truth.parts)
        if not roster.handlers:
            # Who does not know of the sink sees packets that come and wait.
            expected[3, "transfer"] = expected.pop((3, "home"))
        assert same(parts(frame), expected)
        assert frame.is_whole
        assert (frame.born_s, frame.run, frame.skewed, frame.ignored) == (truth.born_s, 0, 0, 0)
        assert math.isclose(frame.delay_s, truth.delay_s, abs_tol=1e-6)
        assert [visit.handler_id for visit in frame.visits] == [0, 1, 2, 3]
        assert frame.way == (0, 1, 2, 3)


def test_arrows_say_what_went_from_node_to_node():
    (frame,) = frames_of(rows_of(own_frames(1)), OWN)
    assert [(a.source, a.source_node, a.target, a.target_node, a.nbytes) for a in frame.arrows] == [
        (0, EDGE, 1, CLOUD, 1000),
        (2, CLOUD, 3, EDGE, None),
    ]
    assert all(arrow.sent_s < arrow.recv_s for arrow in frame.arrows)


@pytest.mark.parametrize(
    "roster",
    [
        roster_of(FOREIGN, NODES),
        roster_of(sample=rows_of(foreign_frames(20, seed=3))),
    ],
    ids=["recorded", "from rows alone"],
)
@pytest.mark.parametrize("lost", [(), (2, 3, 7)], ids=["all arrive", "some are lost"])
def test_the_parts_of_frames_of_documented_nodes_are_found(roster: Roster, lost: tuple[int, ...]):
    truths = foreign_frames(12, lost=lost)
    found = {frame.sequence: frame for frame in frames_of(rows_of(truths), roster)}
    for truth in truths:
        frame = found[truth.sequence]
        if truth.lost_at is not None:
            assert not frame.is_whole
            assert frame.last == truth.lost_at
            continue
        expected = dict(truth.parts)
        if not roster.handlers:
            expected[9, "queue"] = expected.pop((9, "home"))
        assert same(parts(frame), expected), truth.sequence
        assert [visit.handler_id for visit in frame.visits] == [0, 1, 4, 5, 8, 9]
        assert [(arrow.source, arrow.target) for arrow in frame.arrows] == [(1, 4), (5, 8)]
        assert frame.arrows[0].nbytes == 20000 + truth.sequence


@pytest.mark.parametrize("lost", [(), (1,)], ids=["all arrive", "one is lost"])
def test_roles_are_told_by_the_order_of_events(lost):
    roster = roster_of(sample=rows_of(foreign_frames(20, lost=lost)))
    assert dict(sorted(roster.roles.items())) == {
        0: Role.SOURCE, 2: Role.TX, 3: Role.RX, 6: Role.TX, 7: Role.RX,
    }  # fmt: skip
    assert roster.finals == {9}


@pytest.mark.parametrize("is_recorded", [True, False], ids=["recorded", "from rows alone"])
@pytest.mark.parametrize("ahead_s", [-0.125, -0.015625, 0.015625, 0.125])
def test_a_clock_that_is_ahead_makes_no_part_negative(ahead_s, is_recorded):
    truths = foreign_frames(20, ahead_s=ahead_s)
    rows = rows_of(truths)
    roster = roster_of(FOREIGN) if is_recorded else roster_of(sample=rows)
    for frame, truth in zip(frames_of(rows, roster), truths, strict=True):
        assert [visit.handler_id for visit in frame.visits] == [0, 1, 4, 5, 8, 9]
        assert frame.way == (0, 1, 2, 3, 4, 5)
        assert frame.skewed > 0 or abs(ahead_s) < 0.1
        spans = list(frame.spans())
        assert all(span.length_s >= 0 for span in spans)
        assert math.isclose(sum(s.length_s for s in spans), frame.delay_s, abs_tol=1e-6)
        assert math.isclose(frame.delay_s, truth.delay_s, abs_tol=1e-6)


def test_a_frame_that_is_lost_ends_where_it_was_seen_last():
    truths = own_frames(20, lost=range(3, 11))
    found = list(frames_of(rows_of(truths), OWN))
    assert [frame.is_whole for frame in found] == [truth.lost_at is None for truth in truths]
    for frame, truth in zip(found, truths, strict=True):
        if truth.lost_at is not None:
            assert frame.last == truth.lost_at
            assert frame.delay_s == pytest.approx(truth.rows[-1].timestamp - truth.born_s)


def without(rows: list[Packet], *events: tuple[int, str]) -> list[Packet]:
    return [row for row in rows if (row.handler_id, row.event) not in events]


@pytest.mark.parametrize(
    ("missing", "gaps", "kept"),
    [
        ([(1, "recv")], {(1, "gap")}, {(1, "compute"), (2, "queue"), (2, "compute"), (3, "home")}),
        ([(1, "start")], {(1, "gap")}, {(1, "transfer"), (2, "queue"), (2, "compute")}),
        ([(1, "end")], {(2, "gap")}, {(1, "transfer"), (1, "queue"), (2, "compute")}),
        ([(1, "sent"), (0, "sent")], set(), {(1, "transfer"), (1, "queue"), (1, "compute")}),
        ([(1, "recv"), (1, "start"), (1, "end")], {(2, "gap")}, {(2, "compute"), (3, "home")}),
        ([(3, "recv")], {(3, "gap")}, {(1, "transfer"), (2, "compute")}),
        ([(0, "start")], set(), {(1, "transfer"), (3, "home")}),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_a_missing_row_leaves_open_is_a_gap_and_the_rest_stays(missing, gaps, kept):
    (truth,) = own_frames(1)
    (frame,) = frames_of(without(truth.rows, *missing), OWN)
    found = parts(frame)
    assert {key for key in found if key[1] == "gap"} == gaps
    for key in kept:
        assert found[key] == pytest.approx(truth.parts[key], abs=1e-6)
    assert frame.delay_s == pytest.approx(truth.delay_s, abs=1e-6)
    assert sum(found.values()) == pytest.approx(truth.delay_s, abs=1e-6)


def test_rows_that_come_again_are_passed_over():
    (truth,) = own_frames(1)
    again = [*truth.rows, *truth.rows[:4]]
    (frame,) = frames_of(again, OWN)
    assert frame.ignored == 4
    assert same(parts(frame), truth.parts)
    # A handler that ends twice has ended when it did first.
    later = next(row for row in truth.rows if (row.handler_id, row.event) == (1, "end"))
    doubled = [*truth.rows, later._replace(timestamp=later.timestamp + 1e-3)]
    (frame,) = frames_of(doubled, OWN)
    assert frame.ignored == 1
    assert same(parts(frame), truth.parts)


def test_a_session_that_began_anew_has_its_sequences_twice():
    first, second = own_frames(3), own_frames(3, seed=2)
    moved = [row._replace(timestamp=row.timestamp + 60) for row in rows_of(second)]
    rows = sorted([*rows_of(first), *moved], key=lambda row: row.sequence)
    found = [(frame.sequence, frame.run) for frame in frames_of(rows, OWN)]
    assert found == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    for frame in frames_of(rows, OWN):
        truth = (second if frame.run else first)[frame.sequence]
        assert same(parts(frame), truth.parts)


BRANCHES = {"a": TaskParts(0.25, 0.125, 0.5), "b": TaskParts(0.0625, 0.0, 0.125)}
BRANCHED = roster_of(HANDLERS, links=[(0, 1), (1, 3), (0, 2), (2, 3)], ends=(0, 3))


def branched(near: int, far: int) -> list[Packet]:
    return packets_of(
        BRANCHES, captured_s=EPOCH_S, session_id=1, sequence=0, source=Stop(0, EDGE),
        tasks={"a": Stop(1, far), "b": Stop(2, near)}, sink=Stop(3, EDGE), home_s=0.0625,
        sizes={"a": 100, "b": 50}, branches=[("a",), ("b",)],
    )  # fmt: skip


@pytest.mark.parametrize("is_linked", [True, False], ids=["linked", "without links"])
@pytest.mark.parametrize(("near", "far"), [(EDGE, CLOUD), (CLOUD, CLOUD), (CLOUD, EDGE)])
def test_of_branches_the_way_is_the_slowest_and_the_others_are_beside_it(near, far, is_linked):
    rows = branched(near, far)
    roster = BRANCHED if is_linked else roster_of(HANDLERS, ends=(0, 3), sample=rows)
    (frame,) = frames_of(rows, roster)
    assert [frame.visits[index].handler_id for index in frame.way] == [0, 1, 3]
    assert frame.delay_s == pytest.approx(0.9375)
    assert sum(parts(frame).values()) == pytest.approx(0.9375)
    (beside,) = (visit for visit in frame.visits if visit.handler_id == 2)
    assert sum(span.length_s for span in beside.spans) == pytest.approx(0.1875)
    assert beside.before == 0


@settings(deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 12))
def test_the_order_of_rows_does_not_matter_and_any_of_them_may_be_missing(
    random_: random.Random, missing: int
):
    for truths, roster in ((own_frames(3), OWN), (foreign_frames(3), roster_of(FOREIGN))):
        rows = rows_of(truths)
        for _ in range(missing):
            rows.pop(random_.randrange(len(rows)))
        expected = list(frames_of(rows, roster))
        random_.shuffle(rows)
        found = list(frames_of(sorted(rows, key=lambda row: row.sequence), roster))
        assert found == expected
        for frame in found:
            spans = list(frame.spans())
            assert all(span.length_s >= 0 for span in spans)
            assert all(a.end_s == b.begin_s for a, b in pairwise(spans))
            if spans:
                assert spans[0].begin_s == frame.born_s
                assert spans[-1].end_s == frame.done_s


def test_links_are_found_in_services_and_in_blueprints_of_nodes():
    links = [{"source_handler": 0, "source_output": 0, "target_handler": 1, "target_input": 0}]
    assert list(links_of({"service_id": 0, "links": links})) == [(0, 1)]
    parts = [{"node_id": 0, "blueprint": {"links": links}}, {"blueprint": {"links": [3, {}]}}]
    assert list(links_of({"template": parts})) == [(0, 1)]
    assert list(links_of(None)) == []
    nested: dict[str, object] = {}
    for _ in range(1000):
        nested = {"blueprint": nested}
    assert list(links_of(nested)) == []
