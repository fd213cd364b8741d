"""Live sources: always the newest picture, and a connection that comes back.

A thread decodes all the time into one slot, so that a slow consumer gets what the camera sees
now and not what it saw when a buffer began to fill. The thread alone touches the connection:
it opens it again after silence, errors or an end, and closes it.
"""

from __future__ import annotations

import dataclasses
import logging
import random
import threading
import time
from collections.abc import Callable

from vdag.errors import SourceError, SourceTimeout
from vdag.sources.base import OpenOptions, Picture, Reader, StreamInfo
from vdag.threads import wait_ended

__all__ = ["LiveReader"]

logger = logging.getLogger(__name__)


class LiveReader:
    """Reads another reader in a thread and keeps its newest picture; see `Reader`.

    Positions and times run on over a reconnection: `index` counts the pictures of all
    connections, `pts_s` leaves the gap that the outage was.

    Args:
        reader: the first connection; taken over.
        reopen: opens the next ones.
        options: `reconnect` says when; `read_timeout_s` bounds `close`, because a thread inside
            FFmpeg cannot be woken.
    """

    def __init__(self, reader: Reader, reopen: Callable[[], Reader], options: OpenOptions) -> None:
        self._info = dataclasses.replace(reader.info, live=True, frame_count=None)
        self._reopen = reopen
        self._options = options
        self.errors = self.decoded = self.reconnects = 0
        self._first_ns = 0
        self._attempts = 0
        self._lost_ns = time.monotonic_ns()
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._newest: Picture | None = None
        self._ended = False
        self._error: SourceError | None = None
        self._thread = threading.Thread(
            target=self._run, args=(reader,), name=f"vdag-live-{self._info.name}", daemon=True
        )
        self._thread.start()

    @property
    def info(self) -> StreamInfo:
        """What the first connection said."""
        return self._info

    def read(self, timeout_s: float | None = None) -> Picture | None:
        """Wait for a picture newer than the last; None after `close`.

        Raises:
            SourceTimeout: none came within `timeout_s`.
            SourceError: the source was given up.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._newest or self._ended, timeout_s):
                raise SourceTimeout(f"{self._info.name}: no picture within {timeout_s:g} s")
            picture, self._newest = self._newest, None
            if picture is None and self._error is not None:
                raise self._error
            return picture

    def close(self) -> None:
        """Stop the thread and wait for it, at most `read_timeout_s` and a second."""
        self._stop.set()
        self._finish(None)
        wait_ended(self._thread, timeout_s=self._options.read_timeout_s + 1.0)

    def _run(self, reader: Reader | None) -> None:
        """Body of the thread: one connection after another until stopped or given up."""
        error: SourceError | None = None
        try:
            while reader is not None:
                decoded = self.decoded
                reason = self._pump(reader)
                reader.close()
                if self.decoded > decoded:  # a connection without a picture is no connection
                    self._attempts, self._lost_ns = 0, time.monotonic_ns()
                reader = self._connect(reason)
        except SourceError as err:
            error = err
        except Exception as err:  # a defect must reach the reader of this source, not a log
            error = SourceError(f"{self._info.name}: {type(err).__name__}: {err}")
            error.__cause__ = err
        finally:
            if reader is not None:
                reader.close()
            self._finish(error)

    def _pump(self, reader: Reader) -> str:
        """Read until the connection breaks; return why it did."""
        errors, offset_s = self.errors, None
        try:
            while not self._stop.is_set():
                picture = reader.read()
                self.errors = errors + reader.errors
                if picture is None:
                    return f"{self._info.name}: the stream ended"
                if offset_s is None:
                    offset_s = self._offset_s(picture)
                self._offer(picture, offset_s)
        except SourceError as err:
            self.errors = errors + reader.errors + 1
            return str(err)
        return "closed"

    def _offset_s(self, picture: Picture) -> float:
        """Return what to add to a connection's times so that they count from the first picture."""
        if not self.decoded:
            self._first_ns = picture.decoded_ns
        return (picture.decoded_ns - self._first_ns) / 1e9 - (picture.pts_s or 0.0)

    def _offer(self, picture: Picture, offset_s: float) -> None:
        arrived_s = (picture.decoded_ns - self._first_ns) / 1e9
        pts_s = arrived_s if picture.pts_s is None else picture.pts_s + offset_s
        with self._changed:
            superseded = 0 if self._newest is None else self._newest.superseded + 1
            self._newest = dataclasses.replace(
                picture, index=self.decoded, pts_s=pts_s, superseded=superseded
            )
            self.decoded += 1
            self._changed.notify_all()

    def _connect(self, reason: str) -> Reader | None:
        """Open the source again, waiting longer and longer; None when stopped meanwhile."""
        policy = self._options.reconnect
        while not self._stop.is_set():
            wait_s = policy.delay_s(self._attempts, random.random())
            outage_s = (time.monotonic_ns() - self._lost_ns) / 1e9
            if self._attempts >= policy.attempts or outage_s + wait_s > policy.outage_s:
                raise SourceError(f"{reason}; given up after {self._attempts} reconnections")
            logger.warning("%s; reconnecting in %.2f s", reason, wait_s)
            if self._stop.wait(wait_s):
                break
            self._attempts += 1
            try:
                reader = self._reopen()
            except SourceError as err:
                self.errors += 1
                reason = str(err)
            else:
                self.reconnects += 1
                return reader
        return None

    def _finish(self, error: SourceError | None) -> None:
        with self._changed:
            self._ended = True
            if self._stop.is_set():
                self._newest = None
            elif error is not None:
                self._error = error
            self._changed.notify_all()
