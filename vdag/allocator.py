"""Has the C library keep memory for the messages to come.

A picture in a message is allocated and freed again a dozen times on its way through a node. glibc
gives pieces of that size back to the kernel at once, and gets them anew, page by page: for a
picture of 640x480 that takes three quarters of a hop's time, and copying the rest.
"""

from __future__ import annotations

import ctypes
import os

__all__ = ["KEPT_NBYTES", "keep_memory"]

#: What each thread's heap keeps at most of what was freed at its end; several of the largest
#: contexts.
KEPT_NBYTES = 64 << 20
#: From here on memory is mapped by itself, whatever is kept; the most that glibc takes.
MAPPED_NBYTES = 32 << 20
#: <malloc.h>
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
#: With these the user has said how memory is kept.
VARIABLES = ("GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


def keep_memory() -> bool:
    """Keep what is freed, up to `KEPT_NBYTES`, for the whole process and from now on.

    For processes that pass frames on. Harmless when called again.

    Returns:
        Whether it is so: not with a C library that knows no such thing, nor against the user, who
        may have set `VARIABLES`.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or any(name in os.environ for name in VARIABLES):
        return False
    settings = ((M_MMAP_THRESHOLD, MAPPED_NBYTES), (M_TRIM_THRESHOLD, KEPT_NBYTES))
    return all(mallopt(ctypes.c_int(name), ctypes.c_int(value)) == 1 for name, value in settings)
