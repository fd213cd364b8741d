"""`vdag run`: a graph over a video, with progress while it runs and figures at its end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from vdag.cli.modules import load_module
from vdag.dispatch import Policy
from vdag.errors import ConfigError
from vdag.graph import Graph
from vdag.metrics import Summary
from vdag.pipeline import Pipeline, PipelineStats
from vdag.sinks import Sink, open_sink
from vdag.sources import Source, open_source

__all__ = ["run"]

#: The status of a program that Ctrl-C ended, as shells report it.
INTERRUPTED = 130


def run(
    graph: Annotated[
        str, typer.Argument(help="A JSON file with a dag, or task names with commas between.")
    ],
    source: Annotated[
        str, typer.Option(help="A file, folder, rtsp:// or http:// address, device, synthetic:...")
    ],
    output: Annotated[
        Path | None, typer.Option(help="Annotated video (.mp4), or a folder of pictures.")
    ] = None,
    results: Annotated[
        str | None, typer.Option(help="JSON lines, one per frame; - for standard output.")
    ] = None,
    fps: Annotated[float | None, typer.Option(help="Frames per second to process.")] = None,
    resolution: Annotated[
        str | None, typer.Option(help="480p, 1280x720, ...; by default the source's.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="TASK=ID: 0 large, 1 medium, 2 small.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    batch: Annotated[int, typer.Option(help="Most frames a task takes at once.")] = 1,
    threads: Annotated[int | None, typer.Option(help="By default one per core.")] = None,
    policy: Annotated[
        str | None,
        typer.Option(help="block or latest; by default latest for cameras, block for files."),
    ] = None,
    realtime: Annotated[
        bool, typer.Option("--realtime", help="Read a file at its own speed.")
    ] = False,
    frames: Annotated[int | None, typer.Option(help="Stop after so many frames.")] = None,
    tasks: Annotated[
        list[Path] | None, typer.Option(help="A Python file that registers tasks of your own.")
    ] = None,
) -> None:
    """Analyse a video: run the tasks of GRAPH over SOURCE."""
    for path in tasks or ():
        load_module(path)
    parsed = Graph.load(graph) if graph.endswith(".json") else Graph.chain(*graph.split(","))
    models = dict(_parse_model(text) for text in model or ())
    console = Console(stderr=True)
    with ExitStack() as stack:
        pace: Literal["asap", "realtime"] = "realtime" if realtime else "asap"
        opened = open_source(source, fps=fps, resolution=resolution, pace=pace)
        stack.callback(opened.close)
        pipeline = stack.enter_context(
            Pipeline(
                parsed,
                opened,
                models=models,
                device=device,
                threads=threads,
                batch=batch,
                policy=_parse_policy(policy, opened),
            )
        )
        rate = min(fps or opened.fps, opened.fps or fps or 0.0)
        sinks = [
            stack.enter_context(open_sink(target, fps=rate or None))
            for target in (output, results)
            if target is not None
        ]
        interrupted = _drain(pipeline, sinks, frames, console)
    print_figures(pipeline.stats(), console)
    if interrupted:
        raise typer.Exit(INTERRUPTED)


def _drain(pipeline: Pipeline, sinks: list[Sink], frames: int | None, console: Console) -> bool:
    """Write every result to every sink; True when a signal ended it before the source did."""
    total = pipeline.source.frame_count
    try:
        with _interruptible(), _progress(total, console) as (progress, bar):
            for result in pipeline:
                for sink in sinks:
                    sink.write(result)
                result.drop_frame()
                counts = pipeline.stats().dropped
                progress.update(
                    bar,
                    completed=result.cam_frame_id + 1 if total else pipeline.stats().delivered,
                    note=f"{result.delay_s * 1e3:.0f} ms"
                    + (f", {sum(counts.values())} dropped" if counts else ""),
                )
                if frames is not None and pipeline.stats().delivered >= frames:
                    break
    except KeyboardInterrupt:
        console.print("interrupted: what was found so far is kept")
        return True
    return False


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM end a run as Ctrl-C does, so that sinks are closed properly."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _progress(total: int | None, console: Console) -> Iterator[tuple[Progress, TaskID]]:
    """Show a bar with the time that is left, or a live line for a source without an end."""
    measure: tuple[Any, ...] = (
        (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        if total
        else (TextColumn("{task.completed} frames"), TimeElapsedColumn())
    )
    columns = (SpinnerColumn(), *measure, TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=console, transient=True, refresh_per_second=5) as progress:
        yield progress, progress.add_task("", total=total, note="")


def _parse_model(text: str) -> tuple[str, int]:
    task, equals, number = text.partition("=")
    if not (equals and number.isdecimal()):
        raise ConfigError(f"model is {text!r}, expected TASK=ID such as face_detection=1")
    return task, int(number)


def _parse_policy(policy: str | None, source: Source) -> Policy:
    if policy is None:
        return "latest" if source.live else "block"
    if policy == "block" or policy == "latest":
        return policy
    raise ConfigError(f"policy is {policy!r}, expected block or latest")


def print_figures(stats: PipelineStats, console: Console) -> None:
    """Print a table with a row per task and one for the whole."""
    table = Table(title="Frames and milliseconds per task")
    table.add_column("task")
    for name in ("frames", "dropped", "p50 ms", "p95 ms", "p99 ms", "fps"):
        table.add_column(name, justify="right")
    for name, stage in stats.tasks.items():
        errors = f"{stage.errors} error" if stage.errors else "0"
        table.add_row(name, str(stage.frames), errors, *_times(stage.process), _rate(stage.process))
    dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(stats.dropped.items()))
    table.add_section()
    table.add_row(
        "capture to result",
        str(stats.delivered),
        dropped or "0",
        *_times(stats.delay),
        f"{stats.delivered / stats.elapsed_s:.1f}" if stats.elapsed_s else "-",
    )
    console.print(table)


def _times(summary: Summary) -> tuple[str, ...]:
    return tuple(f"{value * 1e3:.1f}" for value in (summary.p50_s, summary.p95_s, summary.p99_s))


def _rate(summary: Summary) -> str:
    """Frames per second that one instance of the task alone could do."""
    return f"{1 / summary.mean_s:.1f}" if summary.mean_s else "-"
