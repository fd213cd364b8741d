"""`Toolbox`: the models of a task that one worker has loaded, and how it gets at the others.

Which model a frame wants is on its route; frames that name none are for the model that the worker
was started with. Any other is loaded when a frame first wants it and kept. A model of the zoo takes
10 to 60 ms to load and warm up once the worker runs, less than two of its frames, and 15 to 200 MB
with what its engine comes to hold: too much to give to every worker for plans that may never come,
and no frame is late by more than that, once for each worker.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import MappingProxyType

from vdag import tasks
from vdag.errors import ConfigError, EngineError
from vdag.graph import Graph
from vdag.stages import Stage
from vdag.tasks import Task, TaskOptions, overlap

__all__ = ["MAX_OTHERS", "Toolbox"]

logger = logging.getLogger(__name__)

#: Models that are kept beside the first; the zoo has at most three of a task.
MAX_OTHERS = 3
#: A model that could not be loaded is not tried again before, so that no frame waits in vain.
RETRY_NS = 10_000_000_000


class Toolbox:
    """See above; for one thread.

    Args:
        task: its name.
        first: loaded; the box closes it.
        options: how it was loaded; None for by the defaults.
        models: what frames may ask for, by `model_id`: how each is loaded. The one that is loaded
            as `first` was is that one.
        max_batch: most frames that a model is given at once.
        clock: of this host, in ns.
    """

    def __init__(
        self,
        task: str,
        first: Task,
        *,
        options: TaskOptions | None = None,
        models: Mapping[int, TaskOptions] = MappingProxyType({}),
        max_batch: int = 1,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._task, self._options = task, options or TaskOptions()
        self._models = dict(models)
        self._max_batch, self._clock = max_batch, clock
        self._graph = Graph("SingleFrameGenerator", (task,), {task: ()})
        self._first = self._stage_of(first)
        self._others: OrderedDict[int, Stage] = OrderedDict()
        self._failed: dict[int, tuple[int, str]] = {}
        self._pages: tuple[int, int] | None = None

    def lock_pages(self, address: int, nbytes: int) -> None:
        """Tell all models, and those to come, where frames will lie; see `vdag.tasks.overlap`."""
        self._pages = address, nbytes
        overlap.lock_pages(self._first.instances[0], address, nbytes)

    def stage(self, model: int | None) -> Stage:
        """Return a model ready to run, loaded if it is not; valid until the next call.

        Args:
            model: its `model_id`; None for the one that the worker was started with.

        Raises:
            ConfigError: it is not offered here.
            VdagError: it cannot be loaded, or could not a moment ago.
        """
        options = self._options if model is None else self._models.get(model)
        if model is None or options == self._options:
            return self._first
        if options is None:
            known = ", ".join(map(str, self._models)) or "its own"
            raise ConfigError(f"{self._task} has no model {model} here, only {known}")
        found = self._others.get(model)
        if found is None:
            found = self._load(model, options)
        self._others.move_to_end(model)
        return found

    def close(self) -> None:
        """Close every model; nothing is used afterwards."""
        self._first.close()
        while self._others:
            self._others.popitem()[1].close()

    def _load(self, model: int, options: TaskOptions) -> Stage:
        """Load a model, in the place of the one not used for longest if there are too many."""
        failed_ns, text = self._failed.get(model, (0, ""))
        if text and self._clock() - failed_ns < RETRY_NS:
            raise EngineError(text)
        while len(self._others) >= MAX_OTHERS:
            self._others.popitem(last=False)[1].close()
        start_ns = self._clock()
        try:
            found = self._others[model] = self._stage_of(self._warm(options))
        except Exception as err:  # tasks of the user's may raise anything
            text = f"model {model} of {self._task} cannot be loaded: {type(err).__name__}: {err}"
            logger.warning("%s", text)
            self._failed[model] = (self._clock(), text)
            raise EngineError(text) from err
        self._failed.pop(model, None)
        took_ms = (self._clock() - start_ns) / 1e6
        logger.info("model %d of %s was loaded in %.0f ms", model, self._task, took_ms)
        return found

    def _warm(self, options: TaskOptions) -> Task:
        instance = tasks.load(self._task, options)
        try:
            tasks.warm_up(instance, min(self._max_batch, instance.max_batch))
            if self._pages is not None:
                overlap.lock_pages(instance, *self._pages)
        except BaseException:
            instance.close()
            raise
        return instance

    def _stage_of(self, instance: Task) -> Stage:
        return Stage(self._graph, self._task, [instance], owned=True)
