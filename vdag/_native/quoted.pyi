"""JSON strings that hold long ASCII text; see `reference_quoted` for what is accepted."""

from typing_extensions import Buffer

__all__ = ["read"]

def read(text: Buffer, start: int) -> tuple[bytes, int] | None: ...
