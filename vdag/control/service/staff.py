"""`Staff`: the worker processes of a node, what they use of it, and what they may.

The thread `vdag-staff` asks the exchange and the kernel once a second, so that a request finds the
figures ready; whoever changes something waits for it, and belongs into a thread of the caller's.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vdag.control.limits import Limit, Limits
from vdag.engines import zoo
from vdag.errors import ConfigError, LimitsUnavailable, TransportError, VdagError
from vdag.plan import ResourceLimit
from vdag.tasks import TaskOptions
from vdag.tasks.variants import variants as of_task
from vdag.threads import wait_ended

if TYPE_CHECKING:
    from vdag.control.resources import Sampler
    from vdag.control.service.schemas import ModelContext
    from vdag.transport.books import ExchangeStats
    from vdag.transport.exchange import Exchange
    from vdag.workers import TaskWorkers, WorkerPool

__all__ = ["ProcessState", "Staff", "choose_model"]

logger = logging.getLogger(__name__)

INTERVAL_S = 1.0
#: How long `add` waits for the new worker to load its model.
START_TIMEOUT_S = 60.0
#: For the thread, which may be asking an exchange that does not answer.
JOIN_TIMEOUT_S = 15.0
#: Weights that the documents name; here the task's own model does their work.
DOCUMENTED_WEIGHTS = frozenset({"yolov5s.pt"})
#: Of a worker that the exchange still gives work, or waits for.
AT_WORK = frozenset({"serving", "retired"})


@dataclass(frozen=True, slots=True)
class ProcessState:
    """What a worker process may use of the machine and uses, as shares of all of it."""

    pid: int
    cpu_util_limit: float = 1.0
    cpu_util_use: float = 0.0
    mem_util_limit: float = 1.0
    mem_util_use: float = 0.0


class Staff:
    """See above. All methods may be called from any thread.

    Args:
        exchange: with all tasks open.
        pool: its workers.
        sampler: measures their processes.
        limits: of their processes.
        options: task to how its workers are loaded, for every task of the node.
        variants: task to what plans can choose among, by `model_id`, see `vdag.tasks.variants`;
            None for all that its options allow.
        models: folder with model cards that callers may ask for by name; None for the zoo alone.
    """

    def __init__(
        self,
        exchange: Exchange,
        pool: WorkerPool,
        sampler: Sampler,
        limits: Limits,
        *,
        options: Mapping[str, TaskOptions],
        variants: Mapping[str, Mapping[int, TaskOptions]] | None = None,
        models: Path | None = None,
    ) -> None:
        self._exchange, self._pool, self._sampler, self._limits = exchange, pool, sampler, limits
        self._options = dict(options)
        self._variants = dict(variants or {task: of_task(task, options[task]) for task in options})
        self._models = models
        self._changes = threading.Lock()
        self._pids: dict[int, str] = {}
        self._applied: dict[int, Limit] = {}
        self._own: dict[str, Limit] = {}  # limits that callers have set
        self._planned: dict[str, ResourceLimit] = {}
        self._stats, self._counts = exchange.stats(), pool.counts()
        self._fault = ""
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vdag-staff", daemon=True)
        self._thread.start()

    def __enter__(self) -> Staff:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks of the node, in the order of its configuration."""
        return tuple(self._options)

    def models(self, task: str) -> tuple[int, ...]:
        """Return the `model_id`s that plans can choose among for a task of the node."""
        return tuple(self._variants.get(task, ()))

    @property
    def fault(self) -> str:
        """Why the exchange does not answer, empty as long as it does."""
        return self._fault

    def stats(self) -> ExchangeStats:
        """Return the newest figures of the exchange, at most a second old."""
        return self._stats

    def counts(self) -> Mapping[str, TaskWorkers]:
        """Return how the workers of each task do, or did a second ago."""
        return self._counts

    def pids(self, task: str) -> tuple[int, ...]:
        """Return the processes that work for a task."""
        return tuple(pid for pid, name in self._pids.items() if name == task)

    def process(self, task: str, pid: int = 0) -> ProcessState:
        """Return what a process uses; without a pid, one of those that work for the task."""
        if not pid:
            pid = next(iter(self.pids(task)), 0)
        use, limit = self._sampler.process(pid), self._applied.get(pid)
        return ProcessState(
            pid,
            cpu_util_limit=1.0 if limit is None else _share(limit.cpu_util_limit),
            cpu_util_use=0.0 if use is None else round(use.cpu_util_use, 5),
            mem_util_limit=1.0 if limit is None else _share(limit.mem_util_limit),
            mem_util_use=0.0 if use is None else round(use.mem_util_use, 5),
        )

    def limit_of(self, task: str) -> tuple[float, float]:
        """Return the shares of CPU and memory that were set for a task."""
        limit = self._limits.limit_of(task)
        return _share(limit.cpu_util_limit), _share(limit.mem_util_limit)

    def add(self, task: str, context: ModelContext | None = None) -> TaskOptions:
        """Start one more worker of a task and wait until it serves.

        Returns:
            How it was loaded.

        Raises:
            ConfigError: the node does not offer the task, or has no such model or device.
            VdagError: the worker could not start; there are as many as before.
        """
        with self._changes:
            options = self._require(task)
            if context is not None:
                options = choose_model(task, options, context, self._models)
            self._pool.add(task, options, models=self._variants_like(task, options))
            try:
                self._pool.wait_ready(task, START_TIMEOUT_S)
            except VdagError:
                self._pool.remove(task, 1)
                raise
            self._options[task] = options
            self._refresh()
        return options

    def decrease(self, task: str) -> int:
        """Let one worker of a task go, after what it holds; return how many stay.

        Raises:
            ConfigError: the node does not offer the task, or it is the last one.
        """
        with self._changes:
            self._require(task)
            counts = self._pool.counts()
            if task not in counts or counts[task].wanted <= 1:
                raise ConfigError(f"{task} has one worker, which stays")
            self._pool.remove(task, 1)
            self._counts = self._pool.counts()
            return self._counts[task].wanted

    def adopt(self, task: str, options: TaskOptions) -> None:
        """Count a task as one of the node's; its workers, which are the pool's, serve."""
        with self._changes:
            # Whole mappings are put in place of those before: others may be looking at them.
            self._variants = {**self._variants, task: of_task(task, options)}
            self._options = {**self._options, task: options}
            self._refresh()

    def disown(self, task: str) -> None:
        """Count a task as the node's no more; harmless if it is not."""
        with self._changes:
            self._options = {name: each for name, each in self._options.items() if name != task}
            self._variants = {name: each for name, each in self._variants.items() if name != task}
            self._own.pop(task, None)
            self._refresh()

    def limit_task(self, task: str, limit: Limit) -> None:
        """Limit the workers of a task, those that are still to come as well.

        Fields that are None stay as they are. A limit of plans holds beside it, see `plan_limit`.

        Raises:
            ConfigError: the node does not offer the task, or a value has no meaning.
            LimitsUnavailable: the machine does not allow it.
        """
        with self._changes:
            self._require(task)
            own = self._own.get(task, Limit()).merged(limit)
            self._bind(task, own, self._planned.get(task))
            self._own[task] = own

    def plan_limit(self, task: str, limit: ResourceLimit | None) -> None:
        """Limit the workers of a task as plans want it, None for not at all.

        What callers of `limit_task` have set stays the most that there is, and is what binds as
        soon as no plan does.

        Raises:
            ConfigError: as of `limit_task`.
            LimitsUnavailable: likewise; what bound before still binds.
        """
        with self._changes:
            if limit == self._planned.get(task):
                return
            self._require(task)
            self._bind(task, self._own.get(task, Limit()), limit)
            if limit is None:
                del self._planned[task]
            else:
                self._planned[task] = limit

    def limit_process(self, task: str, pid: int, limit: Limit) -> None:
        """Limit one worker.

        Raises:
            ConfigError: the process does not work for that task, or a value has no meaning.
            LimitsUnavailable: the machine does not allow it.
        """
        with self._changes:
            self._require(task)
            if pid not in self.pids(task):
                raise ConfigError(f"pid {pid} is no worker of {task}")
            self._limits.limit_process(pid, limit)
            self._measure()

    def refresh(self) -> None:
        """Bring all figures up to date now.

        Raises:
            TransportError: the exchange has failed.
        """
        with self._changes:
            self._refresh()

    def close(self) -> None:
        """End the thread; the figures stay as they are."""
        self._is_closing.set()
        wait_ended(self._thread, timeout_s=JOIN_TIMEOUT_S)

    def _run(self) -> None:
        """Body of the thread."""
        while not self._is_closing.wait(INTERVAL_S):
            try:
                self.refresh()
                self._fault = ""
            except TransportError as err:
                if not self._fault:
                    logger.error("the exchange does not answer: %s", err)
                self._fault = str(err)
            except Exception as err:  # the next second may be better; the service goes on
                logger.exception("the workers could not be looked at")
                self._fault = f"{type(err).__name__}: {err}"

    def _refresh(self) -> None:
        self._stats = stats = self._exchange.stats()
        self._counts = self._pool.counts()
        workers = stats.workers.values()
        alive = {worker.pid: worker.task for worker in workers if worker.state in AT_WORK}
        for pid in self._pids.keys() - alive.keys():
            self._sampler.unwatch(pid)
            self._limits.release(pid)
        for pid in alive.keys() - self._pids.keys():
            self._welcome(pid, alive[pid])
        self._pids = alive
        self._measure()

    def _welcome(self, pid: int, task: str) -> None:
        """Watch a new process, and put it under the limit of its task."""
        try:
            self._sampler.watch(pid)
            if self._limits.limit_of(task) != Limit(1.0, 1.0):
                self._limits.place(pid, task)
        except (ConfigError, LimitsUnavailable) as err:
            logger.warning("worker %d of %s: %s", pid, task, err)

    def _measure(self) -> None:
        """Ask the kernel what binds each process."""
        applied = {}
        for pid in self._pids:
            try:
                applied[pid] = self._limits.applied(pid)
            except ConfigError:
                continue  # it has ended a moment ago
        self._applied = applied

    def _bind(self, task: str, own: Limit, planned: ResourceLimit | None) -> None:
        """Have the smaller of two limits bind the workers of a task."""
        before, plan = self._limits.limit_of(task), planned or ResourceLimit()
        cpu = _smaller(own.cpu_util_limit, plan.cpu_util_limit, before.cpu_util_limit)
        memory = _smaller(own.mem_util_limit, plan.mem_util_limit, before.mem_util_limit)
        both = replace(own, cpu_util_limit=cpu, mem_util_limit=memory)
        self._limits.limit_task(task, self.pids(task), both)
        if self._limits.limit_of(task) != before:
            self._measure()

    def _variants_like(self, task: str, options: TaskOptions) -> dict[int, TaskOptions]:
        """Return what plans can choose among, on the device that a worker is for.

        A plan's model is the same on every worker, whatever each of them was started with.
        """
        return {
            model: replace(
                each, device=options.device, engine=options.engine, threads=options.threads
            )
            for model, each in self._variants[task].items()
        }

    def _require(self, task: str) -> TaskOptions:
        options = self._options.get(task)
        if options is None:
            raise ConfigError(f"task {task[:80]!r} is none of {', '.join(self._options)}")
        return options


