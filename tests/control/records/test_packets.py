"""The way of a frame, as rows whose times add up to it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdag.control.records import Packet, Stop, packets_of
from vdag.errors import ConfigError
from vdag.results import TaskParts

CAPTURED_S = 1795302130.5
PARTS = {
    "face_detection": TaskParts(0.25, 0.125, 0.5),
    "face_alignment": TaskParts(0.0625, 0.0, 0.25),
}
EDGE, CLOUD = 1, 2


def rows(**more):
    options = {
        "captured_s": CAPTURED_S,
        "session_id": 7,
        "sequence": 42,
        "source": Stop(0, EDGE),
        "tasks": {"face_detection": Stop(1, CLOUD), "face_alignment": Stop(2, CLOUD)},
        "sink": Stop(3, EDGE),
        "home_s": 0.125,
        **more,
    }
    return packets_of(PARTS, **options)


def test_a_frame_that_goes_to_another_node_and_back_is_sent_and_received_twice():
    found = [
        (packet.handler_id, packet.node_id, packet.event, packet.timestamp - CAPTURED_S)
        for packet in rows()
    ]
    assert found == [
        (0, EDGE, "start", 0.0),
        (0, EDGE, "end", 0.0),
        (0, EDGE, "sent", 0.0),
        (1, CLOUD, "recv", 0.25),
        (1, CLOUD, "start", 0.375),
        (1, CLOUD, "end", 0.875),
        (2, CLOUD, "start", 0.9375),
        (2, CLOUD, "end", 1.1875),
        (2, CLOUD, "sent", 1.1875),
        (3, EDGE, "recv", 1.3125),
        (3, EDGE, "start", 1.3125),
        (3, EDGE, "end", 1.3125),
    ]
    assert {(packet.session_id, packet.sequence) for packet in rows()} == {(7, 42)}


def test_a_frame_that_stays_is_neither_sent_nor_received():
    here = {"face_detection": Stop(1, EDGE), "face_alignment": Stop(2, EDGE)}
    assert {packet.event for packet in rows(tasks=here)} == {"start", "end"}


def test_sizes_are_of_what_travelled():
    found = rows(sizes={"face_detection": 17875, "face_alignment": 99}, sink=None)
    assert [(packet.event, packet.size) for packet in found if packet.size is not None] == [
        ("sent", 17875),
        ("recv", 17875),
    ]


def test_a_task_without_a_handler_is_refused():
    with pytest.raises(ConfigError, match=r"^task face_alignment has no handler$"):
        rows(tasks={"face_detection": Stop(1, CLOUD)})


def test_branches_begin_at_the_capture_and_the_sink_is_reached_by_the_last():
    tasks = {"face_detection": Stop(1, CLOUD), "face_alignment": Stop(2, EDGE)}
    found = rows(tasks=tasks, branches=[["face_detection"], ["face_alignment"]])
    assert [(row.handler_id, row.event, row.timestamp - CAPTURED_S) for row in found] == [
        (0, "start", 0.0), (0, "end", 0.0),
        (0, "sent", 0.0), (1, "recv", 0.25), (1, "start", 0.375), (1, "end", 0.875),
        (2, "start", 0.0625), (2, "end", 0.3125),
        (1, "sent", 0.875), (3, "recv", 1.0), (3, "start", 1.0), (3, "end", 1.0),
    ]  # fmt: skip


def test_what_goes_out_on_two_branches_is_sent_once_with_all_its_bytes():
    far = {"face_detection": Stop(1, CLOUD), "face_alignment": Stop(2, CLOUD)}
    found = rows(
        tasks=far,
        branches=[["face_detection"], ["face_alignment"]],
        sizes={"face_detection": 1000, "face_alignment": 200},
    )
    sent = [row for row in found if (row.handler_id, row.event) == (0, "sent")]
    assert [row.size for row in sent] == [1200]
    received = [row.size for row in found if row.event == "recv" and row.handler_id in (1, 2)]
    assert received == [1000, 200]
    keys = [(row.handler_id, row.event, row.timestamp) for row in found]
    assert len(keys) == len(set(keys))


def test_a_frame_that_was_lost_on_one_branch_has_the_rows_of_the_other():
    found = packets_of(
        {"cars": PARTS["face_alignment"]}, captured_s=CAPTURED_S, session_id=7, sequence=1,
        source=Stop(0, EDGE), tasks={"faces": Stop(1, CLOUD), "cars": Stop(2, EDGE)},
        branches=[["faces"], ["cars"]],
    )  # fmt: skip
    assert [(row.handler_id, row.event) for row in found] == [
        (0, "start"), (0, "end"), (2, "start"), (2, "end")
    ]  # fmt: skip


SECONDS = st.floats(-0.001, 10.0)
WAYS = st.lists(
    st.tuples(st.builds(TaskParts, SECONDS, SECONDS, SECONDS), st.integers(1, 3)), max_size=6
)


@given(WAYS, SECONDS, st.integers(0, 1 << 30))
def test_no_part_is_negative_and_the_parts_add_up(way, home_s, sequence):
    parts = {f"task_{number}": part for number, (part, _) in enumerate(way)}
    tasks = {f"task_{number}": Stop(number + 1, node) for number, (_, node) in enumerate(way)}
    found = packets_of(
        parts, captured_s=CAPTURED_S, session_id=1, sequence=sequence, source=Stop(0, 1),
        tasks=tasks, sink=Stop(99, 1), home_s=home_s,
    )  # fmt: skip
    times = [packet.timestamp for packet in found]
    assert times == sorted(times)
    assert all(isinstance(packet, Packet) and packet.sequence == sequence for packet in found)
    lengths = [part for task in parts.values() for part in (task.transfer_s, task.queue_s,
                                                            task.compute_s)]  # fmt: skip
    whole_s = sum(max(0.0, length) for length in [*lengths, home_s])
    assert math.isclose(times[-1] - times[0], whole_s, abs_tol=1e-4)
    sent = [packet.timestamp for packet in found if packet.event == "sent"]
    received = [packet.timestamp for packet in found if packet.event == "recv"]
    assert len(sent) == len(received)
    assert all(after >= before for before, after in zip(sent, received, strict=True))
    for task, stop in tasks.items():
        (start,) = [p for p in found if (p.handler_id, p.event) == (stop.handler_id, "start")]
        (end,) = [p for p in found if (p.handler_id, p.event) == (stop.handler_id, "end")]
        busy_s = max(0.0, parts[task].compute_s)
        assert math.isclose(end.timestamp - start.timestamp, busy_s, abs_tol=1e-5)
