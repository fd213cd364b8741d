"""`vdag collector` and `vdag database` as they are typed."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from database_kit import Servers
from sqlalchemy.engine import make_url

import vdag
from vdag.control.records import Store, schema

pytestmark = pytest.mark.slow

TIMEOUT_S = 120.0
#: Rows of a report under load.
LOAD = 50
NODE = {
    "node_id": 4,
    "node_name": "here",
    "node_type": "server",
    "node_addr": "127.0.0.1",
    "node_port": 9000,
}
PORT = re.compile(r"collector at http://127\.0\.0\.1:(\d+)")


def environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("VDAG_")}
    return {**kept, "PYTHONPATH": str(Path(vdag.__file__).parents[1]), "COLUMNS": "160"}


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vdag", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=TIMEOUT_S,
    )


@pytest.fixture
def nodes(tmp_path: Path) -> Path:
    folder = tmp_path / "nodes"
    folder.mkdir()
    (folder / "node-4.json").write_text(json.dumps(NODE))
    return folder


def conf_of(nodes: Path, database: str) -> Path:
    path = nodes.parent / "collector.conf"
    path.write_text(
        "[collector]\ncollector_addr = 127.0.0.1\ncollector_port = 0\n"
        f"node_path = {nodes}\n[database]\n{database}\n"
    )
    return path


@pytest.fixture
def database(servers: Servers):
    """A section `[database]` as documented, of an empty database in a real MariaDB."""
    with servers.get("mariadb").database() as place:
        url = make_url(place)
        yield (
            f"db_addr = {url.host}\ndb_port = {url.port}\ndb_user = {url.username}\n"
            f"db_passwd = {url.password}\ndb_schema = {url.database}"
        )


def test_it_records_by_the_documented_conf_and_ends_by_a_signal(nodes, database, servers):
    conf = conf_of(nodes, database)
    with subprocess.Popen(
        [sys.executable, "-m", "vdag", "--verbose", "collector", str(conf)],
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        try:
            assert process.stderr is not None
            said = (PORT.search(line) for line in process.stderr)
            port = next(int(found[1]) for found in said if found)
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
            row = {"timestamp": time.time(), "session_id": 1, "handler_id": 0, "sequence": 0,
                   "event": "start"}  # fmt: skip
            connection.request("POST", "/", json.dumps({"packet_info": [row]}))
            assert json.loads(connection.getresponse().read()) == {"result": "Succeeded"}
            connection.close()
            process.send_signal(signal.SIGTERM)
            rest = process.communicate(timeout=TIMEOUT_S)[1]
        finally:
            process.kill()
    assert process.returncode == 0, rest
    assert "Traceback" not in rest
    shown = run("database", "version", conf)
    assert (shown.returncode, shown.stdout) == (0, f"{schema.HEAD} of {schema.HEAD}\n")


class Sender:
    """A documented node: it sends what was not answered again, with what is new."""

    def __init__(self, port: int) -> None:
        self.port, self.sequence, self.waiting = port, 0, []
        self.answered = 0

    def report(self, count: int = 1) -> None:
        packet = {"session_id": 1, "handler_id": 0, "event": "start"}
        for _ in range(count):
            row = {"timestamp": time.time(), "sequence": self.sequence, **packet}
            self.sequence += 1
            self.waiting.append(row)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=0.5)
        try:
            connection.request("POST", "/", json.dumps({"packet_info": self.waiting}))
            if json.loads(connection.getresponse().read()) == {"result": "Succeeded"}:
                self.answered += len(self.waiting)
                self.waiting = []
        except (OSError, http.client.HTTPException):
            return
        finally:
            connection.close()


@contextlib.contextmanager
def collecting(conf: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run a collector; yield it and its port."""
    with subprocess.Popen(
        [sys.executable, "-m", "vdag", "--verbose", "collector", str(conf)],
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        try:
            assert process.stderr is not None
            said = (PORT.search(line) for line in process.stderr)
            yield process, next(int(found[1]) for found in said if found)
        finally:
            process.kill()


@pytest.mark.parametrize("outage_s", [0.5, 30.0])
def test_a_collector_that_is_killed_under_load_loses_and_doubles_nothing(nodes, tmp_path, outage_s):
    conf = conf_of(nodes, f"db_url = {tmp_path / 'a.db'}")
    with collecting(conf) as (process, port):
        sender = Sender(port)
        while sender.answered < 20:
            sender.report()
        process.kill()
        process.wait(TIMEOUT_S)
        answered, back_s = sender.answered, time.monotonic() + outage_s
        while time.monotonic() < back_s:
            sender.report(LOAD)
            threading.Event().wait(0.1)
    assert sender.answered == answered
    assert len(sender.waiting) >= LOAD
    conf.write_text(conf.read_text().replace("collector_port = 0", f"collector_port = {port}"))
    with collecting(conf):
        deadline_s = time.monotonic() + TIMEOUT_S
        while sender.waiting or sender.answered < sender.sequence:
            sender.report()
            assert time.monotonic() < deadline_s
    with Store(tmp_path / "a.db") as store:
        recorded = [packet.sequence for packet in store.log.packets(1)]
    assert recorded == list(range(sender.sequence))


def test_a_missing_key_is_one_line_and_exit_status_2(nodes, tmp_path):
    conf = conf_of(nodes, "db_addr = localhost")
    found = run("collector", conf)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == f"vdag: conf {conf}: [database] has no db_port\n"


def test_a_bad_node_file_is_one_line_and_exit_status_2(nodes, tmp_path):
    bad = nodes / "node-5.json"
    bad.write_text("{")
    found = run("collector", conf_of(nodes, f"db_url = {tmp_path / 'a.db'}"))
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == f"vdag: node file {bad} is not JSON: Input data was truncated\n"


def test_a_database_that_is_away_is_one_line_and_exit_status_2(nodes):
    database = "db_addr = 127.0.0.1\ndb_port = 1\ndb_user = u\ndb_passwd = p\ndb_schema = s"
    found = run("collector", conf_of(nodes, database))
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith("vdag: database mysql+pymysql://u:***@127.0.0.1:1/s cannot be")
    assert found.stderr.count("\n") == 1


def test_tables_are_brought_to_revisions_by_command(tmp_path: Path):
    path = tmp_path / "records.sqlite"
    Store(path).close()
    head = schema.HEAD
    for arguments, said in [
        (("version", path), f"{head} of {head}\n"),
        (("downgrade", path, "--revision", "1"), f"{head} to 1\n"),
        (("upgrade", path, "--revision", "2"), "1 to 2\n"),
        (("upgrade", path), f"2 to {head}\n"),
    ]:
        found = run("database", *arguments)
        assert (found.returncode, found.stdout, found.stderr) == (0, said, "")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("version", "/nowhere.db"), "database /nowhere.db is no file"),
        (("version", "/nowhere.conf"), "conf /nowhere.conf cannot be read: No such file or"
         " directory"),
        (("upgrade", "{path}", "--revision", "900"), "revision 900 is not 1 to {head}"),
        (("downgrade", "{path}", "--revision", "900"), "database has schema {head}, which is not"
         " newer than 900"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_exit_status_2(tmp_path, arguments, error):
    path = tmp_path / "records.sqlite"
    Store(path).close()
    found = run("database", *(word.format(path=path) for word in arguments))
    assert found.returncode == 2
    assert found.stderr == f"vdag: {error.format(head=schema.HEAD)}\n"
