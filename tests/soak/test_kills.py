"""The whole chain under load, while `kill -9` hits any process of it at any time.

Producers, two tasks with two workers each, the consumer that is home, and the owner of the exchange
are processes of their own. After every kill the streams have to go on. From time to time the
producers rest: then no frame may be lost without an explanation, and nothing may be left over.

The slow test kills `VDAG_SOAK_KILLS` times, 1000 unless that is set, but goes on for no more than
`VDAG_SOAK_LIMIT_S` seconds, 420 unless that is set. `VDAG_SOAK_SEED` repeats the deaths of an
earlier run.
"""

from __future__ import annotations

import faulthandler
import os
import random
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from soak_chain import TASKS, WORKERS, Chain, Kill, until
from soak_ledger import DELIVERED, OUTCOMES, STREAMS, Ledger

pytestmark = pytest.mark.slow  # as a whole

#: How long the streams may stand still after a kill: for an owner's, after it has started again.
STANDSTILL_S = 1.0
#: Of so many kills, begun, one may take longer: other programs use the machine as well.
LATE = 20
KILLS = int(os.environ.get("VDAG_SOAK_KILLS", "1000"))
LIMIT_S = float(os.environ.get("VDAG_SOAK_LIMIT_S", "420"))
#: Who dies how often. Starting an owner and its workers takes far longer than anything else.
DECK = ["worker"] * 14 + ["producer"] * 14 + ["consumer"] * 9 + ["owner"] * 3
#: How much longer than all others a frame may take that is lost, on a machine that others use.
STARVED_NS = 1_000_000_000
#: How often somebody else dies right afterwards.
AGAIN = 0.15
#: What may become of a frame beside its delivery, and whose deaths explain it.
CAUSES = {
    "unknown": {"owner", "newborn", "consumer", "producer"},
    "stale": {"owner", "newborn", "producer"},
    "poison": {"worker"},
}


class Audit:
    """Compares what a chain at rest says about the time since it last rested."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.since_ns = 0
        self.books: dict[str, Any] = {}
        self.fds: dict[str, int] = {}

    def run(self) -> None:
        """Bring the chain to rest, check everything, and let it go on."""
        chain = self.chain
        chain.rest()
        self.check_frames()
        self.check_remains()
        self.books = chain.report()
        self.since_ns = time.monotonic_ns()
        chain.kills = []
        chain.go_on()

    def check_frames(self) -> None:
        """Every frame is seen as it was sent, has one outcome, and is in everybody's books."""
        ledger, words, evidence = self.chain.ledger, self.chain.words, self.chain.evidence
        assert words["twice"] == words["wrong"] == 0
        assert not evidence.exists(), evidence.read_text()
        seqs = ledger.sent(self.since_ns)
        outcomes = ledger.outcome[seqs]
        counts = Counter({OUTCOMES[k]: int(n) for k, n in enumerate(np.bincount(outcomes)) if n})
        assert counts.total() == len(seqs)
        assert counts.keys() <= {"delivered", *CAUSES}
        assert self.chain.report()["dropped"].keys() <= CAUSES.keys()
        self.check_causes(seqs)
        if not any(kill.role == "owner" for kill in self.chain.kills):
            self.check_books(counts, len(seqs))

    def check_causes(self, seqs: np.ndarray) -> None:
        """Frames are gone only that were on their way through somebody who was killed."""
        ledger, kills = self.chain.ledger, self.chain.kills
        is_home = ledger.outcome[seqs] == DELIVERED
        took_ns = ledger.done_ns[seqs[is_home]] - ledger.sent_ns[seqs[is_home]]
        longest_ns = int(took_ns.max()) + STARVED_NS
        for seq in seqs[~is_home].tolist():
            outcome, sent_ns = OUTCOMES[ledger.outcome[seq]], int(ledger.sent_ns[seq])
            assert any(
                is_last(ledger, seqs, seq, kill)
                if kill.role == "producer"
                else kill.at_ns - longest_ns <= sent_ns <= kill.over_ns
                for kill in kills
                if kill.role in CAUSES[outcome]
            ), f"{outcome} frame {seq}, sent at {sent_ns}, took {longest_ns}, kills: {kills}"

    def check_books(self, counts: Counter[str], sent: int) -> None:
        """What the exchange says, what was sent and what came home are the same numbers."""
        now, old = self.chain.report(), self.books
        received, home, unsent = (
            now[column] - old.get(column, 0) for column in ("received", "home", "unsent")
        )
        dropped = Counter(now["dropped"]) - Counter(old.get("dropped", {}))
        roles = {kill.role for kill in self.chain.kills}
        assert now["malformed"] == now["refused"] == 0
        assert received == home + dropped.total()
        assert received == sent if "producer" not in roles else received <= sent
        if "consumer" in roles:
            assert counts["delivered"] <= home
        else:
            assert unsent == 0
            assert {"delivered": home, **dropped} == counts - Counter(unknown=counts["unknown"])
            assert counts["unknown"] == sent - received

    def check_remains(self) -> None:
        """Nothing of the dead is left: no process, no segment, no socket, no file descriptor."""
        chain = self.chain
        owner = psutil.Process(chain.owner.pid)
        workers = set(chain.report("check")["workers"].values())
        assert {process.pid for process in chain.workers()} == workers
        assert chain.children() == {chain.consumer, *chain.producers}
        assert {process.pid for process in owner.children(recursive=True)} == workers
        assert all(process.status() != psutil.STATUS_ZOMBIE for process in owner.children())
        assert len(list(Path("/dev/shm").glob(f"vdag-{chain.node}-*"))) == 1
        sockets = Counter(p.name.partition("-")[0] for p in chain.folder.iterdir() if p.is_socket())
        assert sockets == {"exchange": 1, "job": 1, "worker": len(TASKS) * WORKERS}
        self.check_fds("test", os.getpid())
        self.check_fds("nursery", chain.nursery.pid)
        self.check_fds("owner", owner.pid)
        self.check_fds("consumer", chain.consumer)
        for pid in chain.producers:
            self.check_fds("producer", pid)
        for pid in workers:
            self.check_fds("worker", pid)

    def check_fds(self, role: str, pid: int) -> None:
        """A process has no more file descriptors than the first of its kind had at first."""
        process = psutil.Process(pid)
        limit = self.fds.setdefault(role, process.num_fds())
        until(lambda: process.num_fds() <= limit)  # closed connections are noticed by a thread


