"""`LoneWorker`: an exchange with the worker of one task, and a camera that is its only job."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import zmq

from vdag import TaskOptions
from vdag._native import header
from vdag._native.ring import SlotRef
from vdag.transport import codec, messages
from vdag.transport.channel import open_pull, open_push
from vdag.transport.exchange import Exchange
from vdag.workers import WorkerPool

JOB = "bench"


class LoneWorker:
    """See above; closed by `close` or a `with` block. The worker has loaded when it is there.

    Args:
        folder: for the sockets.
        task: what it does.
        options: how the task is loaded.
        slots: size in bytes and number.
        batch: most frames at once.
        modules: Python files that the worker runs first.
        graph: of the job, see `messages.Dag`.
        timeout_s: for the worker to load, and for every message.
        **settings: of the task's queue, see `Exchange.open_task`.
    """

    def __init__(
        self,
        folder: Path,
        task: str,
        options: TaskOptions,
        *,
        slots: tuple[int, int],
        batch: int,
        modules: tuple[Path, ...] = (),
        graph: bytes = b"",
        timeout_s: float = 60.0,
        **settings: Any,
    ) -> None:
        self.task = task
        self.exchange = Exchange(folder, classes=[slots])
        self.pool = WorkerPool(self.exchange, modules=modules)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        home = f"ipc://{folder}/job-{JOB}"
        self._home = open_pull(home, context=self._context, depth=4096)
        self._push = open_push(self.exchange.address, context=self._context, depth=4096)
        self._push.sndtimeo = self._home.rcvtimeo = int(timeout_s * 1e3)
        self.exchange.open_task(task, **settings)
        self.pool.add(task, options, max_batch=batch)
        self.pool.wait_ready(task, timeout_s)
        self._push.send(messages.encode(messages.Join(JOB, home, graph)))
        self.sent = 0
        self.last_notice: messages.Message | None = None

    def send(self, ref: SlotRef, shape: tuple[int, ...], *, deadline_s: float = 0.0) -> None:
        """Send the frame in a slot, whose lease goes with it; without a dead-line unless given."""
        now_ns = time.monotonic_ns()
        fixed = header.Header(
            kind=header.KIND_SLOT,
            dtype=header.DTYPES.index("uint8"),
            shape=shape,
            payload_nbytes=ref.nbytes,
            slot=ref.slot,
            generation=ref.generation,
            arena=ref.arena_id,
            seq=self.sent,
            capture_ns=now_ns,
            deadline_ns=now_ns + int(deadline_s * 1e9) if deadline_s else 0,
        )
        route = (codec.Hop(self.task, self.exchange.address), codec.Hop("home", "ipc:///home"))
        self._push.send(codec.encode(codec.Descriptor(fixed, JOB, "camera", route))[0])
        self.sent += 1

    def take(self) -> codec.Descriptor | None:
        """Take what became of one frame; None if it was dropped, as `last_notice` says."""
        part = self._home.recv()
        if not messages.is_control(part):
            return codec.decode([part])
        self.last_notice = messages.decode(part)
        return None

    def close(self) -> None:
        """End the worker, then the exchange."""
        self._push.close()
        self._home.close()
        self._context.term()
        self.pool.close()
        self.exchange.close()

    def __enter__(self) -> LoneWorker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
