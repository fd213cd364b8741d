"""Which frames of a job are out, which are home, and whose turn it is: without clocks or sockets.

Theory of operation
-------------------
A job sends every frame as one descriptor per branch of its graph, and gets them back in any order,
late, or not at all. A frame is

    waiting     admitted, and there is no room for it yet, or no place was granted where it goes
    travelling  its branches have departed, and some of them are not home
    home        all of them are
    failed      a task raised on it, and the caller wants to know when it is the frame's turn

and leaves when it is delivered or dropped. Frames leave in the order in which they were admitted; a
dropped one is skipped. Each is counted once, at every moment:

    admitted = delivered + dropped(reason) + in flight        in flight = the four states above

At most `max_in_flight` frames have departed and not left, so that a slow caller holds up the source
and memory stays bounded. Behind them one frame waits. When the next one comes, the policy decides:
`block` makes the source wait, `latest` drops the waiting one as `superseded`.

A frame that is not home `timeout_ns` after it departed is dropped as `timeout`; so is one that has
room, but waits so long for a place to be granted. What comes home of a frame that has left, or
comes a second time, is `late`: it is counted apart and changes nothing, so that no frame is ever
counted, or delivered, twice.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Literal

from vdag.errors import ConfigError

__all__ = ["Homecoming", "Policy"]

Policy = Literal["block", "latest"]


@dataclass(slots=True)
class _Frame:
    """A frame that has not left.

    Attributes:
        missing: its branches that are not home; empty while it waits.
        due_ns: when it times out; 0 while it cannot.
        failed: the reason to drop it for at its turn.
    """

    missing: set[int] = field(default_factory=set)
    due_ns: int = 0
    failed: str | None = None

    @property
    def is_travelling(self) -> bool:
        return bool(self.missing) and self.failed is None


class Homecoming:
    """The books of one job. Called under one lock; no method blocks.

    Args:
        branches: descriptors per frame, at least 1.
        max_in_flight: most frames that have departed and not left.
        policy: `block` or `latest`.
        timeout_ns: how long a frame may travel.

    Attributes:
        admitted: frames that came from the source.
        delivered: frames whose result the caller has.
        dropped: reason to number.
        late: descriptors that came home in vain.
    """

    def __init__(
        self, *, branches: int, max_in_flight: int, policy: Policy, timeout_ns: int
    ) -> None:
        if policy not in ("block", "latest"):
            raise ConfigError(f"policy is {policy!r}, expected block or latest")
        if max_in_flight < 1:
            raise ConfigError(f"max_in_flight is {max_in_flight}, expected at least 1")
        if timeout_ns < 1:
            raise ConfigError(f"frame_timeout_s is {timeout_ns / 1e9}, expected above 0")
        self._branches = range(branches)
        self._max_in_flight = max_in_flight
        self._policy = policy
        self._timeout_ns = timeout_ns
        self._frames: dict[int, _Frame] = {}  # in the order of admission
        self._waiting: int | None = None
        self._due: deque[tuple[int, int]] = deque()  # (due_ns, seq), rising; some are void
        self.admitted = self.delivered = self.late = 0
        self.dropped: Counter[str] = Counter()

    @property
    def in_flight(self) -> int:
        """Frames that were admitted and have not left."""
        return len(self._frames)

    @property
    def waiting(self) -> int | None:
        """The frame that has not departed, if there is one."""
        return self._waiting

    def has_room(self) -> bool:
        """Whether `admit` takes a frame now; with `latest` it always does."""
        return self._waiting is None or self._policy == "latest"

    def admit(self, seq: int) -> int | None:
        """Take a frame in, to wait. Returns the frame that was dropped for it, if any."""
        assert self.has_room(), "the caller asks has_room first"
        superseded = self._waiting
        if superseded is not None:
            self._leave(superseded, "superseded")
        self.admitted += 1
        self._frames[seq] = _Frame()
        self._waiting = seq
        return superseded

    def refuse(self, reason: str) -> None:
        """Count a frame that was dropped before it could be admitted."""
        self.admitted += 1
        self.dropped[reason] += 1

    def depart(self, now_ns: int, *, granted: bool = True) -> int | None:
        """Let the waiting frame travel, if there is one, and room for it.

        Args:
            now_ns: the time.
            granted: whether there is a place where it goes; without one its time begins to run.
        """
        seq = self._waiting
        if seq is None or len(self._frames) > self._max_in_flight:
            return None
        frame = self._frames[seq]
        if granted:
            self._waiting = None
            frame.missing.update(self._branches)
        elif frame.due_ns:
            return None
        frame.due_ns = now_ns + self._timeout_ns
        self._due.append((frame.due_ns, seq))
        return seq if granted else None

    def arrive(self, seq: int, branch: int) -> bool:
        """Note that a branch of a frame came home; False if it came in vain, and was counted."""
        frame = self._frames.get(seq)
        if frame is None or not frame.is_travelling or branch not in frame.missing:
            self.late += 1
            return False
        frame.missing.remove(branch)
        if not frame.missing:
            frame.due_ns = 0
        return True

    def fail(self, seq: int, reason: str) -> bool:
        """Let a travelling frame wait for its turn, to be dropped for `reason` then.

        Returns:
            False when it does not travel any more, because of another branch for instance.
        """
        frame = self._frames.get(seq)
        if frame is None or not frame.is_travelling:
            return False
        frame.failed, frame.due_ns = reason, 0
        return True

    def drop(self, seq: int, reason: str) -> bool:
        """Give a travelling frame up; False when it does not travel any more."""
        frame = self._frames.get(seq)
        if frame is None or not frame.is_travelling:
            return False
        self._leave(seq, reason)
        return True

    def expire(self, now_ns: int) -> list[int]:
        """Drop the frames whose time is up, as `timeout`; returns them."""
        late = []
        while (due_ns := self.next_due_ns()) is not None and due_ns <= now_ns:
            late.append(self._due.popleft()[1])
            self._leave(late[-1], "timeout")
        return late

    def next_due_ns(self) -> int | None:
        """Return when `expire` will next find a frame, or None."""
        while self._due:
            due_ns, seq = self._due[0]
            if (frame := self._frames.get(seq)) is not None and frame.due_ns == due_ns:
                return due_ns
            self._due.popleft()
        return None

    def next_turn(self) -> int | None:
        """Return the oldest frame if it is home or failed; younger ones wait for it."""
        seq = next(iter(self._frames), None)
        if seq is None or seq == self._waiting or self._frames[seq].is_travelling:
            return None
        return seq

    def leave(self, seq: int) -> bool:
        """Let the frame that `next_turn` named leave: True if delivered, False if it had failed."""
        failed = self._frames[seq].failed
        if failed is not None:
            self._leave(seq, failed)
            return False
        del self._frames[seq]
        self.delivered += 1
        return True

    def drop_all(self, reason: str) -> list[int]:
        """Give up every frame, when the job closes; returns them, oldest first."""
        seqs = list(self._frames)
        for seq in seqs:
            self._leave(seq, reason)
        return seqs

    def _leave(self, seq: int, reason: str) -> None:
        del self._frames[seq]
        if seq == self._waiting:
            self._waiting = None
        self.dropped[reason] += 1
