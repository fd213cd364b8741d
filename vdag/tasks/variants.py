"""The models of a task that a plan can choose among, each with how workers load it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from vdag.engines import zoo
from vdag.errors import ConfigError
from vdag.tasks.base import TaskOptions, model_task

__all__ = ["variants"]


def variants(
    task: str, options: TaskOptions, wanted: Collection[int] = ()
) -> dict[int, TaskOptions]:
    """Return the models of a task by `model_id`, in rising order.

    A card of the user's own stands for the only model, 0. A task without models in the zoo has what
    `wanted` says, since only its class knows; unless it says, there is 0 alone, which is loaded as
    `options` are.

    Args:
        task: its name.
        options: device, engine and threads of every model, and what is loaded unless asked for.
        wanted: the `model_id`s to offer; empty for all there are.

    Raises:
        ConfigError: `wanted` names a model that is not there.
    """
    if options.card is not None:
        known: Collection[int] = (0,)
    else:
        try:
            known = zoo.models_for(model_task(task))
        except ConfigError:  # a task of the user's
            known = wanted or (0,)
    if unknown := set(wanted) - set(known):
        text = ", ".join(map(str, known))
        raise ConfigError(f"{task} has no model_id {min(unknown)}, expected of {text}")
    if options.card is not None or (not wanted and set(known) == {0}):
        return {0: options}
    return {number: replace(options, model_id=number) for number in sorted(wanted or known)}
