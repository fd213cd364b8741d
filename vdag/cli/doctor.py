"""`vdag doctor`: what is installed, what is in use, what is missing and how to get it."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vdag import __version__, engines
from vdag import _native as native
from vdag.engines import zoo
from vdag.engines.gpu.device import open_device
from vdag.engines.gpu.nvjpeg import find_library
from vdag.engines.tensorrt import flavour
from vdag.errors import EngineUnavailable, ModelError, NativeUnavailable

__all__ = ["doctor"]

#: Package, what vdag does with it, and the extra that brings it.
PACKAGES = (
    ("av", "reads and writes video", "video"),
    ("opencv-python-headless", "resizes, draws, finds poses", "video"),
)
#: What only a machine with a GPU wants, likewise.
GPU_PACKAGES = (
    ("onnxruntime-gpu", "runs models on CUDA", "gpu"),
    ("pycuda", "memory, streams and kernels of the GPU; nvcc builds it", "cuda"),
    ("cuda-bindings", "CUDA graphs, page-locking, the compiler of kernels", "cuda"),
    ("onnx", "prepares models for TensorRT", "tensorrt"),
)
#: Builds of OpenCV that provide the same module; a system's own, as JetPack's, is no package.
ALTERNATIVES = {"opencv-python-headless": ("opencv-python", "opencv-contrib-python")}
MODULES = {"opencv-python-headless": "cv2"}
#: More GPUs than any machine has.
MAX_GPUS = 64


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `problem` says how to mend it, empty when all is well."""

    what: str
    state: str
    problem: str = ""
    needed: bool = True


def doctor() -> None:
    """Say what vdag found on this machine; exit status 1 when something needed is missing."""
    findings = [*_machine(), *_packages(), *_engines(), *_gpu(), *_models()]
    table = Table(show_header=False, box=None)
    for _ in range(3):
        table.add_column(overflow="fold")  # a path that is cut short helps nobody
    for finding in findings:
        mark = (
            "[red]missing[/red]"
            if finding.problem and finding.needed
            else ("[yellow]without[/yellow]" if finding.problem else "[green]ok[/green]")
        )
        # As it is: to rich, the extra in `pip install '.[video]'` would be markup.
        table.add_row(mark, finding.what, Text(finding.state or finding.problem))
    Console().print(table)
    if any(finding.problem and finding.needed for finding in findings):
        raise typer.Exit(1)


def _machine() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0))
    python = ".".join(str(part) for part in sys.version_info[:3])
    yield Finding("vdag", f"{__version__}, Python {python}, {platform.machine()}, {cores} cores")
    kernels = "numpy twins" if os.environ.get("VDAG_NATIVE") == "reference" else "compiled"
    yield Finding("kernels", f"{kernels}, SIMD {native.preprocess.simd()}")
    try:
        library = native.jpeg.library()
    except NativeUnavailable as err:
        yield Finding("JPEG", "", str(err))
    else:
        yield Finding("JPEG", f"{library.api} {library.version} at {library.path}")


def _packages() -> Iterator[Finding]:
    for package, use, extra in PACKAGES:
        version = _version(package, *ALTERNATIVES.get(package, ()))
        if not version and package in MODULES:
            version = _module_version(MODULES[package])
        problem = "" if version else f"not installed: pip install '.[{extra}]' ({use})"
        yield Finding(package, f"{version}, {use}" if version else "", problem)


def _version(*packages: str) -> str | None:
    for package in packages:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _module_version(name: str) -> str | None:
    """Return the version of a module that no package has brought, None if there is none."""
    try:
        module = importlib.import_module(name)
    except ImportError:
        return None
    return f"{getattr(module, '__version__', 'of unknown version')} of the system"


def _engines() -> Iterator[Finding]:
    for info in engines.available():
        devices = ", ".join(info.devices)
        state = f"{info.version} on {devices}" if info.available else ""
        yield Finding(f"engine {info.name}", state, info.problem or "", needed=info.name == "onnx")


def _gpu() -> Iterator[Finding]:
    """Name every piece that a GPU wants, each on a line; a machine without one needs none."""
    for package, use, extra in GPU_PACKAGES:
        version = _version(package)
        problem = "" if version else f"not installed: pip install '.[{extra}]' ({use})"
        yield Finding(package, f"{version}, {use}" if version else "", problem, needed=False)
    if _version("onnxruntime") and _version("onnxruntime-gpu"):
        # Whichever was installed last has overwritten part of the other.
        problem = (
            "onnxruntime and onnxruntime-gpu are one module: pip uninstall both, then pip install "
            "'.[gpu]' in the checkout"
        )
        yield Finding("onnxruntime", "", problem, needed=False)
    try:
        libraries = ", ".join(flavour.libraries()) or flavour.find().name
    except EngineUnavailable as err:
        yield Finding("TensorRT", "", str(err), needed=False)
    else:
        yield Finding("TensorRT", libraries)
    try:
        yield Finding("nvJPEG", find_library())
    except EngineUnavailable as err:
        yield Finding("nvJPEG", "", str(err), needed=False)
    yield from _devices()


def _devices() -> Iterator[Finding]:
    """Name every GPU."""
    for index in range(MAX_GPUS):
        try:
            device = open_device(index)
        except EngineUnavailable as err:
            if not index:
                yield Finding("GPU", "", str(err), needed=False)
            return
        capability = ".".join(str(part) for part in device.compute_capability)
        memory = f"{device.nbytes / 2**30:.1f} GiB"
        if device.integrated:
            memory += " shared with the host"
        what = f"{device.name}, compute capability {capability}, {memory}"
        yield Finding(f"GPU cuda:{index}", what)


def _models() -> Iterator[Finding]:
    for card in zoo.cards().values():
        try:
            card.verify()
        except ModelError as err:
            yield Finding(f"model {card.name}", "", str(err))
        else:
            yield Finding(f"model {card.name}", f"{card.version}, {card.licence.spdx}")
