"""`run_build`: has an engine built in a process of its own, within a time and a memory limit.

A builder takes minutes and gigabytes, and a broken model can take it down: a worker that serves
meanwhile must feel none of it.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import psutil

from vdag.engines.tensorrt.build_process import Report, Settings
from vdag.engines.tensorrt.builder import BuildOrder
from vdag.engines.tensorrt.cache import EngineCache
from vdag.errors import EngineBuildError
from vdag.kinship import child_environment, open_pipe, read_pipe

__all__ = ["DEFAULT_LIMITS", "Limits", "run_build"]

#: How often time and memory are looked at; the process's words wake at once.
LOOK_S = 0.2
#: Characters of its standard error that an error quotes.
MAX_TAIL = 2_000
MAX_SAID_NBYTES = 1 << 20
#: Between a build's last word and its end.
END_TIMEOUT_S = 10.0


@dataclass(slots=True, frozen=True)
class Limits:
    """What a build may take.

    Attributes:
        timeout_s: in all, waiting for another process's build of the same included.
        memory_nbytes: resident memory of the process.
    """

    timeout_s: float = 3600.0
    memory_nbytes: int = 8 << 30


DEFAULT_LIMITS = Limits()


def run_build(
    order: BuildOrder,
    cache: EngineCache,
    *,
    limits: Limits = DEFAULT_LIMITS,
    progress: Callable[[float, str], None] = lambda part, phase: None,
    stop: threading.Event | None = None,
) -> None:
    """Have an engine built into the cache; the calling thread waits.

    Args:
        order: what to build.
        cache: where to.
        limits: beyond which the process is killed.
        progress: is told what part is done, and what is being done, in the calling thread.
        stop: when set, the process is killed.

    Raises:
        EngineBuildError: it was not built; says why. The process is gone in any case.
    """
    child = _Builder(order, cache)
    try:
        report = _follow(child, limits, progress, stop or threading.Event())
    finally:
        child.end()
    if not report.done:
        raise EngineBuildError(report.error or f"the build ended by itself: {child.ending()}")


class _Builder:
    """The process; the thread that makes it is the one that it dies with."""

    def __init__(self, order: BuildOrder, cache: EngineCache) -> None:
        settings = Settings(os.getpid(), str(cache.folder), order, cache.budget_nbytes)
        self._tail = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "vdag.engines.tensorrt.build_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=child_environment(),
            start_new_session=True,  # a terminal's Ctrl-C is for the parent, which ends it
        )
        self.stdout, self._stderr = open_pipe(self._process.stdout), open_pipe(self._process.stderr)
        stdin = self._process.stdin
        assert stdin is not None, "a pipe was asked for"
        with contextlib.suppress(BrokenPipeError), stdin:
            stdin.write(msgspec.json.encode(settings, enc_hook=str) + b"\n")

    def listen(self) -> bytes:
        """Wait a little for its words; take in what it prints besides."""
        pipes = [pipe for pipe in (self.stdout, self._stderr) if not pipe.closed]
        select.select(pipes, [], [], LOOK_S)
        self._tail = (self._tail + read_pipe(self._stderr))[-MAX_TAIL:]
        return read_pipe(self.stdout)

    def nbytes(self) -> int:
        """Return its resident memory; 0 when it has ended."""
        try:
            return int(psutil.Process(self._process.pid).memory_info().rss)
        except psutil.Error:
            return 0

    def end(self) -> None:
        """Kill it if it has not ended, and give everything back."""
        if self.stdout.closed:  # it has said all, and is about to end by itself
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_TIMEOUT_S)
        self._process.kill()
        self._process.wait()
        self._tail = (self._tail + read_pipe(self._stderr))[-MAX_TAIL:]
        self.stdout.close()
        self._stderr.close()

    def ending(self) -> str:
        """Say how it ended."""
        status = self._process.returncode
        how = f"exit status {status}" if status >= 0 else f"killed by signal {-status}"
        tail = " ".join(self._tail.decode(errors="replace").split())
        return f"{how}: {tail}" if tail else how


def _follow(
    child: _Builder,
    limits: Limits,
    progress: Callable[[float, str], None],
    stop: threading.Event,
) -> Report:
    """Listen until the process has ended or has to; return its last word, or ours."""
    deadline_s = time.monotonic() + limits.timeout_s
    said, last = b"", Report()
    while not child.stdout.closed:
        said += child.listen()
        *lines, said = said.split(b"\n")
        for line in lines:
            last = msgspec.json.decode(line, type=Report)
            progress(last.progress, last.phase)
        if stop.is_set():
            return Report(error="the build was stopped")
        if time.monotonic() > deadline_s:
            return Report(error=f"the build took more than {limits.timeout_s:g} s")
        if (nbytes := child.nbytes()) > limits.memory_nbytes:
            return Report(
                error=f"the build took {nbytes >> 20} MiB of memory, "
                f"more than {limits.memory_nbytes >> 20} MiB"
            )
        if len(said) > MAX_SAID_NBYTES:
            return Report(error="the build talks without end")
    return last
