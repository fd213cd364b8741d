"""Model cards: what a weights file expects and answers, where it comes from, how well it does.

A card is a TOML file beside its ONNX file. The zoo's own models and a user's models have the same
kind of card; a user may leave out what only the zoo's build and its notices need. Nothing here
opens a model.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vdag.errors import ConfigError, ModelError

__all__ = ["Agreement", "Card", "Crop", "Decode", "Input", "ModelChoice", "Output", "Profile"]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the card: immutable, and a misspelt key is an error."""


class Service(_Part, frozen=True):
    """A task this model serves.

    Attributes:
        task: name of the vdag task.
        model_id: which of the task's models; 0 is the largest.
        max_side: longest side of the input in pixels under this id.
    """

    task: str
    model_id: int
    max_side: int


class Source(_Part, frozen=True):
    """A file that the weights were made of: package, version, path inside it, and its hash."""

    registry: str
    package: str
    version: str
    member: str
    sha256: str


class Licence(_Part, frozen=True):
    """SPDX identifier, where the model was first published, and what to know before using it."""

    spdx: str
    upstream: str = ""
    caveat: str = ""


class Input(_Part, frozen=True):
    """The input tensor: float32 `(N, 3, H, W)` of `(pixel * scale - mean) / std`.

    Attributes:
        name: of the tensor.
        layout: order of its axes.
        dtype: of its elements.
        colour: order of its channels; `mean` and `std` are in the same order.
        scale: multiplies 0..255 first.
        mean: subtracted next.
        std: divides last.
        pad: value of the border that letterboxing adds, 0..255, before normalisation.
        resize: "letterbox" keeps the aspect ratio and pads, "stretch" does not.
        multiple: height and width must be multiples of this.
        least_side: smallest height and width in pixels.
        size: fixed height and width, or `(0, 0)` for a dynamic size.
    """

    name: str
    colour: str
    resize: str
    layout: str = "NCHW"
    dtype: str = "float32"
    scale: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    pad: int = 114
    multiple: int = 32
    least_side: int = 32
    size: tuple[int, int] = (0, 0)

    def tensor_size(self, width: int, height: int, max_side: int) -> tuple[int, int]:
        """Return width and height of the tensor for a picture, in pixels.

        A picture is never enlarged, except to reach `multiple` and `least_side`.

        Args:
            width: of the picture.
            height: likewise.
            max_side: longest side allowed; without effect on a model of fixed size.
        """
        if self.size != (0, 0):
            return self.size[1], self.size[0]
        scale = min(1.0, max_side / max(width, height))
        return self._fit(width * scale), self._fit(height * scale)

    def _fit(self, side: float) -> int:
        return max(-(-round(side) // self.multiple) * self.multiple, self.least_side)


class Output(_Part, frozen=True):
    """An output tensor: name, dimensions (a word is a dynamic one), element type, meaning."""

    name: str
    shape: tuple[int | str, ...] = ()
    dtype: str = "float32"
    meaning: str = ""


class Crop(_Part, frozen=True):
    """The square around a face that a second model wants.

    Attributes:
        of: measure of the face box that `side` and `above` are multiples of.
        side: side of the square.
        above: how far it reaches above the box; None centres the square on the box.
    """

    of: str
    side: float
    above: float | None = None

    def square(self, x1: float, y1: float, x2: float, y2: float) -> tuple[float, float, float]:
        """Return left, top and side of the square for a box, in its pixels.

        The square may reach beyond the picture.
        """
        measure = y2 - y1 if self.of == "height" else max(x2 - x1, y2 - y1)
        side = self.side * measure
        top = (y1 + y2 - side) / 2 if self.above is None else y1 - self.above * measure
        return (x1 + x2 - side) / 2, top, side


class Decode(_Part, frozen=True):
    """How outputs become results.

    Attributes:
        kind: the procedure.
        threshold: least probability of a result.
        iou: overlap above which the weaker of two boxes is dropped.
        layout: of a YOLO output: "v5" is `(N, boxes, 5 + classes)` with an objectness,
            "v8" is `(N, 4 + classes, boxes)`.
        classes: names of the classes, in order.
    """

    kind: str
    threshold: float = 0.25
    iou: float = 0.45
    layout: str = ""
    classes: tuple[str, ...] = ()


class Profile(_Part, frozen=True):
    """Smallest, usual and largest sizes of one optimisation profile, for engines that need them."""

    max_side: int
    batch: tuple[int, int, int]
    height: tuple[int, int, int]
    width: tuple[int, int, int]


class Agreement(_Part, frozen=True):
    """How far another engine's outputs may be from those of ONNX Runtime on the CPU.

    Attributes:
        tolerance: per output, the largest difference, in its own unit; on top of 1 % of the value.
        share: least share of an output's values that must be within it.
        entry: for a model that lists its findings by falling score: the output that says which
            each is; findings are then compared under that name, in whatever order they come.
        score: the output with the scores of such a list.
    """

    tolerance: dict[str, float] = msgspec.field(default_factory=dict)
    share: float = 1.0
    entry: str = ""
    score: str = ""


class Quality(_Part, frozen=True):
    """Sentences on what was measured, on what, and with which result."""

    measured: tuple[str, ...] = ()


class Cost(_Part, frozen=True):
    """Indicative milliseconds of one picture on one thread of a CPU."""

    height: int
    width: int
    ms: float


class Card(_Part, frozen=True):
    """Everything about one model.

    Attributes:
        name: of the model.
        version: of its weights.
        summary: one sentence.
        file: name of the ONNX file beside the card.
        input: its input tensor.
        decode: how its outputs are read.
        licence: of the weights.
        sha256: of the file, 64 hexadecimal digits; empty where a user does not care.
        nbytes: size of the file; 0 where a user does not care.
        tasks: what it serves.
        sources: what it was made of.
        outputs: its output tensors.
        crop: for a model that looks at faces.
        profiles: one for each `max_side`.
        agreement: how far another engine may be off.
        precision: what TensorRT computes in: "float16", "float32", or "model" as the file says,
            for one that is quantised (Q/DQ).
        quality: what was measured.
        cost: what it takes.
        folder: where card and file are; set when it is loaded.
    """

    name: str
    version: str
    file: str
    input: Input
    decode: Decode
    licence: Licence = Licence(spdx="")
    summary: str = ""
    sha256: str = ""
    nbytes: int = 0
    tasks: tuple[Service, ...] = ()
    sources: tuple[Source, ...] = ()
    outputs: tuple[Output, ...] = ()
    crop: Crop | None = None
    profiles: tuple[Profile, ...] = ()
    agreement: Agreement = Agreement()
    precision: str = "float16"
    quality: Quality = Quality()
    cost: tuple[Cost, ...] = ()
    folder: str = ""

    @property
    def path(self) -> Path:
        """Absolute path of the weights; whether they are there is not checked."""
        return Path(self.folder) / self.file

    def verify(self) -> None:
        """Compare the file with the card, as far as the card says.

        Raises:
            ModelError: the file is missing or is another one.
        """
        try:
            data = self.path.read_bytes()
        except OSError as err:
            raise ModelError(f"model {self.file} cannot be read: {err.strerror}") from err
        if self.nbytes and len(data) != self.nbytes:
            raise ModelError(
                f"model {self.file} has {len(data)} bytes, its card says {self.nbytes}"
            )
        digest = hashlib.sha256(data).hexdigest()
        if self.sha256 and digest != self.sha256:
            raise ModelError(f"model {self.file} has sha256 {digest}, its card says {self.sha256}")

    def profile(self, max_side: int) -> Profile:
        """Return the optimisation profile for a longest side.

        Raises:
            ConfigError: the card has none for it.
        """
        for profile in self.profiles:
            if profile.max_side == max_side:
                return profile
        known = ", ".join(str(profile.max_side) for profile in self.profiles)
        raise ConfigError(f"model {self.name} has no profile of side {max_side}, only {known}")


@dataclass(slots=True, frozen=True)
class ModelChoice:
    """One of a task's models.

    Attributes:
        card: of the weights; several choices may share them.
        model_id: 0 is the largest.
        max_side: longest side of the input in pixels.
    """

    card: Card
    model_id: int
    max_side: int

    def tensor_size(self, width: int, height: int) -> tuple[int, int]:
        """Return width and height of the tensor for a picture of this size, in pixels."""
        return self.card.input.tensor_size(width, height, self.max_side)
