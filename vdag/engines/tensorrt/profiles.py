"""What to build, by the model's card, which lies beside the model under its name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vdag.engines.base import TensorSpec
from vdag.engines.tensorrt.builder import BuildOrder, InputRange, Target, model_digest
from vdag.engines.zoo.card import Card, Profile
from vdag.engines.zoo.loader import load_card
from vdag.errors import ConfigError

__all__ = ["card_beside", "order_for", "profiles_of"]

Profiles = tuple[tuple[InputRange, ...], ...]
CHANNELS = 3
#: Of a model without a card.
DEFAULT_PRECISION = "float16"


def card_beside(model: Path) -> Card | None:
    """Return the card of a model, or None if there is none beside it.

    Raises:
        ConfigError: there is one, and it is wrong, or of another file.
    """
    path = model.with_suffix(".toml")
    if not path.is_file():
        return None
    card = load_card(path)
    if card.file != model.name:
        raise ConfigError(f"card {path.name} is of the file {card.file}, not of {model.name}")
    return card


def profiles_of(card: Card | None, inputs: Sequence[TensorSpec], *, model: Path) -> Profiles:
    """Return the profiles to build a model with; none for one of fixed shapes.

    Raises:
        ConfigError: a shape is dynamic, and no card says what it may be.
    """
    dynamic = [spec for spec in inputs if None in spec.shape]
    if not dynamic:
        return ()
    if card is None or not card.profiles:
        raise ConfigError(
            f"input {dynamic[0].name!r} of {model.name} has shape {dynamic[0].layout()}: "
            f"a card {model.with_suffix('.toml').name} with [[profiles]] must say which"
        )
    others = [spec.name for spec in dynamic if spec.name != card.input.name]
    if others:
        raise ConfigError(f"input {others[0]!r} of {model.name} is dynamic and not in its card")
    found = (_range(card.input.name, profile) for profile in card.profiles)
    return tuple((item,) for item in dict.fromkeys(found))


def order_for(
    model: Path,
    inputs: Sequence[TensorSpec],
    *,
    label: str,
    library: tuple[str, str],
    target: Target,
    precision: str = "",
) -> BuildOrder:
    """Return the order for a model.

    Args:
        model: the ONNX file.
        inputs: as ONNX Runtime says them.
        label: what people call it.
        library: name and version of the TensorRT.
        target: what to build for.
        precision: instead of the card's.

    Raises:
        ConfigError: the card is wrong or missing where it is needed, or there is no such precision.
        ModelError: the model cannot be read.
    """
    card = card_beside(model)
    return BuildOrder(
        label,
        model.resolve(),
        model_digest(model),
        library,
        target,
        profiles_of(card, inputs, model=model),
        precision or (DEFAULT_PRECISION if card is None else card.precision),
    )


def _range(name: str, profile: Profile) -> InputRange:
    least, usual, most = (
        (batch, CHANNELS, height, width)
        for batch, height, width in zip(profile.batch, profile.height, profile.width, strict=True)
    )
    return InputRange(name, least, usual, most)
