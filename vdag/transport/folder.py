"""The folder of an exchange: claimed by one at a time, and cleared of what a dead one has left."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from vdag.errors import ConfigError

__all__ = ["claim", "sweep"]


def claim(folder: Path) -> int:
    """Claim a folder, and remove the sockets that an exchange killed there has left.

    Returns:
        A file descriptor; closing it ends the claim.

    Raises:
        ConfigError: another exchange uses the folder.
    """
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as err:
        os.close(lock)
        raise ConfigError(f"folder {folder} is in use by another exchange") from err
    sweep(folder, "worker-*")
    return lock


def sweep(folder: Path, pattern: str) -> None:
    """Remove the sockets whose names match a pattern."""
    for path in folder.glob(pattern):
        if path.is_socket():
            path.unlink(missing_ok=True)
