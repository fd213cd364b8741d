"""Records looked at by who does not write them, in every database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from packet_kit import EPOCH_S, HANDLERS, WAIT_S, keep, open_session, own_frames, rows_of
from sqlalchemy import Connection, text

from vdag.control.records import NewQuery, NodeSample, Packet, Report, Store
from vdag.control.records.inspection import Extent, Inspection
from vdag.control.records.opening import open_engine
from vdag.errors import ConfigError

FRAMES = own_frames(20)
ROWS = rows_of(FRAMES)


@pytest.fixture
def store(place: str) -> Iterator[Store]:
    with Store(place, linger_s=0) as store:
        yield store


@pytest.fixture
def connection(store: Store, place: str) -> Iterator[Connection]:
    engine = open_engine(place)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def add_query(store: Store) -> str:
    return store.add_query(NewQuery("n", 1, {"flow": ["a"]}, {})).result(WAIT_S)


def test_a_subject_is_found_by_the_id_of_its_query_its_number_or_its_name(store, connection):
    query_id = add_query(store)
    other_id = add_query(store)
    older = open_session(store, query_id=1, name=query_id)
    newer = open_session(store, query_id=1, name=query_id)
    alone = open_session(store, name="street")
    store.log.record_awaited(_report([Packet(EPOCH_S, 77, 0, 0, "end")])).result(WAIT_S)
    look = Inspection(connection)
    found = look.subject(query_id)
    assert (found.session_id, found.title) == (newer, query_id)
    assert found.query is not None
    assert look.subject(str(older)).session_id == older
    found = look.subject("street")
    assert (found.session_id, found.title, found.query) == (alone, f"session {alone} street", None)
    found = look.subject("77")
    assert (found.session_id, found.session, found.title) == (77, None, "session 77")
    with pytest.raises(ConfigError, match=rf"^{other_id} has no session$"):
        look.subject(other_id)
    with pytest.raises(ConfigError, match=r"^there is no query GLOBAL_ID_9$"):
        look.subject("GLOBAL_ID_9")
    with pytest.raises(ConfigError, match=r"^there is no session 99$"):
        look.subject("99")
    with pytest.raises(ConfigError, match=r"^no query and no session is '99999999999'$"):
        look.subject("99999999999")


def _report(rows: list[Packet]) -> Report:
    return Report(rows)


def test_packets_come_by_their_sequences_all_or_some(store, connection):
    number = open_session(store)
    assert [handler.name for handler in HANDLERS] == [
        handler.name for handler in Inspection(connection).handlers(number)
    ]
    connection.rollback()
    keep(store, [*ROWS, *rows_of(own_frames(3, session_id=number + 1))])
    look = Inspection(connection)
    times = [row.timestamp for row in ROWS]
    assert look.extent(number) == Extent(len(ROWS), 0, 19, 19, min(times), max(times))
    assert look.extent(99) is None
    found = list(look.packets(number))
    assert sorted(found) == sorted(ROWS)
    assert [row.sequence for row in found] == sorted(row.sequence for row in ROWS)
    some = {row.sequence for row in look.packets(number, first=4, last=15, step=5)}
    assert some == {4, 9, 14}
    # A stream that is left may be followed by another.
    stream = look.packets(number)
    next(stream)
    stream.close()
    assert len(list(look.packets(number))) == len(ROWS)


def test_the_newest_sequence_of_a_session_that_began_anew_is_not_the_largest(store, connection):
    number = open_session(store)
    later = [row._replace(timestamp=row.timestamp + 60) for row in ROWS if row.sequence < 3]
    keep(store, [*ROWS, *later])
    found = Inspection(connection).extent(number)
    assert (found.first, found.last, found.newest) == (0, 19, 2)


def test_samples_of_a_time_are_read(store, connection):
    samples = [NodeSample(EPOCH_S + n, 1, float(n)) for n in range(10)]
    keep(store, [], nodes=samples)
    found = list(Inspection(connection).samples(EPOCH_S + 2, EPOCH_S + 4))
    assert sorted(found) == samples[2:5]


def test_a_database_of_another_revision_is_refused(store, connection):
    store.committed().result(WAIT_S)
    connection.execute(text("UPDATE vdag_revision SET version_num = '0099'"))
    with pytest.raises(ConfigError, match=r"^database has schema 99, this version of vdag reads "):
        Inspection(connection)
