"""The tables: how they come about, change and go, in every database."""

from __future__ import annotations

import re
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect, text

from vdag.control.records import NewQuery, Store, read_frame, schema
from vdag.control.records.event_tables import metadata
from vdag.control.records.opening import open_database, open_engine
from vdag.errors import ConfigError, DependencyMissing

WAIT_S = 60.0
#: A database as it was made before there were revisions.
UNSTAMPED = """
CREATE TABLE schema_version (version INTEGER NOT NULL);
CREATE TABLE query (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, node_addr VARCHAR(255) NOT NULL,
    video_id INTEGER NOT NULL, dag JSON NOT NULL, constraint_document JSON NOT NULL,
    policy VARCHAR(255) NOT NULL, form VARCHAR(16) NOT NULL, fixed_plan JSON,
    state INTEGER NOT NULL, reason TEXT NOT NULL, suspended BOOLEAN NOT NULL,
    fault TEXT NOT NULL, created_s FLOAT NOT NULL, ended_s FLOAT
);
CREATE TABLE "plan" (
    query_id INTEGER NOT NULL, number INTEGER NOT NULL, documents JSON NOT NULL,
    cause TEXT NOT NULL, at_s FLOAT NOT NULL, PRIMARY KEY (query_id, number)
);
CREATE TABLE result (
    query_id INTEGER NOT NULL, n_loop INTEGER NOT NULL, run VARCHAR(64) NOT NULL,
    seq INTEGER NOT NULL, frame_id FLOAT, document TEXT NOT NULL, at_s FLOAT NOT NULL,
    PRIMARY KEY (query_id, n_loop), UNIQUE (query_id, run, seq)
);
CREATE TABLE dropped (
    query_id INTEGER NOT NULL, run VARCHAR(64) NOT NULL, reason VARCHAR(64) NOT NULL,
    count INTEGER NOT NULL, PRIMARY KEY (query_id, run, reason)
);
INSERT INTO schema_version VALUES (1);
INSERT INTO query VALUES
    (7, '127.0.0.1:5001', 1, '{"flow": ["a"]}', '{}', 'golden', 'pipeline', NULL, 2, '', 0, '',
     1795302130.5, NULL);
INSERT INTO "plan" VALUES (7, 1, '{"video_conf": {}}', 'submitted', 1795302131.0);
INSERT INTO result VALUES
    (7, 1, '#0', 1, 1.0, '{"count_result":{"total":3},"n_loop":1}', 1795302132.0);
"""


def names(engine: Engine) -> set[str]:
    return set(inspect(engine).get_table_names())


def described(engine: Engine, name: str) -> dict[str, Any]:
    """What a table is made of, whichever way its names are written."""
    look = inspect(engine)
    columns = {
        column["name"].lower(): (_kind(column["type"]), column["nullable"])
        for column in look.get_columns(name)
    }
    key = [column.lower() for column in look.get_pk_constraint(name)["constrained_columns"]]
    indexes = {
        index["name"]: [column.lower() for column in index["column_names"]]
        for index in look.get_indexes(name)
    }
    return {"columns": columns, "order": list(columns), "key": key, "indexes": indexes}


def _kind(found: Any) -> str:
    """The name of a type, without what only some databases say of it."""
    return re.sub(r"\(asdecimal=True\)| COLLATE \S+", "", str(found))


def test_migrations_make_what_the_code_declares(place, servers, kind, tmp_path):
    migrated = open_database(place)
    (tmp_path / "other").mkdir()
    with servers.place(kind, tmp_path / "other") as other:
        declared = open_engine(other)
        metadata.create_all(declared)
        assert names(migrated) == names(declared) | {schema.VERSION_TABLE}
        for table in sorted(names(declared)):
            assert described(migrated, table) == described(declared, table), table
        declared.dispose()
    migrated.dispose()


def test_every_revision_goes_up_and_down(place):
    engine = open_engine(place)
    before = []
    for revision in range(1, schema.HEAD + 1):
        before.append(names(engine) - {schema.VERSION_TABLE})
        assert schema.upgrade(engine, revision) == revision - 1
        with engine.connect() as connection:
            assert schema.revision_of(connection) == revision
            found = connection.execute(text("SELECT version FROM schema_version")).all()
            assert found == [(revision,)]
    for revision in reversed(range(schema.HEAD)):
        assert schema.downgrade(engine, revision) == revision + 1
        assert names(engine) - {schema.VERSION_TABLE} == before[revision]
    with pytest.raises(ConfigError, match=r"^database has schema 0, which is not newer than 0$"):
        schema.downgrade(engine, 0)
    assert schema.upgrade(engine) == 0
    engine.dispose()


