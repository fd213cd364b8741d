"""A node as a process of its own, and a caller of its service."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 60.0
MAIN = "from vdag.cli import node_main; node_main()"


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def is_over(connection: http.client.HTTPConnection) -> bool:
    """Whether the server has closed a connection meanwhile: there is something to read, its end."""
    return connection.sock is not None and bool(select.select([connection.sock], [], [], 0)[0])


class Caller:
    """Asks a node, over one connection; anew if it was idle for too long."""

    def __init__(self, url: str) -> None:
        self.place = urllib.parse.urlsplit(url).netloc
        self._connection = http.client.HTTPConnection(self.place, timeout=TIMEOUT_S)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        if is_over(self._connection):
            self._connection.close()
        self._connection.request(method, path, body, names)
        response = self._connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, found, response.read())

    def get(self, path: str, **headers: str) -> Reply:
        return self.ask("GET", path, **headers)

    def post(self, path: str, content: Any, kind: str = "application/json", **more: str) -> Reply:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        return self.ask("POST", path, body, content_type=kind, **more)

    def close(self) -> None:
        self._connection.close()


class Running:
    """A `vdag-node`; ended by SIGTERM, after which nothing may be left of it.

    Args:
        arguments: of the command; its service listens on any free port.
        section: whose address is the last that it logs, and is `url`.
        variables: of its environment.

    Attributes:
        urls: where it listens, by the sections of the settings: `service`, `cloud.live` ...
    """

    def __init__(self, *arguments: str, section: str = "service", **variables: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="vt-"))  # short: paths of sockets are
        self.process = subprocess.Popen(
            [sys.executable, "-c", MAIN, "--port", "0", "-v", *arguments],
            cwd=ROOT,
            env={**os.environ, "XDG_RUNTIME_DIR": str(self.folder), **variables},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[str] = []
        self.urls: dict[str, str] = {}
        self.url = self._wait_url(section)
        # Nobody else reads the pipe: a node that logs enough to fill it would stand still.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _wait_url(self, section: str) -> str:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r"([a-z.]+) at (http://\S+)", line):
                self.urls[found[1]] = found[2]
            if section in self.urls:
                return self.urls[section]
        raise AssertionError("".join(self.log))

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.log.extend(self.process.stderr)

    def wait(self) -> int:
        """Wait for its end, and read the rest of its log."""
        self.process.wait(TIMEOUT_S)
        self._reader.join(TIMEOUT_S)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return self.process.returncode

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        self.wait()
        with contextlib.suppress(FileNotFoundError):
            assert list(self.folder.iterdir()) == []
            self.folder.rmdir()
        return self.process.returncode
