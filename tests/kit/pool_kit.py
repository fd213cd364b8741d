"""A pool of real workers at an exchange, the tasks they do, and a job that sends them frames."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import zmq
from frames_kit import in_slot

from vdag.graph import Graph
from vdag.transport import codec, messages
from vdag.transport.exchange import Exchange
from vdag.transport.poison import PoisonStore
from vdag.workers import Patience, WorkerPool

TIMEOUT_S = 30.0
WIDTH, HEIGHT = 64, 48
SHAPE = (HEIGHT, WIDTH, 3)
NBYTES = HEIGHT * WIDTH * 3
#: What the first sample of a picture makes the task do.
FINE, ONCE, ALWAYS, HANG, CRASH, GATE = range(6)
#: `mood` does what its picture says; `crc` proves what it saw; `low` looks at the output of `crc`.
TASKS = """
import faulthandler, os, signal, threading, zlib
from pathlib import Path
import vdag
from vdag.engines.begun import Begun

HERE = Path(__file__).parent

class Mood:
    signature = vdag.Signature(frozenset({"image"}), frozenset({"pid"}))
    max_batch = 4

    def __init__(self, options):
        pass

    def process(self, batch):
        for inputs in batch:
            mood = inputs["image"][0, 0, 0]
            if mood == 1:
                try:
                    (HERE / "once").touch(exist_ok=False)
                except FileExistsError:
                    continue
            if mood in (1, 2):
                os.kill(os.getpid(), signal.SIGKILL)
            if mood == 3:
                threading.Event().wait()
            if mood == 4:
                faulthandler._sigsegv()
            if mood == 5:
                (HERE / "gate").read_bytes()
        return [{"pid": os.getpid()} for _ in batch]

    def close(self):
        pass

class Ahead(Mood):
    '''Like `Mood`, with two batches at work.'''

    def begin(self, batch):
        return Begun(lambda: self.process(batch))

class Place:
    signature = vdag.Signature(frozenset({"image"}), frozenset({"place"}))
    max_batch = 1

    def __init__(self, options):
        self.place = [options.model_id, options.device]
        (HERE / f"{os.getpid()}.place").write_text(options.device)

    def process(self, batch):
        return [{"place": self.place} for _ in batch]

    def close(self):
        pass

vdag.register("mood", Mood)
vdag.register("place", Place)
vdag.register("ahead", Ahead)

@vdag.task(outputs=["crc", "writeable"])
def crc(image):
    return {"crc": zlib.crc32(image.tobytes()), "writeable": bool(image.flags.writeable)}

@vdag.task(outputs=["low"])
def low(number):
    return {"low": number & 0xFF}
"""


class Job:
    """Sends frames and gets them back, as a job does."""

    def __init__(self, exchange: Exchange, context: zmq.Context) -> None:
        self.exchange = exchange
        self.home = context.socket(zmq.PULL)
        self.home.rcvtimeo = int(TIMEOUT_S * 1000)
        self.home.bind(f"ipc://{exchange.folder}/job-1")
        self.push = context.socket(zmq.PUSH)
        self.push.connect(exchange.address)
        self.sent = 0

    def join(self, graph: Graph | None = None) -> Job:
        dag = b"" if graph is None else json.dumps(graph.to_dag()).encode()
        address = f"ipc://{self.exchange.folder}/job-1"
        self.push.send(messages.encode(messages.Join("job", address, dag)))
        return self

    def send(self, pixels: np.ndarray | int, *tasks: str, model: int | None = None) -> int:
        """Send a picture, or one of a mood; return its number."""
        if isinstance(pixels, int):
            pixels = np.full(SHAPE, pixels, np.uint8)
        ref = self.exchange.arena.put(pixels, 1, TIMEOUT_S)
        assert ref is not None
        header = in_slot(ref, pixels.shape, seq=self.sent, stream=1)
        hops = (*(tasks or ("mood",)), "home")
        route = tuple(codec.Hop(task, self.exchange.address, model) for task in hops)
        self.push.send(codec.encode(codec.Descriptor(header, "job", "camera", route))[0])
        self.sent += 1
        return self.sent - 1

    def take(self) -> codec.Descriptor | messages.Dropped:
        part = self.home.recv()
        message = messages.decode(part) if messages.is_control(part) else codec.decode([part])
        assert isinstance(message, (codec.Descriptor, messages.Dropped))
        return message

    def take_all(self, count: int) -> dict[int, codec.Descriptor | messages.Dropped]:
        """Take what became of `count` frames, by their number: each exactly once."""
        taken = [self.take() for _ in range(count)]
        found = {t.seq if isinstance(t, messages.Dropped) else t.header.seq: t for t in taken}
        assert len(found) == count
        return found


class Plant:
    """An exchange with a pool, and a job."""

    def __init__(self, folder: Path, patience: Patience) -> None:
        self.folder = folder
        self.exchange = Exchange(
            folder / "node",
            classes=[(NBYTES, 64)],
            poison=PoisonStore(folder / "poison"),
        )
        self.pool = WorkerPool(self.exchange, modules=[folder / "tasks.py"], patience=patience)
        self.context = zmq.Context()
        self.job = Job(self.exchange, self.context)
        for task in ("mood", "ahead", "place", "crc", "low"):
            self.exchange.open_task(task, policy="fifo", limit=64)

    def serve(self, task: str = "mood", count: int = 1, **options) -> None:
        self.pool.add(task, count=count, **options)
        self.pool.wait_ready(task, TIMEOUT_S)

    def counts(self, task: str = "mood"):
        return self.pool.counts()[task]

    def until(self, holds: Callable[[Plant], bool]) -> None:
        """Ask until it is so; each question waits for the exchange's thread."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while not holds(self):
            assert time.monotonic() < deadline_s, (self.exchange.stats(), self.pool.counts())
            self.exchange.check()

    def settled(self) -> Counter[str]:
        """Wait until no frame is inside; check the books; return how many were dropped."""
        self.until(lambda plant: plant.exchange.stats().arena.leases == 0)
        stats = self.exchange.stats()
        assert stats.balance == 0
        assert stats.waiting == stats.outstanding == 0
        assert stats.received == self.job.sent
        self.exchange.arena.check()
        return Counter(stats.dropped)

    def close(self) -> None:
        self.pool.close()
        self.exchange.close()
        self.job.push.close(linger=0)
        self.job.home.close(linger=0)
        self.context.term()
