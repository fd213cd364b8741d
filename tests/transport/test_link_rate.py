"""What a node knows of a link whose rate changes: two hosts in network namespaces, and `tc`.

A drop is to be known 3 s later where frames flow, and 12 s later where nothing is sent.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hosts_kit import Hosts, reason_to_skip

import vdag
from vdag.transport.keys import KeyFolder

NODE = Path(__file__).with_name("link_rate_node.py")
TIMEOUT_S = 90.0
MBIT = 125_000.0
TOLERANCE = 0.3


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    if reason := reason_to_skip():
        pytest.skip(reason)
    if shutil.which("tc") is None:
        pytest.skip("tc is not installed")
    hosts = Hosts(2)
    yield hosts
    hosts.close()


@pytest.fixture
def start(hosts: Hosts, tmp_path: Path) -> Iterator[Any]:
    """Start the node that takes frames, and one that does as it is told towards it."""
    here, there = KeyFolder(tmp_path / "here"), KeyFolder(tmp_path / "there")
    here.trust("there", there.new("there").public)
    there.trust("here", here.new("here").public)
    path = os.pathsep.join([str(Path(vdag.__file__).parents[1]), *sys.path])
    options = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "env": {**os.environ, "PYTHONPATH": path},
    }
    with ExitStack() as stack:

        def start(role: str) -> subprocess.Popen[str]:
            near, far = hosts.addresses
            run = (sys.executable, str(NODE))
            other = stack.enter_context(
                hosts.process(1, *run, "land", str(there.path), far, **options)
            )
            assert other.stdout is not None
            assert other.stdout.readline() == "ready\n"
            return stack.enter_context(
                hosts.process(0, *run, role, str(here.path), near, far, **options)
            )

        yield start


def wait_for_rate(process: subprocess.Popen[str], mbit: float) -> dict[str, float]:
    """Wait until a node has measured a rate; return what it says."""
    deadline_s = time.monotonic() + TIMEOUT_S
    assert process.stdout is not None
    seen = []
    while time.monotonic() < deadline_s:
        found = json.loads(process.stdout.readline())
        seen.append(found["rate"])
        if found["rate"] and abs(found["rate"] / (mbit * MBIT) - 1) <= TOLERANCE:
            return found
    raise AssertionError(f"{mbit} Mbit/s are not seen: {seen}")


@pytest.mark.slow
@pytest.mark.parametrize(("role", "limit_s"), [("frames", 3.0), ("idle", 12.0)])
def test_a_link_that_becomes_slower_and_fast_again_is_seen_to(hosts: Hosts, start, role, limit_s):
    hosts.thin(0, "100mbit")
    process = start(role)
    wait_for_rate(process, 100)
    hosts.thin(0, "10mbit")
    changed_s = time.monotonic()
    slower = wait_for_rate(process, 10)
    hosts.thin(0, "100mbit")
    mended_s = time.monotonic()
    faster = wait_for_rate(process, 100)
    print(
        f"\n{role}: {slower['rate'] / MBIT:.1f} Mbit/s known after "
        f"{slower['at_s'] - changed_s:.2f} s, {faster['rate'] / MBIT:.1f} Mbit/s after "
        f"{faster['at_s'] - mended_s:.2f} s, round trip {1e3 * faster['trip_s']:.2f} ms"
    )
    assert slower["at_s"] - changed_s < limit_s
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0
