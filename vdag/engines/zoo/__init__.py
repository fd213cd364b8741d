"""The model zoo: weights that come with the package, and the cards that describe them.

One weights file may serve several models of a task: a convolutional detector at half the resolution
costs a quarter and sees less, which is the choice a scheduler wants. So a task's `model_id` means
a card and a longest side. How the weights were made is in `tools/zoo`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from vdag.engines.zoo.card import Card, ModelChoice
from vdag.engines.zoo.loader import load_card
from vdag.errors import ConfigError

__all__ = ["Card", "ModelChoice", "card", "cards", "load_card", "models_for"]


@cache
def _all() -> dict[str, Card]:
    found = (load_card(path) for path in sorted(Path(__file__).parent.glob("*.toml")))
    return {card.name: card for card in found}


def cards() -> dict[str, Card]:
    """Return every card of the zoo by name, in a dictionary of the caller's own."""
    return dict(_all())


def card(name: str) -> Card:
    """Return one card of the zoo.

    Raises:
        ConfigError: there is none of that name.
    """
    try:
        return _all()[name]
    except KeyError:
        known = ", ".join(_all())
        raise ConfigError(f"the zoo has no model {name!r}, only {known}") from None


def models_for(task: str) -> dict[int, ModelChoice]:
    """Return the models of a task by `model_id`, in rising order; 0 is the largest.

    Raises:
        ConfigError: no model of the zoo serves that task.
    """
    choices = {
        service.model_id: ModelChoice(card, service.model_id, service.max_side)
        for card in _all().values()
        for service in card.tasks
        if service.task == task
    }
    if not choices:
        known = ", ".join(sorted({item.task for card in _all().values() for item in card.tasks}))
        raise ConfigError(f"the zoo has no model for task {task!r}, only for {known}")
    return dict(sorted(choices.items()))
