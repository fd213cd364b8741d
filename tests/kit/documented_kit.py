"""A node that speaks only the documented control messages: answers as the documents' nodes do."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

TIMEOUT_S = 30.0
MAX_TYPE = 17


@dataclass
class DocumentedNode:
    """Serves one request after the other, as the original does; closed by `close`.

    Attributes:
        refusal: reason that the next `init` or `start` is refused with, by action.
        drops: actions whose connection is closed without an answer.
        nonsense: actions that are answered with something else than a result.
        hold: an action waits until its event is set.
        asked: actions, in the order they came.
        blueprints: of sessions that are there.
        states: of sessions.
    """

    refusal: dict[str, str] = field(default_factory=dict)
    drops: set[str] = field(default_factory=set)
    nonsense: dict[str, bytes] = field(default_factory=dict)
    hold: dict[str, threading.Event] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    blueprints: dict[int, dict[str, Any]] = field(default_factory=dict)
    states: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        node = self
        self.arrived = threading.Semaphore(0)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer = node.answer(json.loads(body))
                if answer is None:
                    return  # the connection is closed, and nothing was said
                self.send_response(200)
                self.send_header("Content-type", "application/json")
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def answer(self, message: dict[str, Any]) -> bytes | None:
        action = message["action"]
        self.asked.append(action)
        self.arrived.release()
        if action in self.hold:
            assert self.hold[action].wait(TIMEOUT_S)
        if action in self.drops:
            return None
        if action in self.nonsense:
            return self.nonsense[action]
        reason = self.refusal.get(action) or self._act(action, message)
        found = {"result": "Failed", "reason": reason} if reason else {"result": "Succeeded"}
        return json.dumps(found).encode()

    def _act(self, action: str, message: dict[str, Any]) -> str:
        session = message["session_id"]
        state = self.states.get(session)
        if action == "init":
            if state is not None:
                return "Specified session id is being used."
            blueprint = message["blueprint"]
            assert all(0 <= each["handler_type"] <= MAX_TYPE for each in blueprint["handlers"])
            self.blueprints[session], self.states[session] = blueprint, "initialized"
            return ""
        if state is None:
            return f"Cannot find session with id {session}."
        if action == "start":
            if state != "initialized":
                return "Session has been running."
            self.states[session] = "running"
        elif action == "stop":
            if state != "running":
                return "Session is not running."
            self.states[session] = "terminated"
        elif state == "running":
            return "Please terminate session before delete."
        else:
            del self.states[session], self.blueprints[session]
        return ""

    def close(self) -> None:
        for event in self.hold.values():
            event.set()
        self._server.shutdown()
        self._thread.join(TIMEOUT_S)
        self._server.server_close()
