"""Whether two engines say the same of the same input, as far as a model's card asks for.

Another engine rounds elsewhere: it may use half precision, or another order of additions. So values
may differ by a tolerance, and a model that lists its findings by score may swap neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vdag.engines.zoo.card import Agreement

__all__ = ["disagreement"]

Outputs = Mapping[str, NDArray[Any]]
#: Of an output that the card does not mention.
DEFAULT_TOLERANCE = 0.02
#: Of a value's own size: what half precision loses in a few dozen layers.
RELATIVE = 0.01


def disagreement(expected: Outputs, found: Outputs, agreement: Agreement) -> str:
    """Say how outputs differ beyond what is allowed.

    Args:
        expected: by name, of the engine that is trusted.
        found: of the other; both of one input, first axis the batch.
        agreement: what is allowed.

    Returns:
        One line; empty if they agree.
    """
    if set(expected) != set(found):
        return f"outputs are {', '.join(found)}, expected {', '.join(expected)}"
    for name, values in expected.items():
        if values.shape != found[name].shape or values.dtype != found[name].dtype:
            return (
                f"output {name} is {found[name].dtype} {found[name].shape}, "
                f"expected {values.dtype} {values.shape}"
            )
    if agreement.entry:
        return _entries_disagree(expected, found, agreement)
    for name, values in expected.items():
        if problem := _values_disagree(name, values, found[name], agreement):
            return problem
    return ""


def _values_disagree(
    name: str, expected: NDArray[Any], found: NDArray[Any], agreement: Agreement
) -> str:
    tolerance = agreement.tolerance.get(name, DEFAULT_TOLERANCE)
    with np.errstate(invalid="ignore"):  # infinite on both sides
        distance = np.abs(found.astype(np.float64) - expected.astype(np.float64))
    allowed = tolerance + RELATIVE * np.abs(expected.astype(np.float64))
    # What is no number is wrong as well; infinity has no neighbours.
    wrong = ~(distance <= allowed) | np.isinf(expected)
    wrong &= expected != found
    count = int(np.count_nonzero(wrong))
    if count <= round((1.0 - agreement.share) * wrong.size, 6):
        return ""
    share = count / wrong.size
    at = np.unravel_index(int(np.argmax(np.where(wrong, distance, -1.0))), wrong.shape)
    return (
        f"output {name}: {share:.2%} of its values differ by more than {tolerance:g} + 1%, "
        f"most at {tuple(int(i) for i in at)}: {found[at]:g}, expected {expected[at]:g}"
    )


def _entries_disagree(expected: Outputs, found: Outputs, agreement: Agreement) -> str:
    """Compare lists of findings, `(N, entries, ...)`, entry by entry under its own name."""
    tolerance = agreement.tolerance.get(agreement.score, DEFAULT_TOLERANCE)
    for index in range(len(expected[agreement.entry])):
        theirs = expected[agreement.entry][index]
        ours = found[agreement.entry][index]
        _, left, right = np.intersect1d(theirs, ours, return_indices=True)
        missing = np.setdiff1d(np.arange(len(theirs)), left)
        scores = expected[agreement.score][index]
        # What only one side lists has to be near the end of the list.
        if len(missing) and scores[missing].max() > scores.min() + 2 * tolerance:
            worst = missing[int(np.argmax(scores[missing]))]
            return (
                f"entry {theirs[worst]} of picture {index} is missing, "
                f"its {agreement.score} is {scores[worst]:g}"
            )
        for name in expected:
            if name == agreement.entry:
                continue
            problem = _values_disagree(
                name, expected[name][index][left], found[name][index][right], agreement
            )
            if problem:
                return problem
    return ""
