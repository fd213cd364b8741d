"""Zip archives that strangers send: everything is checked before anything is written.

What is taken: plain files and folders with plain names, stored or deflated. Nothing of an archive's
own decides where a file goes, which mode it gets, or how much memory and disk it takes.

Format: .ZIP File Format Specification (APPNOTE.TXT) 6.3.10, sections 4.3.12, 4.4.4, and 4.4.15.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vdag.errors import ConfigError, PayloadTooLarge

__all__ = ["PATH", "StoredFile", "quote", "unpack", "write_file"]

_T = TypeVar("_T")

#: A relative path: no part is empty, begins with a dot or a dash, or is other than plain ASCII.
PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*")
MAX_PATH_LENGTH = 200
MAX_DEPTH = 8
#: Unpacked to packed size. Deflate reaches 1032; source text and weights stay below 20.
MAX_RATIO = 100
BLOCK_NBYTES = 1 << 16

#: Flags of an entry: encrypted, strongly encrypted, names masked.
_SECRET = 0x0001 | 0x0040 | 0x2000
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
#: Of each entry of the central directory.
_SIGNATURE = b"PK\x01\x02"
#: First bytes of files that hold others: zip (also .npz and .pt), empty zip, gzip, bzip2, xz,
#: Zstandard, 7z, RAR. Tar has its mark at 257.
_ARCHIVES = (
    b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd",
    b"7z\xbc\xaf\x27\x1c", b"Rar!",
)  # fmt: skip
_TAR, _TAR_PLACE = b"ustar", 257
#: What zipfile and zlib raise on archives that are broken, or made to look so.
_BROKEN = (
    EOFError, IndexError, NotImplementedError, OSError, RuntimeError, ValueError, struct.error,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file that was written.

    Attributes:
        path: relative to the folder of its archive, with slashes.
        nbytes: its size.
        sha256: of its content, in hex.
    """

    path: str
    nbytes: int
    sha256: str


def unpack(data: bytes, folder: Path, *, max_files: int, max_nbytes: int) -> tuple[StoredFile, ...]:
    """Write the files of an archive below a folder.

    Args:
        data: the archive.
        folder: empty or missing, and nobody else's.
        max_files: most entries, folders included.
        max_nbytes: most bytes of all files together.

    Returns:
        The files, in the order of their paths.

    Raises:
        ConfigError: it is no archive, or has an entry that is not taken; the text names it. What
            was written before stays.
        PayloadTooLarge: it has too many files, or they are too large.
        OSError: a file cannot be written.
    """
    # zipfile makes an object of a kilobyte of each entry that a few bytes announce: none yet.
    count = data.count(_SIGNATURE)
    if count > max_files:
        raise PayloadTooLarge(f"zip of {count} entries exceeds limit {max_files}")
    with _read(lambda: zipfile.ZipFile(io.BytesIO(data)), "zip is broken") as archive:
        entries = archive.infolist()
        _check_names(entries)
        for entry in entries:
            _check_kind(entry)
        _check_sizes(entries, len(data), max_nbytes)
        files = [entry for entry in entries if not entry.is_dir()]
        stored = [_extract(archive, entry, folder / entry.filename) for entry in files]
    return tuple(sorted(stored, key=lambda file: file.path))


def write_file(path: Path, content: bytes) -> StoredFile:
    """Write a new file to the disk, with the folders above it; returned with its bare name.

    Raises:
        OSError: it exists, or cannot be written.
    """
    parts = [content]
    return _write(path, path.name, lambda: parts.pop() if parts else b"")


