"""`/metrics` of what is recorded: figures in Prometheus' text format, on the app of each role.

A node that runs jobs tells how far its frames have come into the records (`courier_figures`); who
records tells what has come (`chronicle_figures`, `record_figures`). What a service tells of itself
is in `service.exposition`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from fastapi import FastAPI, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from vdag.control.agent.courier import CourierStats
    from vdag.control.controller.chronicle import ChronicleStats
    from vdag.control.records.logbook import LogStats

__all__ = [
    "Figures",
    "add_metrics",
    "chronicle_figures",
    "courier_figures",
    "record_figures",
    "report_figures",
    "session_figures",
]

#: Returns the figures of this moment; called in any thread.
Figures = Callable[[], Iterable[Metric]]


def add_metrics(app: FastAPI, figures: Figures) -> None:
    """Give an app the endpoint `/metrics`, which is guarded like its others."""
    registry = CollectorRegistry()
    registry.register(_Told(figures))

    async def metrics() -> Response:
        """Return all figures."""
        return PlainTextResponse(await asyncio.to_thread(generate_latest, registry))

    app.add_api_route(
        "/metrics",
        metrics,
        methods=["GET"],
        summary="For Prometheus",
        response_class=PlainTextResponse,
    )


def courier_figures(stats: CourierStats | None) -> Iterator[Metric]:
    """Yield what a node's courier has done; nothing for a node without one."""
    if stats is None:
        return
    frames = CounterMetricFamily(
        "vdag_courier_frames", "Frames whose events are through.", labels=["outcome"]
    )
    for outcome, count in (
        ("acknowledged", stats.frames),
        ("dropped", stats.lost - stats.refused),
        ("refused", stats.refused),
    ):
        frames.add_metric([outcome], count)
    yield frames
    yield CounterMetricFamily(
        "vdag_courier_spool_dropped", "Of those dropped, by the spool.", value=stats.spool.dropped
    )
    spool = GaugeMetricFamily("vdag_courier_spooled", "What waits, by unit.", labels=["unit"])
    for unit, count in (
        ("frames", stats.spool.results),
        ("segments", stats.spool.segments),
        ("bytes", stats.spool.nbytes),
    ):
        spool.add_metric([unit], count)
    yield spool
    logs = CounterMetricFamily("vdag_courier_logs", "Told to the controller.", labels=["outcome"])
    logs.add_metric(["acknowledged"], stats.logs)
    logs.add_metric(["failed"], stats.failures)
    yield logs
    yield GaugeMetricFamily(
        "vdag_courier_slack_seconds",
        "By how much the times of frames may be wrong.",
        value=stats.slack_ns / 1e9,
    )


def chronicle_figures(stats: ChronicleStats) -> Iterator[Metric]:
    """Yield what a controller has had from nodes for the records."""
    for name, text, value in (
        ("logs", "Logs of nodes that were handed on to be recorded.", stats.logs),
        ("frames", "Frames in them.", stats.frames),
        ("malformed", "Parts of logs that make no sense.", stats.malformed),
        ("given_up", "Logs that could not be recorded.", stats.given_up),
        ("lost_frames", "Frames that nodes had no room for.", stats.lost),
    ):
        yield CounterMetricFamily(f"vdag_chronicle_{name}", text, value=value)
    yield GaugeMetricFamily(
        "vdag_chronicle_waiting", "Changes of sessions that wait for room.", value=stats.waiting
    )


def record_figures(stats: LogStats) -> Iterator[Metric]:
    """Yield what became of rows of events."""
    rows = CounterMetricFamily("vdag_records_rows", "Rows of events.", labels=["outcome"])
    for outcome, count in (
        ("written", stats.rows),
        ("duplicate", stats.duplicates),
        ("late", stats.late),
        ("rolled_up", stats.rolled_up),
    ):
        rows.add_metric([outcome], count)
    yield rows
    yield GaugeMetricFamily("vdag_records_waiting", "Rows not written yet.", value=stats.waiting)
    yield CounterMetricFamily(
        "vdag_records_refused", "Reports for which there was no room.", value=stats.refused
    )


def report_figures(counts: Iterable[tuple[str, int]]) -> Iterator[Metric]:
    """Yield what became of reports over HTTP, by outcome."""
    reports = CounterMetricFamily("vdag_collector_reports", "Reports.", labels=["outcome"])
    for outcome, count in counts:
        reports.add_metric([outcome], count)
    yield reports


def session_figures(states: Iterable[str]) -> Iterator[Metric]:
    """Yield how many sessions there are, by state."""
    sessions = GaugeMetricFamily("vdag_sessions", "Sessions of a coordinator.", labels=["state"])
    for state, count in sorted(Counter(states).items()):
        sessions.add_metric([state], count)
    yield sessions


class _Told(Collector):
    """Asks for figures when it is asked itself."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def describe(self) -> Iterable[Metric]:
        """Say nothing: at registration there is nothing to ask yet."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Return the figures of this moment."""
        return self._figures()
