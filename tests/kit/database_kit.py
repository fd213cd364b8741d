"""Real database servers on folders of their own, as a user without rights, for tests."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import OperationalError

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0
KINDS = ("sqlite", "postgresql", "mariadb")


def find_program(name: str, *folders: str) -> Path:
    """Return where a program is, in the path or in a folder; skip the test if it is nowhere."""
    found = shutil.which(name)
    if found is None:
        places = (path for folder in folders for path in Path("/").glob(f"{folder[1:]}/{name}"))
        found = next((str(path) for path in sorted(places, reverse=True)), None)
    if found is None:
        pytest.skip(f"{name} is not installed")
    # Through links: a server looks for its parts beside itself.
    return Path(found).resolve()


class Server:
    """A server with one user, who may do everything; `start` may follow `stop`."""

    driver: ClassVar[str]
    ends_by: ClassVar[int] = signal.SIGTERM
    first_database: ClassVar[str]

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="vdag-server-"))
        self.password = secrets.token_hex(8) + "%#@/"
        self._process: subprocess.Popen[bytes] | None = None
        self._names = itertools.count(1)
        self._user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        if self._user is not None:
            os.chown(self.folder, self._user.pw_uid, self._user.pw_gid)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        try:
            self.prepare()
            self.start()
        except BaseException:
            self.close()
            raise

    def prepare(self) -> None:
        """Make the data folder."""
        raise NotImplementedError

    def command(self) -> list[str | Path]:
        """Return the command that runs the server."""
        raise NotImplementedError

    def url(self, database: str) -> URL:
        """Return where a database is."""
        return URL.create(self.driver, "vdag", self.password, "127.0.0.1", self.port, database)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = self._spawn(self.command())
        deadline_s = time.monotonic() + START_TIMEOUT_S
        engine = create_engine(self.url(self.first_database))
        while True:
            assert self._process.poll() is None, self.log()
            try:
                engine.connect().close()
                break
            except OperationalError:
                assert time.monotonic() < deadline_s, self.log()
                time.sleep(0.05)
        engine.dispose()

    def stop(self, number: int | None = None) -> None:
        """Stop it, in good order or by another signal, and wait until all of it has ended.

        Processes of a server that was killed outlive it for a moment, and until then another does
        not start in its place.
        """
        process, self._process = self._process, None
        if process is None:
            return
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(self.ends_by if number is None else number)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        _, left = psutil.wait_procs(family, STOP_TIMEOUT_S)
        assert not left, f"{left} did not end: {self.log()}"

    def close(self) -> None:
        """Stop it, and remove all that it had."""
        try:
            self.stop()
        finally:
            shutil.rmtree(self.folder)

    def log(self) -> str:
        """Return the end of what it has said."""
        return (self.folder / "log").read_text(errors="replace")[-4000:]

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """Yield the URL of a new database, which is dropped afterwards."""
        name = f"test_{next(self._names)}"
        self.execute(f"CREATE DATABASE {name}")
        try:
            yield self.url(name).render_as_string(hide_password=False)
        finally:
            self.execute(self.dropping(name))

    def dropping(self, name: str) -> str:
        """Return the statement that drops a database, in use or not."""
        return f"DROP DATABASE {name}"

    def execute(self, statement: str) -> None:
        """Execute a statement outside of any transaction."""
        engine = create_engine(self.url(self.first_database), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))
        engine.dispose()

    def run(self, *command: str | Path) -> None:
        """Run a program as the server's user."""
        with self._spawn(list(command)) as process:
            assert process.wait(START_TIMEOUT_S) == 0, self.log()

    def write(self, name: str, content: str) -> Path:
        """Write a file that the server may read, and return where."""
        path = self.folder / name
        path.write_text(content)
        path.chmod(0o644)
        return path

    def _spawn(self, command: list[str | Path]) -> subprocess.Popen[bytes]:
        user = self._user
        who: dict[str, Any] = {}
        if user is not None:
            who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, "HOME": str(self.folder), "LC_ALL": "C"},
                **who,
            )


class PostgreSQL(Server):
    driver = "postgresql+psycopg"
    ends_by = signal.SIGINT  # SIGTERM would wait for its callers
    first_database = "postgres"

    def prepare(self) -> None:
        pytest.importorskip("psycopg")
        self._program = find_program("postgres", "/usr/lib/postgresql/*/bin")
        password = self.write("password", self.password)
        self.run(
            self._program.with_name("initdb"), "--pgdata", self.folder / "data", "--username=vdag",
            "--auth=scram-sha-256", f"--pwfile={password}", "--encoding=UTF8", "--no-sync",
        )  # fmt: skip
        password.unlink()

    def command(self) -> list[str | Path]:
        return [
            self._program, "-D", self.folder / "data", "-p", str(self.port), "-k", self.folder,
            "-c", "listen_addresses=127.0.0.1",
        ]  # fmt: skip

    def dropping(self, name: str) -> str:
        return f"DROP DATABASE {name} WITH (FORCE)"


class MariaDB(Server):
    driver = "mariadb+pymysql"
    first_database = "mysql"

    def prepare(self) -> None:
        pytest.importorskip("pymysql")
        self._program = find_program("mariadbd", "/usr/sbin")
        self.run(
            find_program("mariadb-install-db", "/usr/bin"), "--no-defaults",
            f"--datadir={self.folder / 'data'}", "--skip-test-db", "--skip-name-resolve",
        )  # fmt: skip
        self._users = self.write(
            "users.sql",
            f"CREATE USER IF NOT EXISTS 'vdag'@'%' IDENTIFIED BY '{self.password}';\n"
            "GRANT ALL PRIVILEGES ON *.* TO 'vdag'@'%';\n",
        )

    def command(self) -> list[str | Path]:
        return [
            self._program, "--no-defaults", f"--datadir={self.folder / 'data'}",
            f"--socket={self.folder / 'socket'}", f"--port={self.port}",
            "--bind-address=127.0.0.1", "--skip-name-resolve", f"--init-file={self._users}",
        ]  # fmt: skip


class Servers:
    """Servers that are started when somebody wants them."""

    def __init__(self) -> None:
        self._found: dict[str, Server] = {}

    def get(self, kind: str) -> Server:
        """Return a server that runs."""
        if sys.platform != "linux":
            pytest.skip("servers are started on Linux alone")
        if kind not in self._found:
            self._found[kind] = {"postgresql": PostgreSQL, "mariadb": MariaDB}[kind]()
        return self._found[kind]

    @contextlib.contextmanager
    def place(self, kind: str, folder: Path) -> Iterator[str]:
        """Yield where an empty database is: a file in a folder, or the URL of one in a server."""
        if kind == "sqlite":
            yield str(folder / "records.sqlite")
            return
        with self.get(kind).database() as url:
            yield url

    def close(self) -> None:
        """Stop them all."""
        for server in self._found.values():
            server.close()
