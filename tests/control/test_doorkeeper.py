"""Who comes in without a token: only those that are named."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from vdag.control.http.app import new_app
from vdag.control.http.doorkeeper import Doorkeeper

TOKEN = "correct-horse-battery"


def status(client: tuple[str, int] | None, *headers: tuple[bytes, bytes]) -> int:
    app = new_app("a door", token=TOKEN, cors=False)
    app.add_api_route("/secret", lambda: {"status": 0}, methods=["GET"])
    door = Doorkeeper(app, token=TOKEN, callers=["10.0.0.7", "192.168.1.0/24", "fe80::/10"])
    scope = {
        "type": "http", "method": "GET", "path": "/secret", "raw_path": b"/secret",
        "query_string": b"", "headers": list(headers), "client": client,
        "scheme": "http", "server": ("127.0.0.1", 80), "http_version": "1.1", "root_path": "",
    }  # fmt: skip
    found: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            found.append(message["status"])

    asyncio.run(door(scope, receive, send))
    return found[0]


@pytest.mark.parametrize("host", ["10.0.0.7", "192.168.1.200", "fe80::1", "::ffff:10.0.0.7"])
def test_those_that_are_named_come_in_whatever_they_show(host):
    assert status((host, 4711)) == 200
    assert status((host, 4711), (b"authorization", b"Bearer nonsense")) == 200


@pytest.mark.parametrize(
    "client", [None, ("10.0.0.8", 1), ("192.168.2.1", 1), ("::1", 1), ("/run/socket", 0), ("", 0)]
)
def test_everybody_else_has_to_show_the_token(client):
    assert status(client) == 401
    assert status(client, (b"x-forwarded-for", b"10.0.0.7")) == 401
    assert status(client, (b"authorization", f"Bearer {TOKEN}".encode())) == 200
