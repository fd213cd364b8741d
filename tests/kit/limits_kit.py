"""Processes to be limited, and what this machine has."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import psutil

#: Nobody else's groups are counted, or removed, when tests run side by side.
PREFIX = f"vdagtest{os.getpid()}"
TOTAL = psutil.virtual_memory().total
CORES = tuple(sorted(os.sched_getaffinity(0)))

WAITING = "input()"
MIB = 2**20
#: On a line of input, take so many bytes and touch them, and say so.
EATER = "import sys\nfor line in sys.stdin: held = b'x' * int(line); print(len(held), flush=True)"

Start = Callable[[str], "subprocess.Popen[str]"]


def eat(child: subprocess.Popen[str], nbytes: int) -> str:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(f"{nbytes}\n")
    child.stdin.flush()
    return child.stdout.readline().strip()
