"""`Post`: one worker that is wanted, whichever process fills it at the time.

    idle ------> starting ------> serving ------> leaving ------> gone
      ^   start      |    hello       |   let go,     |    exit
      |              |                |   released    |
      +--------------+----------------+  exit: again, after a while if it has answered nothing

A worker that has not said hello within `start_timeout_s`, or that its exchange reports as hung or
broken, is killed. However it ends, its process is reaped, and then the exchange is told, which
tries its frames once more elsewhere.
"""

from __future__ import annotations

import itertools
import logging
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from vdag.child import Child, WorkerSettings
from vdag.errors import ConfigError, EngineError, TransportError, VdagError
from vdag.tasks import TaskOptions
from vdag.transport.exchange import Exchange
from vdag.transport.roster import Notice, Notify

__all__ = ["Patience", "Post"]

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
State = Literal["idle", "starting", "serving", "leaving", "gone"]

#: Numbers of the workers of this process, so that no two of one exchange share a name.
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a pool waits for its workers.

    Attributes:
        start_timeout_s: from its start to its hello, loading its model included.
        hang_timeout_s: for an answer while it holds frames; more than its slowest batch takes, with
            every frame of it a second time by itself.
        stop_timeout_s: for its end after it was told to stop.
        backoff_s: before it is started again if it has answered nothing; doubles each time.
        max_backoff_s: the most of that.
    """

    start_timeout_s: float = 60.0
    hang_timeout_s: float = 30.0
    stop_timeout_s: float = 10.0
    backoff_s: float = 0.1
    max_backoff_s: float = 30.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if not 0.0 < value <= 86_400.0:
                raise ConfigError(f"{name} of {value} is not between 0 and 86400")


class Post:
    """See above; the thread that calls `step` is the one that starts processes.

    Args:
        exchange: that it works for.
        task: what it serves.
        options: how it is loaded.
        models: what its frames may ask for instead, see `vdag.toolbox`.
        max_batch: most frames at once.
        modules: Python files that its processes run first.
        patience: how long to wait for what.
        notify: told by the exchange what becomes of the worker; is to call `heed`.
        trial: size of a picture that its processes try the task on; None for none.

    Attributes:
        device: where its models run.
        name: of the present or latest process, at the exchange.
        state: see above.
        is_wanted: shall be filled again.
        due_ns: when `step` has something to do beside what the process says, or None.
        error: how the latest process ended that was not meant to; None once one serves.
        start_error: the same, if it ended before it served.
        restarts: how often it was filled again.
        hung: how often its process was killed because it did not answer.
        trial_s: what the task took of the picture; None for not known.
    """

    def __init__(
        self,
        exchange: Exchange,
        task: str,
        options: TaskOptions,
        *,
        models: Mapping[int, TaskOptions],
        max_batch: int,
        modules: tuple[str, ...],
        patience: Patience,
        notify: Notify,
        trial: tuple[int, int] | None = None,
    ) -> None:
        self.task = task
        self.device = options.device
        self.name = ""
        self.state: State = "idle"
        self.is_wanted = True
        self.due_ns: int | None = 0
        self.error: VdagError | None = None
        self.start_error: VdagError | None = None
        self.restarts = self.hung = 0
        self.trial_s: float | None = None
        self._trial = trial
        self._exchange, self._options, self._max_batch = exchange, options, max_batch
        self._models = dict(models)
        self._modules, self._patience, self._notify = modules, patience, notify
        self._child: Child | None = None
        self._socket = Path()
        self._fault = ""  # why the present process had to be killed
        self._failures = 0  # ends in a row without an answer

    @property
    def fds(self) -> tuple[int, ...]:
        """File descriptors that say, by being readable, that `step` has something to do."""
        return () if self._child is None else (self._child.exit_fd, *self._child.fds)

    def step(self, now_ns: int) -> None:
        """Take in what the process says, see whether it has ended, do what is due."""
        if self._child is not None:
            self._child.listen()
            if self._child.has_ended:
                self._bury(self._child, now_ns)
        if self.due_ns is None or self.due_ns > now_ns:
            return
        self.due_ns = None
        if self._child is None:
            if self.is_wanted:
                self._start(now_ns)
            else:
                self.state = "gone"
        elif self.state == "starting":
            self._kill(f"not ready within {self._patience.start_timeout_s:g} s")
        else:
            self._kill(f"not gone within {self._patience.stop_timeout_s:g} s")

    def heed(self, notice: Notice, now_ns: int) -> None:
        """Do what the exchange's notice about the present process calls for."""
        if notice == "hello" and self.state == "starting":
            self.state, self.due_ns = "serving", None
            self.error = self.start_error = None
            if self._child is not None:
                self._child.listen()  # it has said so before its hello
                self.trial_s = self._child.trial_s
        elif notice == "hung":
            self.hung += 1
            self._kill(f"no answer within {self._patience.hang_timeout_s:g} s")
        elif notice == "broken":
            self._kill("answered nonsense, or took no messages")
        elif notice == "released":
            self._leave(now_ns)

    def let_go(self, now_ns: int, *, at_once: bool = False) -> None:
        """Want it no more: its process ends when it is through with what it holds.

        With `at_once` it ends after its present batch; the rest is for others.
        """
        drains = self.state == "serving" and not at_once
        self.is_wanted = False
        self._leave(now_ns)
        if self._child is None:
            self.due_ns = 0
            return
        self._tell(lambda: self._exchange.retire(self.name))
        if drains:
            self.due_ns = None  # until it is released; if it hangs over that, we hear of it
        else:
            self._child.ask_to_stop()

    def abandon(self) -> None:
        """Kill the process, if there is one, and tell the exchange."""
        self.is_wanted = False
        if self._child is not None:
            self._child.kill()
            self._bury(self._child, 0)

    def _start(self, now_ns: int) -> None:
        number = next(_numbers)
        self.name, self._fault = f"{self.task}-{number}", ""
        self._socket = self._exchange.folder / f"worker-{number}"
        settings = WorkerSettings(
            worker=self.name,
            task=self.task,
            token=secrets.token_hex(16),
            exchange=self._exchange.address,
            address=f"ipc://{self._socket}",
            arena=self._exchange.arena.name,
            parent=os.getpid(),
            options=self._options,
            models=self._models,
            modules=self._modules,
            max_batch=self._max_batch,
            log_level=logger.getEffectiveLevel(),
            trial=self._trial,
        )
        try:
            self._exchange.enlist(
                self.name,
                self.task,
                token=settings.token,
                address=settings.address,
                hang_timeout_s=self._patience.hang_timeout_s,
                notify=self._notify,
            )
            self._child = Child(settings)
        except (VdagError, OSError) as err:
            self._tell(lambda: self._exchange.dismiss(self.name, "not started"))
            error = err if isinstance(err, VdagError) else EngineError(f"{self.name}: {err}")
            self._start_later(error, now_ns)
            return
        self.state = "starting"
        self.due_ns = now_ns + int(self._patience.start_timeout_s * 1e9)

    def _leave(self, now_ns: int) -> None:
        self.state = "leaving"
        self.due_ns = now_ns + int(self._patience.stop_timeout_s * 1e9)

    def _kill(self, fault: str) -> None:
        self._fault = self._fault or fault
        if self._child is not None:
            self._child.kill()

    def _bury(self, child: Child, now_ns: int) -> None:
        """The process has ended: reap it, tell the exchange, and see how to go on."""
        ending = child.reap()
        self._child = None
        reason = f"{self._fault}: {ending}" if self._fault else str(ending)
        text = f"worker {self.name}: {reason}"
        answered = self._tell(lambda: self._exchange.dismiss(self.name, text))
        self._socket.unlink(missing_ok=True)
        if answered:
            self._failures = 0
        if self.is_wanted:
            self._start_later(ending.error or EngineError(text), now_ns)
        else:
            self.state, self.due_ns = "gone", None

    def _start_later(self, error: VdagError, now_ns: int) -> None:
        """Fill the post again; at once the first time after an answer."""
        logger.warning("worker %s will be started again: %s", self.name, error)
        wait_s = 0.0
        if self._failures:
            patience = self._patience
            growth = 2.0 ** min(self._failures - 1, 30)
            wait_s = min(patience.backoff_s * growth, patience.max_backoff_s)
        self._failures += 1
        self.restarts += 1
        self.error = error
        self.start_error = None if self.state == "serving" else error
        self.state = "idle"
        self.due_ns = now_ns + int(wait_s * 1e9)

    def _tell(self, call: Callable[[], _T]) -> _T | None:
        """Tell the exchange something; if it is closed or has failed, it need not know."""
        try:
            return call()
        except TransportError as err:
            logger.debug("exchange %s: %s", self._exchange.address, err)
            return None
