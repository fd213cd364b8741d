"""Which TensorRT is there, and how the three kinds of it differ; nothing else here knows.

TensorRT 10 (servers, Jetson with JetPack 6 and 7), TensorRT 11 and TensorRT for RTX have the same
API but for what this module does for them. Networks are strongly typed in all of them: 11 and RTX
know no others, and 10 has them, so that precision means one thing: the types in the ONNX file.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vdag.errors import EngineBuildError, EngineUnavailable

__all__ = ["Flavour", "find", "libraries"]

#: Modules by which each comes, best first, and what to call it.
MODULES = (
    ("tensorrt", "tensorrt"),
    ("tensorrt_rtx", "tensorrt-rtx"),
    ("tensorrt_rtx_bindings", "tensorrt-rtx"),
)
OLDEST_MAJOR = 10


@dataclass(slots=True, frozen=True)
class Flavour:
    """A TensorRT that is installed.

    Attributes:
        module: the imported module.
        name: `tensorrt` or `tensorrt-rtx`.
        version: as the module says it.
    """

    module: Any
    name: str
    version: str

    @property
    def builds_for_others(self) -> bool:
        """Whether an engine can be built without the GPU that it is for."""
        return self.name == "tensorrt-rtx"

    def device(self, name: str) -> str:
        """Return what device an engine is bound to: RTX binds it to a compute capability only."""
        return "" if self.builds_for_others else name

    def network(self, builder: Any) -> Any:
        """Create a strongly typed network."""
        flags = self.module.NetworkDefinitionCreationFlag
        typed = getattr(flags, "STRONGLY_TYPED", None)  # gone when no other kind is left
        return builder.create_network(0 if typed is None else 1 << int(typed))

    def configure(self, config: Any, compute_capability: tuple[int, int]) -> None:
        """Say for which device to build, where that can be said.

        Raises:
            EngineBuildError: this TensorRT builds nothing for such a device.
        """
        if not self.builds_for_others:
            return
        name = "SM{}{}".format(*compute_capability)
        capability = getattr(self.module.ComputeCapability, name, None)
        if capability is None:
            raise EngineBuildError(
                f"{self.name} {self.version} builds nothing for compute capability "
                "{}.{}, only for {}".format(*compute_capability, ", ".join(self.capabilities()))
            )
        config.num_compute_capabilities = 1
        config.set_compute_capability(capability, 0)

    def capabilities(self) -> list[str]:
        """Return the compute capabilities it can build for from anywhere; empty if it cannot."""
        if not self.builds_for_others:
            return []
        names = (name for name in vars(self.module.ComputeCapability) if name.startswith("SM"))
        return [f"{name[2:-1]}.{name[-1]}" for name in sorted(names, key=lambda n: int(n[2:]))]

    def context(self, engine: Any) -> tuple[Any, bool]:
        """Create an execution context; say whether it makes CUDA graphs itself."""
        if not self.builds_for_others:
            return engine.create_execution_context(), False
        # RTX compiles at run time and may exchange kernels later: a graph captured from outside
        # would keep the old ones.
        config = engine.create_runtime_config()
        config.cuda_graph_strategy = self.module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return engine.create_execution_context(config), True


def find(names: Sequence[str] = ()) -> Flavour:
    """Return the TensorRT that is installed, the first of `names` or of all.

    Raises:
        EngineUnavailable: none is, or it is too old.
    """
    problems = []
    for module, name in MODULES:
        if names and name not in names:
            continue
        try:
            found = importlib.import_module(module)
        except ImportError as err:
            if not isinstance(err, ModuleNotFoundError) or err.name != module:
                problems.append(f"{module} cannot be imported: {err}")
            continue
        version = str(found.__version__)
        if name == "tensorrt" and int(version.split(".")[0]) < OLDEST_MAJOR:
            problems.append(f"tensorrt {version} is older than {OLDEST_MAJOR}")
            continue
        return Flavour(found, name, version)
    wanted = " or ".join(names) or "tensorrt"
    raise EngineUnavailable(
        "; ".join(problems)
        or f"{wanted} is not installed: pip install '.[tensorrt]' in the checkout, "
        "or '.[rtx]' for RTX cards"
    )


def libraries() -> list[str]:
    """Return name and version of every TensorRT that is installed and new enough."""
    found = []
    for name in dict.fromkeys(name for _, name in MODULES):
        try:
            flavour = find([name])
        except EngineUnavailable:
            continue
        found.append(f"{flavour.name} {flavour.version}")
    return found
