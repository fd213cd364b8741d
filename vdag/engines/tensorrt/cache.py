"""Built engines on disk: found by what they were built for, checked before they are loaded.

A file holds

    8 bytes     b"VDAGTRT1"
    8 bytes     length of the head, little endian
    the head    JSON: `terms` of the `BuildOrder`, `label`, `nbytes` and `sha256` of the engine
    32 bytes    SHA-256 of all before
    the engine

and is named after the order's key. It is written beside its place and renamed into it, so that
there is never half a file under a name; what a killed writer leaves is removed by the next `prune`.
A file that is not what its name says, for whatever reason, is removed and built again: TensorRT
would take some broken engines, and crash on them later.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vdag.engines.tensorrt.builder import BuildOrder
from vdag.errors import EngineError

__all__ = ["BUDGET_NBYTES", "CachedEngine", "EngineCache", "default_folder"]

MAGIC = b"VDAGTRT1"
DIGEST_NBYTES = 32
MAX_HEAD_NBYTES = 1 << 20
#: No engine of a camera's model is larger.
MAX_ENGINE_NBYTES = 4 << 30
#: What all files may take together before the longest unused go.
BUDGET_NBYTES = 8 << 30
SUFFIX = ".engine"
#: A temporary file whose writer is gone, or so old that it must be: pids come again.
STALE_S = 86_400.0
_TEMPORARY = re.compile(r"\.(?P<key>[0-9a-f]{64})\.(?P<pid>[0-9]{1,10})\.tmp")


@dataclass(slots=True, frozen=True)
class CachedEngine:
    """A file of the cache, as `list` shows it.

    Attributes:
        path: of the file.
        label: of the model; empty if the file is not readable.
        terms: see `BuildOrder.terms`.
        nbytes: of the file.
        used: when it was last loaded or written, seconds of the epoch.
        problem: why it would not be loaded; empty if it would, as far as was looked.
    """

    path: Path
    label: str
    terms: dict[str, Any]
    nbytes: int
    used: float
    problem: str = ""


def default_folder() -> Path:
    """Return `$VDAG_ENGINES`, or `vdag/engines` in the user's folder for caches."""
    if folder := os.environ.get("VDAG_ENGINES"):
        return Path(folder)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "vdag" / "engines"