def choose_model(
    task: str, options: TaskOptions, context: ModelContext, models: Path | None
) -> TaskOptions:
    """Return how a worker is loaded whose caller asks for something else than is in use.

    Args:
        task: its name.
        options: of the workers in use, for all that the caller leaves open.
        context: what the caller asks for.
        models: folder of model cards, beside the zoo.

    Raises:
        ConfigError: there is no model of that name for the task.
    """
    changes = {
        name: value
        for name in ("model_id", "device", "engine", "threads")
        if (value := getattr(context, name)) is not None
    }
    options = replace(options, **changes)
    name = context.weights
    if name is None or name in DOCUMENTED_WEIGHTS:
        return options
    try:
        choices = zoo.models_for(task)
    except ConfigError:  # a task of the user's, which has no model in the zoo
        choices = {}
    fitting = [model_id for model_id, choice in choices.items() if choice.card.name == name]
    if fitting:
        model_id = options.model_id if options.model_id in fitting else fitting[0]
        return replace(options, model_id=model_id, card=None)
    cards = {path.stem: path for path in sorted(models.glob("*.toml"))} if models else {}
    if name in cards:
        return replace(options, card=cards[name])
    known = sorted({choice.card.name for choice in choices.values()} | cards.keys())
    raise ConfigError(f"weights {name!r} are not here, expected one of {', '.join(known)}")


def _smaller(own: float | None, planned: float, bound: float | None) -> float | None:
    """Return the share to set, None for to leave it alone: nobody limits it, and nobody has."""
    if own is None and planned == 1.0 and bound == 1.0:
        return None
    return min(1.0 if own is None else own, planned)


def _share(value: float | None) -> float:
    return 1.0 if value is None else round(value, 5)
