"""What a landing owes the edges of other nodes: receipts, and requests for key frames.

An edge is known by the node it belongs to and its id. It says in its `Hello` where its answers go;
before, only the numbers that came are kept. With keys, an answer goes to nobody but the node that
proved to be the sender. Edges come and go: the one that was silent for longest is forgotten.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import zmq

from vdag.errors import ConfigError, TransportError
from vdag.sparing import SparingLog
from vdag.transport import link
from vdag.transport.address import Address
from vdag.transport.channel import open_push, try_send
from vdag.transport.sockets import Curve

if TYPE_CHECKING:
    from vdag.transport.link import Hello, KeyFrameWanted

__all__ = ["Replies"]

logger = logging.getLogger(__name__)

MAX_EDGES = 256
MAX_SOCKETS = 64
#: Messages in a socket, which are small.
REPLY_DEPTH = 64
#: Requests for key frames that wait for a socket, per edge.
MAX_WANTED = 16

#: Public key of a node, or "", and the id of its edge.
Source = tuple[str, int]


@dataclass(slots=True)
class _Edge:
    numbers: link.Numbers = field(default_factory=link.Numbers)
    inbox: str = ""
    hello_ns: int = 0
    heard_ns: int = 0
    last_ns: int = 0
    wanted: list[KeyFrameWanted] = field(default_factory=list)


class Replies:
    """The sockets and the state for the answers; for one thread.

    Args:
        context: to make sockets in.
        curve: keys of this node; None on loopback.
        poller: is told which sockets to wait for.
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], curve: Curve | None, poller: zmq.Poller
    ) -> None:
        self._context, self._curve, self._poller = context, curve, poller
        self._edges: OrderedDict[Source, _Edge] = OrderedDict()
        self._sockets: OrderedDict[tuple[str, str], zmq.Socket[bytes]] = OrderedDict()
        self._owed: set[Source] = set()
        self._log = SparingLog(logger)

    def __len__(self) -> int:
        return len(self._edges)

    def note(self, source: Source, number: int, now_ns: int) -> Literal["new", "old", "known"]:
        """Note a number that has come: `old` is before another one, `known` came before."""
        edge = self._edge(source)
        edge.last_ns = now_ns
        kind: Literal["new", "old"] = "new" if number > edge.numbers.last else "old"
        if not edge.numbers.add(number):
            return "known"
        self._owed.add(source)
        return kind

    def greet(self, source: Source, hello: Hello, now_ns: int) -> None:
        """Note where an edge's answers go.

        Raises:
            ConfigError: the address is none, or beyond loopback and there are no keys.
            TransportError: there is no socket for it.
        """
        if Address.parse(hello.inbox).scheme != "tcp":
            raise ConfigError(f"inbox {hello.inbox!r} is not at a tcp address")
        edge = self._edge(source)
        self._open(hello.inbox, source[0])
        edge.inbox, edge.hello_ns, edge.heard_ns = hello.inbox, hello.now_ns, now_ns
        self._owed.add(source)

    def want(self, source: Source, wanted: KeyFrameWanted) -> None:
        """Ask for a key frame, at the next `flush`."""
        edge = self._edge(source)
        if len(edge.wanted) < MAX_WANTED:
            edge.wanted.append(wanted)
            self._owed.add(source)

    def flush(self, now_ns: int) -> None:
        """Send what is owed; what a socket does not take now is owed on, and polled for."""
        for source in [*self._owed]:
            edge = self._edges[source]
            if not edge.inbox:
                continue
            try:
                socket = self._open(edge.inbox, source[0])
            except TransportError as err:
                self._log.warning("socket", "no answer to %s: %s", edge.inbox, err)
                continue
            is_done = self._send(socket, source, edge, now_ns)
            self._poller.register(socket, 0 if is_done else zmq.POLLOUT)
            if is_done:
                self._owed.discard(source)

    def close(self) -> None:
        """Close the sockets."""
        while self._sockets:
            self._shut(self._sockets.popitem()[1])

    def _send(self, socket: zmq.Socket[bytes], source: Source, edge: _Edge, now_ns: int) -> bool:
        while edge.wanted:
            if not try_send(socket, [link.encode(edge.wanted[0])]):
                return False
            edge.wanted.pop(0)
        receipt = link.Receipt(
            source[1],
            edge.numbers.ranges(),
            edge.hello_ns,
            edge.heard_ns,
            now_ns,
            edge.last_ns,
        )
        return try_send(socket, [link.encode(receipt)])

    def _edge(self, source: Source) -> _Edge:
        edge = self._edges.get(source)
        if edge is None:
            edge = self._edges[source] = _Edge()
            if len(self._edges) > MAX_EDGES:
                self._owed.discard(self._edges.popitem(last=False)[0])
        else:
            self._edges.move_to_end(source)
        return edge

    def _open(self, inbox: str, peer: str) -> zmq.Socket[bytes]:
        socket = self._sockets.get((inbox, peer))
        if socket is None:
            curve = self._curve and Curve(self._curve.public, self._curve.secret, peer)
            socket = open_push(inbox, context=self._context, depth=REPLY_DEPTH, curve=curve)
            self._sockets[inbox, peer] = socket
            if len(self._sockets) > MAX_SOCKETS:
                self._shut(self._sockets.popitem(last=False)[1])
        else:
            self._sockets.move_to_end((inbox, peer))
        return socket

    def _shut(self, socket: zmq.Socket[bytes]) -> None:
        self._poller.register(socket, 0)
        socket.close(linger=0)
