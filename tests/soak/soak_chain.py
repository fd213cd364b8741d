"""`Chain`: the processes of `soak_actors`, started, killed, replaced and brought to rest."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import zmq
from soak_ledger import STREAMS, Ledger

from vdag.transport import messages
from vdag.transport.channel import open_push, try_send

ACTORS = [sys.executable, str(Path(__file__).with_name("soak_actors.py"))]
ROOT = str(Path(__file__).parents[2])
TIMEOUT_S = 60.0
#: As in `soak_actors`.
TASKS, WORKERS = ("verify", "verify_again"), 2
#: Processes that use the shared memory, the owner's own two attachments included.
ATTACHED = 2 + STREAMS + len(TASKS) * WORKERS
#: How often an owner dies before it has started.
STILLBORN = 0.25
#: As in `soak_tasks`.
EVIDENCE = "VDAG_SOAK_EVIDENCE"


@dataclass
class Kill:
    """One death.

    Attributes:
        role: of whom; a `newborn` is an owner that has not started yet, and a `worker` may be one.
        stream: of a producer.
        at_ns: when; it did nothing any more at `dead_ns`.
        pid: of a worker.
        up_ns: when an owner's successor had started, or a task that had no worker left had one
            again; 0 if neither was missing.
        over_ns: when frames of all streams had arrived that were sent after `at_ns` and `up_ns`.
    """

    role: str
    stream: int | None
    at_ns: int
    dead_ns: int = 0
    pid: int = 0
    up_ns: int = 0
    over_ns: int = 0

    @property
    def standstill_s(self) -> float:
        """How long it took until the streams went on, once they could."""
        return (self.over_ns - max(self.at_ns, self.up_ns)) / 1e9

    @property
    def outage_s(self) -> float:
        """How long it took in all, the start of a successor included."""
        return (self.over_ns - self.at_ns) / 1e9


class Chain:
    """All processes; `kills` are those since the latest rest, `startups_s` those of the owners."""

    def __init__(self, folder: Path, evidence: Path) -> None:
        self.folder, self.evidence = folder, evidence
        self.node = f"soak{os.getpid()}"
        self.ledger = Ledger(folder / "ledger", create=True)
        self.words = self.ledger.words
        self.context: zmq.Context[Any] = zmq.Context()
        self.kills: list[Kill] = []
        self.startups_s: list[float] = []
        self.nursery = self._start("nursery", str(folder))
        self.owner = self._start_owner()
        self.consumer = self._bear("consumer")
        self._open()
        self.producers = [self._bear(f"producer {stream}") for stream in range(STREAMS)]
        self.go_on()

    def report(self, question: str = "stats") -> dict[str, Any]:
        """Have the owner check its books, at `check` also its memory, and say how it does."""
        answer: dict[str, Any] = json.loads(_ask(self.owner, question))
        return answer

    def kill(self, role: str, dice: random.Random, *, at_once: bool = False) -> None:
        """Kill one of a role, and see to a successor.

        Args:
            role: of whom.
            dice: decides which one.
            at_once: do not wait until all workers serve, before one of them is killed: it may be
                one that is about to start.
        """
        kill = Kill(role, dice.randrange(STREAMS) if role == "producer" else None, 0)
        if role == "worker":
            until(lambda: self.workers() and (at_once or self._all_serve()))
            victims = sorted(process.pid for process in self.workers())
            kill.at_ns = time.monotonic_ns()
            kill.pid = dice.choice(victims)
            kill.dead_ns = _end(kill.pid)
        elif role == "owner":
            kill.at_ns = time.monotonic_ns()
            kill.dead_ns = self._end_owner()
            while dice.random() < STILLBORN:
                self._kill_newborn(dice.random() * min(self.startups_s))
            self._replace_owner()
            kill.up_ns = time.monotonic_ns()
        elif kill.stream is None:
            kill.at_ns = time.monotonic_ns()
            kill.dead_ns = _end(self.consumer)
            self.consumer = self._bear("consumer")
        else:
            kill.at_ns = time.monotonic_ns()
            kill.dead_ns = _end(self.producers[kill.stream])
            self.producers[kill.stream] = self._bear(f"producer {kill.stream}")
        self.kills.append(kill)

    def recover(self) -> None:
        """Wait until frames of every stream have arrived that were sent after the last kill."""
        waiting = [kill for kill in self.kills if not kill.over_ns]
        dead = {kill.pid for kill in waiting if kill.pid}
        until(lambda: not dead.intersection(self.report()["workers"].values()))
        up_ns = max(kill.up_ns for kill in waiting)
        if not self._all_serve(at_least=1):
            until(lambda: self._all_serve(at_least=1))
            up_ns = time.monotonic_ns()
        since_ns = max(up_ns, *(kill.at_ns for kill in waiting))
        until(lambda: self.words["latest_ns"].min() > since_ns)
        for kill in waiting:
            kill.up_ns, kill.over_ns = up_ns, time.monotonic_ns()

    def rest(self) -> None:
        """Stop the producers, and wait until no frame is anywhere and all processes are there."""
        self.words["pause"] += 1
        until(lambda: (self.words["resting"] == self.words["pause"]).all())
        until(lambda: (self.words["epochs"] == self.words["epoch"]).all())
        until(self._is_idle)
        self._fence()

    def go_on(self) -> None:
        """Let the producers work, until frames of all of them arrive."""
        self.words["pause"] += self.words["pause"] % 2
        since_ns = time.monotonic_ns()
        until(lambda: self.words["latest_ns"].min() > since_ns)

    def children(self) -> set[int]:
        """Return the pids of the producers and the consumer, the dead ones that are not gone too.

        All have been buried that were dead when this was called.
        """
        self._bear("bury")
        return {process.pid for process in psutil.Process(self.nursery.pid).children()}

    def workers(self) -> list[psutil.Process]:
        """Return all worker processes, those of a dead owner included.

        They are known by their environment, which they have from the first moment on.
        """
        mine = f"{EVIDENCE}={self.evidence}\0".encode()
        found = []
        for process in psutil.process_iter():
            try:
                environment = Path(f"/proc/{process.pid}/environ").read_bytes()
                is_worker = mine in environment and "vdag.worker" in process.cmdline()
            except (OSError, psutil.Error):  # it has ended, or is not ours to see
                continue
            if is_worker and _is_alive(process):
                found.append(process)
        return found

    def close(self) -> None:
        """End all processes; only the owner and the nursery can say how."""
        for pid in (*self.producers, self.consumer):
            _end(pid)
        self.owner.communicate("close\n", timeout=TIMEOUT_S)
        self.nursery.communicate(timeout=TIMEOUT_S)
        self.context.term()

    def abandon(self) -> None:
        """Kill what still runs: the others die with these two."""
        for process in (self.owner, self.nursery):
            process.kill()
            process.communicate(timeout=TIMEOUT_S)

    def _start(self, *arguments: str) -> subprocess.Popen[str]:
        environment = {
            "PYTHONPATH": ROOT,
            "OPENBLAS_NUM_THREADS": "1",
            EVIDENCE: str(self.evidence),
        }
        return subprocess.Popen(
            [*ACTORS, *arguments],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _start_owner(self) -> subprocess.Popen[str]:
        start_s = time.monotonic()
        owner = self._start("owner", str(self.folder), self.node)
        assert owner.stdout is not None
        self.arena = owner.stdout.readline().strip()
        assert self.arena, f"the owner has ended with {owner.wait(TIMEOUT_S)}"
        self.words["epoch"] += 1
        self.startups_s.append(time.monotonic() - start_s)
        return owner

    def _end_owner(self) -> int:
        """Kill the owner, and see its workers go with it, which nobody else tells to."""
        self.owner.kill()
        self.owner.communicate(timeout=TIMEOUT_S)
        until(lambda: not self.workers())
        return time.monotonic_ns()

    def _kill_newborn(self, age_s: float) -> None:
        """Start an owner, and kill it before it is ready."""
        self.owner = self._start("owner", str(self.folder), self.node)
        time.sleep(age_s)
        self.kills.append(Kill("newborn", None, time.monotonic_ns()))
        self.kills[-1].dead_ns = self._end_owner()

    def _replace_owner(self) -> None:
        self.owner = self._start_owner()
        self._open()

    def _open(self) -> None:
        """Let the producers in when the job has joined: frames that come earlier are strays."""
        until(lambda: self.report()["jobs"] == 1)
        (self.folder / "arena.new").write_text(self.arena)
        os.replace(self.folder / "arena.new", self.folder / "arena")
        self.words["open"] = self.words["epoch"]

    def _bear(self, line: str) -> int:
        return int(_ask(self.nursery, line))

    def _is_idle(self) -> bool:
        report = self.report()
        return bool(
            report["inside"] == 0
            and report["free"]
            and report["attached"] == ATTACHED
            and self._all_serve()
        )

    def _all_serve(self, at_least: int = WORKERS) -> bool:
        """Whether so many workers of every task serve."""
        return bool(min(self.report()["serving"].values()) >= at_least)

    def _fence(self) -> None:
        """Send a notice through the exchange, and wait until it came home, behind all others."""
        number = int(self.words["fence"]) + 1
        address = f"ipc://{self.folder / 'exchange'}"
        fence = messages.Dropped("soak", STREAMS, number, 0, "home", "closed", address)
        with open_push(address, context=self.context, depth=1) as push:
            until(lambda: try_send(push, [messages.encode(fence)]))
            until(lambda: self.words["fence"] == number)


def until(condition: Callable[[], Any]) -> None:
    """Look again and again until it is so."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.0005)


def _ask(process: subprocess.Popen[str], line: str) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return process.stdout.readline()


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _end(pid: int) -> int:
    """Kill a process that others reap; return when it does nothing any more."""
    process = psutil.Process(pid)
    process.send_signal(signal.SIGKILL)
    until(lambda: not _is_alive(process))
    return time.monotonic_ns()
