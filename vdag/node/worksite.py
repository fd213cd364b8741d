"""`Worksite`: where a node's tasks are done: its exchange, and its workers."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from typing import TYPE_CHECKING

from vdag.allocator import keep_memory
from vdag.config import Config
from vdag.control.agent.courier import Glimpse
from vdag.control.cluster import NodeView, ServiceView
from vdag.control.limits import Limits
from vdag.control.resources import Sampler
from vdag.control.service.openings import Openings
from vdag.control.service.packages import PackageStore, load_enabled
from vdag.control.service.plan_limits import PlanLimits
from vdag.control.service.staff import Staff
from vdag.tasks.modules import load_module
from vdag.tasks.variants import variants
from vdag.transport.exchange import Exchange
from vdag.transport.folder import temporary_folder
from vdag.workers import WorkerPool

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Worksite"]


class Worksite:
    """See above; closed by `close` or a `with` block. Its workers have loaded when it is there.

    Args:
        config: of the node.

    Attributes:
        exchange: with the node's shared memory.
        staff: its workers.
        limits: that plans set to its tasks.
        openings: tasks that a controller has it do beside its own.
        packages: tasks that were uploaded; None if none are stored.

    Raises:
        ConfigError: a setting does not fit this machine.
        VdagError: a worker could not load its task, or shared memory cannot be had.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        service = config.service
        self._variants = {
            name: variants(name, task.options, task.models) for name, task in service.tasks.items()
        }
        with ExitStack() as stack:
            modules = list(service.modules)
            for path in modules:
                load_module(path)
            self.packages: PackageStore | None = None
            if service.packages.folder is not None:
                self.packages = stack.enter_context(PackageStore(service.packages))
                modules += load_enabled(self.packages)
            self._sampler = stack.enter_context(Sampler(config.node.sample_interval_s))
            limits = stack.enter_context(Limits(mode=config.node.limits))
            self.exchange = stack.enter_context(_open_exchange(config, stack))
            pool = stack.enter_context(WorkerPool(self.exchange, modules=modules))
            self._start_workers(pool)
            self.staff = stack.enter_context(
                Staff(
                    self.exchange,
                    pool,
                    self._sampler,
                    limits,
                    options={name: task.options for name, task in service.tasks.items()},
                    variants=self._variants,
                    models=service.models,
                )
            )
            self.staff.refresh()
            self.limits = stack.enter_context(PlanLimits(self.staff.plan_limit))
            self.openings = stack.enter_context(Openings(self.exchange, pool, self.staff))
            self._stack = stack.pop_all()

    def view(self, address: str, port: int) -> NodeView:
        """Return how this node is now; returns at once.

        Args:
            address: of the node.
            port: of its compute service, 0 if it has none.
        """
        state, counts = self._sampler.latest(), self.staff.counts()
        services = {}
        for task in self.staff.tasks:
            cpu, memory = self.staff.limit_of(task)
            count = counts[task].wanted if task in counts else 0
            models = self.staff.models(task)
            services[task] = ServiceView(count, cpu, memory, models=models)
        role = self._config.node.role
        return NodeView(address, port, role, state.to_dict(), state.to_summary(), services)

    def glimpse(self) -> Glimpse:
        """Return how this node is now, for the records; returns at once."""
        state = self._sampler.latest()
        tasks: dict[str, tuple[float, float]] = {}
        for task in self.staff.tasks:
            uses = [self.staff.process(task, pid) for pid in self.staff.pids(task)]
            cpu = min(sum(use.cpu_util_use for use in uses), 1.0)
            memory = min(sum(use.mem_util_use for use in uses), 1.0)
            if uses:
                tasks[task] = round(cpu, 5), round(memory, 5)
        return Glimpse(state.sampled_ns, state.to_sys_info(0.0), tasks)

    def offered(self) -> dict[str, tuple[int, ...]]:
        """Return the tasks that have a worker, or are to have one, each with its models."""
        counts = self.staff.counts()
        return {
            task: self.staff.models(task)
            for task in self.staff.tasks
            if task in counts and counts[task].wanted
        }

    def close(self) -> None:
        """Stop the workers, lift every limit, and give everything back."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _start_workers(self, pool: WorkerPool) -> None:
        tasks = self._config.service.tasks
        for name, task in tasks.items():
            self.exchange.open_task(name, policy=task.policy, limit=task.queue)
            if task.workers:
                pool.add(
                    name,
                    task.options,
                    count=task.workers,
                    max_batch=task.max_batch,
                    models=self._variants[name],
                )
        for name in tasks:
            pool.wait_ready(name, self._config.node.start_timeout_s)


def _open_exchange(config: Config, stack: ExitStack) -> Exchange:
    keep_memory()
    folder = config.node.folder
    if folder is None:
        folder = temporary_folder()
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
    classes = [(width * height * 3, count) for width, height, count in config.service.slots]
    return Exchange(folder, node=config.node.name, classes=classes)
