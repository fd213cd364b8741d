from __future__ import annotations

import pickle

import pytest

from vdag import errors


def every_class():
    return [getattr(errors, name) for name in errors.__all__]


def make(cls):
    arguments = {
        errors.StageError: ("pose", 7, "no face"),
        errors.InvalidTransition: ("job 1", "running", "JobSubmitted", ("submitted", "placed")),
        errors.DependencyMissing: ("av", "video"),
    }
    return cls(*arguments.get(cls, ("text",)))


@pytest.mark.parametrize("cls", every_class())
def test_errors_survive_pickling(cls):
    error = make(cls)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert str(again) == str(error)
    assert vars(again) == vars(error)


@pytest.mark.parametrize("cls", every_class())
def test_every_error_is_a_vdag_error_with_a_status(cls):
    assert issubclass(cls, errors.VdagError)
    assert 400 <= cls.status < 600


def test_the_list_is_complete():
    defined = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert defined == set(errors.__all__)


def test_errors_with_a_story_tell_it():
    assert str(make(errors.StageError)) == "pose failed on frame 7: no face"
    assert str(make(errors.InvalidTransition)) == (
        "job 1: state running takes no JobSubmitted\n  submitted\n  placed"
    )
    assert str(make(errors.DependencyMissing)) == (
        "av is not installed: pip install '.[video]' in the checkout"
    )
