"""The models that plans can choose among, and how workers load each."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from vdag.errors import ConfigError
from vdag.tasks import TaskOptions
from vdag.tasks.variants import variants

OPTIONS = TaskOptions(model_id=1, threads=2)


def test_a_task_of_the_zoo_has_all_its_models_there():
    assert variants("face_detection", OPTIONS) == {
        number: replace(OPTIONS, model_id=number) for number in (0, 1, 2)
    }
    assert variants("face_alignment", TaskOptions(threads=3)) == {0: TaskOptions(threads=3)}


def test_fewer_are_offered_if_fewer_are_wanted():
    assert list(variants("face_detection", OPTIONS, (2, 0))) == [0, 2]


def test_a_card_of_the_operators_own_is_the_only_model():
    options = TaskOptions(model_id=2, card=Path("mine.toml"))
    assert variants("face_detection", options) == {0: options}
    assert variants("face_detection", options, (0,)) == {0: options}


def test_a_task_without_models_in_the_zoo_has_one_that_is_loaded_as_it_always_is():
    assert variants("brightness", OPTIONS) == {0: OPTIONS}


def test_a_task_of_the_users_has_the_models_that_its_operator_says():
    assert variants("mine", OPTIONS, (5, 0)) == {
        0: replace(OPTIONS, model_id=0),
        5: replace(OPTIONS, model_id=5),
    }


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("face_detection", OPTIONS, "face_detection has no model_id 3, expected of 0, 1, 2"),
        ("face_alignment", OPTIONS, "face_alignment has no model_id 3, expected of 0"),
        (
            "face_detection",
            TaskOptions(card=Path("mine.toml")),
            "face_detection has no model_id 3, expected of 0",
        ),
    ],
)
def test_a_model_that_is_not_there_cannot_be_offered(task, options, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        variants(task, options, (0, 3))
