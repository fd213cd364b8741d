"""The whole chain under load, while `kill -9` hits any process of it at any time.

Producers, two tasks with two workers each, the consumer that is home, and the owner of the exchange
are processes of their own. After every kill the stream has to go on. From time to time the
producers rest: then nothing may be lost without an explanation, and nothing may be left over.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import zmq
from soak_ledger import DELIVERED, OUTCOMES, STREAMS, UNKNOWN, Ledger

from vdag.transport import messages
from vdag.transport.channel import open_push, try_send

ACTORS = [sys.executable, str(Path(__file__).with_name("soak_actors.py"))]
ROOT = str(Path(__file__).parents[2])
TIMEOUT_S = 60.0
#: How long a stream may stand still after a kill.
STANDSTILL_S = 1.0
#: What dies how often. Starting an owner and its workers takes far longer than anything else.
ODDS = {"worker": 35, "producer": 35, "consumer": 22, "owner": 8}
#: A second process dies right after the first.
DOUBLE = 0.1
#: The owner's attachments to its own memory.
OWN_ATTACHMENTS = 2
TASKS, WORKERS = ("verify", "verify_again"), 2


@dataclass
class Kill:
    """One death: of whom, when, and when frames sent after it arrived again."""

    role: str
    at_ns: int
    stream: int | None = None
    over_ns: int = 0


class Chain:
    """The processes, and what is known of them."""

    def __init__(self, folder: Path, evidence: Path) -> None:
        self.folder = folder
        self.evidence = evidence
        self.node = f"soak{os.getpid()}"
        self.ledger = Ledger(folder / "ledger", create=True)
        self.words = self.ledger.words
        self.environment = {
            **os.environ,
            "PYTHONPATH": ROOT,
            "OPENBLAS_NUM_THREADS": "1",
            "VDAG_SOAK_EVIDENCE": str(evidence),
        }
        self.context: zmq.Context[Any] = zmq.Context()
        self.kills: list[Kill] = []
        self.startups_s: list[float] = []
        self.fds: dict[str, int] = {}
        self.epoch_start = 0
        self.books: dict[str, Any] = {}
        self.nursery = self.start("nursery", str(folder))
        self.owner = self.start_owner()
        self.consumer = self.bear("consumer")
        self.producers = [self.bear(f"producer {stream}") for stream in range(STREAMS)]

    # ---- processes ----

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*ACTORS, *arguments],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start_owner(self) -> subprocess.Popen[str]:
        start_s = time.monotonic()
        owner = self.start("owner", str(self.folder), self.node)
        assert owner.stdout is not None
        assert owner.stdout.readline() == "ready\n"
        self.words["epoch"] += 1
        self.startups_s.append(time.monotonic() - start_s)
        return owner

    def bear(self, line: str) -> int:
        return int(ask(self.nursery, line))

    def report(self) -> dict[str, Any]:
        """Have the owner check everything and say how it does."""
        answer: dict[str, Any] = json.loads(ask(self.owner, "stats"))
        return answer

    # ---- deaths ----

    def kill_one(self, dice: random.Random) -> None:
        """Let frames go round, kill somebody, and wait until frames arrive that were sent since."""
        goal = self.words["results"] + dice.randrange(60)
        until(lambda: self.words["results"] >= goal)
        kills = [self.kill(dice)]
        if dice.random() < DOUBLE:
            kills.append(self.kill(dice))
        self.recover(kills)
        self.kills += kills

    def kill(self, dice: random.Random) -> Kill:
        [role] = dice.choices(list(ODDS), list(ODDS.values()))
        kill = Kill(role, time.monotonic_ns())
        if role == "owner":
            self.kill_owner()
            kill.at_ns = time.monotonic_ns()  # it has a start-up time of its own
        elif role == "worker":
            until(lambda: all(n >= WORKERS for n in self.report()["serving"].values()))
            workers = list(self.report()["workers"].values())
            kill.at_ns = time.monotonic_ns()
            end(dice.choice(workers))
        elif role == "consumer":
            end(self.consumer)
            self.consumer = self.bear("consumer")
        else:
            kill.stream = dice.randrange(STREAMS)
            end(self.producers[kill.stream])
            self.producers[kill.stream] = self.bear(f"producer {kill.stream}")
        return kill

    def kill_owner(self) -> None:
        """Kill the owner, see its workers go with it, and start another."""
        family = psutil.Process(self.owner.pid).children(recursive=True)
        self.owner.kill()
        self.owner.communicate(timeout=TIMEOUT_S)
        until(lambda: not any(is_alive(process) for process in family))
        self.owner = self.start_owner()
        self.books = {}

    def recover(self, kills: list[Kill]) -> None:
        """Note when frames of every stream, sent after the last of these kills, have arrived."""
        since_ns = max(kill.at_ns for kill in kills)
        until(lambda: self.words["latest_ns"].min() > since_ns)
        for kill in kills:
            kill.over_ns = time.monotonic_ns()

    # ---- quiet points ----

    def rest(self) -> None:
        """Stop the producers, wait until nothing is on its way, check all, and go on."""
        self.words["pause"] += 1
        assert self.words["pause"] % 2
        until(lambda: (self.words["resting"] == self.words["pause"]).all())
        until(lambda: (self.words["epochs"] == self.words["epoch"]).all())
        until(self.is_idle)
        self.fence()
        self.check_frames()
        self.check_remains()
        self.words["pause"] += 1
        self.kills = []
        self.epoch_start = self.ledger.end
        self.books = self.report()
        since_ns = time.monotonic_ns()
        until(lambda: self.words["latest_ns"].min() > since_ns)

    def is_idle(self) -> bool:
        """Whether all workers serve, and no frame and no lease is anywhere."""
        report = self.report()
        attached = OWN_ATTACHMENTS + STREAMS + len(TASKS) * WORKERS
        return (
            report["inside"] == 0
            and report["free"]
            and report["attached"] == attached
            and report["serving"] == dict.fromkeys(TASKS, WORKERS)
        )

    def fence(self) -> None:
        """Send a notice through the exchange, and wait until it came home behind all others."""
        number = int(self.words["fence"]) + 1
        address = f"ipc://{self.folder / 'exchange'}"
        fence = messages.Dropped("soak", STREAMS, number, 0, "home", "closed", address)
        with open_push(address, context=self.context, depth=1) as push:
            until(lambda: try_send(push, [messages.encode(fence)]))
            until(lambda: self.words["fence"] == number)

    def check_frames(self) -> None:
        """Account for every frame that was sent since the last quiet point."""
        ledger, words = self.ledger, self.words
        assert words["twice"] == words["wrong"] == 0
        assert not self.evidence.exists(), self.evidence.read_text()
        seqs = ledger.sent(self.epoch_start, ledger.end)
        outcomes = ledger.outcome[seqs]
        counts = Counter({OUTCOMES[k]: int(n) for k, n in enumerate(np.bincount(outcomes)) if n})
        lost = seqs[outcomes == UNKNOWN]
        assert len(seqs) == counts.total()
        assert not counts["failed"] + counts["unreadable"] + counts["full"] + counts["stray"]
        self.check_lost(lost, seqs[outcomes == DELIVERED])
        if not any(kill.role == "owner" for kill in self.kills):
            self.check_books(counts, len(seqs))

    def check_lost(self, lost: np.ndarray, delivered: np.ndarray) -> None:
        """Only frames that were on their way through somebody killed may have got lost there."""
        ledger = self.ledger
        longest_ns = int((ledger.done_ns[delivered] - ledger.sent_ns[delivered]).max())
        for seq in lost.tolist():
            sent_ns = int(ledger.sent_ns[seq])
            assert any(
                kill.at_ns - self.gap_ns(kill) - longest_ns <= sent_ns <= kill.over_ns
                for kill in self.kills
                if kill.role in ("owner", "consumer") or kill.stream == seq % STREAMS
            ), (seq, sent_ns, self.kills)

    def gap_ns(self, kill: Kill) -> int:
        """Return how long before `at_ns` the process really died."""
        return int(max(self.startups_s) * 2e9) if kill.role == "owner" else 0

    def check_books(self, counts: Counter[str], sent: int) -> None:
        """Compare what the exchange says with what was sent, and with what came home."""
        report, old = self.report(), self.books
        received = report["received"] - old.get("received", 0)
        home = report["home"] - old.get("home", 0)
        dropped = Counter(report["dropped"]) - Counter(old.get("dropped", {}))
        unsent = report["unsent"] - old.get("unsent", 0)
        assert received == home + dropped.total()
        roles = {kill.role for kill in self.kills}
        if "producer" not in roles:
            assert sent == received
        if "consumer" not in roles:
            assert unsent == 0
            assert counts["delivered"] == home
            assert {reason: counts[reason] for reason in dropped} == dropped
            assert sent - received == counts["unknown"]
        assert counts["delivered"] <= home
        assert received <= sent
        assert report["malformed"] == report["refused"] == 0

    def check_remains(self) -> None:
        """Nothing of the dead is left: no process, no segment, no socket, no file descriptor."""
        nursery, owner = psutil.Process(self.nursery.pid), psutil.Process(self.owner.pid)
        assert {p.pid for p in nursery.children()} == {self.consumer, *self.producers}
        workers = set(self.report()["workers"].values())
        assert {process.pid for process in owner.children(recursive=True)} == workers
        assert all(process.status() != psutil.STATUS_ZOMBIE for process in owner.children())
        assert len(list(Path("/dev/shm").glob(f"vdag-{self.node}-*"))) == 1
        sockets = Counter(p.name.partition("-")[0] for p in self.folder.iterdir() if p.is_socket())
        assert sockets == {"exchange": 1, "job": 1, "worker": len(TASKS) * WORKERS}
        self.check_fds("test", os.getpid())
        self.check_fds("nursery", self.nursery.pid)
        self.check_fds("owner", self.owner.pid)
        self.check_fds("consumer", self.consumer)
        for pid in self.producers:
            self.check_fds("producer", pid)
        for pid in workers:
            self.check_fds("worker", pid)

    def check_fds(self, role: str, pid: int) -> None:
        """A process has as many file descriptors as the first of its kind had at first."""
        process = psutil.Process(pid)
        limit = self.fds.setdefault(role, process.num_fds())
        until(lambda: process.num_fds() <= limit)

    def close(self) -> None:
        for pid in (*self.producers, self.consumer):
            end(pid)
        self.owner.communicate("close\n", timeout=TIMEOUT_S)
        self.nursery.communicate(timeout=TIMEOUT_S)
        self.context.term()


def ask(process: subprocess.Popen[str], line: str) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return process.stdout.readline()


def until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.0005)


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end(pid: int) -> None:
    """Kill a process that others reap, and wait until it does nothing any more."""
    process = psutil.Process(pid)
    process.send_signal(signal.SIGKILL)
    until(lambda: not is_alive(process))


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    folder = Path(tempfile.mkdtemp(prefix="vt-"))  # short: paths of sockets are
    chain = Chain(folder, tmp_path / "evidence")
    try:
        yield chain
        chain.close()
        assert not list(Path("/dev/shm").glob(f"vdag-{chain.node}-*"))
        assert chain.owner.returncode == chain.nursery.returncode == 0
    finally:
        for process in (chain.owner, chain.nursery):
            process.kill()
            process.communicate(timeout=TIMEOUT_S)
        shutil.rmtree(folder)


def kill_under_load(chain: Chain, kills: int, seed: int, *, at_once: int, limit_s: float) -> None:
    print(f"VDAG_SOAK_SEED={seed}")
    dice = random.Random(seed)
    deadline_s = time.monotonic() + limit_s
    recoveries: dict[str, list[float]] = defaultdict(list)
    until(lambda: chain.words["latest_ns"].min() > 0)
    chain.rest()
    done = 0
    while done < kills and time.monotonic() < deadline_s:
        for _ in range(at_once):
            chain.kill_one(dice)
        for kill in chain.kills:
            recoveries[kill.role].append((kill.over_ns - kill.at_ns) / 1e9)
        done += len(chain.kills)
        chain.rest()
    report(chain, recoveries)
    assert all(statistics.median(times) < STANDSTILL_S for times in recoveries.values())


def report(chain: Chain, recoveries: dict[str, list[float]]) -> None:
    for role, times in sorted(recoveries.items()):
        print(f"{role}: {len(times)}, p50 {statistics.median(times):.3f} s, max {max(times):.3f} s")
    print(
        f"start of an owner: p50 {statistics.median(chain.startups_s):.2f} s, "
        f"max {max(chain.startups_s):.2f} s"
    )
    seqs = chain.ledger.sent(0, chain.ledger.end)
    counts = np.bincount(chain.ledger.outcome[seqs], minlength=len(OUTCOMES))
    print({OUTCOMES[k]: int(n) for k, n in enumerate(counts) if n})


def the_seed() -> int:
    return int(os.environ.get("VDAG_SOAK_SEED", time.time_ns() % 10**9))


def test_the_chain_survives_40_kills(chain: Chain) -> None:
    kill_under_load(chain, 40, the_seed(), at_once=10, limit_s=60.0)


@pytest.mark.slow
def test_the_chain_survives_1000_kills(chain: Chain) -> None:
    kill_under_load(chain, 1000, the_seed(), at_once=20, limit_s=480.0)
