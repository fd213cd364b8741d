"""The processes of the soak tests, each of which may be killed at any time. Run as a script:

    python soak_actors.py nursery FOLDER          fork a producer or the consumer per line of stdin
    python soak_actors.py owner FOLDER NODE       an exchange with its workers

A nursery answers each line, "consumer" or "producer STREAM", with the pid of the child, and "bury"
with 0 when it has collected all that were dead. An owner says the name of its shared memory when
all of its workers serve, and answers each line with a line of JSON: "stats" when it has checked its
books, "check" when it has checked its memory too, at which nobody may be at work; "close" ends it.
In FOLDER are the exchange's sockets, the file `ledger`, see `soak_ledger`, and the file `arena`
with the name of the shared memory that producers are to use.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import zmq
from soak_ledger import SHAPES, STREAMS, Ledger, crc_of, paint, shape_of

from vdag._native import header as native_header
from vdag._native import ring
from vdag.errors import TransportError
from vdag.transport import codec, messages
from vdag.transport.channel import open_pull, open_push, try_send
from vdag.transport.exchange import Exchange
from vdag.transport.poison import PoisonStore
from vdag.workers import Patience, WorkerPool

JOB = "soak"
TASKS = ("verify", "verify_again")
WORKERS = 2
SLOTS = 12
#: How long a process without anything to do waits before it looks again.
NAP_S = 0.002
#: How long a producer waits for a slot before it looks around.
LOAN_S = 0.02
READY_S = 60.0
#: More than the slots let be on their way.
DEPTH = 1024
PATIENCE = Patience(start_timeout_s=READY_S, stop_timeout_s=10.0, backoff_s=0.05, max_backoff_s=0.2)
PR_SET_PDEATHSIG = 1


class Producer:
    """Sends frames of one stream, as fast as there are slots for them, to whoever owns the node."""

    def __init__(self, folder: Path, stream: int) -> None:
        self.folder, self.stream = folder, stream
        self.ledger = Ledger(folder / "ledger")
        self.address = f"ipc://{folder / 'exchange'}"
        hops = (*TASKS, "home")
        endpoints = (*[self.address] * len(TASKS), f"ipc://{folder / f'job-{JOB}'}")
        self.route = tuple(map(codec.Hop, hops, endpoints))
        self.context: zmq.Context[Any] = zmq.Context()

    def run(self) -> None:
        """Go on for ever; after every change of the owner, with its memory."""
        words = self.ledger.words
        while True:
            epoch = int(words["open"])
            try:
                arena = ring.Arena.attach((self.folder / "arena").read_text(), writable=True)
            except TransportError:  # its owner was killed since
                time.sleep(NAP_S)
                continue
            words["epochs"][self.stream] = epoch
            with arena, open_push(self.address, context=self.context, depth=DEPTH) as exchange:
                while words["open"] == epoch:
                    pause = int(words["pause"])
                    words["resting"][self.stream] = pause
                    if pause % 2 or not self.send_one(arena, exchange):
                        time.sleep(NAP_S)

    def send_one(self, arena: ring.Arena, exchange: zmq.Socket[bytes]) -> bool:
        """Send the next frame; False if there is no slot, or nobody to send to."""
        number = int(self.ledger.words["next"][self.stream])
        seq = number * STREAMS + self.stream
        shape = shape_of(seq)
        loan = arena.loan(int(np.prod(shape)), LOAN_S)
        if loan is None:
            return False
        self.ledger.words["next"][self.stream] = number + 1
        paint(np.asarray(loan), seq)
        ref = loan.commit()
        header = native_header.Header(
            kind=native_header.KIND_SLOT,
            dtype=native_header.DTYPES.index("uint8"),
            shape=shape,
            payload_nbytes=ref.nbytes,
            slot=ref.slot,
            generation=ref.generation,
            arena=ref.arena_id,
            seq=seq,
            stream=self.stream,
            capture_ns=time.monotonic_ns(),
        )
        self.ledger.sent_ns[seq] = header.capture_ns
        parts = codec.encode(codec.Descriptor(header, JOB, "soak", self.route))
        if not try_send(exchange, parts):
            self.ledger.sent_ns[seq] = 0
            ref.drop()
            return False
        return True


class Consumer:
    """The home of the job: notes what comes of every frame."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ledger = Ledger(folder / "ledger")
        self.context: zmq.Context[Any] = zmq.Context()
        self.address = f"ipc://{folder / f'job-{JOB}'}"
        self.home = open_pull(self.address, context=self.context, depth=DEPTH)

    def run(self) -> None:
        """Go on for ever; after every change of the owner, join that."""
        words = self.ledger.words
        join = messages.encode(messages.Join(JOB, self.address))
        while True:
            epoch = int(words["epoch"])
            address = f"ipc://{self.folder / 'exchange'}"
            with open_push(address, context=self.context, depth=DEPTH) as exchange:
                has_joined = False
                while words["epoch"] == epoch:
                    has_joined = has_joined or try_send(exchange, [join])
                    if self.home.poll(20 if has_joined else 1):
                        self.take(self.home.recv())

    def take(self, part: bytes) -> None:
        """Note one message."""
        words = self.ledger.words
        if not messages.is_control(part):
            found = codec.decode([part])
            seq = found.header.seq
            right = {"verify": {"crc": crc_of(seq)}, "verify_again": {"same": True}}
            words["wrong"] += any(found.context[task] != right[task] for task in TASKS)
            self.ledger.note(seq, "delivered")
            return
        message = messages.decode(part)
        if not isinstance(message, messages.Dropped):
            words["wrong"] += 1
        elif message.stream == STREAMS:
            words["fence"] = message.seq
        else:
            self.ledger.note(message.seq, message.reason)


