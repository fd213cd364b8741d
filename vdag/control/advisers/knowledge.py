"""What a user's policy is told of tasks: the profile, as it reaches an adviser and is kept there.

The measured part is large and seldom changes. It travels as the profile's document, once per
version of it and process, before a question, and the time to read it is not the policy's. What runs
has taught of nodes, and the sizes of their frames, changes all the time and is small: it travels
with each question, as the same kind of document, for the tasks and nodes that this is about.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, NoReturn

from vdag.control.profile import Profile
from vdag.control.profile.costbook import MAX_NAME
from vdag.control.profile.document import Document, FrameEntry, NodeEntry, encode
from vdag.control.profile.learning import is_slowdown
from vdag.control.scheduling.instructions import Question
from vdag.errors import ConfigError

__all__ = ["MAX_ENTRIES", "Knowledge", "Library", "lessons"]

#: Entries of a profile that is sent: 20,000 take some 80 ms to write, and likewise to read.
MAX_ENTRIES = 20_000
#: Pairs of node and task that go with a question, the nearest nodes first; and sizes of frames.
MAX_LESSONS, MAX_SIZES = 4096, 256


class Library:
    """The profile as a document, written once per version for all advisers."""

    def __init__(self) -> None:
        self._profile: Profile | None = None
        self._version = -1
        self._number = 0
        self._document = b""

    def edition(self, profile: Profile) -> tuple[int, bytes]:
        """Return a profile's document, and a number that rises when it has become another.

        Raises:
            ConfigError: it has more than `MAX_ENTRIES`.
        """
        if profile is not self._profile or profile.version != self._version:
            count = sum(1 for _ in islice(_entries(profile), MAX_ENTRIES + 1))
            if count > MAX_ENTRIES:
                raise ConfigError(f"profile exceeds {MAX_ENTRIES} entries, too many for a policy")
            self._document = profile.to_bytes()
            self._profile, self._version = profile, profile.version
            self._number += 1
        return self._number, self._document


def lessons(question: Question) -> bytes:
    """Return what nodes have taught of a question's tasks, and sizes of frames, as a document."""
    profile = question.around.profile
    nodes = islice(_taught(question, profile), MAX_LESSONS)
    sizes = [FrameEntry.of(size) for size in islice(profile.frames(), MAX_SIZES)]
    return encode(Document.of({}, [], sizes, [], [*nodes]))


class Knowledge(Profile):
    """A profile to read: a policy that remembers something returns it as its `memory`."""

    @classmethod
    def read(cls, document: bytes) -> Knowledge:
        """Read what a `Library` has written; errors as `Profile.from_bytes`."""
        profile = cls.from_bytes(document)
        assert isinstance(profile, cls), "it makes one of the class that it is asked of"
        return profile

    def revise(self, document: bytes) -> None:
        """Take in what `lessons` has written; it replaces earlier lessons."""
        Profile.merge(self, Profile.from_bytes(document))

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("the profile of a policy is for reading")

    put_cost = put_accuracy = put_frame = merge = forget = _refuse
    observe = observe_frame = observe_load = _refuse


def _entries(profile: Profile) -> Iterator[object]:
    yield from profile.costs()
    yield from profile.accuracies()


def _taught(question: Question, profile: Profile) -> Iterator[NodeEntry]:
    tasks = [task for task in question.dag_flow if profile.knows(task)]
    for node in question.around.nodes():
        for task in tasks if len(node.node_addr) <= MAX_NAME else ():
            if task in node.services:
                entry = NodeEntry.of(node.node_addr, task, profile.learned(task, node))
                if is_slowdown(entry.slowdown):
                    yield entry
