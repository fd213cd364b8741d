"""`Counsel`: an adviser process from the outside, and the one question that it works on.

It never waits: pipes are read and written as far as they go, and the process is ended by a signal
that it cannot refuse. Whatever it says is checked.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator

from vdag.control.advisers.advice import (
    MAX_ANSWER_NBYTES,
    MAX_REASON,
    Advised,
    Asked,
    FrameReader,
    Informed,
    Instructed,
    Loaded,
    NoAdvice,
    Refused,
    decode_reply,
    frame,
)
from vdag.control.advisers.knowledge import lessons
from vdag.control.scheduling.instructions import AskPolicy
from vdag.errors import FrameFormatError
from vdag.kinship import child_environment, open_pipe, read_pipe

__all__ = ["Counsel"]

logger = logging.getLogger(__name__)

#: Bytes of its standard error that are kept.
MAX_TAIL = 4_096
#: For a process that was killed to be gone, when there is no later chance to see it.
REAP_TIMEOUT_S = 5.0


class Counsel:
    """A running adviser; one thread starts it, looks after it, and outlives it.

    That thread must not end before: the kernel ends the process with the thread that started it.

    Args:
        policy: whose function it calls.
        now_ns: the time.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, policy: str, now_ns: int) -> None:
        self.policy = policy
        #: Since when it is busy: with loading something, or with its question; None for not.
        self.busy_since_ns: int | None = now_ns
        #: Whether it has what it needs to answer.
        self.is_loaded = False
        #: Whether its policy takes the profile, the edition that it was told, 0 for none, and
        #: whether that was after its last question.
        self.takes_profile = False
        self.edition = 0
        self.was_informed = False
        #: What it works on, None for nothing.
        self.question: AskPolicy | None = None
        #: Since when it has had nothing to do.
        self.idle_since_ns = now_ns
        self._number = 0
        self._reader = FrameReader(MAX_ANSWER_NBYTES)
        self._outbox = memoryview(frame(Instructed(policy, os.getpid())))
        self._tail = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "vdag.control.advisers.adviser"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=child_environment(),
            start_new_session=True,  # so that it is killed with all that it has started
        )
        self._stdin = open_pipe(self._process.stdin)
        self._stdout = open_pipe(self._process.stdout)
        self._stderr = open_pipe(self._process.stderr)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def fds(self) -> list[tuple[int, int]]:
        """Return what is worth polling, with poll(2)'s events: `listen` and `flush` then."""
        found = [
            (pipe.fileno(), select.POLLIN)
            for pipe in (self._stdout, self._stderr)
            if not pipe.closed
        ]
        if self._outbox and not self._stdin.closed:
            found.append((self._stdin.fileno(), select.POLLOUT))
        return found

    def ask(self, order: AskPolicy, now_ns: int) -> None:
        """Hand it a question; it has none and is loaded."""
        assert self.is_loaded, "it is asked when it can answer"
        assert self.question is None, "it is asked one thing at a time"
        self._number += 1
        self.question, self.busy_since_ns = order, now_ns
        self.was_informed = False
        taught = lessons(order.question) if self.takes_profile else b""
        self._post(frame(Asked(self._number, order.question, taught)))

    def inform(self, edition: int, document: bytes, now_ns: int) -> None:
        """Tell it the profile; it has no question and is loaded, and is not until it has read it.

        Args:
            edition: number of the document.
            document: the profile's.
            now_ns: the time.
        """
        assert self.is_loaded, "it is told one thing at a time"
        assert self.question is None, "it is told nothing while it works"
        self.edition, self.was_informed = edition, True
        self.is_loaded, self.busy_since_ns = False, now_ns
        self._post(frame(Informed(document)))

    def flush(self) -> None:
        """Write what goes into the pipe."""
        while self._outbox and not self._stdin.closed:
            try:
                self._outbox = self._outbox[os.write(self._stdin.fileno(), self._outbox) :]
            except BlockingIOError:
                return
            except BrokenPipeError:  # it has closed it or died, which `has_ended` will tell
                self._outbox = memoryview(b"")

    def listen(self, now_ns: int) -> Iterator[Advised | NoAdvice | Refused]:
        """Take in what it has said: answers to its question, or that there is no policy.

        Raises:
            FrameFormatError: it has said something else; it is of no use any more.
        """
        text = read_pipe(self._stderr)
        for line in text.splitlines():
            logger.info("policy %s: %s", self.policy, line.decode(errors="replace"))
        self._tail = (self._tail + text)[-MAX_TAIL:]
        for body in self._reader.feed(read_pipe(self._stdout)):
            reply = decode_reply(body)
            if isinstance(reply, Loaded) and not self.is_loaded:
                self.is_loaded, self.busy_since_ns = True, None
                self.idle_since_ns, self.takes_profile = now_ns, reply.takes_profile
            elif isinstance(reply, Refused) and not self.is_loaded:
                yield reply
            elif isinstance(reply, (Advised, NoAdvice)) and reply.number == self._number:
                self._number += 1  # a second answer to it is none
                self.busy_since_ns, self.idle_since_ns = None, now_ns
                yield reply
            else:
                raise FrameFormatError(f"{type(reply).__name__} at the wrong time")

    def has_ended(self) -> bool:
        """Whether the process is gone; then so is all that it has started, and it is reaped."""
        if self._process.returncode is None:
            with contextlib.suppress(ChildProcessError):  # somebody else has reaped it
                if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                    return False
                self.kill()  # while it is not reaped, its number is nobody else's
        return self._process.poll() is not None

    def ending(self) -> str:
        """Return how it has ended, and the last that it has printed."""
        status = self._process.returncode
        if status is None or status >= 0:
            text = f"exit status {status}"
        else:
            text = f"killed by {_signal_name(-status)}"
        lines = self._tail.decode(errors="replace").strip().splitlines()
        return f"{text}: {lines[-1][:MAX_REASON]}" if lines else text

    def kill(self) -> None:
        """End it, and all that it has started, now; `has_ended` follows."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self._process.returncode is None:
                os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Give the pipes back; the process is killed if need be. May be called again."""
        self.kill()
        for pipe in (self._stdin, self._stdout, self._stderr):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def reap(self) -> None:
        """Wait until it is gone; for the very end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(REAP_TIMEOUT_S)

    def _post(self, data: bytes) -> None:
        self._outbox = memoryview(bytes(self._outbox) + data)
        self.flush()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
