"""Frames between two processes: vdag against what else there is, all in turn within one run.

    transport.<size>.loan_vs_<peer>     the sender writes a few bytes into memory it is given
    transport.<size>.copy_vs_<peer>     the sender's frame is somewhere else first, and copied
        ...                             frames per second, as fast as they go
        ..._cpu                         CPU of both processes per frame, meanwhile
        ..._paced_cpu                   the same at 100 frames/s for 1080p, at 60 for other sizes
        ..._p50                         latency at that pace, from before sending until it is seen
    transport.1080p.fanout3_vs_1        copied once for three receivers, against one
    transport.1080p.pipeline_vs_pyzmq   source, preprocessing in another process, sink
    transport.1080p.hop_vs_reference    to a task through exchange and credit, and its answer home

Measured: what `transport_course` says. Outside: starting processes, connecting, making frames.
Every frame is checked: nobody may lose one (dora does, under load: those that arrive count), repeat
one, or show parts of another. dora's daemon works too, which its CPU lines leave out. A peer that
cannot keep the pace has no latency. One that is not installed, or fails, is skipped with the
reason; `pip install 'vdag[bench,peers]'` installs them.

`VDAG_BENCH_QUICK=1` measures 1080p only, in fewer rounds.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import numpy as np
import pytest
from comparison import SCALE, Comparison, paired, quantile
from transport_course import Contender, Course, Window, open_course
from transport_hop import hops, open_hops, pictures
from transport_lines import plain_line, vdag_line
from transport_middleware import DORA, ICEORYX_COPY, ICEORYX_LOAN, ZENOH
from transport_peers import IMAGEZMQ, NETGEAR_RAW, PYZMQ, PYZMQ_COPY, QUEUE
from transport_vdag import COPY, LOAN

QUICK = os.environ.get("VDAG_BENCH_QUICK") == "1"
ROUNDS = 3 if QUICK else 5
WARM_UP_S, SATURATED_S, PACED_S = 0.3, 0.5, 1.0

FULL_HD = (1080, 1920, 3)
SIZES = {"1080p": FULL_HD} | (
    {} if QUICK else {"480p": (480, 640, 3), "720p": (720, 1280, 3), "4k": (2160, 3840, 3)}
)
#: Ours, the name of the other side in the line, the other side.
PAIRS = [
    (LOAN, "pyzmq", PYZMQ),
    (LOAN, "iceoryx2", ICEORYX_LOAN),
    (LOAN, "dora", DORA),
    (COPY, "pyzmq", PYZMQ),
    (COPY, "pyzmq_copy", PYZMQ_COPY),
    (COPY, "imagezmq", IMAGEZMQ),
    (COPY, "netgear", NETGEAR_RAW),
    (COPY, "queue", QUEUE),
    (COPY, "iceoryx2", ICEORYX_COPY),
    (COPY, "zenoh", ZENOH),
    (COPY, "dora", DORA),
]
CONTENDERS = list(dict.fromkeys(side for ours, _, theirs in PAIRS for side in (ours, theirs)))

#: A contender's windows, saturated and paced, one pair per round; or why there are none.
Rounds = list[tuple[Window, Window]] | str
Record = Callable[[Comparison], None]


def pace(size: str) -> float:
    """Frames per second of the paced windows."""
    return 100.0 if size == "1080p" else 60.0


def missing(contender: Contender) -> str | None:
    """Say what a contender lacks."""
    absent = [name for name in contender.needs if importlib.util.find_spec(name) is None]
    return f"{', '.join(absent)} not installed" if absent else None


def start(stack: ExitStack, contender: Contender, size: str, receivers: int = 1) -> Course:
    """Open a contender's course and warm it up; the stack closes it."""
    course = stack.enter_context(open_course(contender, SIZES[size], receivers=receivers))
    course.window(WARM_UP_S)
    return course


def measure(size: str) -> dict[str, Rounds]:
    """Let all contenders take turns."""
    # They take minutes, which looks like a hang; a real one ends at the time-outs of the course.
    faulthandler.cancel_dump_traceback_later()
    found: dict[str, Rounds] = {}
    courses: dict[str, Course] = {}

    @contextmanager
    def unless_it_fails(contender: Contender) -> Iterator[None]:
        """Leave a contender out that fails; ours may not."""
        try:
            yield
        except Exception as err:
            if contender in (LOAN, COPY):
                raise
            courses.pop(contender.name, None)
            found[contender.name] = f"{contender.title}: {str(err).strip()[-500:]}"

    with ExitStack() as stack:
        for contender in CONTENDERS:
            if (reason := missing(contender)) is not None:
                found[contender.name] = reason
                continue
            with unless_it_fails(contender):
                courses[contender.name] = start(stack, contender, size)
                found[contender.name] = []
        for number in range(ROUNDS):
            # Everybody goes first once in a while.
            turns = list(courses.values())
            for course in turns[number % len(turns) :] + turns[: number % len(turns)]:
                with unless_it_fails(course.contender):
                    windows = course.window(SATURATED_S), course.window(PACED_S, pace(size))
                    found[course.contender.name].append(windows)
    return found


