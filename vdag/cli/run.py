"""`vdag run`: a graph over a video, with progress while it runs and figures at its end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal, cast

import typer
from rich.console import Console
from rich.markup import escape
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

from vdag.errors import ConfigError
from vdag.graph import Graph
from vdag.metrics import Summary
from vdag.pipeline import GENERATORS, Pipeline, PipelineStats
from vdag.pipeline.dispatch import Policy
from vdag.sinks import Sink, open_sink
from vdag.sources import ClipGenerator, Source
from vdag.tasks.modules import load_module
from vdag.tasks.naming import label

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
        str | None, typer.Option(help="Annotated video (.mp4), or pictures into a folder/.")
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
    card: Annotated[
        list[str] | None, typer.Option(help="TASK=FILE: a model card of your own.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda or cuda:N; for workers several, with commas.")
    ] = "auto",
    engine: Annotated[str, typer.Option(help="What runs models, see vdag doctor.")] = "onnx",
    batch: Annotated[int, typer.Option(help="Most frames a task takes at once.")] = 1,
    threads: Annotated[int | None, typer.Option(help="By default one per core.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes for each task, instead of threads.")
    ] = None,
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
    models = {task: _parse_id(task, text) for task, text in _pairs("model", model).items()}
    _check_frames(frames)
    _check_output(output, source)
    console = Console(stderr=True)
    with _interruptible() as interrupt, ExitStack() as stack:
        pace: Literal["asap", "realtime"] = "realtime" if realtime else "asap"
        generator = GENERATORS[parsed.generator]
        opened = generator(source, fps=fps, resolution=resolution, pace=pace)
        stack.callback(opened.close)
        video = opened.source if isinstance(opened, ClipGenerator) else opened
        pipeline = stack.enter_context(
            Pipeline(
                parsed,
                opened,
                models=models,
                cards=_pairs("card", card),
                device=device,
                engine=engine,
                threads=threads,
                workers=workers,
                batch=batch,
                policy=_parse_policy(policy, video),
            )
        )
        sinks = []
        if output is not None:
            sinks.append(stack.enter_context(open_sink(output, labels=pipeline.labels)))
        if results is not None:
            sinks.append(stack.enter_context(open_sink(results)))
        _drain(pipeline, sinks, console, interrupt, total=video.frame_count, limit=frames)
    print_figures(pipeline.stats(), console)
    if interrupt.requested:
        raise typer.Exit(INTERRUPTED)


class _Interrupt:
    """Ctrl-C and SIGTERM: they end a run between two frames, never inside one's results.

    Attributes:
        requested: one of them has come.
        held: it is noted only, because a result is being written or files are being closed.
    """

    def __init__(self) -> None:
        self.requested = self.held = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Take a signal: end a wait for the next result, or let a write be finished first."""
        del number, frame
        first, self.requested = not self.requested, True
        if first and not self.held:  # a second one would stop files from being closed
            raise KeyboardInterrupt


@contextmanager
def _interruptible() -> Iterator[_Interrupt]:
    """Take both signals alike, so that sinks are closed properly."""
    interrupt = _Interrupt()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, interrupt.handle) for number in numbers]
    try:
        yield interrupt
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _drain(
    pipeline: Pipeline,
    sinks: list[Sink],
    console: Console,
    interrupt: _Interrupt,
    *,
    total: int | None,
    limit: int | None,
) -> None:
    """Write every result to every sink, until the source ends, the limit or an interrupt."""
    try:
        with _progress(total, console) as (progress, bar):
            for count, result in enumerate(pipeline, start=1):
                interrupt.held = True
                for sink in sinks:
                    sink.write(result)
                result.drop_frame()
                progress.update(
                    bar,
                    completed=result.cam_frame_id + 1 if total else count,
                    note=f"{result.delay_s * 1e3:.0f} ms, {pipeline.dropped} dropped",
                )
                if interrupt.requested or count == limit:
                    break
                interrupt.held = False
    except KeyboardInterrupt:
        pass  # it has come while nothing was being written
    interrupt.held = True  # the caller closes the files now
    if interrupt.requested:
        console.print("interrupted: what was found so far is kept")


@contextmanager
def _progress(total: int | None, console: Console) -> Iterator[tuple[Progress, TaskID]]:
    """Show a bar with the time that is left, or a live line for a source without an end."""
    measure: tuple[Any, ...] = (
        (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        if total
        else (TextColumn("{task.completed} frames"), TimeElapsedColumn())
    )
    columns = (SpinnerColumn(), *measure, TextColumn("{task.fields[note]}"))
    with Progress(
        *columns,
        console=console,
        transient=True,
        refresh_per_second=5,
        disable=not console.is_terminal,  # or a log gets an empty line for it
    ) as progress:
        yield progress, progress.add_task("", total=total, note="")


def _check_frames(frames: int | None) -> None:
    if frames is not None and frames < 1:
        raise ConfigError(f"frames is {frames}, expected at least 1")


def _check_output(output: str | None, source: str) -> None:
    """Refuse to replace the video that is being read."""
    video = Path(source.removeprefix("file://")).expanduser()
    if output is None or not video.is_file():
        return
    target = Path(output).expanduser()
    if target.exists() and target.samefile(video):
        raise ConfigError(f"output {output} is the source")


def _pairs(option: str, texts: list[str] | None) -> dict[str, str]:
    pairs = {}
    for text in texts or ():
        task, equals, value = text.partition("=")
        if not (task and equals and value):
            raise ConfigError(f"{option} is {text!r}, expected TASK=VALUE")
        pairs[task] = value
    return pairs


def _parse_id(task: str, text: str) -> int:
    if not text.isdecimal():
        raise ConfigError(f"model of {task} is {text!r}, expected a model_id such as 1")
    return int(text)


def _parse_policy(policy: str | None, source: Source) -> Policy:
    if policy is None:
        return "latest" if source.live else "block"
    if policy not in ("block", "latest"):
        raise ConfigError(f"policy is {policy!r}, expected block or latest")
    return cast(Policy, policy)


def print_figures(stats: PipelineStats, console: Console) -> None:
    """Print a table with a row per task and one for the whole."""
    table = Table(title="Frames and milliseconds per task")
    table.add_column("task")
    for name in ("frames", "dropped", "p50 ms", "p95 ms", "p99 ms", "fps"):
        table.add_column(name, justify="right")
    for name, stage in stats.tasks.items():
        errors = f"{stage.errors} error" if stage.errors else "0"
        shown = escape(label(name))
        table.add_row(
            shown, str(stage.frames), errors, *_times(stage.process), _rate(stage.process)
        )
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
