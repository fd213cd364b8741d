"""Full load for a long time: memory, file descriptors, threads and slots stay where they are.

`soak_load` lets the load come to rest now and then to look at the slots in use, and fails if one
is missing. `VDAG_SOAK_S` says for how many seconds each load lasts: 60 if it is not set; the long
form is 1800.
What was measured is printed: the first and the last of it, and the growth that counts.
"""

from __future__ import annotations

import faulthandler
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import pytest

DURATION_S = float(os.environ.get("VDAG_SOAK_S", "60"))
LOAD = [sys.executable, str(Path(__file__).with_name("soak_load.py"))]
#: How long it may take beside that: models are loaded, processes started and ended.
START_S = 120
#: The latest of the samples: what leaked is in all of these.
TAIL = 20
#: More than what the memory of a process may grow by from the second third to the last: what
#: Python keeps for later, such as 2,000 tuples of each length, takes its time to fill.
GROWTH_NBYTES = {"messages": 1 << 20, "models": 2 << 20}


class Trace:
    """What one process used, sample after sample; `memory` is its own, in bytes."""

    def __init__(self, samples: list[list[int]]) -> None:
        self.memory, self.fds, self.threads = map(list, zip(*samples, strict=True))

    def growth_nbytes(self) -> float:
        return median(last(self.memory)) - median(middle(self.memory))

    def __str__(self) -> str:
        first, final = self.memory[0] / 2**20, self.memory[-1] / 2**20
        return (
            f"memory {first:.1f} -> {final:.1f} MiB, grows by {self.growth_nbytes() / 1024:.0f} "
            f"KiB, fds {self.fds[0]} -> {self.fds[-1]}, "
            f"threads {self.threads[0]} -> {self.threads[-1]}"
        )


def middle(values: list[int]) -> list[int]:
    return values[len(values) // 3 : 2 * len(values) // 3]


def last(values: list[int]) -> list[int]:
    return values[2 * len(values) // 3 :]


def loaded(kind: str, *clip: Path) -> dict[str, Any]:
    """Return what `soak_load` says of one load."""
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [*LOAD, kind, str(DURATION_S), *map(str, clip)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": root},
        timeout=DURATION_S + START_S,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["messages", "models"])
def test_nothing_grows_under_full_load(kind: str, carphone: Path) -> None:
    faulthandler.cancel_dump_traceback_later()  # the time-out of other tests
    found = loaded(kind, *([carphone] if kind == "models" else []))
    assert found["read"] == found["delivered"] + found["in_flight"]
    assert found["workers"] == 2 * found["tasks"]
    assert found["restarts"] == 0
    traces = {name: Trace(samples) for name, samples in found["used"].items()}
    print(f"{kind}: {found['delivered']} frames in {found['elapsed_s']:.0f} s")
    for name, trace in traces.items():
        print(f"{name}: {trace}")
    for trace in traces.values():
        assert trace.growth_nbytes() < GROWTH_NBYTES[kind]
        # A clip that begins anew takes some of both for a moment.
        assert min(trace.fds[-TAIL:]) <= median(middle(trace.fds))
        assert min(trace.threads[-TAIL:]) <= median(middle(trace.threads))
