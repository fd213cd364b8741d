"""What a parent process and its children need of each other: a way to import, pipes, one death."""

from __future__ import annotations

import ctypes
import os
import signal
import site
from pathlib import Path
from typing import IO

__all__ = ["child_environment", "die_with", "open_pipe", "read_pipe"]

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
READ_NBYTES = 65_536
#: Reads of one pipe in a row: a child that never stops talking must not keep its parent.
MAX_READS = 16


def child_environment() -> dict[str, str]:
    """Return the environment of a child, which finds this very package, installed or not."""
    root = str(Path(__file__).parent.parent)
    if root in (*site.getsitepackages(), site.getusersitepackages()):
        return dict(os.environ)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def open_pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    """Return a pipe of a `Popen` that was asked for, so that reading and writing never wait."""
    assert pipe is not None, "a pipe was asked for"
    os.set_blocking(pipe.fileno(), False)
    return pipe


def read_pipe(pipe: IO[bytes]) -> bytes:
    """Return what is in such a pipe, or much of it, and close it at its end."""
    pieces: list[bytes] = []
    while not pipe.closed and len(pieces) < MAX_READS:
        try:
            piece = os.read(pipe.fileno(), READ_NBYTES)
        except BlockingIOError:
            break
        if not piece:
            pipe.close()
        pieces.append(piece)
    return b"".join(pieces)


def die_with(parent: int) -> bool:
    """Have the kernel end this process with its parent; False if that is gone already.

    Args:
        parent: its pid, as it said itself.

    Raises:
        OSError: the kernel does not do it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    return os.getppid() == parent
