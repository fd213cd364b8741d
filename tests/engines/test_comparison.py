from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdag.engines.comparison import disagreement
from vdag.engines.zoo.card import Agreement

PLAIN = Agreement(tolerance={"y": 0.1})
LISTED = Agreement(tolerance={"score": 0.01, "box": 0.5}, entry="cell", score="score")


def listed(cells: list[int], scores: list[float]) -> dict[str, np.ndarray]:
    return {
        "cell": np.array([cells], np.int32),
        "score": np.array([scores], np.float32),
        "box": np.array([[[float(cell)] * 4 for cell in cells]], np.float32),
    }


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20))
def test_everything_agrees_with_itself(values: list[float]):
    outputs = {"y": np.array(values, np.float32)}
    assert disagreement(outputs, outputs, PLAIN) == ""


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinities_agree_with_themselves_alone(value: float):
    infinite, large = {"y": np.array([value])}, {"y": np.array([1e30])}
    assert disagreement(infinite, infinite, PLAIN) == ""
    assert disagreement(infinite, large, PLAIN)
    assert disagreement(large, infinite, PLAIN)


def test_what_is_no_number_never_agrees():
    wrong = {"y": np.array([np.nan])}
    assert disagreement(wrong, wrong, PLAIN)


def test_the_tolerance_is_on_top_of_a_hundredth_of_the_value():
    expected = {"y": np.array([100.0, 0.0])}
    assert disagreement(expected, {"y": np.array([101.09, 0.099])}, PLAIN) == ""
    assert disagreement(expected, {"y": np.array([101.2, 0.0])}, PLAIN) == (
        "output y: 50.00% of its values differ by more than 0.1 + 1%, "
        "most at (0,): 101.2, expected 100"
    )


def test_a_share_may_be_off():
    agreement = Agreement(tolerance={"y": 0.1}, share=0.9)
    expected = {"y": np.zeros(20)}
    found = {"y": np.zeros(20)}
    found["y"][:2] = 5
    assert disagreement(expected, found, agreement) == ""
    found["y"][2] = 7
    assert "15.00% of its values" in disagreement(expected, found, agreement)


def test_other_names_shapes_or_types_disagree():
    expected = {"y": np.zeros(2, np.float32)}
    assert disagreement(expected, {"z": expected["y"]}, PLAIN) == "outputs are z, expected y"
    assert disagreement(expected, {"y": np.zeros(3, np.float32)}, PLAIN) == (
        "output y is float32 (3,), expected float32 (2,)"
    )
    assert disagreement(expected, {"y": np.zeros(2)}, PLAIN) == (
        "output y is float64 (2,), expected float32 (2,)"
    )


def test_entries_may_come_in_another_order():
    expected = listed([5, 7, 9], [0.9, 0.8, 0.3])
    assert disagreement(expected, listed([7, 5, 9], [0.8, 0.9, 0.3]), LISTED) == ""


def test_the_last_entries_may_be_others():
    expected = listed([5, 7, 9], [0.9, 0.8, 0.300])
    assert disagreement(expected, listed([5, 7, 8], [0.9, 0.8, 0.301]), LISTED) == ""


def test_a_strong_entry_may_not_be_missing():
    expected = listed([5, 7, 9], [0.9, 0.8, 0.3])
    assert disagreement(expected, listed([5, 9, 8], [0.9, 0.3, 0.3]), LISTED) == (
        "entry 7 of picture 0 is missing, its score is 0.8"
    )


def test_values_of_an_entry_are_compared_under_its_name():
    expected = listed([5, 7, 9], [0.9, 0.8, 0.3])
    found = listed([7, 5, 9], [0.8, 0.9, 0.3])
    found["box"][0, 0] += 2
    assert "output box: 33.33% of its values differ by more than 0.5 + 1%" in disagreement(
        expected, found, LISTED
    )
