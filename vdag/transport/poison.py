"""Frames that two workers died over, kept for replay.

One folder per frame in the store's folder:

    descriptor    the encoded descriptor as the exchange had it; its slot means nothing any more
    pixels.npy    the picture, if it had one; no pickled objects
    report.txt    when, at which task, and how the last worker ended

A store keeps the newest `limit` frames. A frame's folder gets its name when it is complete.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vdag.errors import ConfigError, FrameFormatError
from vdag.transport import codec

if TYPE_CHECKING:
    from vdag.transport.shelf import Held

__all__ = ["PoisonStore", "PoisonWriter", "Poisoned"]

logger = logging.getLogger(__name__)

#: Poisoned frames that wait to be written; beyond, they are not kept.
MAX_KEEPING = 4


@dataclass(frozen=True, slots=True)
class Poisoned:
    """A frame that was kept.

    Attributes:
        descriptor: as the exchange had it; its task is `descriptor.here`.
        pixels: array of the descriptor's shape, or None.
        report: for people.
    """

    descriptor: codec.Descriptor
    pixels: NDArray[Any] | None
    report: str


class PoisonStore:
    """A bounded folder of frames; one thread at a time writes.

    Args:
        folder: made when the first frame is kept, for the user alone.
        limit: most frames that are kept; the oldest go.

    Raises:
        ConfigError: `limit` is less than 1.
    """

    def __init__(self, folder: Path, limit: int = 32) -> None:
        if limit < 1:
            raise ConfigError(f"limit of {limit} poisoned frames is less than 1")
        self.folder = folder
        self._limit = limit

    def frames(self) -> list[Path]:
        """Return the folders of the frames that are kept, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if not path.name.startswith("."))

    def keep(self, part: bytes, pixels: NDArray[Any] | None, report: str) -> Path:
        """Keep a frame.

        Args:
            part: its descriptor's only part.
            pixels: read before this returns.
            report: how its last worker ended.

        Returns:
            Its folder.

        Raises:
            OSError: it cannot be written; nothing of it is left.
        """
        header = codec.decode_head([part]).header
        now = datetime.datetime.now(datetime.timezone.utc)
        name = f"{now:%Y%m%dT%H%M%S.%f}-{header.stream}-{header.seq}-{header.hop}"
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = self.folder / f".{name}"
        try:
            draft.mkdir(mode=0o700)
            (draft / "descriptor").write_bytes(part)
            if pixels is not None:
                np.save(draft / "pixels.npy", pixels, allow_pickle=False)
            (draft / "report.txt").write_text(f"{now.isoformat()}\n{report}\n", encoding="utf-8")
            draft.rename(self.folder / name)
        except OSError:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        for old in self.frames()[: -self._limit]:
            with contextlib.suppress(OSError):
                shutil.rmtree(old)
        return self.folder / name

    @staticmethod
    def load(folder: Path) -> Poisoned:
        """Read a frame back.

        Raises:
            FrameFormatError: the folder holds no frame, or its files contradict each other.
            OSError: they cannot be read.
        """
        descriptor = codec.decode([(folder / "descriptor").read_bytes()])
        pixels: NDArray[Any] | None = None
        if os.path.exists(folder / "pixels.npy"):
            try:
                pixels = np.load(folder / "pixels.npy", allow_pickle=False)
            except ValueError as err:
                raise FrameFormatError(f"{folder / 'pixels.npy'}: {err}") from err
            if pixels.shape != descriptor.header.shape:
                raise FrameFormatError(
                    f"pixels of shape {pixels.shape} are not {descriptor.header.shape}"
                )
        return Poisoned(descriptor, pixels, (folder / "report.txt").read_text(encoding="utf-8"))


class PoisonWriter:
    """Writes to a store in a thread of its own: a disk may be slow.

    Args:
        store: where to; None keeps nothing.
    """

    def __init__(self, store: PoisonStore | None) -> None:
        self._store = store
        self._keeping = threading.BoundedSemaphore(MAX_KEEPING)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="vdag-poison")

    def keep(self, held: Held, reason: str) -> None:
        """Take a frame over, and release it once it is written; does not wait."""
        if self._store is None or not self._keeping.acquire(blocking=False):
            held.release()
            return
        self._pool.submit(self._write, self._store, held, reason)

    def close(self) -> None:
        """Wait until everything is written."""
        self._pool.shutdown()

    def _write(self, store: PoisonStore, held: Held, reason: str) -> None:
        try:
            folder = store.keep(held.part(), held.pixels(), f"task {held.here.task}\n{reason}")
            logger.warning("two workers of %s died over a frame: %s", held.here.task, folder)
        except Exception:  # the books have the frame already; only its copy is lost
            logger.exception("a poisoned frame could not be kept in %s", store.folder)
        finally:
            held.release()
            self._keeping.release()
