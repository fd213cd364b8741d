from __future__ import annotations

import gc
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from ring_kit import CLASSES, acquire, assert_all_free, commit

from vdag.errors import (
    ChannelClosed,
    ConfigError,
    FrameFormatError,
    StaleFrame,
    TransportError,
)

# ---- loan, commit, acquire, release ----


def test_what_a_producer_writes_a_consumer_sees_without_a_copy(arena: Any, consumer: Any) -> None:
    view = acquire(consumer, commit(arena, value=42))
    pixels = np.asarray(view)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (100,)
    assert (pixels == 42).all()
    assert not pixels.flags.writeable
    assert not pixels.flags.owndata
    del pixels
    view.release()
    assert_all_free(arena)


def test_a_reference_says_where_its_payload_is(arena: Any) -> None:
    loan = arena.loan(80)
    ref = loan.commit(60)
    assert ref.slot == loan.slot
    assert ref.nbytes == 60
    assert ref.arena_id == arena.arena_id
    assert arena.control_nbytes <= ref.offset <= arena.nbytes - 100
    assert len(acquire(arena, ref)) == 60


def test_all_slots_lie_in_one_mapping(arena: Any, consumer: Any) -> None:
    refs = [commit(arena, value=value, nbytes=nbytes) for value, nbytes in ((1, 100), (2, 5000))]
    address, nbytes = consumer.mapping
    assert nbytes == consumer.nbytes - consumer.control_nbytes
    for ref in refs:
        with acquire(consumer, ref) as view:
            slot = np.asarray(view)
            assert slot.ctypes.data == address + ref.offset - consumer.control_nbytes
            del slot
    consumer.close()
    with pytest.raises(ChannelClosed, match="is closed"):
        consumer.mapping  # noqa: B018


def test_slots_are_aligned_to_cache_lines_and_large_ones_to_pages(arena: Any) -> None:
    small, large = [arena.loan(100) for _ in range(4)], arena.loan(5000)
    assert [loan.commit().offset % 64 for loan in small] == [0] * 4
    assert large.commit().offset % 4096 == 0


@pytest.mark.parametrize(("nbytes", "slots"), [(1, 0), (100, 0), (101, 4), (5001, 6), (20000, 6)])
def test_a_loan_takes_the_smallest_slot_that_fits(arena: Any, nbytes: int, slots: int) -> None:
    loan = arena.loan(nbytes)
    assert (loan.slot, len(loan)) == (slots, nbytes)


def test_a_full_class_overflows_into_the_next_but_no_further(arena: Any) -> None:
    loans = [arena.loan(100) for _ in range(6)]
    assert [loan.slot for loan in loans] == [0, 1, 2, 3, 4, 5]
    assert arena.loan(100) is None
    assert arena.loan(5000).slot == 6
    assert arena.stats().misses == 1


def test_the_slot_freed_last_is_used_first(arena: Any) -> None:
    refs = [commit(arena) for _ in range(4)]
    for slot in (3, 1, 2):
        refs[slot].drop()
    assert [arena.loan(100).slot for _ in range(1)] == [2]
    loans = [arena.loan(100) for _ in range(3)]
    assert [loan.slot for loan in loans] == [2, 1, 3]


def test_nothing_of_a_loan_is_seen_before_it_is_committed(arena: Any) -> None:
    ref = commit(arena)
    ref.drop()
    loan = arena.loan(100)
    assert loan.slot == ref.slot
    upcoming = ref.generation + (1 << 16)
    with pytest.raises(StaleFrame, match=f"^generation {upcoming} of slot 0 has no lease in fl"):
        arena.acquire(ref.slot, upcoming)
    with pytest.raises(StaleFrame, match=f"^generation {upcoming} of slot 0 has no lease in fl"):
        arena.share(ref.slot, upcoming)


