"""The native surface: every kernel, once, by name (being assembled)."""

from __future__ import annotations
