"""`vdag engine`: build engines ahead of time, see what is built, check it, make room."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from vdag.engines import zoo
from vdag.engines.base import EngineSpec
from vdag.engines.gpu.device import device_number, open_device
from vdag.engines.onnx import OnnxEngine
from vdag.engines.tensorrt import flavour
from vdag.engines.tensorrt.builder import BuildOrder, Target
from vdag.engines.tensorrt.builds import Limits, run_build
from vdag.engines.tensorrt.cache import EngineCache
from vdag.engines.tensorrt.profiles import order_for
from vdag.errors import ConfigError

__all__ = ["engines"]

engines = typer.Typer(help="Engines of TensorRT: built from models, kept on disk.")

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