def test_an_abandoned_loan_and_a_lost_one_free_their_slots(arena: Any) -> None:
    loan = arena.loan(100)
    loan.abandon()
    loan.abandon()
    with arena.loan(100):
        assert arena.stats().loaned == 1
    loan = arena.loan(100)
    del loan
    gc.collect()
    assert_all_free(arena)


def test_a_loan_is_committed_once(arena: Any) -> None:
    loan = arena.loan(100)
    loan.commit()
    with pytest.raises(ChannelClosed, match=r"^loan of slot 0 has ended$"):
        loan.commit()
    loan.abandon()
    assert arena.stats().committed == 1


def test_a_commit_out_of_range_leaves_the_loan_open(arena: Any) -> None:
    loan = arena.loan(90)
    with pytest.raises(ConfigError, match=r"^nbytes of 91 is not between 0 and 90$"):
        loan.commit(91)
    with pytest.raises(ConfigError, match=r"^nbytes of -1 is not between 0 and 90$"):
        loan.commit(-1)
    for readers in (0, 57):
        with pytest.raises(ConfigError, match=f"^readers of {readers} is not between 1 and 56$"):
            loan.commit(readers=readers)
    assert loan.commit(0).nbytes == 0


@pytest.mark.parametrize("nbytes", [-1, 0, 20001])
def test_a_loan_that_no_slot_can_hold_is_refused(arena: Any, nbytes: int) -> None:
    with pytest.raises(ConfigError, match=f"^nbytes of {nbytes} is not between 1 and 20000$"):
        arena.loan(nbytes)


@pytest.mark.parametrize("timeout_s", [-0.1, 86400.5, float("inf"), float("nan")])
def test_a_wait_has_an_end(arena: Any, timeout_s: float) -> None:
    with pytest.raises(ConfigError, match=r"^timeout_s of .* is not between 0 and 86400$"):
        arena.loan(100, timeout_s)


# ---- leases ----


def test_the_last_of_several_readers_frees_the_slot(arena: Any, consumer: Any) -> None:
    ref = commit(arena, readers=3)
    views = [acquire(consumer, ref), acquire(consumer, ref), acquire(arena, ref)]
    assert arena.stats().leases == 3
    for view in views:
        assert arena.stats().committed == 1
        view.release()
        view.release()
    assert_all_free(arena)


def test_a_lease_in_flight_is_acquired_once(arena: Any, consumer: Any) -> None:
    ref = commit(arena)
    with (
        acquire(consumer, ref),
        pytest.raises(
            StaleFrame, match=f"^generation {ref.generation} of slot 0 has no lease in flight$"
        ),
    ):
        acquire(consumer, ref)
    assert_all_free(arena)


def test_a_reused_slot_is_stale_for_old_descriptors(arena: Any, consumer: Any) -> None:
    old = commit(arena, value=1)
    acquire(consumer, old).release()
    new = commit(arena, value=2)
    assert new.slot == old.slot
    assert new != old
    for use in (consumer.acquire, consumer.adopt, consumer.share):
        with pytest.raises(StaleFrame, match=f"^generation {old.generation} of slot 0 is over$"):
            use(old.slot, old.generation)
    assert consumer.drop(old.slot, old.generation) is False
    assert arena.stats().stale == 3
    assert (np.asarray(acquire(consumer, new)) == 2).all()


def test_descriptors_of_another_arena_are_stale(ring: ModuleType, arena: Any) -> None:
    with ring.Arena.create("test2", CLASSES) as other:
        ref = commit(other)
        commit(arena)
        with pytest.raises(StaleFrame, match=r"^generation \d+ of slot 0 is over$"):
            acquire(arena, ref)


def test_a_lost_view_gives_its_lease_back_but_not_under_an_array(arena: Any) -> None:
    pixels = np.asarray(acquire(arena, commit(arena, value=9)))
    gc.collect()
    assert arena.stats().leases == 1
    assert (pixels == 9).all()
    del pixels
    gc.collect()
    assert_all_free(arena)


