"""Every exception vdag raises, in one tree.

Each class carries the HTTP `status` that the REST control plane answers with, and derives from the
built-in it resembles too, so that plain `except ValueError` and `except OSError` work.
All of them survive pickling: a worker's error reaches the caller as it was.
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "ChannelClosed",
    "ConfigError",
    "DependencyMissing",
    "EngineBuildError",
    "EngineError",
    "EngineUnavailable",
    "FrameFormatError",
    "GraphError",
    "ImageError",
    "InvalidTransition",
    "LimitsUnavailable",
    "ModelError",
    "NativeUnavailable",
    "NotFound",
    "PackagesUnavailable",
    "PayloadTooLarge",
    "PlanError",
    "Saturated",
    "SinkError",
    "SourceError",
    "SourceTimeout",
    "StageError",
    "StaleFrame",
    "TransportError",
    "VdagError",
]


class VdagError(Exception):
    """Base of all errors of this package; catch it to catch them all."""

    status: ClassVar[int] = 500


class ConfigError(VdagError, ValueError):
    """A setting or an argument has no meaning; the message names it, its value and the limit."""

    status = 400


class GraphError(VdagError, ValueError):
    """A graph cannot run: the message says at which task and field."""

    status = 422


class PlanError(VdagError, ValueError):
    """A plan does not fit its graph, or asks for what does not exist."""

    status = 422


class ImageError(VdagError, ValueError):
    """Bytes are not a picture that can be decoded, or the picture exceeds a limit."""

    status = 422


class PayloadTooLarge(VdagError, ValueError):
    """A request is larger than this node takes; the message says how large it may be."""

    status = 413


class Saturated(VdagError):
    """This node has as much to do as it can; the same request may succeed a moment later."""

    status = 503


class LimitsUnavailable(VdagError, PermissionError):
    """This machine, or its state, does not allow the limit that was asked for."""

    status = 409


class NotFound(VdagError, LookupError):
    """There is no such query, job, node or video; the message names it."""

    status = 404


class PackagesUnavailable(VdagError):
    """This node, or its state, does not allow a task package to be stored."""

    status = 409


class SourceError(VdagError, OSError):
    """A video cannot be opened or read; the message names it."""

    status = 422


class SourceTimeout(SourceError, TimeoutError):
    """A camera sent nothing within its dead-line; reconnecting may help."""

    status = 504


class SinkError(VdagError, OSError):
    """Results cannot be written; what was written before is closed properly."""


class TransportError(VdagError):
    """A frame could not travel."""


class FrameFormatError(TransportError, ValueError):
    """A message is not a descriptor this version reads; nothing was allocated for it."""

    status = 400


class ChannelClosed(TransportError, ConnectionError):
    """The other side, or this one, has closed the channel."""

    status = 503


class StaleFrame(TransportError, LookupError):
    """The slot that a descriptor points to has been reused; its pixels are gone."""

    status = 410


class EngineError(VdagError, RuntimeError):
    """An engine failed while running a model."""


class EngineUnavailable(EngineError, ImportError):
    """An engine's library or device is missing; the message says what to install."""

    status = 503


class EngineBuildError(EngineError):
    """A model could not be built for its device; a fallback may still serve it."""


class ModelError(EngineError, ValueError):
    """A model file is broken, or is not the kind of model its card says."""

    status = 422


class StageError(VdagError, RuntimeError):
    """A task raised while it worked on a frame; `__cause__` is what it raised.

    Attributes:
        stage: name of the task.
        seq: number of the frame, counted over the frames processed.
    """

    def __init__(self, stage: str, seq: int, message: str) -> None:
        super().__init__(stage, seq, message)
        self.stage = stage
        self.seq = seq
        self.message = message

    def __str__(self) -> str:
        return f"{self.stage} failed on frame {self.seq}: {self.message}"


class InvalidTransition(VdagError, RuntimeError):
    """An event arrived that its state does not take; the state is unchanged.

    Please report it with the story: the events that led there, oldest first.
    """

    def __init__(self, key: str, state: str, event: str, story: tuple[Any, ...] = ()) -> None:
        super().__init__(key, state, event, story)
        self.key = key
        self.state = state
        self.event = event
        self.story = story

    def __str__(self) -> str:
        story = "".join(f"\n  {line}" for line in self.story)
        return f"{self.key}: state {self.state} takes no {self.event}{story}"


class NativeUnavailable(VdagError, ImportError):
    """The compiled kernels are missing: the message says how to build them."""


class DependencyMissing(VdagError, ImportError):
    """An optional package is needed and not installed.

    Attributes:
        module: the module that could not be imported.
        extra: the extra of this package that brings it.
    """

    status = 503

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(module, extra)
        self.module = module
        self.extra = extra

    def __str__(self) -> str:
        return f"{self.module} is not installed: pip install '.[{self.extra}]' in the checkout"
