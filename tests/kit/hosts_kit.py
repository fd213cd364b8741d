"""Hosts in network namespaces, joined by a bridge, and processes on them.

`Loopback` is what needs no rights: addresses of this host, which stand for others.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

TIMEOUT_S = 60.0
CLONE_NEWNET = 0x40000000


def ip(*arguments: str) -> str:
    return subprocess.run(
        ["ip", *arguments], check=True, capture_output=True, text=True, timeout=TIMEOUT_S
    ).stdout


def reason_to_skip(*tools: str) -> str | None:
    """Why there can be no such hosts here, with these tools beside `ip`."""
    if os.geteuid() != 0:
        return "only root can make network namespaces"
    for tool in ("ip", *tools):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
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

    def thin(self, side: int, rate: str) -> None:
        """Let no more out of a host than a rate, such as `1mbit`: tbf of tc-tbf(8)."""
        self._tc("replace", side, "tbf", "rate", rate, "burst", "16kb", "latency", "200ms")

    def widen(self, side: int) -> None:
        """Let everything out of a host again."""
        self._tc("del", side)

    def _tc(self, order: str, side: int, *shape: str) -> None:
        where = ("dev", f"vh{side}x{os.getpid()}", "root")
        command = ("tc", "-n", self._names[side], "qdisc", order, *where, *shape)
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT_S)

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

    def connect(self, side: int, host: str, port: int, timeout_s: float) -> socket.socket:
        """Return a connection of this process that goes out from one of the hosts."""
        # A thread that has moved cannot be used for anything else: it ends with the connection.
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(self._dial, side, host, port, timeout_s).result()

    def _dial(self, side: int, host: str, port: int, timeout_s: float) -> socket.socket:
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/run/netns/{self._names[side]}") as namespace:
            if libc.setns(namespace.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        return socket.create_connection((host, port), timeout_s)

    def close(self) -> None:
        for name in (*self._names, self._middle):
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("netns", "del", name)


class Loopback:
    """So many addresses of this host, in place of `Hosts`; nothing can be cut.

    Args:
        count: of the addresses.
        net: third number of them; suites that may run at a time have different ones.

    Attributes:
        addresses: of them.
    """

    def __init__(self, count: int, net: int = 77) -> None:
        self.addresses = [f"127.0.{net}.{side + 1}" for side in range(count)]

    @contextmanager
    def process(self, side: int, *command: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
        """Run something; it is killed at the end."""
        with subprocess.Popen(command, text=True, **options) as process:
            try:
                yield process
            finally:
                process.kill()

    def connect(self, side: int, host: str, port: int, timeout_s: float) -> socket.socket:
        """Return a connection that goes out from one of the addresses."""
        return socket.create_connection((host, port), timeout_s, (self.addresses[side], 0))