def test_sharing_adds_readers_to_a_lease_in_flight_or_held(arena: Any, consumer: Any) -> None:
    ref = commit(arena)
    more = ref.share(2)
    assert more == ref
    assert hash(more) == hash(ref)
    view = acquire(consumer, ref)
    onward = view.share()
    assert onward.generation != ref.generation
    view.release()
    assert arena.stats().leases == 3
    with acquire(arena, onward) as last:
        assert ref.drop()
        assert more.drop()
        assert not more.drop()
        assert (np.asarray(last) == 7).all()
    assert_all_free(arena)


def test_a_slot_has_56_leases_and_not_one_more(arena: Any) -> None:
    ref = commit(arena, readers=55)
    with pytest.raises(TransportError, match=r"^2 more readers exceed the 56 of slot 0$"):
        ref.share(2)
    ref.share()
    with pytest.raises(TransportError, match=r"^1 more readers exceed the 56 of slot 0$"):
        ref.share()
    for _ in range(56):
        assert ref.drop()
    assert_all_free(arena)


def test_leases_are_used_again_without_end_while_the_slot_lives(arena: Any) -> None:
    ref = commit(arena, readers=2)
    for _ in range(200):
        ref.share(30)
        assert [ref.drop() for _ in range(30)] == [True] * 30
    assert arena.stats().leases == 2
    arena.check()


def test_an_exchange_adopts_what_it_sends_on(arena: Any, consumer: Any) -> None:
    ref = commit(arena)
    onward = consumer.adopt(ref.slot, ref.generation)
    assert (onward.slot, onward.nbytes, onward.offset) == (ref.slot, ref.nbytes, ref.offset)
    with pytest.raises(StaleFrame):
        acquire(arena, ref)
    with acquire(arena, onward) as view:
        assert (np.asarray(view) == 7).all()
    assert_all_free(arena)


@pytest.mark.parametrize("slot", [-1, 7, 2**32])
def test_a_slot_that_does_not_exist_is_malformed(arena: Any, slot: int) -> None:
    for use in (arena.acquire, arena.adopt, arena.drop, arena.share):
        with pytest.raises(FrameFormatError, match=f"^slot {slot} is none of the 7$"):
            use(slot, 1 << 16)


@pytest.mark.parametrize("bit", [16, 39, 56, 63])
def test_a_generation_is_compared_in_full(arena: Any, bit: int) -> None:
    ref = commit(arena)
    with pytest.raises(StaleFrame, match=r"^generation \d+ of slot 0 is over$"):
        arena.acquire(ref.slot, ref.generation ^ 1 << bit)


# ---- copies ----


@pytest.mark.parametrize(
    "array",
    [
        np.arange(60, dtype=np.uint8),
        np.arange(120, dtype=np.uint8).reshape(10, 4, 3)[2:8, 1:3],
        np.arange(60, dtype=np.uint8).reshape(4, 5, 3)[::-1, :, ::-1],
        np.arange(20, dtype=np.float32).reshape(4, 5).T,
        np.float64(3.5),
        np.broadcast_to(np.arange(5, dtype=np.int16), (3, 5)),
    ],
    ids=["flat", "region", "flipped", "transposed", "scalar", "broadcast"],
)
def test_put_copies_any_strides_in_c_order(arena: Any, array: Any) -> None:
    with acquire(arena, arena.put(array)) as view:
        assert bytes(np.asarray(view)) == np.asarray(array).tobytes()


def test_put_without_a_free_slot_is_none(arena: Any) -> None:
    loan = arena.loan(20000)
    assert arena.put(np.zeros(20000, np.uint8)) is None
    loan.abandon()
    with pytest.raises(ConfigError, match=r"^readers of 0 is not between 1 and 56$"):
        arena.put(np.zeros(1, np.uint8), readers=0)
    assert_all_free(arena)
