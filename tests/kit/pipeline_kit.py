"""Pipelines of a moment: their pictures, their results, their books and their processes."""

from __future__ import annotations

import numpy as np
import psutil

from vdag.pipeline import Pipeline


def worker_processes():
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if "vdag.worker" in process.cmdline()
    ]


def pictures(count):
    """Pictures whose every sample is their number."""
    return [np.full((4, 6, 3), n % 256, np.uint8) for n in range(count)]


def balanced(stats):
    return stats.read == stats.delivered + sum(stats.dropped.values()) + stats.in_flight


def analyse(graph, source, **options):
    with Pipeline(graph, source, **options) as run:
        results = list(run)
    assert balanced(run.stats())
    assert run.stats().in_flight == 0
    return results, run.stats()
