"""What is opened for records: which databases, files and URLs are refused."""

from __future__ import annotations

import os
import sqlite3
import stat

import pytest

from vdag.control.records import Store
from vdag.control.records.schema import HEAD
from vdag.errors import ConfigError, VdagError


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("UPDATE vdag_revision SET version_num = '0901'", f"has schema 901, newer than {HEAD},"
         " which this version of vdag reads"),
        ("DROP TABLE vdag_revision; UPDATE schema_version SET version = 901", "has schema 901,"
         f" newer than {HEAD}, which this version of vdag reads"),
        ("DROP TABLE vdag_revision; UPDATE schema_version SET version = 0", "has schema 0, older"
         " than 1, which this version of vdag can migrate"),
        ("DROP TABLE vdag_revision; DROP TABLE schema_version", "has a table dropped that vdag has"
         " not made"),
    ],
)  # fmt: skip
def test_a_database_of_another_version_is_refused_and_left_alone(path, statement, error):
    Store(path).close()
    with sqlite3.connect(path) as connection:
        connection.executescript(statement)
    connection.close()
    with pytest.raises(ConfigError) as caught:
        Store(path)
    assert str(caught.value) == f"database {path}: database {error}"


def test_a_file_that_is_no_database_is_refused(path):
    path.write_bytes(b"not a database, but a text of some length" * 100)
    with pytest.raises(ConfigError) as caught:
        Store(path)
    assert str(caught.value) == f"database {path} cannot be opened: file is not a database"


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("sqlite://", "database in memory keeps nothing: name a file"),
        ("nothing://x/y", "database nothing://x/y is of a kind that is not known"),
        ("://", "database is no URL of SQLAlchemy"),
        ("/nowhere/at/all.sqlite", "database /nowhere/at/all.sqlite cannot be opened: "
         "No such file or directory"),
    ],
)  # fmt: skip
def test_a_place_that_is_no_database_is_refused(place, error):
    with pytest.raises(ConfigError) as caught:
        Store(place)
    assert str(caught.value) == error


def test_a_password_in_a_url_is_not_shown():
    with pytest.raises((ConfigError, VdagError)) as caught:
        Store("nothing://user:secret@host/records")
    assert "secret" not in str(caught.value)


def test_the_file_is_its_owners_alone(path):
    Store(path).close()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
