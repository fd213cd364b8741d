"""What `quoted.pyx` and `reference_quoted.py` share: the error of a caller."""

from __future__ import annotations

from vdag.errors import ConfigError

__all__ = ["check_start"]


def check_start(is_quote: bool, start: int) -> None:
    """Refuse a place that is none of a string.

    Raises:
        ConfigError: it is not.
    """
    if not is_quote:
        raise ConfigError(f"start {start} is not the place of a quote")
