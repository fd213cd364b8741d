"""Loaded by the workers of `gpu_workers.py`: takes from vdag what `VDAG_VARIANT` names.

both     nothing
loose    slots are not page-locked: pictures are copied into memory that is
single   one batch at a time: the next begins when the answers to the last are out
plain    both of these
"""

from __future__ import annotations

import os
from typing import Any

from vdag.engines.begun import Begun
from vdag.engines.gpu.engine import LaneEngine
from vdag.tasks.model import Model

variant = os.environ.get("VDAG_VARIANT", "both")
begin = Model.begin


def finished(model: Model, pictures: Any) -> Begun[Any]:
    """Begin, and wait."""
    begun = begin(model, pictures)
    begun.wait()
    return begun


if variant in ("loose", "plain"):
    LaneEngine.lock_pages = lambda *args: False  # type: ignore[method-assign]
if variant in ("single", "plain"):
    Model.begin = finished  # type: ignore[method-assign]
