"""What a sink is, and files that are either whole or not there."""

from __future__ import annotations

import contextlib
import logging
import os
import uuid
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Protocol, runtime_checkable

from vdag.errors import SinkError
from vdag.results import Result
from vdag.wording import reason

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["PartialFile", "Sink"]

logger = logging.getLogger(__name__)


@runtime_checkable
class Sink(Protocol):
    """Where results go. One thread writes and closes.

    Leaving a `with` block closes the sink. If an error leaves it, `abort` is called instead, and a
    file of this sink is then not there. An interrupt (Ctrl-C) and a termination are no errors:
    what was written up to them is kept, complete and readable.

    Sinks of this package inherit that; any class with these methods is a sink.
    """

    def write(self, result: Result) -> None:
        """Take one result; the sink neither changes it nor keeps it.

        Raises:
            SinkError: it cannot be written, or the sink is closed.
        """

    def close(self) -> None:
        """Complete what was written; may be called again.

        Raises:
            SinkError: it cannot be completed, and is removed.
        """

    def abort(self) -> None:
        """Give up, and remove what was written where that can be done; may be called again."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(err, Exception):
            self.abort()
        else:
            self.close()


class PartialFile:
    """A file written under a temporary name beside its target, and renamed when it is whole.

    Args:
        path: the target. An older file of that name stays until the new one replaces it.

    Attributes:
        path: the target.
        partial: where to write; it exists, empty, from the start.

    Raises:
        SinkError: nothing can be written there.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser()
        name = f".{self.path.name}.{uuid.uuid4().hex[:8]}.part"
        self.partial = self.path.with_name(name)
        if self.path.is_dir():
            raise SinkError(f"{self.path}: cannot be written: is a directory")
        try:
            self.partial.touch(exist_ok=False)
        except OSError as err:
            raise SinkError(f"{self.path}: cannot be written: {reason(err)}") from err

    def open(self) -> BinaryIO:
        """Open the partial file for writing.

        Raises:
            SinkError: it cannot; the file is removed.
        """
        try:
            return self.partial.open("wb")
        except OSError as err:
            self.discard()
            raise SinkError(f"{self.path}: cannot be written: {reason(err)}") from err

    def commit(self) -> None:
        """Put the file, which is whole and closed, into its place.

        Raises:
            SinkError: it cannot; the partial file is removed.
        """
        try:
            with self.partial.open("rb") as file:
                os.fsync(file.fileno())  # or the name could survive a power cut, and the data not
            os.replace(self.partial, self.path)
        except OSError as err:
            self.discard()
            raise SinkError(f"{self.path}: cannot be written: {reason(err)}") from err

    def discard(self) -> None:
        """Remove the partial file; what cannot be removed is left with a warning."""
        with contextlib.suppress(FileNotFoundError):
            try:
                self.partial.unlink()
            except PermissionError as err:
                logger.warning("%s: cannot be removed: %s", self.partial, reason(err))
