"""The documented tables, by SQL as others write it, in every database."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import inspect, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.types import FLOAT, INTEGER, VARCHAR

from vdag.control.records.opening import open_database

#: Name, type and meaning as the documents have them.
DOCUMENTED = {
    "sys_info": [
        ("timestamp", "FLOAT"), ("node_ID", "INT"), ("cpu_util", "FLOAT"), ("mem_total", "INT"),
        ("mem_util", "FLOAT"), ("gpu_util", "INT"), ("gpu_mem_util", "INT"), ("gpu_clock", "INT"),
        ("gpu_power", "INT"),
    ],
    "proc_info": [
        ("timestamp", "FLOAT"), ("session_ID", "INT"), ("handler_ID", "INT"), ("cpu_util", "FLOAT"),
        ("mem_util", "FLOAT"), ("gpu_util", "INT"), ("gpu_mem_util", "INT"),
    ],
    "packet_info": [
        ("timestamp", "FLOAT"), ("session_ID", "INT"), ("handler_ID", "INT"), ("sequence", "INT"),
        ("event", "VARCHAR"),
    ],
}  # fmt: skip
#: As a collector writes them, names of columns in its own order and in small letters.
INSERTS = [
    "INSERT INTO sys_info (timestamp, cpu_util, mem_total, mem_util, gpu_power, gpu_util,"
    " gpu_mem_util, gpu_clock, node_id)"
    " VALUES (1795302130.8028862, 5.9, 24152, 6.9, 43, 10, 5, 1500, 1)",
    "INSERT INTO proc_info (timestamp, session_id, handler_id, cpu_util, mem_util, gpu_util,"
    " gpu_mem_util) VALUES (1795302130.8103876, 3, 0, 0.0, 0.2354871729845751, 7, 3)",
    "INSERT INTO packet_info (handler_id, timestamp, sequence, event, session_id)"
    " VALUES (0, 1795302130.7796328, 2, 'end', 3)",
    "INSERT INTO packet_info (handler_id, timestamp, sequence, event, size, session_id)"
    " VALUES (2, 1795302130.78, 2, 'sent', 17875, 3)",
    "INSERT INTO packet_info (handler_ID, timestamp, sequence, event, session_ID)"
    " VALUES (3, 1795302130.79, 2, 'recv', 3)",
    "INSERT INTO packet_info (handler_id, timestamp, sequence, event, session_id)"
    " VALUES (3, 1795302130.79, 2, 'start', 3)",
]
PAGE = Path(__file__).parents[3] / "docs" / "records.md"


@pytest.fixture
def connection(place: str):
    engine = open_database(place)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def test_the_documented_columns_come_first_in_their_order_with_their_types(connection):
    for name, documented in DOCUMENTED.items():
        columns = inspect(connection).get_columns(name)[: len(documented)]
        assert [column["name"].lower() for column in columns] == [
            column.lower() for column, _ in documented
        ]
        for column, (_, kind) in zip(columns, documented, strict=True):
            expected = {"FLOAT": FLOAT, "INT": INTEGER, "VARCHAR": VARCHAR}[kind]
            assert isinstance(column["type"].as_generic(), expected.__mro__[1]), column


def test_documented_inserts_and_queries_work_as_written(connection):
    for statement in INSERTS:
        connection.execute(text(statement))
    found = connection.execute(text("SELECT timestamp, node_ID, gpu_clock FROM sys_info")).all()
    assert found == [(1795302130.8028862, 1, 1500)]
    found = connection.execute(
        text("SELECT session_ID, handler_ID, gpu_util FROM proc_info WHERE session_id = 3")
    ).all()
    assert found == [(3, 0, 7)]
    found = connection.execute(
        text(
            "SELECT sent.sequence, recv.timestamp - sent.timestamp AS network, sent.size"
            " FROM packet_info sent JOIN packet_info recv"
            " ON sent.session_ID = recv.session_ID AND sent.sequence = recv.sequence"
            " WHERE sent.event = 'sent' AND recv.event = 'recv' AND sent.session_ID = 3"
        )
    ).all()
    assert [(row[0], round(row[1], 6), row[2]) for row in found] == [(2, 0.01, 17875)]


def test_a_timestamp_keeps_every_microsecond(connection):
    statement = "INSERT INTO packet_info (timestamp, session_ID, handler_ID, sequence, event)"
    times = [1795302130.123456, 1795302130.123457, 4102444800.999999]
    for number, time_s in enumerate(times):
        row = {"time": time_s, "number": number}
        connection.execute(text(f"{statement} VALUES (:time, 1, 1, :number, 'start')"), row)
    ordered = text("SELECT timestamp FROM packet_info ORDER BY sequence")
    assert list(connection.execute(ordered).scalars()) == times


def test_a_packet_may_start_and_end_in_one_moment_but_not_twice(connection):
    statement = (
        "INSERT INTO packet_info (timestamp, session_ID, handler_ID, sequence, event)"
        " VALUES (1795302130.5, 1, 1, 1, '{}')"
    )
    connection.execute(text(statement.format("start")))
    connection.execute(text(statement.format("end")))
    with pytest.raises(IntegrityError):
        connection.execute(text(statement.format("end")))


def test_the_page_names_every_table_and_column(connection):
    page = PAGE.read_text()
    for name in (*DOCUMENTED, "gpu_info", "proc_gpu_info", "node", "session", "handler",
                 "placement", "packet_rollup", "sys_rollup", "proc_rollup"):  # fmt: skip
        assert f"| `{name}` |" in page
        for column in inspect(connection).get_columns(name):
            words = column["name"].lower().removesuffix("_max")
            assert f"`{words}`" in page.lower(), (name, words)