def bury(number: int, frame: FrameType | None) -> None:
    """Collect who has ended, and tell about those that nobody has killed."""
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG)) != (0, 0):
            status = os.waitstatus_to_exitcode(found[1])
            if status != -signal.SIGKILL:
                print(f"child {found[0]} has ended with {status}", file=sys.stderr, flush=True)


def nursery(folder: Path) -> None:
    """Fork a child per line, and bury the dead at once."""
    signal.signal(signal.SIGCHLD, bury)
    for line in iter(sys.stdin.readline, ""):
        role, *arguments = line.split()
        if role == "bury":  # a signal just before a read is not noticed before its end
            bury(signal.SIGCHLD, None)
            print(0, flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            sys.stdin.close()
            if role == "consumer":
                Consumer(folder).run()
            Producer(folder, int(arguments[0])).run()
        print(pid, flush=True)


def own(folder: Path, node: str) -> None:
    """Be the owner of the node until told to close, or killed."""
    sizes = sorted({int(np.prod(shape)) for shape in SHAPES})
    classes = [(sizes[0], SLOTS), (sizes[-1], SLOTS)]
    tasks = Path(__file__).with_name("soak_tasks.py")
    poison = PoisonStore(folder / "poison")
    with (
        Exchange(folder, node=node, classes=classes, poison=poison) as exchange,
        WorkerPool(exchange, modules=[tasks], patience=PATIENCE) as pool,
    ):
        for task in TASKS:
            exchange.open_task(task, policy="fifo", limit=64)
            pool.add(task, count=WORKERS)
        for task in TASKS:
            pool.wait_ready(task, READY_S)
        print(exchange.arena.name, flush=True)
        for line in iter(sys.stdin.readline, "close\n"):
            if not line:
                break
            if line == "check\n":
                exchange.arena.check()
            print(json.dumps(_report(exchange, pool)), flush=True)


def _report(exchange: Exchange, pool: WorkerPool) -> dict[str, Any]:
    exchange.check()
    stats = exchange.stats()
    arena = stats.arena
    return {
        "received": stats.received,
        "home": stats.home,
        "dropped": dict(stats.dropped),
        "inside": stats.waiting + stats.outstanding,
        "unsent": stats.unsent,
        "jobs": stats.jobs,
        "malformed": stats.malformed,
        "refused": stats.refused,
        "free": arena.free == arena.slots and arena.leases == 0,
        "attached": arena.processes,
        "serving": {task: count.serving for task, count in pool.counts().items()},
        "restarts": sum(count.restarts for count in pool.counts().values()),
        "workers": {name: worker.pid for name, worker in stats.workers.items()},
    }


if __name__ == "__main__":
    faulthandler.enable()
    if sys.argv[1] == "nursery":
        nursery(Path(sys.argv[2]))
    else:
        own(Path(sys.argv[2]), sys.argv[3])
