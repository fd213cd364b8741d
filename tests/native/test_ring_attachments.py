from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from ring_kit import CLASSES, acquire, assert_all_free, commit

from vdag.errors import ChannelClosed, ConfigError, StaleFrame, TransportError

# ---- death ----


def test_a_dead_producer_loses_its_loans_and_what_it_had_in_flight(
    ring: ModuleType, arena: Any
) -> None:
    producer = ring.Arena.attach(arena.name, writable=True)
    loan, ref = producer.loan(100), commit(producer, readers=2)
    held = acquire(arena, ref)
    producer._die()
    assert arena.reap() == ring.ReapReport(processes=1, leases=2, slots=1)
    with pytest.raises(StaleFrame, match=f"^generation {ref.generation} of slot 1 has no lease"):
        acquire(arena, ref)
    assert (np.asarray(held) == 7).all()
    held.release()
    assert_all_free(arena)
    assert arena.stats().reclaimed == 2
    del loan
    assert arena.reap() == ring.ReapReport(processes=0, leases=0, slots=0)


def test_a_dead_consumer_loses_its_views_and_nobody_elses(ring: ModuleType, arena: Any) -> None:
    first, second = (ring.Arena.attach(arena.name) for _ in range(2))
    ref = commit(arena, readers=2)
    lost, kept = acquire(first, ref), acquire(second, ref)
    first._die()
    assert arena.reap() == ring.ReapReport(processes=1, leases=1, slots=0)
    assert (np.asarray(kept) == 7).all()
    kept.release()
    second.close()
    assert_all_free(arena)
    del lost


def test_only_the_owner_reaps(arena: Any, consumer: Any) -> None:
    with pytest.raises(TransportError, match=f"^arena {arena.name} is reaped by its owner only$"):
        consumer.reap()


def test_an_entry_of_the_dead_is_given_to_the_next_with_another_number(
    ring: ModuleType, arena: Any
) -> None:
    old = ring.Arena.attach(arena.name, writable=True)
    ref = commit(old)
    view = acquire(arena, commit(old))
    shared = old.share(view.slot, view.generation)
    old._die()
    arena.reap()
    with ring.Arena.attach(arena.name) as new:
        again = new.share(view.slot, view.generation)
        assert again.slot == shared.slot
        assert again.generation != shared.generation
        with pytest.raises(StaleFrame):
            acquire(arena, shared)
        with pytest.raises(StaleFrame):
            acquire(arena, ref)
        assert again.drop()
    view.release()
    assert_all_free(arena)


# ---- closing, and looking ----


def test_closing_takes_back_what_nobody_has_adopted(ring: ModuleType, arena: Any) -> None:
    with ring.Arena.attach(arena.name, writable=True) as producer:
        ref = commit(producer, readers=2)
        view = acquire(arena, ref)
        assert arena.stats().leases == 2
    assert arena.stats().leases == 1
    view.release()
    assert_all_free(arena)
    assert arena.stats().processes == 1


def test_views_and_loans_keep_a_closed_attachment_until_they_end(
    ring: ModuleType, arena: Any
) -> None:
    guest = ring.Arena.attach(arena.name, writable=True)
    view, loan = acquire(guest, commit(arena, value=5)), guest.loan(100)
    guest.close()
    guest.close()
    assert arena.stats().processes == 2
    assert (np.asarray(view) == 5).all()
    with pytest.raises(ChannelClosed, match=f"^arena {arena.name} is closed$"):
        loan.commit()
    loan.abandon()
    assert arena.stats().processes == 2
    view.release()
    assert arena.stats().processes == 1
    assert_all_free(arena)


def test_a_closed_arena_does_nothing_more(ring: ModuleType) -> None:
    arena = ring.Arena.create("test", CLASSES)
    arena.close()
    calls = [arena.stats, arena.check, arena.reap, lambda: arena.loan(1)]
    calls += [lambda use=use: use(0, 0) for use in (arena.acquire, arena.adopt, arena.drop)]
    for call in [*calls, lambda: arena.share(0, 0), lambda: arena.put(b"x")]:
        with pytest.raises(ChannelClosed, match=f"^arena {arena.name} is closed$"):
            call()


def test_a_read_only_attachment_loans_nothing(arena: Any, consumer: Any) -> None:
    assert (arena.writable, consumer.writable) == (True, False)
    with pytest.raises(TransportError, match=f"^arena {arena.name} is attached read-only$"):
        consumer.loan(1)


def test_stats_count_by_class(ring: ModuleType, arena: Any, consumer: Any) -> None:
    loan, ref, _ = arena.loan(100), commit(arena, nbytes=5000, readers=3), arena.loan(20000)
    stats = consumer.stats()
    assert stats.classes[:2] == (
        ring.ClassStats(slot_nbytes=100, slots=4, free=3, loaned=1, committed=0, leases=0),
        ring.ClassStats(slot_nbytes=5000, slots=2, free=1, loaned=0, committed=1, leases=3),
    )
    assert (stats.slots, stats.free, stats.loaned, stats.committed) == (7, 4, 2, 1)
    assert (stats.leases, stats.processes) == (3, 2)
    del loan, ref


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([], "0 slot classes are not between 1 and 16"),
        ([(i + 1, 1) for i in range(17)], "17 slot classes are not between 1 and 16"),
        ([(0, 1)], "1 slots of 0 bytes exceed 1 to 65536 of 1 to 2^36"),
        ([(1, 0)], "0 slots of 1 bytes exceed 1 to 65536 of 1 to 2^36"),
        ([(1 << 37, 1)], f"1 slots of {1 << 37} bytes exceed 1 to 65536 of 1 to 2^36"),
        ([(8, 1), (8, 2)], "slot classes [(8, 1), (8, 2)] repeat a size or exceed 65536 slots"),
        (
            [(8, 65536), (9, 1)],
            "slot classes [(8, 65536), (9, 1)] repeat a size or exceed 65536 slots",
        ),
    ],
)
def test_classes_without_a_meaning_are_refused(
    ring: ModuleType, classes: list[tuple[int, int]], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        ring.Arena.create("test", classes)
    assert str(caught.value) == message
