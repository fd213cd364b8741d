"""`Child`: a worker process from the outside: what it is told, what it says, how it ends.

It is told its settings by one line of JSON on its standard input. On its standard output it says
in one line of JSON why it could not start, or what its task took if that was tried; everything else
that it, its task and its libraries print goes to standard error, of which the last part is kept.
Its exit statuses are

    0    it was told to stop
    1    a fault; the traceback is on standard error
    2    its settings have no meaning
    3    its task could not be loaded
    4    its node is gone: no exchange, no shared memory, or no parent
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from vdag import errors
from vdag.errors import ConfigError, EngineError, VdagError
from vdag.kinship import child_environment, open_pipe, read_pipe
from vdag.tasks import TaskOptions
from vdag.transport.messages import MAX_BATCH

__all__ = [
    "FAULT",
    "LOST",
    "NO_SETTINGS",
    "NO_TASK",
    "STOPPED",
    "Child",
    "Ending",
    "Refusal",
    "Tried",
    "WorkerSettings",
]

logger = logging.getLogger(__name__)

STOPPED, FAULT, NO_SETTINGS, NO_TASK, LOST = range(5)
#: Characters of its standard error that are kept.
MAX_TAIL = 8_192
#: Most bytes of a refusal.
MAX_REFUSAL_NBYTES = 65_536


class WorkerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a worker process has to know.

    Attributes:
        worker: name of this incarnation of it.
        task: what it serves.
        token: secret that its messages carry.
        exchange: address of the exchange's inbox.
        address: where it shall take its batches.
        arena: name of the shared memory.
        parent: pid of the process that started it.
        options: how the task is loaded at the start.
        models: what frames may ask for, by `model_id`; see `vdag.toolbox`.
        modules: Python files that register tasks, absolute paths.
        max_batch: most frames at once; the task's own limit holds too.
        log_level: of the logger `vdag`.
        trial: width and height of a picture to try the task on first; None for not to.
    """

    worker: str
    task: str
    token: str
    exchange: str
    address: str
    arena: str
    parent: int
    options: TaskOptions = TaskOptions()
    models: dict[int, TaskOptions] = {}
    modules: tuple[str, ...] = ()
    max_batch: Annotated[int, msgspec.Meta(ge=1, le=MAX_BATCH)] = MAX_BATCH
    log_level: int = logging.WARNING
    trial: tuple[int, int] | None = None

    def encode(self) -> bytes:
        """Return one line of JSON."""
        return msgspec.json.encode(self, enc_hook=str) + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> WorkerSettings:
        """Read what `encode` has written.

        Raises:
            ConfigError: it is something else.
        """
        try:
            return msgspec.json.decode(line, type=cls, dec_hook=_read_path)
        except (msgspec.DecodeError, UnicodeDecodeError) as err:
            raise ConfigError(f"settings of a worker: {err}") from err


class Tried(msgspec.Struct, frozen=True):
    """How long the task of a worker took of a picture, in seconds."""

    trial_s: float


class Refusal(msgspec.Struct, frozen=True):
    """Why a worker could not start.

    Attributes:
        kind: name of the exception's class.
        message: its text.
    """

    kind: str
    message: str

    def error(self) -> VdagError:
        """Return the exception: of its own class if that is one of ours, else an `EngineError`."""
        known = getattr(errors, self.kind, None) if self.kind in errors.__all__ else None
        try:
            error: VdagError = known(self.message) if known else self._foreign()
        except TypeError:  # a class that takes more than a message
            error = self._foreign()
        return error

    def _foreign(self) -> VdagError:
        return EngineError(f"{self.kind}: {self.message}")


@dataclass(frozen=True, slots=True)
class Ending:
    """How a worker process ended.

    Attributes:
        status: exit status, negative for a signal.
        error: why it could not start, if it said so.
        tail: the last part of its standard error.
    """

    status: int
    error: VdagError | None
    tail: str

    def __str__(self) -> str:
        if self.error is not None:
            return str(self.error)
        if self.status >= 0:
            text = f"exit status {self.status}"
        else:
            try:
                text = f"killed by {signal.Signals(-self.status).name}"
            except ValueError:
                text = f"killed by signal {-self.status}"
        return f"{text}\n{self.tail}" if self.tail else text


class Child:
    """A running worker process; one thread starts it, looks after it, and outlives it.

    That thread must not end before: the kernel ends the child with the thread that started it.

    Args:
        settings: what it is told.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self.name = settings.worker
        self._said = self._tail = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "vdag.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=child_environment(),
            start_new_session=True,  # a terminal's Ctrl-C is for the parent, which stops it in turn
        )
        try:
            self._stdout, self._stderr = (
                open_pipe(self._process.stdout),
                open_pipe(self._process.stderr),
            )
            self.exit_fd = os.pidfd_open(self._process.pid)
            stdin = self._process.stdin
            assert stdin is not None, "a pipe was asked for"
            with contextlib.suppress(BrokenPipeError), stdin:
                stdin.write(settings.encode())
        except BaseException:
            self._process.kill()
            self._close_pipes()
            self._process.wait()
            raise

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def trial_s(self) -> float | None:
        """How long its task took of a picture, as far as it has been listened to."""
        with contextlib.suppress(msgspec.DecodeError):
            return msgspec.json.decode(self._said, type=Tried).trial_s
        return None

    @property
    def has_ended(self) -> bool:
        """Whether it has ended, so that `reap` will not wait."""
        return self._process.poll() is not None

    @property
    def fds(self) -> tuple[int, ...]:
        """File descriptors that are worth polling for input: call `listen` then.

        `exit_fd`, which becomes readable when it ends, is not among them.
        """
        return tuple(pipe.fileno() for pipe in (self._stdout, self._stderr) if not pipe.closed)

    def listen(self) -> None:
        """Take in what it has printed; does not wait."""
        said = read_pipe(self._stdout)
        self._said = (self._said + said)[:MAX_REFUSAL_NBYTES]
        text = read_pipe(self._stderr)
        for line in text.splitlines():
            logger.info("%s: %s", self.name, line.decode(errors="replace"))
        self._tail = (self._tail + text)[-MAX_TAIL:]

    def ask_to_stop(self) -> None:
        """Let it finish its batch and end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it now."""
        self._signal(signal.SIGKILL)

    def reap(self) -> Ending:
        """Wait for its end, which has come or is near, and give everything back."""
        status = self._process.wait()
        self.listen()
        self._close_pipes()
        os.close(self.exit_fd)
        error = None
        with contextlib.suppress(msgspec.DecodeError):
            error = msgspec.json.decode(self._said, type=Refusal).error()
        return Ending(status, error, self._tail.decode(errors="replace").strip())

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.exit_fd, number)

    def _close_pipes(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def _read_path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(f"settings have no {kind.__name__}")
