"""Two hosts with a thin link that is cut: network namespaces, `tc`, and a relay for the delay.

The link carries 20 Mbit/s, far less than 25 frames of 640 x 272 a second make raw, and more than
they make as JPEG or H.264. Frames and receipts go through a relay each, which delays them by 50 ms.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hosts_kit import ip, reason_to_skip

import vdag
from vdag.transport.keys import KeyFolder

NODE = Path(__file__).with_name("two_hosts_node.py")
RATE = "20mbit"
CUT_S = 5.0
#: Of the stream before the cut, and after the link has come back.
STEADY_S = 5.0
TIMEOUT_S = 60.0
#: Beyond what a frame may take on the link: its own 0.3 s, what it waited for, and a slow machine.
DELAY_LIMIT_S = 2.0


class Hosts:
    """Two namespaces, joined by a pair of interfaces."""

    def __init__(self) -> None:
        self.names = [f"vdag-{side}-{os.getpid()}" for side in ("a", "b")]
        self._links = [f"vdag{side}{os.getpid()}" for side in ("a", "b")]
        for name in self.names:
            ip("netns", "add", name)
        ip("link", "add", self._links[0], "type", "veth", "peer", "name", self._links[1])
        for side, (name, link) in enumerate(zip(self.names, self._links, strict=True)):
            ip("link", "set", link, "netns", name)
            self.inside(side, "ip", "addr", "add", f"10.77.0.{side + 1}/24", "dev", link)
            self.inside(side, "ip", "link", "set", "lo", "up")
            self.inside(side, "ip", "link", "set", link, "up")
            shape = ["rate", RATE, "burst", "16kb", "latency", "100ms"]
            self.inside(side, "tc", "qdisc", "add", "dev", link, "root", "tbf", *shape)

    def inside(self, side: int, *command: str) -> None:
        ip("netns", "exec", self.names[side], *command)

    def cut(self) -> None:
        self.inside(0, "ip", "link", "set", self._links[0], "down")

    def mend(self) -> None:
        self.inside(0, "ip", "link", "set", self._links[0], "up")

    def close(self) -> None:
        for name in self.names:
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("netns", "del", name)

    @contextmanager
    def process(self, side: int, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Run a role of `two_hosts_node.py` on one of the hosts."""
        command = ["ip", "netns", "exec", self.names[side], sys.executable, str(NODE), *arguments]
        path = os.pathsep.join([str(Path(vdag.__file__).parents[1]), *sys.path])
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        ) as process:
            try:
                yield process
            finally:
                process.kill()


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    if reason := reason_to_skip("tc"):
        pytest.skip(reason)
    hosts = Hosts()
    yield hosts
    hosts.close()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    text = process.stdout.readline().strip()
    assert text, "the process ended"
    return text


def report(process: subprocess.Popen[str]) -> dict[str, Any]:
    """End a node's input, and return its last line."""
    out, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def wait_for_arrival(process: subprocess.Popen[str], after_s: float) -> float:
    """Wait until a frame that was offered is known to have arrived after a moment."""
    while True:
        at_s: float = json.loads(line(process))["at_s"]
        if at_s > after_s:
            return at_s


def run(hosts: Hosts, folder: Path, clip: Path, encoder: str, policy: str) -> dict[str, Any]:
    """Send over the link, cut it, mend it; what both nodes know in the end, and the moments."""
    sender_keys, receiver_keys = KeyFolder(folder / "a"), KeyFolder(folder / "b")
    sender_keys.trust("receiver", receiver_keys.new("receiver").public)
    receiver_keys.trust("sender", sender_keys.new("sender").public)
    with ExitStack() as stack:
        start = lambda *arguments: stack.enter_context(hosts.process(*arguments))  # noqa: E731
        for side, port in ((0, "7101"), (1, "7102")):
            assert line(start(side, "relay", f"10.77.0.{side + 1}", port, "7000")) == "ready"
        receiver = start(1, "land", str(receiver_keys.path), "7000")
        assert line(receiver) == "ready"
        sender = start(0, "send", str(sender_keys.path), "7000", str(clip), encoder, policy)
        flowing_s = wait_for_arrival(sender, 0.0)
        cut_s = wait_for_arrival(sender, flowing_s + STEADY_S)
        hosts.cut()
        time.sleep(CUT_S)  # the cut itself
        hosts.mend()
        mended_s = time.monotonic()
        resumed_s = wait_for_arrival(sender, mended_s)
        wait_for_arrival(sender, resumed_s + STEADY_S)
        moments = {"cut_s": cut_s, "mended_s": mended_s, "resumed_s": resumed_s}
        return {"sent": report(sender), "landed": report(receiver), **moments}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "policy"),
    [("raw", "latest"), ("jpeg", "latest"), ("h264", "latest"), ("jpeg", "block")],
)
def test_a_thin_link_that_is_cut_delivers_or_accounts_for_every_frame_and_resumes(
    hosts: Hosts, tmp_path: Path, bikes: Path, encoder: str, policy: str
):
    found = run(hosts, tmp_path, bikes, encoder, policy)
    sent, landed = found["sent"], found["landed"]
    offered, came = dict(sent["offered"]), {seq: (at, delay) for seq, at, delay in landed["came"]}
    dropped = Counter(seq for seq, _ in sent["drops"])
    reasons = Counter(reason for _, reason in sent["drops"])

    # Every frame is in one column; those that came although they were given up are counted late.
    assert (sent["balance"], sent["accepted"]) == (0, len(offered))
    assert sent["arrived"] + len(sent["drops"]) == sent["accepted"]
    assert set(dropped.values()) <= {1}
    gone_there = {seq for seq, _ in landed["dropped"]}
    assert came.keys() | gone_there | dropped.keys() == offered.keys()
    both = (came.keys() | gone_there) & dropped.keys()
    assert len(both) >= sent["late"]
    assert sent["arrived"] == len(offered.keys() - dropped.keys())
    assert landed["hostile"] == 0
    assert [seq for seq, *_ in landed["came"]] == sorted(came)

    # It resumes by itself, and the cut cost frames.
    assert found["resumed_s"] - found["mended_s"] < 10.0
    assert reasons["link"] + reasons["superseded"] > 0 or sent["refused"] > 0

    # Those that came while the link was there came in time.
    steady = [
        delay
        for at_s, delay in came.values()
        if at_s < found["cut_s"] or at_s > found["resumed_s"] + 1.0
    ]
    assert len(steady) > 10
    if policy == "latest":
        assert max(steady) < DELAY_LIMIT_S
    print(
        f"\n{encoder}, {policy}: {len(came)} of {len(offered)} came, {sent['refused']} refused, "
        f"{dict(reasons)}, late {sent['late']}, delay {statistics.median(steady):.3f} s, "
        f"at most {max(steady):.3f} s, resumed after {found['resumed_s'] - found['mended_s']:.2f} s"
    )
