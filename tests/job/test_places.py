from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vdag.job.places import Places


def test_all_places_are_asked_for_at_first():
    places = Places(["faces", "cars"], 6)
    assert places.ask() == {"faces": 6, "cars": 6}
    assert places.ask() == {}
    assert not places.are_granted()


def test_a_frame_needs_a_place_at_each_of_its_first_tasks():
    places = Places(["faces", "cars"], 6)
    assert places.grant("faces", 2)
    assert not places.are_granted()
    assert places.grant("cars", 1)
    assert places.are_granted()
    places.use()
    assert not places.are_granted()


def test_a_frame_that_goes_nowhere_here_first_needs_no_place():
    places = Places([], 6)
    assert places.are_granted()
    places.use()
    assert places.ask() == {}


def test_places_are_kept_while_frames_go_elsewhere_first():
    places = Places(["faces"], 6)
    assert places.ask() == {"faces": 6}
    places.grant("faces", 2)
    places.go_to(["cars"])
    assert not places.are_granted()
    assert places.ask() == {"cars": 6}
    places.grant("faces", 1)  # it was under way
    places.go_to(["faces"])
    assert places.ask() == {}
    for _ in range(3):
        assert places.are_granted()
        places.use()
    assert not places.are_granted()
    assert places.ask() == {"faces": 3}


def test_a_grant_for_another_task_is_none():
    assert not Places(["faces"], 6).grant("boats", 1)


def test_places_are_asked_for_again_when_half_of_them_are_used():
    places = Places(["faces"], 6)
    places.grant("faces", places.ask()["faces"])
    asked = []
    for _ in range(6):
        places.use()
        asked.append(places.ask().get("faces", 0))
    assert asked == [0, 0, 3, 0, 0, 3]


@given(wanted=st.integers(1, 9), steps=st.lists(st.integers(0, 3)))
def test_whatever_is_granted_when_there_is_never_more_out_than_wanted(wanted, steps):
    places = Places(["faces"], wanted)
    promised, granted, used = places.ask()["faces"], 0, 0
    for count in steps:
        count = min(count, promised - granted)
        places.grant("faces", count)
        granted += count
        while places.are_granted():
            places.use()
            used += 1
            promised += places.ask().get("faces", 0)
        assert used == granted
        assert 0 < promised - used <= wanted