def test_what_a_downgrade_does_not_drop_stays(place):
    with Store(place) as store:
        query_id = store.add_query(NewQuery("n", 1, {"flow": ["a"]}, {})).result(WAIT_S)
        store.add_plan(query_id, 1, {"video_conf": {}})
        store.set_decision(query_id, 1, {"by": "golden"})
        store.add_results(query_id, [read_frame(3)])
    engine = open_engine(place)
    schema.downgrade(engine, 1)
    engine.dispose()
    with Store(place) as store:
        assert [plan.decision for plan in store.plans(query_id)] == [{}]
        assert len(store.results(query_id)) == 1


def test_a_database_from_before_revisions_is_recognised(tmp_path: Path):
    path = tmp_path / "records.sqlite"
    with sqlite3.connect(path) as connection:
        connection.executescript(UNSTAMPED)
    connection.close()
    with Store(path) as store:
        (query,) = store.queries()
        assert (query.query_id, query.asked.dag) == ("GLOBAL_ID_7", {"flow": ["a"]})
        assert [result.read()["count_result"] for result in store.results("GLOBAL_ID_7")] == [
            {"total": 3}
        ]
        assert store.log.stats().rows == 0
        assert store.add_query(query.asked).result(WAIT_S) == "GLOBAL_ID_8"


def test_a_server_s_database_from_before_revisions_is_recognised(place):
    engine = open_engine(place)
    schema.upgrade(engine, 1)
    with engine.begin() as connection:
        connection.execute(text(f"DROP TABLE {schema.VERSION_TABLE}"))
        assert schema.revision_of(connection) == 1
    assert schema.upgrade(engine) == 1
    with engine.connect() as connection:
        assert schema.revision_of(connection) == schema.HEAD
    engine.dispose()


def test_several_who_start_at_once_do_it_once(place):
    gate, engines, errors = threading.Barrier(4), [], []

    def start() -> None:
        gate.wait(WAIT_S)
        try:
            engines.append(open_database(place))
        except Exception as err:
            errors.append(err)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert errors == []
    for engine in engines:
        with engine.connect() as connection:
            assert schema.revision_of(connection) == schema.HEAD
        engine.dispose()


def test_a_migration_that_breaks_off_is_undone_or_gone_over(place, monkeypatch):
    engine = open_engine(place)
    schema.upgrade(engine, 2)
    reached = names(engine)

    def broken(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("the power is gone")

    with monkeypatch.context() as patch:
        patch.setattr("alembic.op.create_index", broken)
        with pytest.raises(RuntimeError, match=r"^the power is gone$"):
            schema.upgrade(engine)
    with engine.connect() as connection:
        assert schema.revision_of(connection) == 2
    if engine.dialect.name in ("sqlite", "postgresql"):
        assert names(engine) == reached
    assert schema.upgrade(engine) == 2
    assert names(engine) == {table.name for table in metadata.sorted_tables} | {
        schema.VERSION_TABLE
    }
    engine.dispose()


def test_tables_of_somebody_else_are_left_alone(place):
    engine = open_engine(place)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE packet_info (id INT)"))
    engine.dispose()
    with pytest.raises(
        ConfigError, match=r"^database \S+: database has a table packet_info that vdag has not made"
    ):
        open_database(place)


def test_the_newest_revision_is_the_newest_script():
    scripts = ScriptDirectory(str(schema.FOLDER))
    assert scripts.get_heads() == [f"{schema.HEAD:04d}"]
    assert {path.stem.split("_")[0] for path in (schema.FOLDER / "versions").glob("r*.py")} == {
        f"r{revision:04d}" for revision in range(1, schema.HEAD + 1)
    }


@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [
        ("mysql+mysqldb://u@127.0.0.1/x", "MySQLdb", "mysql"),
        ("postgresql+pg8000://u@127.0.0.1/x", "pg8000", "postgresql"),
    ],
)
def test_a_driver_that_is_missing_is_named(url, module, extra):
    with pytest.raises(DependencyMissing) as caught:
        open_engine(url)
    assert (caught.value.module, caught.value.extra) == (module, extra)


def test_a_server_that_is_away_is_named_without_its_password():
    with pytest.raises(ConfigError) as caught:
        open_database("mysql://me:secret@127.0.0.1:1/reports")
    assert str(caught.value).startswith(
        "database mysql+pymysql://me:***@127.0.0.1:1/reports cannot be opened: "
    )
    assert "secret" not in str(caught.value)
