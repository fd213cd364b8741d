"""Files that are written as a whole or not at all, and read up to a size."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from vdag.errors import ConfigError

__all__ = ["read_bounded", "write_atomically"]


def read_bounded(path: Path, limit: int) -> bytes:
    """Return the bytes of a file.

    Raises:
        ConfigError: it cannot be read, or is larger than `limit` bytes.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as err:
        raise ConfigError(f"cannot read {path}: {err.strerror}") from err
    if len(data) > limit:
        raise ConfigError(f"{path} exceeds {limit} bytes")
    return data


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that after a crash it is the old one or the new one.

    Raises:
        ConfigError: it cannot be written; the old one is left as it was.
    """
    temporary = ""
    try:
        number, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(number, "wb") as file:
            os.fchmod(number, 0o644)
            file.write(data)
            file.flush()
            os.fsync(number)
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as err:
        raise ConfigError(f"cannot write {path}: {err.strerror}") from err
    finally:
        with contextlib.suppress(OSError):
            if temporary:
                os.unlink(temporary)
