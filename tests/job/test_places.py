from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vdag.job.places import Places


def test_all_places_are_asked_for_at_first():
    places = Places(["faces", "cars"], 6)
    assert places.tasks == ("faces", "cars")
    assert (places.ask(), places.ask()) == (6, 0)
    assert not places.are_granted()


def test_a_frame_needs_a_place_at_each_of_its_first_tasks():
    places = Places(["faces", "cars"], 6)
    assert places.grant("faces", 2)
    assert not places.are_granted()
    assert places.grant("cars", 1)
    assert places.are_granted()
    places.use()
    assert not places.are_granted()


def test_a_grant_for_another_task_is_none():
    assert not Places(["faces"], 6).grant("boats", 1)


def test_places_are_asked_for_again_when_half_of_them_are_used():
    places = Places(["faces"], 6)
    places.grant("faces", places.ask())
    asked = []
    for _ in range(6):
        places.use()
        asked.append(places.ask())
    assert asked == [0, 0, 3, 0, 0, 3]


@given(wanted=st.integers(1, 9), steps=st.lists(st.integers(0, 3)))
def test_whatever_is_granted_when_there_is_never_more_out_than_wanted(wanted, steps):
    places = Places(["faces"], wanted)
    promised, granted, used = places.ask(), 0, 0
    for count in steps:
        count = min(count, promised - granted)
        places.grant("faces", count)
        granted += count
        while places.are_granted():
            places.use()
            used += 1
            promised += places.ask()
        assert used == granted
        assert 0 < promised - used <= wanted
