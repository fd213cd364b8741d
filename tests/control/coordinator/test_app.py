"""The coordinator over REST."""

from __future__ import annotations

import http.client
import json
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from coordinator_kit import TIMEOUT_S, End, capture, handler, link, node, service

from vdag.config.conf import DatabaseConf
from vdag.control.coordination.types import HANDLER_TYPES
from vdag.control.coordinator import Coordinator, CoordinatorConf

pytestmark = pytest.mark.slow  # as a whole

TOKEN = "correct-horse-battery"
FILES = (node(1, "camera", port=6001), node(2, "far", port=9000, speaks="http"))
CHAIN = service([capture(node_id=1), handler(1, 4, node_id=1)], [link(0, 1)], algorithm="static")


class Desk:
    """A coordinator that serves from a thread, and somebody who asks it."""

    def __init__(self, stack: ExitStack, folder: Path, token: str = "") -> None:
        conf = CoordinatorConf(
            FILES,
            HANDLER_TYPES,
            (CHAIN,),
            DatabaseConf(url=str(folder / "records.db")),
            port=0,
            token=token,
            channel="tcp://127.0.0.1:0",
        )
        self.coordinator = stack.enter_context(Coordinator(conf))
        thread = threading.Thread(target=self.coordinator.serve)
        thread.start()
        stack.callback(thread.join, TIMEOUT_S)
        stack.callback(self.coordinator.stop)
        self.headers = {"authorization": f"Bearer {token}"} if token else {}

    def ask(self, method: str, path: str, content: Any = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.coordinator.port, timeout=TIMEOUT_S
        )
        try:
            body = None if content is None else json.dumps(content).encode()
            connection.request(method, path, body, self.headers)
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())
        finally:
            connection.close()


@pytest.fixture
def desk(stack: ExitStack, tmp_path: Path) -> Desk:
    found = Desk(stack, tmp_path)
    end = End(found.coordinator.controller.channel, "camera", 6001, "edge")
    stack.callback(end.close)
    waiting = threading.Event()
    while not found.ask("GET", "/node")[1]["nodes"][0]["is_there"]:
        waiting.wait(0.01)
    return found


def test_a_session_is_created_started_stopped_and_deleted(desk: Desk):
    status, found = desk.ask("POST", "/session", {"service": "chain", "name": "gate"})
    assert (status, found["state"], found["nodes"]) == (200, "initialized", [1])
    assert found["session_id"] == 1
    assert desk.ask("POST", "/session/1/start")[1]["state"] == "running"
    assert [each["state"] for each in desk.ask("GET", "/session")[1]["sessions"]] == ["running"]
    assert desk.ask("POST", "/session/1/stop")[1]["state"] == "stopped"
    assert desk.ask("GET", "/session/1")[1]["session_name"] == "gate"
    assert desk.ask("DELETE", "/session/1")[1]["state"] == "deleted"
    assert desk.ask("GET", "/session/1") == (
        404,
        {"status": 1, "error": "session 1 is not known"},
    )


def test_a_session_starts_at_once_if_it_is_told_to(desk: Desk):
    status, found = desk.ask("POST", "/session", {"service": 0, "start": True})
    assert (status, found["state"]) == (200, "running")
    status, found = desk.ask("GET", "/session/1/placement")
    assert (status, found["nodes"], found["algorithm"]) == (200, {"0": 1, "1": 1}, "static")
    assert found["delay_s"] == pytest.approx(sum(part["seconds"] for part in found["parts"]))


def test_the_files_are_shown(desk: Desk):
    nodes = desk.ask("GET", "/node")[1]["nodes"]
    assert [(each["node_id"], each["speaks"], each["node_channel_addr"]) for each in nodes] == [
        (1, "vdag", "127.0.0.1:6001"),
        (2, "http", ""),
    ]
    (found,) = desk.ask("GET", "/service")[1]["services"]
    assert [each["handler_type"] for each in found["handlers"]] == [2, 4]
    assert desk.ask("GET", "/algorithm") == (
        200,
        {"algorithms": ["static", "greedy", "min_delay", "policy"]},
    )
    assert desk.ask("GET", "/healthz") == (200, {"status": 0})


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "error"),
    [
        ("POST", "/session", {"service": "none"}, 404, "service 'none' is of no service file"),
        ("POST", "/session", {"service": 0, "algorithm": "best"}, 400, "algorithm is 'best'"),
        ("POST", "/session", {"service": 0, "placement": {"1": 2}}, 422, "handler 1 resize is on"),
        ("POST", "/session", {}, 400, "body is malformed: "),
        ("POST", "/session?wait_s=1e9", {"service": 0}, 400, "wait_s is '1e9', expected 0 to 120"),
        ("POST", "/session/9/start", None, 404, "session 9 is not known"),
        ("DELETE", "/session/9", None, 404, "session 9 is not known"),
        ("GET", "/session/x", None, 422, "request is malformed"),
    ],
)
def test_what_cannot_be_is_refused(desk: Desk, method, path, content, status, error):
    found = desk.ask(method, path, content)
    assert found[0] == status, found
    assert found[1]["error"].startswith(error)
    assert desk.ask("GET", "/session")[1] == {"sessions": []}


def test_what_makes_no_sense_now_is_a_conflict(desk: Desk):
    desk.ask("POST", "/session", {"service": 0})
    assert desk.ask("POST", "/session/1/stop") == (
        409,
        {"status": 1, "error": "session 1: state initialized takes no stop"},
    )


def test_callers_show_the_token(stack: ExitStack, tmp_path: Path):
    desk = Desk(stack, tmp_path, TOKEN)
    assert desk.ask("GET", "/session") == (200, {"sessions": []})
    desk.headers = {}
    assert desk.ask("GET", "/session")[0] == 401
    assert desk.ask("GET", "/healthz")[0] == 200


def test_it_describes_itself(desk: Desk):
    status, found = desk.ask("GET", "/openapi.json")
    assert status == 200
    assert set(found["paths"]) == {
        "/session",
        "/session/{session_id}",
        "/session/{session_id}/start",
        "/session/{session_id}/stop",
        "/session/{session_id}/placement",
        "/node",
        "/service",
        "/algorithm",
        "/healthz",
        "/readyz",
        "/metrics",
    }
