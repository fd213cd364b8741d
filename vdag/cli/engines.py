"""`vdag engine`: build engines ahead of time, see what is built, check it, make room."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal, cast

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from vdag import _native as native
from vdag.control.profile.engine_costs import EngineCosts
from vdag.engines import measuring, zoo
from vdag.engines.base import EngineSpec
from vdag.engines.gpu.device import device_number, open_device
from vdag.engines.gpu.pictures import Preparation
from vdag.engines.onnx import OnnxEngine
from vdag.engines.tensorrt import flavour
from vdag.engines.tensorrt.builder import BuildOrder, Target
from vdag.engines.tensorrt.builds import Limits, run_build
from vdag.engines.tensorrt.cache import EngineCache
from vdag.engines.tensorrt.profiles import order_for
from vdag.errors import ConfigError

__all__ = ["engines"]

engines = typer.Typer(help="Engines: those of TensorRT, built and kept on disk; what all take.")

#: Longest side for a model that no task says one of; and the largest number of an option.
LARGEST_SIDE, MAX_NUMBER = 1280, 65_535

Folder = Annotated[
    Path | None, typer.Option(help="Where engines are kept; $VDAG_ENGINES or the user's cache.")
]


@engines.command()
def build(
    models: Annotated[
        list[str], typer.Argument(help="Models of the zoo, or ONNX files with a card beside them.")
    ],
    device: Annotated[str, typer.Option(help="GPU to build for: cuda or cuda:N.")] = "cuda",
    capability: Annotated[
        str,
        typer.Option(help="Build for GPUs of this compute capability, here or not (RTX only)."),
    ] = "",
    precision: Annotated[
        str, typer.Option(help="float16, float32, or model as the file says; default: the card's.")
    ] = "",
    memory_gib: Annotated[float, typer.Option(help="Memory that a build may take.")] = 8.0,
    timeout_s: Annotated[float, typer.Option(help="Time that a build may take.")] = 3600.0,
    folder: Folder = None,
) -> None:
    """Build engines, so that no worker has to; one that is there already is not built again."""
    cache = EngineCache(folder)
    limits = Limits(timeout_s, int(memory_gib * 2**30))
    found = flavour.find()
    target = _target(found, device, capability)
    for name in models:
        order = _order(_path(name), found, target, precision)
        if cache.load(order) is not None:
            print(f"{order.label}: is there, {cache.path(order)}")
            continue
        start_s = time.monotonic()
        with Progress(transient=True) as progress:
            bar = progress.add_task(order.label, total=1.0)

            def tell(part: float, phase: str) -> None:
                progress.update(bar, completed=part, description=f"{order.label}: {phase}")  # noqa: B023  # the loop's own

            run_build(order, cache, limits=limits, progress=tell)
        path = cache.path(order)
        nbytes = path.stat().st_size
        print(
            f"{order.label}: {nbytes / 2**20:.1f} MiB in {time.monotonic() - start_s:.1f} s, {path}"
        )


@engines.command("list")
def show(folder: Folder = None) -> None:
    """List engines, the last used first."""
    _show(EngineCache(folder), check=False)


@engines.command()
def check(folder: Folder = None) -> None:
    """Read every engine; exit status 1 if one would be built again."""
    if _show(EngineCache(folder), check=True):
        raise typer.Exit(1)


@engines.command()
def measure(
    models: Annotated[
        list[str], typer.Argument(help="Models of the zoo, or ONNX files with a card beside them.")
    ],
    engine: Annotated[str, typer.Option(help="Name of the engine, see vdag doctor.")] = "onnx",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    size: Annotated[str, typer.Option(help="Of the pictures, WIDTHxHEIGHT.")] = "1920x1080",
    batch: Annotated[str, typer.Option(help="Sizes of batches with commas between.")] = "1,4,16",
    calls: Annotated[int, typer.Option(help="Batches of each size, at least.")] = 20,
    threads: Annotated[int, typer.Option(help="Of the CPU, for one call.")] = 1,
    profile: Annotated[
        Path | None,
        typer.Option(help="A profile that it goes into, for each task that has the model."),
    ] = None,
    place: Annotated[
        str, typer.Option(help="What it holds for there: edge, cloud, IP:PORT; by default any.")
    ] = "",
) -> None:
    """Measure what models take, by the size of the batch: time, and memory of host and GPU."""
    width, height = _numbers("size", size.split("x"), count=2)
    batches = _numbers("batch", batch.split(","))
    table = Table(box=None)
    for title in ("model", "batch", "mean ms", "p95 ms", "ms a picture", "pictures/s"):
        table.add_column(title, justify="left" if title == "model" else "right", no_wrap=True)
    for title in ("MiB", "MiB of GPU"):
        table.add_column(title, justify="right")
    picture = np.full((height, width, 3), 127, np.uint8)
    book = (
        None
        if profile is None
        else EngineCosts(profile, place, (width, height), f"{engine} on {device}")
    )
    if book is not None and 1 not in batches:
        raise ConfigError(f"batch is {batch!r}: a profile needs to know what a batch of 1 takes")
    for name in models:
        card = zoo.load_card(_path(name).with_suffix(".toml"))
        spec = EngineSpec(card.path, engine, device=device, threads=threads, name=card.name)
        largest = max((task.max_side for task in card.tasks), default=LARGEST_SIDE)
        services = {largest: []} if book is None else book.services(card)
        for side, served in services.items():
            preparation = _preparation(card, width, height, side)
            costs = list(measuring.measure(spec, preparation, picture, batches, calls=calls))
            label = card.name if len(services) == 1 else f"{card.name} to {side}"
            for cost in costs:
                _add_row(table, label, cost)
            if book is not None:
                book.put(served, costs)
    Console().print(table)


def _add_row(table: Table, name: str, cost: measuring.BatchCost) -> None:
    times = (cost.mean_s, cost.p95_s, cost.mean_s / cost.batch)
    table.add_row(
        name,
        str(cost.batch),
        *(f"{seconds * 1e3:.2f}" for seconds in times),
        f"{cost.rate:.1f}",
        str(cost.host_nbytes >> 20),
        str(cost.device_nbytes >> 20),
    )


@engines.command()
def prune(
    budget_gib: Annotated[float, typer.Option(min=0.0, help="What may stay.")] = 8.0,
    folder: Folder = None,
) -> None:
    """Remove the longest unused engines beyond a budget, and what ended builds have left."""
    for path in EngineCache(folder).prune(int(budget_gib * 2**30)):
        print(f"removed {path}")


def _target(found: flavour.Flavour, device: str, capability: str) -> Target:
    if not capability:
        opened = open_device(device_number(device))
        return Target(found.device(opened.name), opened.compute_capability)
    if not found.builds_for_others:
        raise ConfigError(f"{found.name} builds for the GPU that is here, not for {capability}")
    if capability not in found.capabilities():
        known = ", ".join(found.capabilities())
        raise ConfigError(f"capability {capability!r} is none of {known}")
    major, _, minor = capability.partition(".")
    return Target("", (int(major), int(minor)))


def _path(name: str) -> Path:
    path = Path(name)
    return path if path.suffix == ".onnx" else zoo.card(name).path


def _numbers(option: str, texts: list[str], *, count: int = 0) -> list[int]:
    """Return whole numbers above 0; `count` of them unless it is 0."""
    if not all(text.isdecimal() and 0 < int(text) <= MAX_NUMBER for text in texts) or (
        count and len(texts) != count
    ):
        form = "WIDTHxHEIGHT" if count else "1,4,16"
        raise ConfigError(f"{option} is {','.join(texts)!r}, expected numbers such as {form}")
    return [int(text) for text in texts]


def _preparation(card: zoo.Card, width: int, height: int, most: int) -> Preparation:
    """Return how a model wants pictures of a size, at the longest side that a task gives it."""
    spec = card.input
    norm = native.Normalization(
        scale=spec.scale, mean=spec.mean, std=spec.std, rgb=spec.colour == "RGB", pad=spec.pad
    )
    mode = cast(Literal["letterbox", "stretch"], spec.resize)
    return Preparation(spec.name, spec.tensor_size(width, height, most), norm, mode)


def _order(model: Path, found: flavour.Flavour, target: Target, precision: str) -> BuildOrder:
    with OnnxEngine(EngineSpec(model, device="cpu")) as opened:
        inputs, label = opened.inputs, opened.name
    return order_for(
        model,
        inputs,
        label=label,
        library=(found.name, found.version),
        target=target,
        precision=precision,
    )


def _show(cache: EngineCache, *, check: bool) -> bool:
    """Print the cache; say whether something is wrong with it."""
    entries = cache.entries(check=check)
    table = Table(box=None)
    for title in ("model", "for", "library", "precision", "MiB", "used", "file"):
        table.add_column(title, overflow="fold")
    for entry in entries:
        terms = entry.terms
        capability = ".".join(str(part) for part in terms.get("compute_capability", ()))
        table.add_row(
            entry.label,
            f"{terms.get('device', '')} {capability}".strip(),
            " ".join(terms.get("library", ())),
            terms.get("precision", ""),
            f"{entry.nbytes / 2**20:.1f}",
            time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used)),
            f"{entry.path.name[:12]} {entry.problem}".strip(),
        )
    console = Console()
    console.print(table)
    total = sum(entry.nbytes for entry in entries)
    console.print(f"{len(entries)} engines, {total / 2**20:.1f} MiB, in {cache.folder}")
    return any(entry.problem for entry in entries)