def is_last(ledger: Ledger, seqs: np.ndarray, seq: int, kill: Kill) -> bool:
    """Whether a frame, and all that its producer sent after it until it was killed, are gone.

    What one process sends to another arrives in its order.
    """
    sent_ns = ledger.sent_ns[seqs]
    end = (seqs % STREAMS == kill.stream) & (seqs >= seq) & (sent_ns <= kill.at_ns)
    is_his = seq % STREAMS == kill.stream and ledger.sent_ns[seq] <= kill.dead_ns
    return bool(is_his and (ledger.outcome[seqs[end]] != DELIVERED).all())


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    with tempfile.TemporaryDirectory(prefix="vt-") as folder:  # short: paths of sockets are
        chain = Chain(Path(folder), tmp_path / "evidence")
        try:
            yield chain
            chain.close()
            assert not chain.workers()
            assert not list(Path("/dev/shm").glob(f"vdag-{chain.node}-*"))
            assert chain.owner.returncode == chain.nursery.returncode == 0
        finally:
            chain.abandon()


def roles(dice: random.Random) -> Iterator[str]:
    while True:
        yield from dice.sample(DECK, len(DECK))


def kill_under_load(chain: Chain, kills: int, *, audit_every: int, limit_s: float) -> None:
    seed = int(os.environ.get("VDAG_SOAK_SEED", time.time_ns() % 10**9))
    print(f"VDAG_SOAK_SEED={seed}")
    dice, audit = random.Random(seed), Audit(chain)
    done: list[Kill] = []
    start_s = time.monotonic()
    try:
        audit.run()
        for batch in batches(chain, dice, kills, audit_every, start_s + limit_s):
            done += batch
            audit.run()
    finally:
        print(f"{len(done)} kills in {time.monotonic() - start_s:.0f} s")
        print_summary(chain, done)
    assert len(done) >= kills // 20
    assert sum(kill.standstill_s > STANDSTILL_S for kill in done) <= len(done) // LATE + 1


def batches(
    chain: Chain, dice: random.Random, kills: int, size: int, deadline_s: float
) -> Iterator[list[Kill]]:
    """Kill, and pause after every `size` deaths, until there were enough or it is time."""
    deck = roles(dice)
    while kills > 0 and time.monotonic() < deadline_s:
        while len(chain.kills) < size and time.monotonic() < deadline_s:
            goal = chain.words["results"] + dice.randrange(60)
            until(lambda goal=goal: chain.words["results"] >= goal)
            chain.kill(next(deck), dice)
            while dice.random() < AGAIN:
                chain.kill(next(deck), dice, at_once=True)
            chain.recover()
        kills -= len(chain.kills)
        yield chain.kills


def print_summary(chain: Chain, kills: list[Kill]) -> None:
    times = defaultdict(list, {"start of an owner": chain.startups_s})
    for kill in kills:
        times[f"standstill after the kill of a {kill.role}"].append(kill.standstill_s)
        times[f"outage after the kill of a {kill.role}"].append(kill.outage_s)
    for what, values in sorted(times.items()):
        p50, p99, worst = np.quantile(values, (0.5, 0.99, 1.0))
        print(f"{what}: {len(values)} times, p50 {p50:.3f} s, p99 {p99:.3f} s, max {worst:.3f} s")
    for kill in kills:
        if kill.standstill_s > STANDSTILL_S:
            print(f"late: {kill}")
    outcomes = chain.ledger.outcome[chain.ledger.sent()]
    print({OUTCOMES[k]: int(n) for k, n in enumerate(np.bincount(outcomes)) if n})


def test_the_chain_survives_40_kills_or_12_seconds_of_them(chain: Chain) -> None:
    kill_under_load(chain, 40, audit_every=20, limit_s=12.0)


@pytest.mark.slow
def test_the_chain_survives_a_thousand_kills_or_minutes_of_them(chain: Chain) -> None:
    faulthandler.cancel_dump_traceback_later()  # the time-out of other tests
    kill_under_load(chain, KILLS, audit_every=25, limit_s=LIMIT_S)
