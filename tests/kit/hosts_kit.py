"""Hosts in network namespaces, joined by a bridge, and processes on them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TIMEOUT_S = 60.0


def ip(*arguments: str) -> str:
    return subprocess.run(
        ["ip", *arguments], check=True, capture_output=True, text=True, timeout=TIMEOUT_S
    ).stdout


def reason_to_skip() -> str | None:
    if os.geteuid() != 0:
        return "only root can make network namespaces"
    if shutil.which("ip") is None:
        return "ip is not installed"
    name = f"vdag-try-{os.getpid()}"
    try:
        ip("netns", "add", name)
        ip("netns", "del", name)
    except subprocess.CalledProcessError as err:
        return f"network namespaces cannot be made here: {err.stderr.strip()}"
    return None


class Hosts:
    """So many namespaces; the bridge is in another one, so that this host's network is left alone.

    Attributes:
        addresses: of the hosts.
    """

    def __init__(self, count: int) -> None:
        number = os.getpid()
        self.addresses = [f"10.78.0.{side + 1}" for side in range(count)]
        self._names = [f"vdag-h{side}-{number}" for side in range(count)]
        self._middle = f"vdag-br-{number}"
        for name in (self._middle, *self._names):
            ip("netns", "add", name)
        ip("-n", self._middle, "link", "add", "br0", "type", "bridge")
        ip("-n", self._middle, "link", "set", "br0", "up")
        for side, name in enumerate(self._names):
            near, far = f"vh{side}x{number}", f"vb{side}x{number}"
            ip("link", "add", near, "netns", name, "type", "veth", "peer", "name", far,
               "netns", self._middle)  # fmt: skip
            ip("-n", self._middle, "link", "set", far, "master", "br0", "up")
            ip("-n", name, "addr", "add", f"{self.addresses[side]}/24", "dev", near)
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", near, "up")

    def cut(self, side: int) -> None:
        self._set(side, "down")

    def mend(self, side: int) -> None:
        self._set(side, "up")

    def _set(self, side: int, state: str) -> None:
        # At the bridge: the host itself does not notice, as with a cable that is cut further on.
        ip("-n", self._middle, "link", "set", f"vb{side}x{os.getpid()}", state)

    @contextmanager
    def process(self, side: int, *command: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
        """Run something on one of the hosts; it is killed at the end."""
        with subprocess.Popen(
            ["ip", "netns", "exec", self._names[side], *command], text=True, **options
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def close(self) -> None:
        for name in (*self._names, self._middle):
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("netns", "del", name)
