"""A compute service of the first system, and one that answers whatever a test wants."""

from __future__ import annotations

import ast
import queue
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from reference_server import Document, Server

from vdag import _native as native

WAIT_S = 30.0
Answer = Callable[[Document], Any]


def pixels_of(text: str) -> np.ndarray:
    """Read a picture as the original does, but for its `eval`."""
    data = ast.literal_eval(text)
    assert isinstance(data, bytes)
    return native.jpeg.decode(data)


class OldService:
    """Serves tasks by functions of the request's body; what they raise becomes a page of HTML.

    Args:
        host: where it listens.
        tasks: name to its function; it may return a status and a body.
    """

    def __init__(self, host: str = "127.0.0.1", **tasks: Answer) -> None:
        self._tasks = tasks
        self.bodies: queue.Queue[tuple[str, Document]] = queue.Queue()
        self.queries: list[str] = []
        self._server = Server(self._handle, host)
        self.endpoint = f"http://{host}:{self._server.port}"
        self.port = self._server.port

    def next_body(self) -> tuple[str, Document]:
        return self.bodies.get(timeout=WAIT_S)

    def close(self) -> None:
        self._server.close()

    def _handle(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        path, _, query = path.partition("?")  # which the original's framework does not look at
        name = path.removeprefix("/execute_task/")
        if method != "POST" or name == path:
            return 404, {}
        if name not in self._tasks:
            return 200, {"error": "unregistered services", "status": 1}
        self.queries.append(query)
        self.bodies.put((name, body))
        answer = self._tasks[name](body)
        return answer if isinstance(answer, tuple) else (200, answer)


class Gate:
    """Holds a service up until it is opened."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def open(self) -> None:
        self._event.set()

    def pass_through(self) -> None:
        assert self._event.wait(WAIT_S)
