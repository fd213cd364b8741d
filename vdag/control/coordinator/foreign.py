"""`ForeignNodes`: sessions on nodes that speak only the documented messages.

    POST /  {"action": "init", "session_id": 0, "blueprint": {"handlers": [...], "links": [...]}}
    POST /  {"action": "start" | "stop" | "delete", "session_id": 0}
    200     {"result": "Succeeded"}  or  {"result": "Failed", "reason": "..."}

Such a node answers an `init` when its handlers have loaded, within thirty seconds, and a `stop`
when they have ended, within ten, and answers nobody else meanwhile. It is asked once: a message
that may have arrived is not sent again. All nodes of a session are asked at the same time, for a
pair of tx and rx over TCP waits for both.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import msgspec

from vdag.control.coordination.values import Node
from vdag.control.coordinator.steps import Step
from vdag.control.rest.caller import Caller, Reply
from vdag.errors import ConfigError, VdagError

__all__ = ["ForeignNodes", "read_result"]

logger = logging.getLogger(__name__)

#: Messages that are under way at a time.
THREADS = 32
#: A node that has just ended a session's handlers may say so of a `delete` that comes then.
WAIT = "Please wait for Session terminated."
WAIT_INTERVAL_S = 0.25
MAX_REPLY_NBYTES = 1 << 20
MAX_REASON = 1_000


class ForeignNodes:
    """See above; any thread may call it. Closed by `close` or a `with` block."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="vdag-foreign")
        self._lock = threading.Lock()
        self._callers: set[Caller] = set()
        self._closing = threading.Event()

    def order(
        self,
        node: Node,
        session_id: int,
        step: Step,
        *,
        timeout_s: float,
        blueprint: Mapping[str, Any] | None = None,
    ) -> Future[str]:
        """Have a node take a step; the result is why it has not, empty if it has.

        Args:
            node: which; its port must be known.
            session_id: of the session.
            step: that it is to take.
            timeout_s: for the whole of it.
            blueprint: of an `init`.
        """
        message: dict[str, Any] = {"action": step, "session_id": session_id}
        if blueprint is not None:
            message["blueprint"] = blueprint
        return self._pool.submit(self._ask, node, message, timeout_s)

    def close(self) -> None:
        """Have what is under way fail, and end the threads."""
        self._closing.set()
        with self._lock:
            for caller in self._callers:
                caller.abort()
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> ForeignNodes:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _ask(self, node: Node, message: Mapping[str, Any], timeout_s: float) -> str:
        deadline_s = time.monotonic() + timeout_s
        while True:
            reason = self._post(node, message, max(deadline_s - time.monotonic(), 0.01))
            must_wait = reason == WAIT and message["action"] == "delete"
            if not must_wait or time.monotonic() + WAIT_INTERVAL_S >= deadline_s:
                return reason
            if self._closing.wait(WAIT_INTERVAL_S):
                return "the coordinator is closed"

    def _post(self, node: Node, message: Mapping[str, Any], timeout_s: float) -> str:
        try:
            with self._lock:
                if self._closing.is_set():
                    return "the coordinator is closed"
                caller = Caller(_place(node), timeout_s=timeout_s, max_nbytes=MAX_REPLY_NBYTES)
                self._callers.add(caller)
            try:
                return read_result(caller.post("/", msgspec.json.encode(message)))
            finally:
                with self._lock:
                    self._callers.discard(caller)
                caller.close()
        except VdagError as err:
            logger.info("node %d: %s: %s", node.node_id, message["action"], err)
            return str(err)


def read_result(reply: Reply) -> str:
    """Return why a node has not done what it was told, empty if it has.

    Raises:
        FrameFormatError: the reply is no JSON object.
    """
    found = reply.object()
    result, reason = found.get("result"), found.get("reason")
    if result == "Succeeded" and reply.is_good:
        return ""
    if result == "Failed":
        return str(reason)[:MAX_REASON] if reason else "it has failed, and does not say why"
    return f"it answers {reply}, which is no result"


def _place(node: Node) -> str:
    if not node.port:
        raise ConfigError(f"node {node.node_id} {node.name} has no node_port to send orders to")
    host = f"[{node.addr}]" if ":" in node.addr else node.addr
    return f"{host}:{node.port}"


#: Whoever has an answer at some time; None until then.
Probe = Callable[[], "str | None"]
