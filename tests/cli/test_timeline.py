"""The timeline of a frame, on screens of all kinds."""

from __future__ import annotations

import io

import pytest
from packet_kit import CLOUD, EDGE, EPOCH_S, HANDLERS, NODES, own_frames
from rich.console import Console

from vdag.cli.timeline import timeline
from vdag.control.records import Stop, packets_of
from vdag.control.tracing import Frame, Roster, frames_of, roster_of
from vdag.results import TaskParts

OWN = roster_of(HANDLERS, NODES, links=[(0, 1), (1, 2), (2, 3)], ends=(0, 3))


def shown(frame: Frame, roster: Roster, *, encoding: str = "utf-8", width: int = 172) -> str:
    """What a screen of that encoding shows."""
    buffer = io.BytesIO()
    file = io.TextIOWrapper(buffer, encoding=encoding)
    screen = Console(file=file, width=width)
    screen.print(timeline(frame, roster, screen))
    file.flush()
    return buffer.getvalue().decode(encoding)


def test_parts_are_told_apart_where_only_ascii_is():
    (truth,) = own_frames(1)
    (frame,) = frames_of(truth.rows, OWN)
    text = shown(frame, OWN, encoding="ascii")
    rows = {line.split()[0]: line for line in text.splitlines() if line[:2].strip().isdigit()}
    column_s = truth.delay_s / 100
    for (handler, part), sign in {
        (1, "transfer"): "-", (1, "compute"): "#", (2, "compute"): "#", (3, "home"): "=",
    }.items():  # fmt: skip
        columns = rows[str(handler)].count(sign)
        assert abs(columns - truth.parts[handler, part] / column_s) <= 1
    assert "-- transfer  .. queue  ## compute  == home  ?? gap" in text


@pytest.mark.parametrize("width", [60, 80, 240])
def test_it_fits_the_screen_as_far_as_there_is_room_for_words(width):
    (frame,) = frames_of(own_frames(1)[0].rows, OWN)
    lines = shown(frame, OWN, width=width).splitlines()
    assert max(map(len, lines)) <= width
    assert "1 face" in lines[3]


def test_a_visit_beside_the_way_is_in_brackets():
    rows = packets_of(
        {"a": TaskParts(0.25, 0.125, 0.5), "b": TaskParts(0.0, 0.0, 0.125)},
        captured_s=EPOCH_S, session_id=1, sequence=7, source=Stop(0, EDGE),
        tasks={"a": Stop(1, CLOUD), "b": Stop(2, EDGE)}, sink=Stop(3, EDGE), home_s=0.0625,
        branches=[("a",), ("b",)],
    )  # fmt: skip
    links = [(0, 1), (1, 3), (0, 2), (2, 3)]
    roster = roster_of(HANDLERS, NODES, links=links, ends=(0, 3))
    (frame,) = frames_of(rows, roster)
    text = shown(frame, roster)
    assert text.startswith("frame 7, 937.5 ms, ")
    assert " (2 face_alignment)" in text
    assert "(1 face_detection" not in text


def test_a_frame_that_was_lost_says_where_it_was_seen_last():
    (truth,) = own_frames(1)
    (frame,) = frames_of(truth.rows[:6], OWN)
    assert ", seen last at 1 face_detection\n" in shown(frame, OWN).replace(" \n", "\n").replace(
        "  ", ""
    )
    (frame,) = frames_of(truth.rows[:1], OWN)
    assert "0.0 ms" in shown(frame, OWN)


def test_names_are_shown_as_they_are():
    handlers = [handler.__class__(handler.handler_id, "[red]x[/]") for handler in HANDLERS]
    (frame,) = frames_of(own_frames(1)[0].rows, OWN)
    roster = roster_of(handlers, NODES, ends=(0, 3))
    assert "1 [red]x[/]" in shown(frame, roster)