@pytest.fixture(scope="module", params=SIZES)
def measured(request: pytest.FixtureRequest) -> tuple[str, dict[str, Rounds]]:
    """A size, and every contender's rounds at it."""
    return request.param, measure(request.param)


def latency(
    name: str, subject: str, against: str, ours: list[Window], theirs: list[Window], unit: str
) -> Comparison:
    """Make the line of latencies: the ratio is of medians, p50 and p99 are of all frames."""
    line = paired(
        name,
        subject,
        against,
        subject_s=[quantile(window.latencies_s, 0.5) for window in ours],
        against_s=[quantile(window.latencies_s, 0.5) for window in theirs],
        unit=unit,
    )
    latencies = [seconds * SCALE[unit] for window in ours for seconds in window.latencies_s]
    return replace(
        line, p50=round(quantile(latencies, 0.5), 4), p99=round(quantile(latencies, 0.99), 4)
    )


def rates(
    record: Record,
    name: str,
    sides: tuple[str, str],
    ours: list[Window],
    theirs: list[Window],
    unit: str = "us",
) -> None:
    """Record the lines of frames per second and of CPU."""
    for suffix, figure in (("", "frame_s"), ("_cpu", "frame_cpu_s")):
        record(
            paired(
                name + suffix,
                *sides,
                subject_s=[getattr(window, figure) for window in ours],
                against_s=[getattr(window, figure) for window in theirs],
                unit=unit,
            )
        )


@pytest.mark.parametrize(
    ("ours", "peer", "theirs"), PAIRS, ids=[f"{pair[0].name}_vs_{pair[1]}" for pair in PAIRS]
)
def bench_way(measured, record, ours: Contender, peer: str, theirs: Contender) -> None:
    size, found = measured
    if isinstance(reason := found[theirs.name], str):
        pytest.skip(reason)
    rounds = list(zip(found[ours.name], found[theirs.name], strict=True))
    our_saturated, their_saturated = zip(*((a[0], b[0]) for a, b in rounds), strict=True)
    our_paced, their_paced = zip(*((a[1], b[1]) for a, b in rounds), strict=True)
    name = f"transport.{size}.{ours.name}_vs_{peer}"
    rates(record, name, (ours.title, theirs.title), our_saturated, their_saturated)
    record(
        paired(
            f"{name}_paced_cpu",
            ours.title,
            theirs.title,
            subject_s=[window.frame_cpu_s for window in our_paced],
            against_s=[window.frame_cpu_s for window in their_paced],
            unit="us",
        )
    )
    due = PACED_S * pace(size)
    if all(window.frames > 0.9 * due for window in (*our_paced, *their_paced)):
        record(latency(f"{name}_p50", ours.title, theirs.title, our_paced, their_paced, "us"))


def bench_fan_out(record) -> None:
    with ExitStack() as stack:
        courses = [
            start(stack, *way) for way in ((COPY, "1080p", 3), (COPY, "1080p"), (PYZMQ, "1080p", 3))
        ]
        rounds = [[course.window(SATURATED_S) for course in courses] for _ in range(ROUNDS)]
    three, one, plain = (list(windows) for windows in zip(*rounds, strict=True))
    title = "vdag, copied into a slot for 3"
    rates(record, "transport.1080p.fanout3_vs_1", (title, "the same for 1"), three, one)
    rates(record, "transport.1080p.fanout3_vs_pyzmq", (title, f"{PYZMQ.title}, 3 x"), three, plain)


def bench_pipeline(record) -> None:
    scenes = pictures(*FULL_HD[:2])
    ours, theirs = [], []
    for _ in range(ROUNDS):
        window, pixel = vdag_line(scenes, 400)
        plain_window, plain_pixel = plain_line(scenes, 200)
        assert np.abs(pixel - plain_pixel).max() < 0.01
        ours.append(window)
        theirs.append(plain_window)
    sides = ("vdag.Pipeline, 1 worker", "pyzmq, copy=False, and blobFromImage")
    rates(record, "transport.1080p.pipeline_vs_pyzmq", sides, ours, theirs, "ms")


def bench_hop(record) -> None:
    for module in ("flask", "requests"):
        pytest.importorskip(module)
    with open_hops(*FULL_HD[:2]) as (ours, theirs):
        rounds = [(hops(ours, 50), hops(theirs, 8)) for _ in range(ROUNDS)]
    our_windows, their_windows = (list(windows) for windows in zip(*rounds, strict=True))
    name, sides = "transport.1080p.hop_vs_reference", ("vdag.Pipeline", "JPEG, repr, JSON, Flask")
    record(latency(name, *sides, our_windows, their_windows, "ms"))
    record(
        paired(
            f"{name}_cpu",
            *sides,
            subject_s=[window.frame_cpu_s for window in our_windows],
            against_s=[window.frame_cpu_s for window in their_windows],
            unit="ms",
        )
    )
