"""Both ends of questions and answers: a test asks, hears and answers, and waits for each."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import zmq

from vdag.transport.rpc import Question, Replier, Requester

LOOPBACK = "tcp://127.0.0.1:0"
TIMEOUT_S = 30.0


def wait_for(found: Callable[[], Any], *sockets: zmq.Socket[bytes]) -> Any:
    """Look again whenever a socket has something, until there is a result."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while (result := found()) is None:
        assert time.monotonic() < deadline_s
        zmq.zmq_poll([(each, zmq.POLLIN) for each in sockets], 20)
    return result


def hear(replier: Replier) -> Question:
    found = wait_for(replier.receive, replier.socket)
    assert isinstance(found, Question)
    return found


def answer_of(requester: Requester) -> bytes:
    found = wait_for(lambda: requester.take(time.monotonic_ns()), requester.socket)
    assert isinstance(found, bytes)
    return found


def ask(requester: Requester, body: bytes, timeout_s: float = TIMEOUT_S) -> None:
    requester.ask(body, now_ns=time.monotonic_ns(), timeout_s=timeout_s)
