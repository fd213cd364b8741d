"""What an edge sends beside frames: notices, before any of them, and probes, when none is left."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from vdag.errors import ConfigError
from vdag.transport.link import MAX_NOTICE_NBYTES

if TYPE_CHECKING:
    from vdag.transport.line import Line

__all__ = ["Pouch"]

MAX_NOTICES = 1_024


class Pouch:
    """See above; the caller holds a lock to put something in.

    Attributes:
        lost: notices that there was no room for.
        probe_nbytes: that are still to be sent, for the meter.
    """

    def __init__(self) -> None:
        self._notices: deque[bytes] = deque()
        self.lost = self.probe_nbytes = 0

    @property
    def has_notices(self) -> bool:
        """Whether one waits."""
        return bool(self._notices)

    @property
    def has_probe(self) -> bool:
        """Whether bytes are still to be sent for the meter."""
        return self.probe_nbytes > 0

    def put(self, body: bytes) -> bool:
        """Take a notice; False if too many wait already, which is counted.

        Raises:
            ConfigError: it is too long.
        """
        if len(body) > MAX_NOTICE_NBYTES:
            raise ConfigError(f"body of {len(body)} bytes exceeds limit {MAX_NOTICE_NBYTES}")
        if len(self._notices) >= MAX_NOTICES:
            self.lost += 1
            return False
        self._notices.append(body)
        return True

    def send_notice(self, line: Line) -> bool:
        """Send the next notice; False if the socket takes no more."""
        is_sent = line.send_notice(self._notices[0])
        if is_sent:
            self._notices.popleft()
        return is_sent

    def send_probe(self, line: Line) -> bool:
        """Send the next part of a probe; likewise."""
        nbytes = min(self.probe_nbytes, MAX_NOTICE_NBYTES)
        is_sent = line.send_probe(nbytes)
        if is_sent:
            self.probe_nbytes = max(self.probe_nbytes - nbytes, 0)
        return is_sent
