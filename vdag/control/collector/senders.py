"""`Senders`: which node a report is of.

A report does not say whose it is; the sender is known by the address it calls from, which a node
file has. Of several nodes at one address, a report has to say which it is of, with a `node_id`
beside its tables: a node that cannot say that is refused there.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

from vdag.control.records import NodeRecord
from vdag.errors import ConfigError, NotFound

__all__ = ["Senders"]


class Senders:
    """See above.

    Args:
        nodes: that may report; names of hosts are looked up once.

    Raises:
        ConfigError: a node's host is not known.
    """

    def __init__(self, nodes: Iterable[NodeRecord]) -> None:
        self._by_address: dict[str, list[NodeRecord]] = {}
        for node in nodes:
            for address in sorted(_addresses(node)):
                self._by_address.setdefault(address, []).append(node)

    def find(self, host: str, node_id: int | None = None) -> NodeRecord:
        """Return the node that calls from an address.

        Args:
            host: the address, as the connection says it.
            node_id: which it says it is; None if it does not say.

        Raises:
            NotFound: there is none, or it says not which of several it is.
        """
        nodes = self._by_address.get(_plain(host), [])
        if node_id is not None:
            nodes = [node for node in nodes if node.node_id == node_id]
        if len(nodes) == 1:
            return nodes[0]
        if nodes:
            numbers = ", ".join(str(node.node_id) for node in nodes)
            raise NotFound(f"nodes {numbers} have the address {host}: the report has no node_id")
        who = "no node has" if node_id is None else f"no node {node_id} has"
        raise NotFound(f"{who} the address {host}")

    def knows(self, host: str) -> bool:
        """Say whether any node calls from an address."""
        return _plain(host) in self._by_address


def _plain(host: str) -> str:
    """Return an address as it is compared: a socket for both families says IPv4 in its own way."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    return str(getattr(address, "ipv4_mapped", None) or address)


def _addresses(node: NodeRecord) -> set[str]:
    try:
        return {str(ipaddress.ip_address(node.addr))}
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(node.addr, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as err:
        raise ConfigError(
            f"node {node.node_id}: node_addr {node.addr} is no address, nor a host that is known"
        ) from err
    return {_plain(str(address[0])) for *_, address in found}
