"""A worker process, with the test in the place of its exchange and its parent."""

from __future__ import annotations

import os
import select
from pathlib import Path

import numpy as np
import zmq
from frames_kit import in_slot

from vdag._native import header as native_header
from vdag._native.ring import Arena
from vdag.child import Child, WorkerSettings
from vdag.transport import codec, messages

TIMEOUT_MS = 30_000
SHAPE = (8, 6, 3)


class Desk:
    """The test's end of the sockets, and the shared memory.

    Args:
        folder: where the sockets are, and the tasks in `tasks.py`.
        slot_nbytes: of the shared memory's slots.
    """

    def __init__(self, folder: Path, *, slot_nbytes: int = 4096) -> None:
        self.folder = folder
        self.arena = Arena.create("test", [(slot_nbytes, 16)])
        self.context = zmq.Context()
        self.inbox = self.context.socket(zmq.PULL)
        self.inbox.rcvtimeo = TIMEOUT_MS
        self.inbox.bind(f"ipc://{folder}/exchange")
        self.outlet = self.context.socket(zmq.PUSH)
        self.outlet.connect(f"ipc://{folder}/worker")
        self.children: list[Child] = []

    def settings(self, task: str = "pairs", **fields) -> WorkerSettings:
        return WorkerSettings(
            **{
                "worker": "w",
                "task": task,
                "token": "secret",
                "exchange": f"ipc://{self.folder}/exchange",
                "address": f"ipc://{self.folder}/worker",
                "arena": self.arena.name,
                "parent": os.getpid(),
                "modules": (str(self.folder / "tasks.py"),),
                **fields,
            }
        )

    def start(self, task: str = "pairs", **fields) -> Child:
        child = Child(self.settings(task, **fields))
        self.children.append(child)
        return child

    def take(self):
        return messages.decode(self.inbox.recv())

    def greet(self, child: Child, credit: int = 4) -> None:
        assert self.take() == messages.Hello("w", "secret", child.pid)
        assert self.take() == messages.Ready("w", "secret", credit + 1, credit)

    def part(self, seq: int, value: int, task: str = "pairs", **fields) -> bytes:
        return self.picture(seq, np.full(SHAPE, value, np.uint8), task, **fields)

    def picture(
        self, seq: int, pixels: np.ndarray, task: str, model: int | None = None, **fields
    ) -> bytes:
        """Put a picture into a slot; return its descriptor."""
        ref = self.arena.put(pixels)
        assert ref is not None
        header = in_slot(ref, pixels.shape, seq=seq)
        route = (codec.Hop(task, "ipc:///x", model), codec.Hop("home", "ipc:///x"))
        return codec.encode(codec.Descriptor(header, "job", "camera", route, **fields))[0]

    def send(self, message: messages.Message) -> None:
        self.outlet.send(messages.encode(message))

    def give(self, number: int, *values: int, task: str = "pairs", **fields) -> None:
        parts = [self.part(seq, value, task) for seq, value in enumerate(values)]
        self.send(messages.Batch(number, parts, **fields))

    def end(self, child: Child, status: int):
        """Wait until a worker has ended, and return what is known about that."""
        assert select.select([child.exit_fd], [], [], TIMEOUT_MS / 1000)[0]
        self.children.remove(child)
        ending = child.reap()
        assert ending.status == status, ending
        return ending

    def close(self) -> None:
        for child in self.children:
            child.kill()
            child.reap()
        self.inbox.close(linger=0)
        self.outlet.close(linger=0)
        self.context.term()
        self.arena.close()


def found(answer: messages.Found | messages.Failure) -> dict:
    assert isinstance(answer, messages.Found), answer
    header = native_header.Header(context_nbytes=len(answer.context), route_nbytes=8)
    return codec.decode(
        [native_header.pack(header) + b"\4\0\0\0\x93\xa0\xa0\x90" + answer.context]
    ).context
