"""`WorkerPool`: the worker processes of one exchange: started, watched, restarted, stopped.

`post` says what becomes of each. One thread, `vdag-workers`, looks after all of them; it waits for
processes by their pidfd (Linux 5.3), and for nothing else.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from vdag.errors import ConfigError, TransportError
from vdag.tasks import TaskOptions
from vdag.tasks.variants import variants
from vdag.threads import wait_ended
from vdag.transport.bell import Bell
from vdag.transport.exchange import Exchange
from vdag.transport.messages import MAX_BATCH
from vdag.transport.roster import Notice
from vdag.workers.post import Patience, Post

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Patience", "TaskWorkers", "WorkerPool"]

logger = logging.getLogger(__name__)

#: Processes that one arena can have attached, less those that are not workers.
MAX_WORKERS = 48
#: For the end of workers that had to be killed, and for an exchange that hears of it.
KILL_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class TaskWorkers:
    """The workers of one task.

    Attributes:
        wanted: how many there should be.
        idle: those that are about to be started again.
        starting: those that load their task.
        serving: those at work.
        leaving: those that were removed and are not gone yet.
        restarts: how often one was started again.
        hung: how often one was killed because it did not answer.
        error: how the latest one ended that was not meant to; empty once all serve.
        trial_s: what the task took when it was tried, see `WorkerPool.add`; None for not known.
    """

    wanted: int
    idle: int
    starting: int
    serving: int
    leaving: int
    restarts: int
    hung: int
    error: str
    trial_s: float | None = None


class WorkerPool:
    """The workers of `exchange`; closed by `close` or a `with` block, before the exchange.

        with WorkerPool(exchange) as pool:
            pool.add("face_detection", TaskOptions(model_id=2), count=2)
            pool.wait_ready("face_detection", timeout_s=30.0)

    All methods may be called from any thread.

    Args:
        exchange: whose tasks they serve; open in this process.
        modules: Python files that the workers run, so that the user's tasks are registered.
        patience: how long to wait for what.
    """

    def __init__(
        self,
        exchange: Exchange,
        *,
        modules: Sequence[str | Path] = (),
        patience: Patience | None = None,
    ) -> None:
        self._exchange = exchange
        self._modules = tuple(os.path.abspath(path) for path in modules)
        self._patience = patience or Patience()
        self._changed = threading.Condition()
        self._posts: list[Post] = []
        self._notices: deque[tuple[str, Notice]] = deque()
        self._is_closing = self._is_leaving = False
        self._fault: BaseException | None = None
        self._bell = Bell()
        self._thread = threading.Thread(target=self._run, name="vdag-workers", daemon=True)
        self._thread.start()

    def add(
        self,
        task: str,
        options: TaskOptions | None = None,
        *,
        count: int = 1,
        max_batch: int = MAX_BATCH,
        models: Mapping[int, TaskOptions] | None = None,
        trial: tuple[int, int] | None = None,
    ) -> None:
        """Want `count` more workers of a task, which must be open at the exchange.

        Returns at once; `wait_ready` and `counts` tell what becomes of them.

        Args:
            task: its name.
            options: how they load it at their start. Of several devices, `cuda:0,cuda:1`, each
                takes the one that has the fewest of the task's workers.
            count: how many, at least 1.
            max_batch: most frames that they take at once; the task's own limit holds too.
            models: what frames may ask for instead, on the same device, see `vdag.toolbox`; None
                for what `vdag.tasks.variants` finds.
            trial: width and height of a picture that they try the task on before they serve, see
                `vdag.tasks.trial`; None for none.

        Raises:
            ConfigError: a number is out of range, or there would be too many workers.
            TransportError: the pool has failed or is closed.
        """
        with self._changed:
            self._require_open()
            if not 1 <= max_batch <= MAX_BATCH:
                raise ConfigError(f"max_batch of {max_batch} is not between 1 and {MAX_BATCH}")
            if not 1 <= count <= MAX_WORKERS - len(self._posts):
                raise ConfigError(
                    f"{count} workers beside {len(self._posts)} are not 1 to {MAX_WORKERS} in all"
                )
            options = options or TaskOptions()
            models = variants(task, options) if models is None else models
            for _ in range(count):
                device = self._next_device(task, options.device)
                post = Post(
                    self._exchange,
                    task,
                    replace(options, device=device),
                    models={n: replace(each, device=device) for n, each in models.items()},
                    max_batch=max_batch,
                    modules=self._modules,
                    patience=self._patience,
                    notify=self._notify,
                    trial=trial,
                )
                self._posts.append(post)
            self._bell.ring()

    def remove(self, task: str, count: int | None = None) -> int:
        """Want `count` workers less, the latest ones, or none any more.

        They finish what they hold and end; nothing is lost. Returns at once.

        Returns:
            How many there were to remove.
        """
        with self._changed:
            self._require_open()
            posts = self._wanted(task)
            gone = posts if count is None else posts[max(len(posts) - count, 0) :]
            for post in gone:
                post.let_go(time.monotonic_ns())
            self._bell.ring()
        return len(gone)

    def wait_ready(self, task: str, timeout_s: float) -> None:
        """Wait until every wanted worker of the task serves.

        Raises:
            VdagError: one could not start: its own error, such as ConfigError or ModelError, if it
                is of this package, else EngineError. It will be tried again.
            TransportError: they do not serve within `timeout_s`, or the pool has failed.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._is_decided(task), timeout_s):
                raise TransportError(f"workers of {task} do not serve within {timeout_s:g} s")
            self._require_open()
            for post in self._wanted(task):
                if post.start_error is not None:
                    raise post.start_error

    def wait_until(
        self, holds: Callable[[Mapping[str, TaskWorkers]], bool], timeout_s: float
    ) -> bool:
        """Wait until `holds(counts())`; return whether it does within `timeout_s`."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._fault is not None or holds(self.counts()), timeout_s
            )
            return holds(self.counts())

    def counts(self) -> Mapping[str, TaskWorkers]:
        """Return how the workers of each task do; tasks without any are missing."""
        tasks: dict[str, list[Post]] = {}
        with self._changed:
            for post in self._posts:
                tasks.setdefault(post.task, []).append(post)
            return MappingProxyType({task: _count(posts) for task, posts in tasks.items()})

    def close(self) -> None:
        """Stop all workers and wait until they are gone; harmless when called again."""
        with self._changed:
            self._is_closing = True
            self._bell.ring()
        if wait_ended(self._thread, timeout_s=self._patience.stop_timeout_s + KILL_TIMEOUT_S):
            self._bell.close()

    def _run(self) -> None:
        """Body of the thread."""
        try:
            while not (self._is_closing and not self._posts):
                self._wait()
                with self._changed:
                    self._step(time.monotonic_ns())
                    self._changed.notify_all()
        except BaseException as err:  # kept for whoever calls next
            logger.exception("the workers of %s are not looked after", self._exchange.address)
            with self._changed:
                self._fault = err
                while self._posts:
                    self._posts.pop().abandon()
                self._changed.notify_all()

    def _wait(self) -> None:
        """Wait until a process says something or ends, something is due, or somebody calls."""
        poll = select.poll()
        poll.register(self._bell.fileno(), select.POLLIN)
        with self._changed:
            due = [post.due_ns for post in self._posts if post.due_ns is not None]
            for fd in (fd for post in self._posts for fd in post.fds):
                poll.register(fd, select.POLLIN)
        left_ns = max(min(due) - time.monotonic_ns(), 0) if due else None
        poll.poll(None if left_ns is None else -(-left_ns // 1_000_000))

    def _step(self, now_ns: int) -> None:
        """Bring every post forward."""
        self._bell.hush()
        while self._notices:
            name, notice = self._notices.popleft()
            for post in self._posts:
                if post.name == name:
                    post.heed(notice, now_ns)
        for post in self._posts:
            if self._is_closing and not self._is_leaving:
                post.let_go(now_ns, at_once=True)
            post.step(now_ns)
        self._is_leaving = self._is_closing
        self._posts = [post for post in self._posts if post.state != "gone"]

    def _wanted(self, task: str) -> list[Post]:
        return [post for post in self._posts if post.task == task and post.is_wanted]

    def _next_device(self, task: str, devices: str) -> str:
        """Return the one of the devices that has the fewest workers of the task."""
        taken = Counter(post.device for post in self._wanted(task))
        return min(devices.replace(" ", "").split(","), key=taken.__getitem__)

    def _is_decided(self, task: str) -> bool:
        """Say whether `wait_ready` need not wait any longer."""
        posts = self._wanted(task)
        return bool(
            self._fault
            or self._is_closing
            or any(post.start_error is not None for post in posts)
            or all(post.state == "serving" for post in posts)
        )

    def _notify(self, worker: str, notice: Notice) -> None:
        """Be told by the exchange, in its thread: it must not wait for our lock."""
        self._notices.append((worker, notice))
        self._bell.ring()

    def _require_open(self) -> None:
        if self._fault is not None:
            raise TransportError("the worker pool has failed") from self._fault
        if self._is_closing:
            raise TransportError("the worker pool is closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _count(posts: Sequence[Post]) -> TaskWorkers:
    states = [post.state for post in posts]
    errors = [str(post.error) for post in posts if post.error is not None]
    trials = [post.trial_s for post in posts if post.trial_s is not None]
    return TaskWorkers(
        wanted=sum(post.is_wanted for post in posts),
        idle=states.count("idle"),
        starting=states.count("starting"),
        serving=states.count("serving"),
        leaving=states.count("leaving"),
        restarts=sum(post.restarts for post in posts),
        hung=sum(post.hung for post in posts),
        error=errors[-1] if errors else "",
        trial_s=sum(trials) / len(trials) if trials else None,
    )
