from __future__ import annotations

import re
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest

from vdag._native.placement import TO_UNIT, Normalization, Placement
from vdag.errors import ConfigError


def test_the_default_gives_rgb_from_0_to_1_with_a_grey_border() -> None:
    assert TO_UNIT.affine() == [(1 / 255, 0.0)] * 3
    assert (TO_UNIT.rgb, TO_UNIT.pad) == (True, 114)


def test_mean_and_std_fold_into_one_gain_and_bias_per_output_channel() -> None:
    norm = Normalization(scale=0.5, mean=(1, 2, 3), std=(1, 2, 4))
    assert norm.affine() == [(0.5, -1.0), (0.25, -1.0), (0.125, -0.75)]


def test_a_normalization_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        TO_UNIT.pad = 0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"pad": 256}, "pad 256 is outside 0..255"),
        ({"pad": -1}, "pad -1 is outside 0..255"),
        ({"std": (1, 0, 1)}, "std (1, 0, 1) is not above 0"),
        ({"std": (1, 1)}, "std (1, 1) does not have 3 values"),
        ({"mean": (1, 1, 1, 1)}, "mean (1, 1, 1, 1) does not have 3 values"),
        (
            {"scale": float("nan")},
            "scale nan, mean (0.0, 0.0, 0.0), std (1.0, 1.0, 1.0) leave float32",
        ),
        (
            {"scale": 1e20, "std": (1, 1, 1e-20)},
            "scale 1e+20, mean (0.0, 0.0, 0.0), std (1, 1, 1e-20) leave float32",
        ),
    ],
)
def test_a_normalization_without_meaning_is_refused(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
        Normalization(**values)


def test_boxes_map_back_to_the_frame_without_clipping() -> None:
    placement = Placement(0.5, 0.25, 10, -4)
    boxes = np.array([[10, -4, 20, 0], [0, 0, 0, 0]], np.float32)
    mapped = placement.to_frame(boxes)
    assert mapped.dtype == np.float32
    assert mapped.tolist() == [[0, 0, 20, 16], [-20, 16, -20, 16]]


def test_points_of_any_grouping_map_back() -> None:
    points = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    mapped = Placement(2, 4, 1, 2).to_frame(points)
    np.testing.assert_array_equal(mapped, (points - (1, 2)) / (2, 4))


def test_no_boxes_map_to_no_boxes() -> None:
    assert Placement(1, 1, 0, 0).to_frame(np.empty((0, 4), np.float32)).shape == (0, 4)


def test_what_is_neither_boxes_nor_points_is_refused() -> None:
    text = r"^boxes of shape \(2, 3\) are neither \(\.\.\., 4\) nor \(\.\.\., 2\)$"
    with pytest.raises(ConfigError, match=text):
        Placement(1, 1, 0, 0).to_frame(np.zeros((2, 3), np.float32))
