"""`SparingLog`: says what may happen at every frame, and soon only how often it has."""

from __future__ import annotations

import logging
from collections import Counter

__all__ = ["SparingLog"]


class SparingLog:
    """Warnings that become rare: of each kind the first, the second, the fourth, the eighth ...

    The others go to the log at DEBUG. Any thread may call it; a count may then miss one.

    Args:
        logger: where they go.
    """

    __slots__ = ("_counts", "_logger")

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._counts: Counter[str] = Counter()

    def warning(self, kind: str, message: str, *args: object) -> None:
        """Warn, if it is worth it.

        Args:
            kind: of what happened; there must be few of them.
            message: as of `logging.Logger.warning`; how often it was is added.
            *args: likewise.
        """
        self._counts[kind] = count = self._counts[kind] + 1
        level = logging.DEBUG if count & (count - 1) else logging.WARNING
        if count > 1:
            message, args = f"{message} (%d times)", (*args, count)
        self._logger.log(level, message, *args, stacklevel=2)
