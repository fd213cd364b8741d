"""Folders for sockets and keys: private, claimed by one, cleared of what a dead one has left."""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from pathlib import Path

from vdag.errors import ConfigError
from vdag.wording import reason

__all__ = ["claim", "private_folder", "sweep", "temporary_folder"]


def private_folder(folder: Path) -> Path:
    """Make a folder that only this user can enter, or check that it is one.

    Raises:
        ConfigError: it belongs to somebody else, others may enter, or it is no folder.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as err:
        raise ConfigError(f"folder {folder} cannot be made: {reason(err)}") from err
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"{folder} is not a folder")
    if found.st_uid != os.geteuid():
        raise ConfigError(f"folder {folder} belongs to user {found.st_uid}, not {os.geteuid()}")
    if found.st_mode & 0o077:
        raise ConfigError(f"folder {folder} has mode {stat.S_IMODE(found.st_mode):04o}, not 0700")
    return folder


def temporary_folder() -> Path:
    """Make a private folder for the sockets of one exchange; the caller removes it."""
    # Paths of sockets are short: the folder of the session is, TMPDIR may not be.
    root = os.environ.get("XDG_RUNTIME_DIR")
    usable = root if root and os.access(root, os.W_OK) else None
    return Path(tempfile.mkdtemp(prefix="vdag-", dir=usable))


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
