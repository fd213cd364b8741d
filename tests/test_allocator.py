"""Memory that is freed and wanted again stays in the process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

import vdag
from vdag.allocator import VARIABLES

ROUNDS, NBYTES = 50, 6 << 20
#: Prints the page faults per round of a thread that allocates, fills and frees what a hop does.
SCRIPT = f"""
import resource, threading
from vdag.allocator import keep_memory
KEEP
def work():
    for _ in range({ROUNDS}):
        pieces = [bytes([1]) * {NBYTES} for _ in range(3)]
        del pieces
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def run():
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
before = faults()
run()
print((faults() - before) // {ROUNDS})
"""


glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")


def faults(keep: str, **variables: str) -> int:
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("KEEP", keep)],
        cwd=Path(vdag.__file__).parents[1],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return int(process.stdout.split()[-1])


@glibc
def test_memory_is_not_fetched_from_the_kernel_again_and_again():
    pages = 3 * NBYTES // os.sysconf("SC_PAGE_SIZE")
    assert faults("assert keep_memory() and keep_memory()") < pages / 10


@glibc
@pytest.mark.parametrize("name", VARIABLES)
def test_what_the_user_has_set_stays(name):
    value = "glibc.malloc.trim_threshold=1048576" if name == "GLIBC_TUNABLES" else "1048576"
    assert faults("assert not keep_memory()", **{name: value}) >= 0
