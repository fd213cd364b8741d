"""`Doorkeeper`: lets in programs that cannot show a token, by the address that they call from.

Nodes and clouds of the first system know no tokens. Where they are to be talked with, whoever runs
a node names their addresses; everybody else has to show the token as ever. An address is weaker
than a token: everybody on that host has it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache

from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["Doorkeeper"]


class Doorkeeper:
    """An ASGI app before an app with a `Gate`.

    Args:
        app: what is behind.
        token: that it wants.
        callers: addresses and networks that need not show it.
    """

    def __init__(self, app: ASGIApp, *, token: str, callers: Sequence[str]) -> None:
        self._app = app
        self._shown = (b"authorization", f"Bearer {token}".encode())
        networks = [ipaddress.ip_network(caller, strict=False) for caller in callers]

        @lru_cache(maxsize=1024)
        def is_known(host: str) -> bool:
            try:
                address = ipaddress.ip_address(host)
            except ValueError:
                return False
            mapped = getattr(address, "ipv4_mapped", None)  # as a socket for both families says it
            return any((mapped or address) in network for network in networks)

        self._is_known = is_known

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, with the token if its caller need not show it."""
        client = scope.get("client") if scope["type"] == "http" else None
        if client is not None and self._is_known(client[0]):
            others = [header for header in scope["headers"] if header[0] != b"authorization"]
            scope = {**scope, "headers": [*others, self._shown]}
        await self._app(scope, receive, send)
