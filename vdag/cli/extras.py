"""`needs_serve`: says which extra is missing, in place of which module."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from vdag.errors import DependencyMissing

__all__ = ["needs_serve"]

#: Modules that the extra `serve` brings.
SERVE_MODULES = frozenset(
    {
        "fastapi", "h11", "prometheus_client", "python_multipart", "sqlalchemy", "starlette",
        "uvicorn", "uvloop",
    }
)  # fmt: skip


@contextlib.contextmanager
def needs_serve() -> Iterator[None]:
    """Import what needs the extra `serve` in this block.

    Raises:
        DependencyMissing: the extra is not installed.
    """
    try:
        yield
    except ImportError as err:
        if err.name in SERVE_MODULES:
            raise DependencyMissing(str(err.name), "serve") from err
        raise
