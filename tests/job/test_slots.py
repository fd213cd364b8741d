from __future__ import annotations

import gc

import numpy as np
import pytest

from vdag._native.ring import Arena
from vdag.errors import SourceError
from vdag.frame import Frame
from vdag.job.slots import SharedFrame, SlotLoan, Slots
from vdag.sources import SingleFrameGenerator

pytestmark = pytest.mark.slow  # as a whole

WIDTH, HEIGHT = 16, 8
NBYTES = WIDTH * HEIGHT * 3


@pytest.fixture
def arena():
    with Arena.create("test-slots", [(NBYTES, 3)]) as arena:
        yield arena
        gc.collect()
        arena.check()
        assert arena.stats().free == 3


@pytest.fixture
def slots(arena):
    return Slots(arena, wait_s=0.0, is_closing=lambda: False)


def picture(value):
    return np.full((HEIGHT, WIDTH, 3), value, np.uint8)


def decoded(slots, value, **fields):
    """A frame whose source wrote it into the memory of `allocate`."""
    pixels, lease = slots.allocate(WIDTH, HEIGHT)
    pixels[:] = value
    return Frame(pixels, lease=lease, **fields)


def read(arena, reference):
    with arena.acquire(reference.slot, reference.generation) as view:
        return bytes(view)


def test_a_frame_is_decoded_into_its_slot_and_keeps_a_lease_on_it(arena, slots):
    parcel = slots.take_in(decoded(slots, 7, stream="cam", seq=4, cam_frame_id=9, fps=25.0))
    reference = parcel.commit(arena, 2)
    assert read(arena, reference) == read(arena, reference) == bytes([7]) * NBYTES
    frame = parcel.frame
    assert isinstance(frame, SharedFrame)
    assert (frame.stream, frame.seq, frame.cam_frame_id, frame.fps) == ("cam", 4, 9, 25.0)
    assert np.array_equal(frame.pixels, picture(7))
    assert not frame.pixels.flags.writeable
    assert arena.stats().leases == 1
    frame.pixels = picture(0)
    frame.release()
    assert arena.stats().free == 3


def test_a_frame_in_memory_of_its_own_is_copied_and_stays_what_it_is(arena, slots):
    frame = Frame(picture(5)[:, ::2].repeat(2, axis=1)[:, :, ::1])
    parcel = slots.take_in(frame)
    reference = parcel.commit(arena, 1)
    assert parcel.frame is frame
    assert read(arena, reference) == bytes([5]) * NBYTES
    assert arena.stats().free == 3


def test_rows_with_padding_are_copied_without_it(arena, slots):
    wide = np.arange(HEIGHT * 2 * WIDTH * 3, dtype=np.uint8).reshape(HEIGHT, 2 * WIDTH, 3)
    parcel = slots.take_in(Frame(wide[:, :WIDTH]))
    assert read(arena, parcel.commit(arena, 1)) == wide[:, :WIDTH].tobytes()


def test_a_parcel_that_is_never_sent_gives_its_slot_back(arena, slots):
    slots.take_in(decoded(slots, 1)).release()
    slots.take_in(Frame(picture(1))).release()
    assert arena.stats().free == 3


@pytest.mark.parametrize("in_place", [False, True])
def test_releasing_a_parcel_takes_back_what_nobody_has_taken_in(arena, slots, in_place):
    parcel = slots.take_in(decoded(slots, 1) if in_place else Frame(picture(1)))
    reference = parcel.commit(arena, 3)
    with arena.acquire(reference.slot, reference.generation):
        parcel.release()
        del parcel
        assert arena.stats().leases == 1
    assert arena.stats().free == 3


def test_the_lease_of_a_frame_that_nobody_takes_in_gives_its_slot_back(arena, slots):
    decoded(slots, 1).release()
    assert arena.stats().free == 3


def test_without_a_slot_a_frame_is_decoded_into_memory_that_is_used_again(arena, slots):
    parcels = [slots.take_in(decoded(slots, n)) for n in range(3)]
    first, second = decoded(slots, 3), decoded(slots, 4)
    assert isinstance(first.lease, SlotLoan)
    assert first.lease.loan is None
    assert np.shares_memory(first.pixels, second.pixels)
    assert slots.take_in(first) is None
    assert slots.take_in(Frame(picture(5))) is None
    first.release()
    for parcel in parcels:
        parcel.release()


def test_a_frame_that_the_caller_keeps_moves_out_when_slots_run_out(arena, slots):
    kept = []
    for value in range(8):
        parcel = slots.take_in(decoded(slots, value, seq=value))
        parcel.commit(arena, 1).drop()
        slots.hand_over(parcel.frame)
        kept.append(parcel.frame)
    assert [int(frame.pixels[0, 0, 0]) for frame in kept] == list(range(8))
    assert [frame.lease is None for frame in kept] == [True] * 5 + [False] * 3
    for frame in kept:
        frame.detach()


def test_an_array_that_the_caller_holds_keeps_its_slot_and_its_pixels(arena, slots):
    parcel = slots.take_in(decoded(slots, 9))
    parcel.commit(arena, 1).drop()
    slots.hand_over(parcel.frame)
    pixels = parcel.frame.pixels
    others = [slots.take_in(decoded(slots, n)) for n in range(2)]
    assert slots.take_in(decoded(slots, 2)) is None
    assert np.array_equal(pixels, picture(9))
    del pixels
    others.append(slots.take_in(decoded(slots, 3)))
    for parcel in others:
        parcel.release()


def test_a_frame_that_the_caller_forgot_needs_no_copy(arena, slots):
    parcel = slots.take_in(decoded(slots, 9))
    parcel.commit(arena, 1).drop()
    slots.hand_over(parcel.frame)
    del parcel
    gc.collect()
    assert arena.stats().free == 3


def test_waiting_for_a_slot_ends_when_the_job_closes(arena):
    asked = []
    slots = Slots(arena, wait_s=3600.0, is_closing=lambda: asked.append(1) or len(asked) > 1)
    parcels = [slots.take_in(Frame(picture(n))) for n in range(3)]
    assert slots.take_in(Frame(picture(3))) is None
    assert len(asked) == 2
    for parcel in parcels:
        parcel.release()


def test_a_frame_larger_than_any_slot_is_an_error_of_the_source(slots):
    text = (
        f"^frame of 17x8 does not fit the shared memory: "
        f"nbytes of {17 * 8 * 3} is not between 1 and {NBYTES}$"
    )
    with pytest.raises(SourceError, match=text):
        slots.allocate(17, 8)
    released = []

    class Lease:
        def release(self):
            released.append(1)

    with pytest.raises(SourceError, match=text):
        slots.take_in(Frame(np.zeros((8, 17, 3), np.uint8), lease=Lease()))
    assert released == [1]


def test_a_generator_decodes_straight_into_slots(arena, slots):
    with SingleFrameGenerator([picture(n) for n in range(2)], allocate=slots.allocate) as source:
        for value, frame in enumerate(source):
            parcel = slots.take_in(frame)
            del frame
            assert read(arena, parcel.commit(arena, 1)) == bytes([value]) * NBYTES
            parcel.release()
            del parcel
