"""`/metrics`: the figures of a node in Prometheus' text format.

Times of the exchange come as summaries with quantiles, for its histograms are finer than buckets
that travel; the times of requests are a histogram, so that they can be added up over nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vdag.transport.queues import REASONS

if TYPE_CHECKING:
    from vdag.control.exposition import Figures
    from vdag.control.service.execution import Execution
    from vdag.control.service.staff import Staff
    from vdag.metrics import Summary
    from vdag.transport.books import ExchangeStats

__all__ = ["Metrics"]

#: Seconds; from a picture that is looked at on a GPU nearby to the usual dead-line.
BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Metrics:
    """The figures of one service; `observe` in its event loop.

    Args:
        staff: of its node.
        execution: of the service.
        more: figures of what the node does beside it.
    """

    def __init__(self, staff: Staff, execution: Execution, more: Figures = tuple) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Figures(staff, execution, more))
        self._latency = Histogram(
            "vdag_request_seconds",
            "From a request's arrival to its reply.",
            ["task"],
            buckets=BUCKETS,
            registry=self._registry,
        )
        self._replies = Counter(
            "vdag_requests",
            "Requests answered.",
            ["task", "status"],
            registry=self._registry,
        )

    def observe(self, task: str, status: int, latency_s: float) -> None:
        """Count a request; the task must be one of the node's, else labels grow without bound."""
        self._latency.labels(task).observe(latency_s)
        self._replies.labels(task, str(status)).inc()

    def text(self) -> bytes:
        """Return all figures; takes milliseconds."""
        return generate_latest(self._registry)


class _Figures(Collector):
    """Reads the node's own figures when it is asked."""

    def __init__(self, staff: Staff, execution: Execution, more: Figures) -> None:
        self._staff, self._execution, self._more = staff, execution, more

    def describe(self) -> Iterable[Metric]:
        """Say nothing: asking the exchange at registration would be too early."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield the figures of this moment."""
        stats = self._staff.stats()
        yield from _exchange_metrics(stats)
        yield from _task_metrics(stats)
        yield from _worker_metrics(stats)
        yield from self._staff_metrics()
        yield from self._service_metrics()
        yield from self._more()

    def _staff_metrics(self) -> Iterator[Metric]:
        workers = GaugeMetricFamily("vdag_workers", "Worker processes.", labels=["task", "state"])
        restarts = CounterMetricFamily("vdag_worker_restarts", "Started again.", labels=["task"])
        for task, counts in self._staff.counts().items():
            for state in ("wanted", "idle", "starting", "serving", "leaving"):
                workers.add_metric([task, state], getattr(counts, state))
            restarts.add_metric([task], counts.restarts)
        yield workers
        yield restarts

    def _service_metrics(self) -> Iterator[Metric]:
        stats = self._execution.stats()
        works = CounterMetricFamily("vdag_works", "Pieces of work of requests.", labels=["outcome"])
        for outcome in ("answered", "failed", "given_up", "late"):
            works.add_metric([outcome], getattr(stats, outcome))
        yield works
        yield GaugeMetricFamily("vdag_works_pending", "Under way.", value=stats.pending)


def _exchange_metrics(stats: ExchangeStats) -> Iterator[Metric]:
    yield CounterMetricFamily("vdag_frames", "Frames received.", value=stats.received)
    drops = CounterMetricFamily("vdag_frames_dropped", "Frames dropped.", labels=["reason"])
    for reason in {*REASONS, *stats.dropped}:
        drops.add_metric([reason], stats.dropped.get(reason, 0))
    yield drops
    slots = GaugeMetricFamily("vdag_slots", "Slots of shared memory.", labels=["nbytes", "state"])
    for size in stats.arena.classes:
        for state in ("free", "loaned", "committed"):
            slots.add_metric([str(size.slot_nbytes), state], getattr(size, state))
    yield slots


def _task_metrics(stats: ExchangeStats) -> Iterator[Metric]:
    queue = GaugeMetricFamily("vdag_queue_frames", "Frames that wait.", labels=["task"])
    at_work = GaugeMetricFamily("vdag_outstanding_frames", "Frames at workers.", labels=["task"])
    for task, report in stats.tasks.items():
        queue.add_metric([task], report.flow.counts.waiting)
        at_work.add_metric([task], report.flow.counts.outstanding)
    yield queue
    yield at_work
    for name, text in (
        ("wait", "From arrival to being given to a worker."),
        ("compute", "What the task took, for the batch of a frame."),
        ("hop", "From arrival to the worker's answer."),
    ):
        metric = Metric(f"vdag_task_{name}_seconds", text, "summary")
        for task, report in stats.tasks.items():
            _add_summary(metric, {"task": task}, getattr(report, name))
        yield metric


def _worker_metrics(stats: ExchangeStats) -> Iterator[Metric]:
    families = {
        "frames": CounterMetricFamily(
            "vdag_worker_frames", "Frames answered.", labels=["task", "worker"]
        ),
        "batches": CounterMetricFamily(
            "vdag_worker_batches", "Batches they came in.", labels=["task", "worker"]
        ),
        "failures": CounterMetricFamily(
            "vdag_worker_failures", "Frames its task raised on.", labels=["task", "worker"]
        ),
        "busy_s": CounterMetricFamily(
            "vdag_worker_busy_seconds", "Time its task has worked.", labels=["task", "worker"]
        ),
    }
    for name, worker in stats.workers.items():
        for field, family in families.items():
            family.add_metric([worker.task, name], getattr(worker, field))
    yield from families.values()


def _add_summary(metric: Metric, labels: Mapping[str, str], summary: Summary) -> None:
    for quantile in ("0.5", "0.95", "0.99"):
        value = getattr(summary, f"p{quantile[2:].ljust(2, '0')}_s")
        metric.add_sample(metric.name, {**labels, "quantile": quantile}, value)
    metric.add_sample(f"{metric.name}_count", dict(labels), summary.count)
    metric.add_sample(f"{metric.name}_sum", dict(labels), summary.mean_s * summary.count)
