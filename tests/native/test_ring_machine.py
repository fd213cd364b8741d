"""The compiled arena against the reference: the same calls, the same answers, the same words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from vdag._native import reference_ring, ring, ring_layout
from vdag.errors import VdagError

CLASSES = [(64, 3), (5000, 2), (9000, 1)]
Pair = tuple[Any, Any]


class Twins(RuleBasedStateMachine):
    """Every object is a pair, (compiled, reference), and every call is made on both."""

    attachments = Bundle("attachments")
    loans = Bundle("loans")
    refs = Bundle("refs")
    views = Bundle("views")

    @initialize(target=attachments)
    def create(self) -> Pair:
        mine = ring.Arena.create("machine", CLASSES)
        oracle = reference_ring.Arena.create("machine", CLASSES, arena_id=mine.arena_id)
        self.owner: Pair = (mine, oracle)
        self.everything: list[Pair] = [self.owner]
        self.guests = 0
        self.dead: list[Pair] = []
        self.ended: list[Pair] = []
        self.viewers: dict[int, Pair] = {}
        self.values: dict[tuple[int, int], int] = {}
        assert (mine.name, mine.nbytes) == (oracle.name, oracle.nbytes)
        assert mine.control_nbytes == oracle.control_nbytes
        return self.owner

    def both(self, pair: Pair, call: Callable[[Any], Any]) -> Any:
        """Make the call on both, which must both succeed or fail with the same words."""
        outcomes = []
        for side in pair:
            try:
                outcomes.append(call(side))
            except VdagError as error:
                outcomes.append((type(error), str(error)))
        mine, oracle = outcomes
        if isinstance(mine, tuple) or mine is None or isinstance(mine, bool):
            assert mine == oracle
            return None
        assert not isinstance(oracle, tuple), f"only the reference failed: {oracle}"
        if hasattr(mine, "slot"):
            assert (mine.slot, mine.nbytes) == (oracle.slot, oracle.nbytes)
        if hasattr(mine, "generation"):
            assert mine.generation == oracle.generation
        if hasattr(mine, "offset"):
            assert (mine.offset, mine.arena_id) == (oracle.offset, oracle.arena_id)
        self.everything.append((mine, oracle))
        return mine, oracle

    def made(self, pair: Pair | None) -> Any:
        return multiple() if pair is None else pair

    @precondition(lambda self: self.guests < 6)
    @rule(target=attachments, writable=st.booleans())
    def attach(self, writable: bool) -> Pair:
        self.guests += 1
        name = self.owner[0].name
        pair = (
            ring.Arena.attach(name, writable=writable),
            reference_ring.Arena.attach(name, writable=writable),
        )
        self.everything.append(pair)
        return pair

    @rule(target=loans, arena=attachments, nbytes=st.sampled_from([0, 1, 64, 65, 5000, 9000, 9001]))
    def loan(self, arena: Pair, nbytes: int) -> Any:
        return self.made(self.both(arena, lambda side: side.loan(nbytes)))

    @rule(
        target=refs,
        loan=loans,
        readers=st.sampled_from([0, 1, 1, 2, 3, 56, 57]),
        nbytes=st.none() | st.integers(0, 70),
        value=st.integers(0, 255),
    )
    def commit(self, loan: Pair, readers: int, nbytes: int | None, value: int) -> Any:
        if loan not in self.ended:
            np.frombuffer(loan[0], np.uint8)[:] = value
        pair = self.both(loan, lambda side: side.commit(nbytes, readers))
        if pair is not None:
            self.ended.append(loan)
            self.values[pair[0].generation >> 16, pair[0].slot] = value
        return self.made(pair)

    @rule(loan=consumes(loans))
    def abandon(self, loan: Pair) -> None:
        self.both(loan, lambda side: side.abandon())

    @rule(target=views, arena=attachments, ref=refs)
    def acquire(self, arena: Pair, ref: Pair) -> Any:
        pair = self.both(arena, lambda side: side.acquire(ref[0].slot, ref[0].generation))
        if pair is not None:
            self.viewers[id(pair[0])] = arena
        return self.made(pair)

    @rule(target=refs, arena=attachments, ref=refs)
    def adopt(self, arena: Pair, ref: Pair) -> Any:
        return self.made(self.both(arena, lambda side: side.adopt(ref[0].slot, ref[0].generation)))

    @rule(arena=attachments, ref=refs)
    def drop(self, arena: Pair, ref: Pair) -> None:
        self.both(arena, lambda side: side.drop(ref[0].slot, ref[0].generation))

    @rule(target=refs, arena=attachments, ref=refs, readers=st.sampled_from([1, 2, 30, 56]))
    def share(self, arena: Pair, ref: Pair, readers: int) -> Any:
        return self.made(
            self.both(arena, lambda side: side.share(ref[0].slot, ref[0].generation, readers))
        )

    @rule(target=refs, view=views)
    def share_view(self, view: Pair) -> Any:
        return self.made(self.both(view, lambda side: side.share()))

    @rule(view=consumes(views))
    def release(self, view: Pair) -> None:
        self.both(view, lambda side: side.release())

    @rule(arena=attachments)
    def die(self, arena: Pair) -> None:
        if arena is not self.owner:
            self.both(arena, lambda side: side._die())
            self.dead.append(arena)

    @rule(arena=attachments)
    def close(self, arena: Pair) -> None:
        if arena is not self.owner:
            self.both(arena, lambda side: side.close())

    @rule()
    def reap(self) -> None:
        mine, oracle = (side.reap() for side in self.owner)
        assert astuple(mine) == astuple(oracle)

    @rule(view=views)
    def look(self, view: Pair) -> None:
        """Whoever lives and holds a view sees what was committed."""
        mine = view[0]
        if len(mine) > 0 and self.viewers[id(mine)] not in self.dead:
            pixels = np.frombuffer(mine, np.uint8)
            assert (pixels == self.values[mine.generation >> 16, mine.slot]).all()

    @invariant()
    def words_are_equal(self) -> None:
        if hasattr(self, "owner"):
            mine, oracle = self.owner
            data = Path("/dev/shm", mine.name).read_bytes()[: mine.control_nbytes]
            assert ring_layout.read(data) == oracle.snapshot()
            assert astuple(mine.stats()) == astuple(oracle.stats())

    def teardown(self) -> None:
        if hasattr(self, "owner"):
            for pair in reversed(self.everything):
                for side in pair:
                    for end in ("release", "abandon", "close"):
                        getattr(side, end, lambda: None)()


TestTwins = Twins.TestCase
TestTwins.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.slow
class TestTwinsForLong(Twins.TestCase):
    settings = settings(max_examples=600, stateful_step_count=80, deadline=None)
