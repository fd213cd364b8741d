"""A pipeline whose worker processes are killed again and again: its results stay as they are.

`VDAG_SOAK_SEED` repeats the deaths of an earlier run.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from vdag import Pipeline, tasks
from vdag.tasks.modules import load_module

KILLS = 30
TASKS = Path(__file__).parents[1] / "worker_tasks.py"


@pytest.fixture(autouse=True)
def registered_tasks() -> None:
    if "number" not in tasks.names():
        load_module(TASKS)


def pictures(is_enough: threading.Event) -> Iterator[np.ndarray]:
    """Yield a picture of each colour in turn, until it is enough."""
    grays = [np.full((48, 64, 3), gray, np.uint8) for gray in range(256)]
    while not is_enough.is_set():
        yield from grays


def kill_one(dice: random.Random) -> bool:
    """Kill a worker of this process, perhaps one that starts; False if none is alive."""
    try:
        children = psutil.Process().children()
        alive = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
        if alive:
            dice.choice(alive).kill()
    except psutil.NoSuchProcess:  # it is an earlier victim
        return False
    return bool(alive)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["block", "latest"])
def test_results_are_right_and_in_order_while_workers_die(policy: str) -> None:
    seed = int(os.environ.get("VDAG_SOAK_SEED", time.time_ns() % 10**9))
    print(f"VDAG_SOAK_SEED={seed}")
    dice, is_enough = random.Random(seed), threading.Event()
    kills, goal, seqs = 0, 0, []
    with Pipeline(
        ["number", "add_one", "whereabouts"],
        pictures(is_enough),
        workers=2,
        policy=policy,
        on_error="drop",
    ) as run:
        for result in run:
            seqs.append(result.seq)
            gray = result.seq % 256
            assert (result["number"]["number"], result["add_one"]["total"]) == (gray, gray + 1)
            result.drop_frame()
            if len(seqs) >= goal and kills < KILLS:
                kills += kill_one(dice)
                goal = len(seqs) + dice.randrange(100)
            elif kills == KILLS:
                is_enough.set()
        stats = run.stats()
    assert seqs == sorted(set(seqs))
    assert (stats.delivered, stats.in_flight) == (len(seqs), 0)
    assert stats.read == stats.delivered + sum(stats.dropped.values())
    assert stats.dropped.keys() <= {"block": {"poison"}, "latest": {"poison", "superseded"}}[policy]
    assert not psutil.Process().children()
