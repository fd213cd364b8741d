"""vdag: video analytics as a graph of tasks over edge nodes and GPU servers."""

from __future__ import annotations

from vdag._version import __version__

__all__ = ["__version__"]
