"""`vdag profile`: measures what tasks cost and what they are worth, and keeps what is known."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from vdag.cli.run import INTERRUPTED
from vdag.control.profile import DEFAULT_PATH, Profile
from vdag.control.profile.foreign import TABLES, read_foreign, table
from vdag.errors import ConfigError
from vdag.sampling import RESOLUTIONS
from vdag.tasks.modules import load_module

if TYPE_CHECKING:
    from vdag.control.profile.campaign import Campaign

__all__ = ["profile"]

profile = typer.Typer(
    help="Measure what tasks cost and what they are worth, and look at what is known.",
    invoke_without_command=True,
    add_completion=False,
)

#: Columns of a table that nobody looks at.
WIDE = 240
#: Rates that `show` has a column for.
SHOWN_RATES = (1.0, 5.0, 10.0, 15.0, 30.0)


@profile.callback()
def measure(
    context: typer.Context,
    task: Annotated[
        list[str] | None, typer.Option(help="A task, or several with commas between.")
    ] = None,
    video: Annotated[Path | None, typer.Option(help="A clip to measure on.")] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="model_ids with commas between; by default all.")
    ] = None,
    resolution: Annotated[
        list[str] | None, typer.Option(help="Names with commas between; by default all nine.")
    ] = None,
    fps: Annotated[
        list[str] | None, typer.Option(help="Rates at which accuracy is told, with commas.")
    ] = None,
    frames: Annotated[int, typer.Option(help="Frames of the clip, at most.")] = 120,
    repeat: Annotated[int, typer.Option(help="Runs of each cell; the fastest counts.")] = 1,
    exclude_load: Annotated[
        bool, typer.Option("--exclude-load", help="Leave out time that other processes took.")
    ] = False,
    out: Annotated[
        Path, typer.Option(help="The profile to write; other cells of one that is there stay.")
    ] = Path("profile.json"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a measurement that was interrupted.")
    ] = False,
    place: Annotated[
        str, typer.Option(help="What it holds for: edge, cloud, a node's IP:PORT; by default any.")
    ] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    engine: Annotated[str, typer.Option(help="What runs models, see vdag doctor.")] = "onnx",
    batch: Annotated[
        list[str] | None,
        typer.Option(help="Sizes of batches with commas, 1 for none; by default while they save."),
    ] = None,
    tasks: Annotated[
        list[Path] | None, typer.Option(help="A Python file that registers tasks of your own.")
    ] = None,
) -> None:
    """Run tasks on a clip, one model and resolution after another, and write a profile.

    Each runs alone, in a worker process, a frame at a time, then in batches. Accuracy is told
    against the golden configuration: the largest model at the largest resolution that the clip has,
    every frame.
    """
    if context.invoked_subcommand is not None:
        return
    if not task or video is None:
        raise ConfigError("a measurement needs --task and --video, see vdag profile --help")
    # Imported here: who looks at a profile needs no engine.
    from vdag.control.profile.campaign import RATES, Campaign, Wanted

    for path in tasks or ():
        load_module(path)
    wanted = Wanted(
        _split(task),
        video,
        models=tuple(_whole("model", each) for each in _split(model)),
        resolutions=_split(resolution) or tuple(RESOLUTIONS),
        rates=tuple(_number("fps", each) for each in _split(fps)) or RATES,
        frames=frames,
        repeat=repeat,
        exclude_load=exclude_load,
        device=device,
        engine=engine,
        batches=tuple(_whole("batch", each) for each in _split(batch)),
        place=place,
    )
    known = Profile.load(out) if out.exists() else Profile()
    campaign = Campaign(wanted, out.with_name(f"{out.name}.cells"))
    campaign.begin(resume=resume)
    console = Console(stderr=True)
    try:
        with _interruptible() as check:
            _work(campaign, known, out, console, check)
    except KeyboardInterrupt:
        console.print("interrupted: what was measured is kept, go on with --resume")
        raise typer.Exit(INTERRUPTED) from None
    campaign.finish()
    for note in campaign.notes:
        console.print(note)
    print(f"{out}: {len(campaign.steps)} cells measured")


@profile.command()
def show(
    file: Annotated[
        Path | None, typer.Argument(help="A profile; by default the one that comes with vdag.")
    ] = None,
) -> None:
    """Show what a profile knows."""
    known = Profile.load(file or DEFAULT_PATH)
    console = Console(width=None if sys.stdout.isatty() else WIDE)
    for name, value in sorted(known.about.items()):
        console.print(Text(f"{name}: {value}"))
    console.print(_cost_table(known))
    if batches := _batch_table(known):
        console.print(batches)
    console.print(_accuracy_table(known))
    sizes = Table("resolution", "encoder", "KB per frame", title="Encoded frames")
    for size in known.frames():
        sizes.add_row(size.resolution, size.encoder, f"{size.nbytes / 1e3:.1f}")
    console.print(sizes)


@profile.command()
def merge(
    files: Annotated[list[Path], typer.Argument(help="Profiles.")],
    out: Annotated[Path, typer.Option(help="The profile to write.")],
) -> None:
    """Make one profile of several; what more than one has becomes the mean over all frames."""
    known = Profile()
    for file in files:
        known.merge(Profile.load(file))
    known.save(out)


@profile.command()
def export(
    file: Annotated[
        Path | None, typer.Argument(help="A profile; by default the one that comes with vdag.")
    ] = None,
    what: Annotated[str, typer.Option(help=f"One of {', '.join(TABLES)}.")] = "costs",
) -> None:
    """Print part of a profile as CSV."""
    print(table(Profile.load(file or DEFAULT_PATH), what), end="")


@profile.command("import")
def import_(
    files: Annotated[list[Path], typer.Argument(help="Files of older systems: .pf, or .json.")],
    out: Annotated[Path, typer.Option(help="The profile to write; what is in it stays.")],
    place: Annotated[
        str | None, typer.Option(help="What they hold for; by default what they say.")
    ] = None,
) -> None:
    """Read what older systems have measured: .pf tables, and JSON from configurations to seconds.

    The task of a .pf file is its name.
    """
    known = Profile.load(out) if out.exists() else Profile()
    for file in files:
        known.merge(read_foreign(file, place))
    known.save(out)


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], None]]:
    """Hold SIGINT back until the function is called that this gives: between two frames.

    In the middle of starting or ending a worker the exception could be lost in a callback. A second
    signal comes through at once.
    """
    is_asked = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal is_asked
        if is_asked:
            raise KeyboardInterrupt
        is_asked = True

    def check() -> None:
        if is_asked:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)


def _work(
    campaign: Campaign, known: Profile, out: Path, console: Console, check: Callable[[], None]
) -> None:
    """Do the steps that are left, and write the profile after each."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    per_step = campaign.wanted.frames * campaign.wanted.repeat
    with Progress(
        *columns,
        TextColumn("{task.description}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        bar = progress.add_task("", total=len(campaign.steps) * per_step)

        def advance() -> None:
            progress.advance(bar)
            check()

        for number, step in enumerate(campaign.steps):
            check()
            progress.update(bar, completed=number * per_step, description=str(step))
            if not campaign.is_done(step):
                if not console.is_terminal:
                    console.print(f"{number + 1} of {len(campaign.steps)}: {step}")
                campaign.run(step, advance)
            campaign.put(step, known)
            known.save(out)


def _cost_table(known: Profile) -> Table:
    found = Table(title="What tasks cost: ms per frame without objects, and per object")
    for name in ("task", "model", "place", "resolution"):
        found.add_column(name)
    for name in ("mean", "p50", "p95", "p99", "per object", "MiB", "bytes out", "frames"):
        found.add_column(name, justify="right")
    for task, model_id, resolution, place, cost in known.costs():
        times = cost.compute_s, cost.compute_p50_s, cost.compute_p95_s, cost.compute_p99_s
        found.add_row(
            task,
            str(model_id),
            place or "any",
            resolution,
            *(f"{each * 1e3:.1f}" for each in times),
            f"{cost.per_object_s * 1e3:.2f}",
            str(cost.mem_nbytes >> 20),
            str(cost.out_nbytes),
            str(cost.samples),
        )
    return found


def _batch_table(known: Profile) -> Table | None:
    """Return a row per size of a batch, None if nothing is known of any."""
    found = Table(title="What batches take of a worker, and of memory")
    for name in ("task", "model", "place", "resolution"):
        found.add_column(name)
    for name in ("batch", "ms", "ms per frame", "MiB", "MiB of GPU"):
        found.add_column(name, justify="right")
    for task, model_id, resolution, place, cost in known.costs():
        for point in cost.batches:
            found.add_row(
                task,
                str(model_id),
                place or "any",
                resolution,
                str(point.batch),
                f"{point.seconds * 1e3:.2f}",
                f"{point.seconds / point.batch * 1e3:.2f}",
                str(point.mem_nbytes >> 20),
                str(point.device_nbytes >> 20),
            )
    return found if found.row_count else None


def _accuracy_table(known: Profile) -> Table:
    """Return a row per model and resolution, interpolated at some rates."""
    found = Table(title="Accuracy against the golden configuration, at frames per second")
    for name in ("task", "model", "resolution"):
        found.add_column(name)
    for fps in SHOWN_RATES:
        found.add_column(f"{fps:g}", justify="right")
    cells = {(task, model, point.resolution): None for task, model, point in known.accuracies()}
    for cell in cells:
        shown = (f"{known.accuracy(*cell, fps):.3f}" for fps in SHOWN_RATES)
        found.add_row(cell[0], str(cell[1]), cell[2], *shown)
    return found


def _split(texts: Sequence[str] | None) -> tuple[str, ...]:
    parts = (part.strip() for text in texts or () for part in text.split(","))
    return tuple(dict.fromkeys(part for part in parts if part))


def _whole(option: str, text: str) -> int:
    if not text.isdecimal() or len(text) > 3:
        noun = "a model_id such as 1" if option == "model" else "a whole number"
        raise ConfigError(f"{option} is {text!r}, expected {noun}")
    return int(text)


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as err:
        raise ConfigError(f"{option} is {text!r}, expected a number") from err
