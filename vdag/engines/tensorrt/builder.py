"""From an ONNX model to a serialised engine; runs in a process of its own, see `builds`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vdag.engines.tensorrt.flavour import Flavour
from vdag.engines.tensorrt.network import PRECISIONS, prepare
from vdag.errors import ConfigError, EngineBuildError, ModelError

__all__ = ["BuildOrder", "InputRange", "Target", "build", "model_digest"]

#: Scratch memory on the GPU that a layer may take.
WORKSPACE_NBYTES = 1 << 30


@dataclass(slots=True, frozen=True)
class InputRange:
    """The shapes of one input in one optimisation profile.

    Attributes:
        name: of the input.
        least: shortest length of every axis.
        usual: what the engine is tuned for.
        most: longest.
    """

    name: str
    least: tuple[int, ...]
    usual: tuple[int, ...]
    most: tuple[int, ...]

    def __post_init__(self) -> None:
        lengths = list(zip(self.least, self.usual, self.most, strict=True))
        if any(not 1 <= low <= usual <= high for low, usual, high in lengths):
            raise ConfigError(
                f"input {self.name!r}: {self.least}, {self.usual}, {self.most} do not rise"
            )

    def covers(self, shape: tuple[int, ...]) -> bool:
        """Say whether a shape lies in the range."""
        return len(shape) == len(self.least) and all(
            low <= length <= high
            for low, length, high in zip(self.least, shape, self.most, strict=True)
        )


@dataclass(slots=True, frozen=True)
class Target:
    """What an engine is for.

    Attributes:
        device: name of the GPU; empty for every one of its compute capability.
        compute_capability: major and minor.
    """

    device: str
    compute_capability: tuple[int, int]


@dataclass(slots=True, frozen=True)
class BuildOrder:
    """All that an engine depends on.

    Attributes:
        label: what people call the model.
        model: path of the ONNX file.
        digest: its SHA-256, hexadecimal.
        library: `tensorrt` or `tensorrt-rtx`, and its version.
        target: what it is for.
        profiles: per optimisation profile the inputs' ranges; none for a model of fixed shapes.
        precision: one of `PRECISIONS`.

    Raises:
        ConfigError: the precision is none.
    """

    label: str
    model: Path
    digest: str
    library: tuple[str, str]
    target: Target
    profiles: tuple[tuple[InputRange, ...], ...]
    precision: str = "float16"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision {self.precision!r} is none of {', '.join(PRECISIONS)}")

    def terms(self) -> dict[str, Any]:
        """Return what decides whether an engine is the one that is wanted: no name, no path."""
        return {
            "model": self.digest,
            "library": list(self.library),
            "device": self.target.device,
            "compute_capability": list(self.target.compute_capability),
            "profiles": [[asdict(item) for item in profile] for profile in self.profiles],
            "precision": self.precision,
        }

    @property
    def key(self) -> str:
        """SHA-256 of the terms, hexadecimal."""
        text = json.dumps(self.terms(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def model_digest(model: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        ModelError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with model.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    except OSError as err:
        raise ModelError(f"{model} cannot be read: {err.strerror}") from err
    return digest.hexdigest()


def build(order: BuildOrder, flavour: Flavour, progress: Callable[[float, str], None]) -> bytes:
    """Build an engine; takes seconds to many minutes.

    Args:
        order: what to build.
        flavour: with what; its version must be the order's.
        progress: is told now and then what part of the whole is done, and what is being done.

    Returns:
        The serialised engine.

    Raises:
        EngineBuildError: TensorRT does not take the model, the profiles or the device.
        ModelError: the file is no model, or not the one of the order.
    """
    if (flavour.name, flavour.version) != order.library:
        raise EngineBuildError(
            f"{flavour.name} {flavour.version} is here, {' '.join(order.library)} was asked for"
        )
    if model_digest(order.model) != order.digest:
        raise ModelError(f"{order.model} is not the file that was asked for: it has changed")
    progress(0.0, "reading the model")
    logger = _logger(flavour.module)
    builder = flavour.module.Builder(logger)
    network = _parse(order, flavour, builder, logger)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(flavour.module.MemoryPoolType.WORKSPACE, WORKSPACE_NBYTES)
    flavour.configure(config, order.target.compute_capability)
    _add_profiles(order, network, builder, config)
    monitor = _monitor(flavour.module, progress)
    config.progress_monitor = monitor
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise EngineBuildError(f"{order.label}: {logger.reason()}")
    return bytes(engine)


def _parse(order: BuildOrder, flavour: Flavour, builder: Any, logger: Any) -> Any:
    network = flavour.network(builder)
    parser = flavour.module.OnnxParser(network, logger)
    if not parser.parse(prepare(order.model, order.precision)):
        found = [parser.get_error(index) for index in range(parser.num_errors)]
        errors = [f"{error.node_operator()}: {error.desc()}" for error in found]
        reason = "; ".join(errors) or logger.reason()
        raise EngineBuildError(f"{order.label}: the parser refuses the model: {_line(reason)}")
    return network


def _add_profiles(order: BuildOrder, network: Any, builder: Any, config: Any) -> None:
    inputs = {
        tensor.name: tuple(tensor.shape)
        for tensor in (network.get_input(index) for index in range(network.num_inputs))
    }
    dynamic = [name for name, shape in inputs.items() if min(shape, default=1) < 0]
    if dynamic and not order.profiles:
        raise EngineBuildError(
            f"{order.label}: input {dynamic[0]!r} has shape {inputs[dynamic[0]]}, "
            "and there is no profile that says which"
        )
    for ranges in order.profiles:
        profile = builder.create_optimization_profile()
        for item in ranges:
            if item.name not in inputs:
                raise EngineBuildError(f"{order.label}: the model has no input {item.name!r}")
            profile.set_shape(item.name, item.least, item.usual, item.most)
        if config.add_optimization_profile(profile) < 0:
            raise EngineBuildError(f"{order.label}: a profile does not fit the model: {ranges}")


def _logger(trt: Any) -> Any:
    """Return a logger that keeps the last errors: TensorRT's calls return None and say no more."""

    class Logger(trt.ILogger):  # type: ignore[misc]  # a class of the library found
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors = [*self.errors[-9:], message]

        def reason(self) -> str:
            return _line("; ".join(self.errors)) or "it gives no reason"

    return Logger()


def _monitor(trt: Any, progress: Callable[[float, str], None]) -> Any:
    """Return a progress monitor: phases lie in each other, each is a step of its parent."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # likewise
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._phases: dict[str, tuple[str | None, int, int]] = {}

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self._phases[name] = (parent, max(steps, 1), 0)
            progress(self._done(name), name)

        def step_complete(self, name: str, step: int) -> bool:
            parent, steps, _ = self._phases[name]
            self._phases[name] = (parent, steps, step + 1)
            progress(self._done(name), name)
            return True

        def phase_finish(self, name: str) -> None:
            parent, steps, _ = self._phases[name]
            self._phases[name] = (parent, steps, steps)
            progress(self._done(name), name)

        def _done(self, name: str) -> float:
            part = 0.0
            current: str | None = name
            while current is not None and current in self._phases:
                parent, steps, done = self._phases[current]
                part = min((done + part) / steps, 1.0)
                current = parent
            return part

    return Monitor()


def _line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")
