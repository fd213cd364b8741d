"""Folders of documents: each file is the JSON of one, whatever its name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from vdag.errors import ConfigError

__all__ = ["LINE", "Id", "Name", "expect_new", "read_folder", "sentence"]

MAX_FILE_NBYTES = 1 << 20
MAX_FILES = 4096
#: INT of the documents.
MAX_ID = (1 << 31) - 1

Id = Annotated[int, msgspec.Meta(ge=0, le=MAX_ID)]
#: On one line, as errors are.
LINE = r"^[^\x00-\x1f\x7f]*$"
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=LINE)]

_Shape = TypeVar("_Shape")


def read_folder(
    folder: Path, what: str, shape: type[_Shape], *, may_be_empty: bool = False
) -> Iterator[tuple[Path, _Shape]]:
    """Read the files of a folder in the order of their names; hidden ones are passed over.

    Args:
        folder: that is read.
        what: a file is of, for errors.
        shape: of its document.
        may_be_empty: whether files without content are passed over.

    Raises:
        ConfigError: a file is not JSON or not of that shape, or there are none or too many.
    """
    try:
        paths = sorted(each for each in folder.iterdir() if _is_document(each))
    except OSError as err:
        raise ConfigError(f"folder {folder} cannot be read: {err.strerror}") from err
    if len(paths) > MAX_FILES:
        raise ConfigError(f"folder {folder} has {len(paths)} files, more than {MAX_FILES}")
    if not paths and not may_be_empty:
        raise ConfigError(f"folder {folder} has no {what} files")
    for path in paths:
        content = _content(path, what)
        if content.strip() or not may_be_empty:
            yield path, _document(content, f"{what} file {path}", shape)


def sentence(err: msgspec.ValidationError) -> str:
    """Return what is wrong with a document, as errors of this package are written."""
    text = str(err)
    return text[:1].lower() + text[1:]


def expect_new(
    found: Mapping[int, tuple[Path, Any]], what: str, field: str, number: int, path: Path
) -> None:
    """Raise a `ConfigError` if a number has been found in another file."""
    if number in found:
        raise ConfigError(f"{what} file {path} has {field} {number}, as {found[number][0]} has")


def _is_document(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".")


def _content(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_NBYTES + 1)
    except OSError as err:
        raise ConfigError(f"{what} file {path} cannot be read: {err.strerror}") from err
    if len(content) > MAX_FILE_NBYTES:
        raise ConfigError(f"{what} file {path} exceeds {MAX_FILE_NBYTES} bytes")
    return content


def _document(content: bytes, origin: str, shape: type[_Shape]) -> _Shape:
    try:
        return msgspec.json.decode(content, type=shape)
    except msgspec.ValidationError as err:
        raise ConfigError(f"{origin}: {sentence(err)}") from err
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise ConfigError(f"{origin} is not JSON: {err}") from err
