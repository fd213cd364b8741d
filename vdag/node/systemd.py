"""What a node tells systemd: that it serves, that it is well, that it stops; see sd_notify(3)."""

from __future__ import annotations

import logging
import os
import socket

__all__ = ["notify_systemd", "watch_interval_s"]

logger = logging.getLogger(__name__)

#: Longest time between two looks at whether the node is well.
WATCH_INTERVAL_S = 10.0


def watch_interval_s() -> float:
    """Return how often systemd wants to hear that the node is well; it gets it twice as often."""
    limit_us = os.environ.get("WATCHDOG_USEC", "")
    if limit_us.isdecimal() and int(limit_us):
        return min(WATCH_INTERVAL_S, int(limit_us) / 2e6)
    return WATCH_INTERVAL_S


def notify_systemd(text: str) -> None:
    """Send a message to systemd (sd_notify(3)); without one, or if it does not listen, none."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):  # a name in the abstract namespace, unix(7)
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.setblocking(False)
        try:
            channel.sendto(text.encode(), address)
        except OSError as err:
            logger.debug("systemd does not listen: %s", err)