class EngineCache:
    """A folder of engines; several processes may use it at once.

    Args:
        folder: made when something is stored.
        budget_nbytes: what `store` and `prune` leave at most.
    """

    def __init__(self, folder: Path | None = None, *, budget_nbytes: int = BUDGET_NBYTES) -> None:
        self.folder = folder or default_folder()
        self.budget_nbytes = budget_nbytes

    def path(self, order: BuildOrder) -> Path:
        """Return where the engine of an order is, or would be."""
        return self.folder / f"{order.key}{SUFFIX}"

    def load(self, order: BuildOrder) -> bytes | None:
        """Return the engine of an order, or None if it has to be built.

        A file that does not hold just this engine is removed.
        """
        path = self.path(order)
        try:
            data = _read(path)
            terms, engine = _unpack(data)
        except FileNotFoundError:
            return None
        except (OSError, EngineError):
            _remove(path)
            return None
        if terms != _plain(order.terms()):
            _remove(path)
            return None
        with contextlib.suppress(OSError):  # a folder that only others may write
            os.utime(path)
        return engine

    def store(self, order: BuildOrder, engine: bytes) -> Path:
        """Write an engine in one step, then prune; return its file.

        Raises:
            EngineError: it is empty or too large, or cannot be written. No file is then changed.
        """
        if not 1 <= len(engine) <= MAX_ENGINE_NBYTES:
            raise EngineError(f"engine of {len(engine)} bytes is outside 1..{MAX_ENGINE_NBYTES}")
        path = self.path(order)
        temporary = self.folder / f".{order.key}.{os.getpid()}.tmp"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                for piece in _pieces(order, engine):
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync(self.folder)
        except OSError as err:
            _remove(temporary)
            raise EngineError(f"engine cannot be stored in {self.folder}: {err.strerror}") from err
        self.prune(keep=path)
        return path

    def entries(self, *, check: bool = False) -> list[CachedEngine]:
        """Return what is in the cache, the last used first.

        Args:
            check: read every file as a whole, not only its head.
        """
        found = []
        for path in self.folder.glob(f"*{SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):
                found.append(_describe(path, check=check))
        return sorted(found, key=lambda entry: -entry.used)

    def prune(self, budget_nbytes: int | None = None, *, keep: Path | None = None) -> list[Path]:
        """Remove the longest unused files beyond the budget, and what killed writers left.

        Args:
            budget_nbytes: instead of the cache's own.
            keep: a file that stays whatever its size.

        Returns:
            What was removed.
        """
        budget = self.budget_nbytes if budget_nbytes is None else budget_nbytes
        removed = [path for path in self.folder.glob(".*.tmp") if _is_stale(path)]
        total = 0
        for entry in self.entries():
            total += entry.nbytes
            if total > budget and entry.path != keep:
                removed.append(entry.path)
                total -= entry.nbytes
        for path in removed:
            _remove(path)
        return removed

    @contextlib.contextmanager
    def building(self, order: BuildOrder) -> Iterator[None]:
        """Be the only process that builds this order; waits for another that does.

        The lock goes with the process, however it ends.

        Raises:
            EngineError: the folder cannot be written.
        """
        path = self.folder / f".{order.key}.lock"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = path.open("wb")
        except OSError as err:
            raise EngineError(f"engine cannot be built in {self.folder}: {err.strerror}") from err
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _pieces(order: BuildOrder, engine: bytes) -> Iterator[bytes]:
    head = json.dumps(
        {
            "label": order.label,
            "terms": order.terms(),
            "nbytes": len(engine),
            "sha256": hashlib.sha256(engine).hexdigest(),
        }
    ).encode()
    front = MAGIC + len(head).to_bytes(8, "little") + head
    yield front
    yield hashlib.sha256(front).digest()
    yield engine


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size > MAX_ENGINE_NBYTES + MAX_HEAD_NBYTES:
            raise EngineError("the file is too large")
        return file.read()


def _unpack(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return terms and engine of a whole file.

    Raises:
        EngineError: it is not such a file, or a byte of it is another.
    """
    head, start = _head(data)
    engine = data[start:]
    if len(engine) != head["nbytes"]:
        raise EngineError(f"the engine has {len(engine)} bytes, not {head['nbytes']}")
    if hashlib.sha256(engine).hexdigest() != head["sha256"]:
        raise EngineError("the engine's checksum is wrong")
    return head["terms"], engine


def _head(data: bytes) -> tuple[dict[str, Any], int]:
    """Return the head and where the engine begins; the data may end there."""
    if data[: len(MAGIC)] != MAGIC:
        raise EngineError("the file is no engine of vdag")
    nbytes = int.from_bytes(data[8:16], "little")
    if nbytes > MAX_HEAD_NBYTES or len(data) < 16 + nbytes + DIGEST_NBYTES:
        raise EngineError("the file ends within its head")
    front, digest = data[: 16 + nbytes], data[16 + nbytes : 16 + nbytes + DIGEST_NBYTES]
    if hashlib.sha256(front).digest() != digest:
        raise EngineError("the head's checksum is wrong")
    head: dict[str, Any] = json.loads(front[16:])
    return head, 16 + nbytes + DIGEST_NBYTES


def _describe(path: Path, *, check: bool) -> CachedEngine:
    stat = path.stat()
    label, terms, problem = "", {}, ""
    try:
        with path.open("rb") as file:
            head, start = _head(file.read(16 + MAX_HEAD_NBYTES + DIGEST_NBYTES))
        label, terms = head["label"], head["terms"]
        if stat.st_size - start != head["nbytes"]:
            raise EngineError(f"the engine has {stat.st_size - start} bytes, not {head['nbytes']}")
        if check:
            _unpack(_read(path))
    except (OSError, EngineError) as err:
        problem = str(err)
    return CachedEngine(path, label, terms, stat.st_size, stat.st_mtime, problem)


def _remove(path: Path) -> None:
    """Remove a file, if it is there and may be removed."""
    with contextlib.suppress(OSError):
        path.unlink()


def _is_stale(path: Path) -> bool:
    match = _TEMPORARY.fullmatch(path.name)
    if match is None:
        return False
    try:
        os.kill(int(match["pid"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass
    with contextlib.suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime > STALE_S
    return False


def _plain(terms: dict[str, Any]) -> Any:
    """Return terms as they come out of a file: tuples are lists."""
    return json.loads(json.dumps(terms))


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