def quote(name: object) -> str:
    """Return a stranger's text as it can stand in a message."""
    text = repr(name)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _check_names(entries: Sequence[zipfile.ZipInfo]) -> None:
    files: set[str] = set()
    folders: set[str] = set()
    for entry in entries:
        # Of two readers one may stop at a NUL: what is checked is the name as it was sent.
        name = entry.orig_filename
        path = name[:-1] if name.endswith("/") else name
        if not PATH.fullmatch(path) or name != entry.filename:
            raise ConfigError(
                f"entry {quote(name)}: not a relative path of letters, digits, and _ . + - "
                "whose parts begin with a letter, a digit, or _"
            )
        if len(path) > MAX_PATH_LENGTH:
            raise ConfigError(
                f"entry {quote(name)}: path of {len(path)} characters exceeds {MAX_PATH_LENGTH}"
            )
        parts = path.lower().split("/")
        if len(parts) > MAX_DEPTH:
            raise ConfigError(f"entry {quote(name)}: depth of {len(parts)} exceeds {MAX_DEPTH}")
        if parts[-1] == "__pycache__" or parts[-1].endswith((".pyc", ".pyo")):
            raise ConfigError(f"entry {quote(name)}: compiled Python is not taken, send the source")
        above = {"/".join(parts[:end]) for end in range(1, len(parts))}
        whole = "/".join(parts)
        if whole in files or (whole in folders and not entry.is_dir()) or above & files:
            raise ConfigError(f"entry {quote(name)}: another one has its place")
        folders |= above
        (folders if entry.is_dir() else files).add(whole)


def _check_kind(entry: zipfile.ZipInfo) -> None:
    if entry.flag_bits & _SECRET:
        raise ConfigError(f"entry {quote(entry.filename)}: encrypted")
    if entry.compress_type not in _METHODS:
        raise ConfigError(
            f"entry {quote(entry.filename)}: compression {entry.compress_type} is neither 0, "
            "stored, nor 8, deflated"
        )
    # Archives of other systems have no mode there, which is 0.
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFDIR if entry.is_dir() else stat.S_IFREG):
        raise ConfigError(f"entry {quote(entry.filename)}: {_kind(kind)}, not a file or a folder")
    if entry.is_dir() and entry.file_size:
        raise ConfigError(f"entry {quote(entry.filename)}: a folder of {entry.file_size} bytes")


def _kind(kind: int) -> str:
    names = {
        stat.S_IFLNK: "symbolic link",
        stat.S_IFCHR: "character device",
        stat.S_IFBLK: "block device",
        stat.S_IFIFO: "pipe",
        stat.S_IFSOCK: "socket",
        stat.S_IFDIR: "folder by its mode",
        stat.S_IFREG: "file by its mode",
    }
    return names.get(kind, f"mode {kind:o}")


def _check_sizes(entries: Sequence[zipfile.ZipInfo], nbytes: int, limit: int) -> None:
    """Check what the entries announce; nothing yields more than that when it is read."""
    total = sum(entry.file_size for entry in entries)
    if total > limit:
        raise PayloadTooLarge(f"zip unpacks to {total} bytes, limit {limit}")
    if total > MAX_RATIO * nbytes:
        raise PayloadTooLarge(
            f"zip of {nbytes} bytes unpacks to {total}, more than {MAX_RATIO} times as much"
        )


def _extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> StoredFile:
    words = f"entry {quote(entry.filename)}: broken"
    with _read(lambda: archive.open(entry), words) as source:
        block = _read(lambda: source.read(BLOCK_NBYTES), words)
        if block.startswith(_ARCHIVES) or block[_TAR_PLACE:].startswith(_TAR):
            raise ConfigError(f"entry {quote(entry.filename)}: an archive inside of the archive")
        blocks = [block]

        def read() -> bytes:
            return blocks.pop() if blocks else _read(lambda: source.read(BLOCK_NBYTES), words)

        return _write(path, entry.filename, read)


def _read(read: Callable[[], _T], words: str) -> _T:
    """Say of an archive that cannot be read that it is the sender's."""
    try:
        return read()
    except _BROKEN as err:
        raise ConfigError(f"{words}: {type(err).__name__}: {quote(str(err))}") from err


def _write(path: Path, name: str, read: Callable[[], bytes]) -> StoredFile:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    digest, nbytes = hashlib.sha256(), 0
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(path, flags, 0o600), "wb") as file:
        while block := read():
            file.write(block)
            digest.update(block)
            nbytes += len(block)
        file.flush()
        os.fsync(file.fileno())
    return StoredFile(name, nbytes, digest.hexdigest())
