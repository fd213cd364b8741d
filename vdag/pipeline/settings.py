"""What a pipeline's threads and its processes are told alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from vdag.pipeline.dispatch import Policy
from vdag.tasks import TaskOptions

__all__ = ["RunSettings"]


@dataclass(frozen=True, slots=True)
class RunSettings:
    """How a pipeline runs; `Pipeline` checks it.

    Attributes:
        options: task name to how it is loaded.
        owns_source: the run closes the source.
        batch: most frames that a task takes at once.
        policy: `block` or `latest`.
        max_in_flight: None for enough that everybody who works has a batch while another waits.
        on_error: `raise` or `drop`.
    """

    options: Mapping[str, TaskOptions]
    owns_source: bool
    batch: int
    policy: Policy
    max_in_flight: int | None
    on_error: Literal["raise", "drop"]
