"""Addresses: where a socket is, and whether it may be there.

inproc://NAME           threads that share a `zmq.Context`
ipc://PATH              processes of one host; PATH is absolute, its folder private to the user
tcp://HOST:PORT         hosts; beyond loopback only with CURVE keys, see `keys`

Nothing is resolved here, so that a name other than `localhost` counts as beyond loopback.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass

from vdag.errors import ConfigError

__all__ = ["Address"]

#: Bytes of `sockaddr_un.sun_path` without its final zero, see unix(7).
MAX_IPC_PATH_NBYTES = 107

_TCP = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:/\s]+):(\d{1,5})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Address:
    """A checked address.

    Attributes:
        scheme: `inproc`, `ipc` or `tcp`.
        place: name, absolute path, or host, the latter without brackets.
        port: of tcp, 0 for any free one; 0 for the others.
    """

    scheme: str
    place: str
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read an address.

        Raises:
            ConfigError: it is none, and the text says why.
        """
        scheme, separator, rest = text.partition("://")
        if not separator or scheme not in _PARSERS:
            raise ConfigError(f"address {text!r} starts with none of inproc://, ipc://, tcp://")
        return _PARSERS[scheme](text, rest)

    @property
    def is_loopback(self) -> bool:
        """Whether nothing beyond this host reaches it."""
        if self.scheme != "tcp" or self.place == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.place).is_loopback
        except ValueError:
            return False

    @property
    def is_everywhere(self) -> bool:
        """Whether it means all addresses of this host, so that nobody can answer to it."""
        return self.scheme == "tcp" and self.place in ("0.0.0.0", "::", "*")

    def __str__(self) -> str:
        if self.scheme != "tcp":
            return f"{self.scheme}://{self.place}"
        host = f"[{self.place}]" if ":" in self.place else self.place
        return f"tcp://{host}:{self.port}"


def _parse_inproc(text: str, rest: str) -> Address:
    if not re.fullmatch(r"[!-~]{1,255}", rest):
        raise ConfigError(f"address {text!r} has no name of 1 to 255 printable characters")
    return Address("inproc", rest)


def _parse_ipc(text: str, rest: str) -> Address:
    # An abstract name (`@...`) has no permissions: anybody on the host could connect.
    if not rest.startswith("/"):
        raise ConfigError(f"address {text!r} has no absolute path")
    if (nbytes := len(os.fsencode(rest))) > MAX_IPC_PATH_NBYTES:
        raise ConfigError(f"path of {text!r} has {nbytes} bytes, limit {MAX_IPC_PATH_NBYTES}")
    return Address("ipc", rest)


def _parse_tcp(text: str, rest: str) -> Address:
    match = _TCP.fullmatch(rest)
    if match is None:
        raise ConfigError(f"address {text!r} is not tcp://HOST:PORT")
    host, port = match[1].strip("[]"), int(match[2])
    if port > 65535:
        raise ConfigError(f"port {port} of {text!r} exceeds 65535")
    if match[1].startswith("["):
        try:
            ipaddress.IPv6Address(host)
        except ValueError as err:
            raise ConfigError(f"host of {text!r} is no IPv6 address") from err
    return Address("tcp", host, port)


_PARSERS = {"inproc": _parse_inproc, "ipc": _parse_ipc, "tcp": _parse_tcp}
