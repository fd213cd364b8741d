"""What became of a query's frames, over HTTP, and by `vdag trace` from afar."""

from __future__ import annotations

from typing import Any

import pytest
from node_kit import Caller
from packet_kit import (
    CLOUD,
    EDGE,
    EPOCH_S,
    HANDLERS,
    keep,
    open_session,
    own_frames,
    rows_of,
)
from query_kit import submit

from vdag.cli.cloud import Cloud
from vdag.control.accounts import gather, render
from vdag.control.records import NodeSample, Store
from vdag.control.tracing import frames_of, sharing
from vdag.control.tracing.reading import read_roster
from vdag.control.tracing.sharing import SharedSession
from vdag.errors import ConfigError, TransportError

ROWS = rows_of(own_frames(25, lost=[3, 4]))


@pytest.fixture
def query_id(caller: Caller, store: Store) -> str:
    """Of a query whose session has run."""
    query_id = submit(caller)
    assert open_session(store, query_id=1, name=query_id) == 1
    keep(store, ROWS)
    return query_id


def shared(serving: Any, query_id: str) -> SharedSession:
    cloud = Cloud(serving.url)
    path = f"/query/get_packets/{query_id}"
    return SharedSession(
        lambda first, last, step: cloud.get(path, first=first, last=last, step=step)
    )


def test_rows_of_some_sequences_come_with_what_their_numbers_stand_for(caller, query_id):
    reply = caller.get(f"/query/get_packets/{query_id}?first=2&last=5")
    assert reply.status == 200
    found = reply.json()
    assert (found["status"], found["query_id"], found["next"]) == (0, query_id, None)
    expected = [list(row) for row in ROWS if 2 <= row.sequence <= 5]
    assert sorted(found["packets"], key=str) == sorted(expected, key=str)
    assert [each["name"] for each in found["handlers"]] == [each.name for each in HANDLERS]
    assert [each["name"] for each in found["nodes"]] == ["edge", "cloud"]
    assert found["session"]["name"] == query_id
    assert (found["extent"]["first"], found["extent"]["last"]) == (0, 24)
    assert found["extent"]["rows"] == len(ROWS)


def test_frames_come_in_as_many_replies_as_they_take(serving, store, query_id, monkeypatch):
    monkeypatch.setitem(sharing.share.__kwdefaults__, "max_sequences", 4)
    look = shared(serving, query_id)
    assert look.subject.title == query_id
    extent = look.extent(1)
    assert extent == store.log.inspect(lambda inspection: inspection.extent(1))
    assert extent is not None
    found = list(look.packets(1, first=extent.first, last=extent.last))
    assert sorted(found) == sorted(ROWS)
    assert {row.sequence for row in look.packets(1, first=7, last=13)} == set(range(7, 14))
    third = [row.sequence for row in look.packets(1, first=1, last=24, step=3)]
    assert sorted(set(third)) == sorted({row.sequence for row in ROWS} & set(range(1, 25, 3)))
    assert len(third) == sum(row.sequence in range(1, 25, 3) for row in ROWS)
    roster = read_roster(look, look.subject, extent)
    here = store.log.inspect(lambda inspection: read_roster(inspection, look.subject, extent))
    assert roster == here
    assert list(frames_of(found, roster)) == list(frames_of(ROWS, roster))


def test_a_query_that_has_no_session_or_is_none_is_refused(serving, caller, query_id):
    other = submit(caller)
    with pytest.raises(ConfigError, match=rf"^{other} has no session$"):
        shared(serving, other)
    with pytest.raises(ConfigError, match=r"^query 9 is not known$"):
        shared(serving, "GLOBAL_ID_9")
    for wrong in ("first=-1", "last=x", "first=2147483648"):
        name, _, value = wrong.partition("=")
        reply = caller.get(f"/query/get_packets/{query_id}?{wrong}")
        assert (reply.status, reply.json()["error"]) == (
            400, f"{name} is '{value}', expected 0 to 2147483647",
        )  # fmt: skip


def test_a_reply_that_is_none_is_an_error_and_one_that_does_not_go_on_ends(serving, query_id):
    with pytest.raises(TransportError, match=r"^reply cannot be read: Expected `object`"):
        SharedSession(lambda *_: [])
    told = Cloud(serving.url).get(f"/query/get_packets/{query_id}", first=0, last=3)
    look = SharedSession(lambda *_: {**told, "next": 0})
    with pytest.raises(TransportError, match=r"^reply goes on with 0 after 0$"):
        list(look.packets(1))


def test_the_command_asks_a_cloud(serving, query_id, capsys):
    from vdag.cli.trace import trace

    trace(query_id, frame=None, frames=10, database="", cloud=serving.url, chrome=None, csv=None)
    assert capsys.readouterr().out.startswith(f"{query_id}: 10 frames in ")


def test_a_report_of_a_cloud_is_the_one_of_its_database(
    serving, store, query_id, tmp_path, monkeypatch
):
    from vdag.cli.report import report

    monkeypatch.setitem(sharing.share.__kwdefaults__, "max_sequences", 4)
    loads = [NodeSample(EPOCH_S + at_s / 8, node, 40.0, 1024, 25.0) for node in (EDGE, CLOUD)
             for at_s in range(40)]  # fmt: skip
    keep(store, [], nodes=loads)
    store.set_dropped(query_id, {"late": 5}, run="a")
    store.add_plan(query_id, 1, {"video_conf": {"fps": 10}, "flow_mapping": {}}, "submitted")
    store.committed().result(60)
    page = tmp_path / "report.html"
    report(query_id, output=page, cloud=serving.url)
    here = store.log.inspect(lambda inspection: gather(inspection, inspection.subject(query_id)))
    assert [change.cause for change in here.changes] == ["submitted"]
    assert {load.node_id for load in here.loads} == {EDGE, CLOUD}
    assert here.subject.query is not None
    assert page.read_text(encoding="utf-8") == render(here)


def test_what_is_told_beside_packets_has_its_bounds(caller, query_id):
    path = f"/query/get_circumstances/{query_id}"
    assert caller.get(f"{path}?nodes=1,2").json()["circumstances"]["dropped"] == {}
    for wrong, error in (
        ("since=5&until=5", "until is 5, not after since 5"),
        ("since=-1", "since is '-1', expected 0 to 100000000000000"),
        ("nodes=1,x", "nodes is '1,x', expected up to 12 numbers"),
        ("nodes=99999999999", "nodes is '99999999999', expected up to 12 numbers"),
        (f"nodes={','.join('1' * 13)}", "nodes is '1,1,1,1,1,1,1,1,1,1,1,1,1', expected up to 12 "
         "numbers"),
    ):  # fmt: skip
        reply = caller.get(f"{path}?{wrong}")
        assert (reply.status, reply.json()["error"]) == (400, error)
