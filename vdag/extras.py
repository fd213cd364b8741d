"""What the extra `video` installs: imported when somebody needs it, for many never do."""

from __future__ import annotations

import functools
import importlib
from typing import Any

from vdag.errors import DependencyMissing

__all__ = ["opencv", "pyav"]


@functools.cache
def opencv() -> Any:
    """Return OpenCV, the module `cv2`.

    Raises:
        DependencyMissing: it is not installed.
    """
    return _imported("cv2")


@functools.cache
def pyav() -> Any:
    """Return PyAV, the module `av`, with its `av.video.reformatter`.

    Raises:
        DependencyMissing: it is not installed.
    """
    av = _imported("av")
    _imported("av.video.reformatter")
    return av


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as err:
        raise DependencyMissing(name.partition(".")[0], "video") from err
