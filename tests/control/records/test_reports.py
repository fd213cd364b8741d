"""Reports as nodes post them, read into rows."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdag.control.records import (
    EVENTS,
    GpuSample,
    HandlerGpu,
    HandlerSample,
    NodeSample,
    Packet,
    Report,
    read_owner,
    read_report,
)
from vdag.errors import ConfigError

#: As the first system's nodes post it.
DOCUMENT = {
    "sys_info": [
        {"timestamp": 1795302130.8028862, "cpu_util": 5.9, "mem_total": 24152, "mem_util": 6.9,
         "gpu_info": [{"gpu_id": 0, "gpu_power": 43, "gpu_util": 10, "gpu_mem_util": 5,
                       "gpu_clock": 1500},
                      {"gpu_id": 1, "gpu_power": None, "gpu_util": 90}]},
    ],
    "proc_info": [
        {"timestamp": 1795302130.8103876, "session_id": 3, "handler_id": 0, "cpu_util": 0.0,
         "mem_util": 0.2354871729845751,
         "gpu_info": [{"gpu_id": 0, "gpu_util": 7, "gpu_mem_util": 3}]},
    ],
    "packet_info": [
        {"handler_id": 0, "timestamp": 1795302130.7796328, "sequence": 2, "event": "end",
         "session_id": 3},
        {"handler_id": 2, "timestamp": 1795302130.78, "sequence": 2, "event": "send",
         "size": 17875, "session_id": 3},
    ],
}  # fmt: skip
EMPTY: dict[str, list[Any]] = {"sys_info": [], "proc_info": [], "packet_info": []}


def read(document: Any, node_id: int = 1, **more: Any) -> Report:
    return read_report(json.dumps(document).encode(), node_id, **more)


def packet(**changed: Any) -> dict[str, Any]:
    first = DOCUMENT["packet_info"][0]
    return {"packet_info": [{**first, **changed}]}


def test_a_report_is_read_with_all_gpus_and_the_first_one_beside():
    report = read(DOCUMENT)
    assert report == Report(
        [
            Packet(1795302130.7796328, 3, 0, 2, "end", None, 1),
            Packet(1795302130.78, 3, 2, 2, "sent", 17875, 1),
        ],
        [NodeSample(1795302130.8028862, 1, 5.9, 24152, 6.9, 10, 5, 1500, 43)],
        [
            GpuSample(1795302130.8028862, 1, 0, 10, 5, 1500, 43),
            GpuSample(1795302130.8028862, 1, 1, 90),
        ],
        [HandlerSample(1795302130.8103876, 3, 0, 0.0, 0.2354871729845751, 7, 3, 1)],
        [HandlerGpu(1795302130.8103876, 3, 0, 0, 7, 3)],
    )
    assert len(report) == 7


@pytest.mark.parametrize("document", [EMPTY, {}, {"node_id": 4, "packet_info": []}])
def test_a_report_may_be_empty(document):
    assert len(read(document)) == 0


def test_columns_may_be_written_as_documented():
    document = {
        "sys_info": [{"timestamp": 1.5, "node_ID": 9, "cpu_util": 3, "gpu_util": 10}],
        "packet_info": [
            {"timestamp": 2.5, "session_ID": 3, "handler_ID": 0, "sequence": 2, "event": "recv"}
        ],
    }
    report = read(document)
    assert report.packets == [Packet(2.5, 3, 0, 2, "recv", None, 1)]
    assert report.nodes == [NodeSample(1.5, 1, 3.0, gpu_util=10)]


@pytest.mark.parametrize(
    ("written", "event"),
    [("start", "start"), ("end", "end"), ("sent", "sent"), ("recv", "recv"), ("send", "sent"),
     ("receive", "recv")],
)  # fmt: skip
def test_events_have_one_name_each(written, event):
    assert [row.event for row in read(packet(event=written)).packets] == [event]
    assert event in EVENTS


@pytest.mark.parametrize(
    ("document", "error"),
    [
        ([], "expected `object`, got `array`"),
        ({"users": []}, "object contains unknown field `users`"),
        ({"packet_info": 3}, "expected `array`, got `int` - at `$.packet_info`"),
        (packet(event="drop"), "invalid enum value 'drop' - at `$.packet_info[0].event`"),
        (packet(sequence=-1), "expected `int` >= 0 - at `$.packet_info[0].sequence`"),
        (packet(sequence=1 << 31), "expected `int` <= 2147483647 - at `$.packet_info[0].sequence`"),
        (packet(session_id="0); DROP TABLE packet_info"),
         "expected `int`, got `str` - at `$.packet_info[0].session_id`"),
        (packet(timestamp=1e12), "expected `float` <= 100000000000.0 - at"
         " `$.packet_info[0].timestamp`"),
        (packet(**{"timestamp) VALUES (1); --": 1}), "object contains unknown field"
         " `timestamp) VALUES (1); --` - at `$.packet_info[0]`"),
        ({"packet_info": [{"timestamp": 1.0}]}, "object missing required field `session_id` - at"
         " `$.packet_info[0]`"),
        ({"sys_info": [{"timestamp": 1.0, "gpu_info": [{"gpu_id": -1}]}]}, "expected `int` >= 0 -"
         " at `$.sys_info[0].gpu_info[0].gpu_id`"),
    ],
)  # fmt: skip
def test_what_is_no_report_is_refused(document, error):
    with pytest.raises(ConfigError) as caught:
        read(document)
    assert str(caught.value) == f"report is malformed: {error}"


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"packet_info": [NaN]}', b"\xff\xfe", b"[" * 100_000, b'"text"']
)
def test_what_is_no_json_is_refused(body):
    with pytest.raises(ConfigError, match=r"^report is malformed: "):
        read_report(body, 1)


def test_a_row_of_the_future_is_refused():
    with pytest.raises(
        ConfigError, match=r"^timestamp 2000\.500 is ahead of 2000\.000, the latest$"
    ):
        read(packet(timestamp=2000.5), latest_s=2000.0)
    assert len(read(packet(timestamp=2000.0), latest_s=2000.0)) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 1 << 40) | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["timestamp", "session_id", "Handler_ID", "sequence", "event", "x"]),
            inner,
        )
    ),
    max_leaves=12,
)
TABLE = st.sampled_from(["sys_info", "proc_info", "packet_info", "node_id", "other"])


@given(st.dictionaries(TABLE, JSON, max_size=4))
def test_anything_is_a_report_or_refused(document):
    body = msgspec.json.encode(document)
    try:
        report = read_report(body, 1)
    except ConfigError:
        return
    assert all(0 <= row.sequence < 1 << 31 and row.event in EVENTS for row in report.packets)


@pytest.mark.parametrize(
    ("document", "node_id"), [({}, None), ({"node_id": 7, "sys_info": 3}, 7), ({"x": [[]]}, None)]
)
def test_a_report_may_say_whose_it_is(document, node_id):
    assert read_owner(json.dumps(document).encode()) == node_id


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"node_id": "x"}', b'{"x": ' + b"[" * 100_000])
def test_an_owner_is_read_strictly(body):
    with pytest.raises(ConfigError, match=r"^report is malformed: "):
        read_owner(body)


ID = st.integers(0, (1 << 31) - 1)
STAMP = st.floats(0, 1e11)
PACKETS = st.builds(Packet, STAMP, ID, ID, ID, st.sampled_from(EVENTS), st.none() | ID, st.just(1))


@given(st.lists(PACKETS, max_size=5))
def test_packets_are_read_as_they_are_written(packets):
    rows = [{k: v for k, v in row._asdict().items() if k != "node_id"} for row in packets]
    assert read({"packet_info": rows}).packets == packets
