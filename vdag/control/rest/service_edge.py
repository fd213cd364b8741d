"""`ServiceEdge`: the edge to a node that does tasks only by `POST /execute_task/<task>`.

To the exchange it is an edge like any other. What it takes is posted by a few threads, each on a
connection of its own; the reply becomes part of the frame's context, and the frame goes back into
the exchange of this node at its next hop. So frames of other jobs never wait for a slow service.

    accepted = returned + dropped[reason] + waiting + working

A frame that cannot be had back is dropped once, and its home is told: `unreachable` if nobody
answers, `failed` if the answer is not the task's outputs. It is tried again only if nobody answered
or the service has too much to do, and no longer than the time for one frame.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from vdag.control.rest.bodies import MAX_REPLY_NBYTES, read_reply, taken_from, write_request
from vdag.control.rest.caller import Caller, Reply, check_place
from vdag.control.rest.parcels import Parcel, User, times_of, with_found
from vdag.errors import ChannelClosed, ConfigError, VdagError
from vdag.threads import wait_ended
from vdag.transport import codec, messages

if TYPE_CHECKING:
    from vdag._native.ring import View
    from vdag.graph import Graph
    from vdag.transport.books import Reason

__all__ = ["SCHEME", "ServiceEdge", "ServiceStats"]

logger = logging.getLogger(__name__)

SCHEME = "http://"
#: Frames that wait, of all jobs together.
DEPTH = 64
#: Connections to one service, and so the frames that it has at a time.
CONNECTIONS = 4
#: How often a frame is posted at most, and how long it waits before the second time, and the third.
PAUSES_S = (0.1, 0.4)
#: A service that says this has too much to do, and may have less in a moment.
BUSY = frozenset({429, 503})
JOIN_TIMEOUT_S = 10.0

_count = itertools.count()


@dataclass(frozen=True, slots=True)
class ServiceStats:
    """Where the frames of an edge are.

    Attributes:
        accepted: frames taken.
        returned: frames that went on, with what the service has found.
        waiting: frames not yet posted.
        working: frames that the service has.
        dropped: `superseded`, `failed`, `unreachable`, `deadline`, `peer_full`: the exchange did
            not take it back, `cancelled`: its job has ended, `closed`.
        unsent: drops that the exchange was too busy to be told of.
    """

    accepted: int
    returned: int
    waiting: int
    working: int
    dropped: Mapping[Reason, int]
    unsent: int

    @property
    def balance(self) -> int:
        """Frames that are in no column: 0, or the books are wrong."""
        known = self.returned + self.waiting + self.working + sum(self.dropped.values())
        return self.accepted - known


class _Lost(NamedTuple):
    """Why a frame is given up, in one word and for people."""

    reason: Reason
    detail: str = ""


class ServiceEdge:
    """See above; any thread may call its methods. Closed by `close`.

    Args:
        endpoint: `http://host:port` of the service.
        enter: takes messages into the exchange of this node, also when its own thread calls; False
            if it does not take one.
        where: address of that exchange.
        timeout_s: for one frame, with all its tries.

    Raises:
        ConfigError: the endpoint is none.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        enter: Callable[[bytes], bool],
        where: str,
        timeout_s: float = 10.0,
    ) -> None:
        self.endpoint = endpoint
        self._place = endpoint.removeprefix(SCHEME)
        check_place(self._place)
        self._enter, self._where, self._timeout_s = enter, where, timeout_s
        self._changed = threading.Condition()
        self._users: dict[str, User] = {}
        self._waiting: OrderedDict[Hashable, Parcel] = OrderedDict()
        self._accepted = self._returned = self._working = self._unsent = self._idle = 0
        self._dropped: Counter[Reason] = Counter()
        self._callers: list[Caller] = []
        self._threads: list[threading.Thread] = []
        self._closing = threading.Event()
        self._number = next(_count)

    @property
    def is_used(self) -> bool:
        """Whether a job of this node may send its frames here."""
        return bool(self._users)

    def assign(self, job: str, graph: Graph, policy: Literal["block", "latest"]) -> None:
        """Take the frames of a job from now on.

        Args:
            job: its id.
            graph: of it, with its edges written out.
            policy: `latest` keeps per stream and task the newest frame that waits; `block` keeps
                all, and refuses more than there is room for.
        """
        with self._changed:
            self._users[job] = User(graph, policy)

    def release(self, job: str) -> None:
        """Take no more frames of a job, and forget those that wait."""
        with self._changed:
            self._users.pop(job, None)
            mine = [key for key, parcel in self._waiting.items() if parcel.head.job == job]
            gone = [self._waiting.pop(key) for key in mine]
            self._dropped["cancelled"] += len(gone)
        for parcel in gone:
            parcel.release()

    def send(self, part: bytes, view: View | None) -> bool:
        """Take a frame over, without waiting; see `exits.Edge`."""
        if messages.is_control(part):
            raise ConfigError(f"{self.endpoint} is a service and takes frames only")
        head = codec.decode_head([part])
        with self._changed:
            user = self._users.get(head.job)
            if self._closing.is_set():
                raise ChannelClosed(f"edge to {self.endpoint} is closed")
            if user is None or head.here is None:
                raise ConfigError(f"job {head.job} has no business with {self.endpoint}")
            key: Hashable = self._accepted
            if user.policy == "latest":
                key = (head.job, head.header.stream, head.here.task)
            if key not in self._waiting and len(self._waiting) >= DEPTH:
                return False
            older = self._waiting.pop(key, None)
            self._waiting[key] = Parcel(head, part, view, user, time.monotonic_ns())
            self._accepted += 1
            self._want_thread()
            self._changed.notify()
        if older is not None:
            self._drop(older, "superseded", "")
        return True

    def stats(self) -> ServiceStats:
        """Return where the frames are."""
        with self._changed:
            return ServiceStats(
                self._accepted,
                self._returned,
                len(self._waiting),
                self._working,
                dict(self._dropped),
                self._unsent,
            )

    def close(self) -> None:
        """Drop what is here, and end the threads; may be called again."""
        with self._changed:
            self._closing.set()
            waiting = list(self._waiting.values())
            self._waiting.clear()
            self._changed.notify_all()
            callers, threads = tuple(self._callers), tuple(self._threads)
        for parcel in waiting:
            self._drop(parcel, "closed", "")
        for caller in callers:
            caller.abort()
        wait_ended(*threads, timeout_s=JOIN_TIMEOUT_S)

    def _want_thread(self) -> None:
        """Start another thread if all are at work; under the lock."""
        if self._idle >= len(self._waiting) or len(self._threads) >= CONNECTIONS:
            return
        caller = Caller(self._place, timeout_s=self._timeout_s, max_nbytes=MAX_REPLY_NBYTES)
        name = f"vdag-service-{self._number}-{len(self._threads)}"
        thread = threading.Thread(target=self._run, args=(caller,), name=name, daemon=True)
        self._callers.append(caller)
        self._threads.append(thread)
        thread.start()

    def _drop(self, parcel: Parcel, reason: Reason, detail: str) -> None:
        """Count a frame as dropped, tell its home, and let go of it."""
        parcel.release()
        header = parcel.head.header
        notice = messages.Dropped(
            job=parcel.head.job,
            stream=header.stream,
            seq=header.seq,
            plan=header.plan,
            task=parcel.task,
            reason=reason,
            where=self._where,
            detail=messages.clip(detail),
        )
        is_sent = self._enter(messages.encode(notice))
        with self._changed:
            self._dropped[reason] += 1
            self._unsent += not is_sent

    # From here on everything runs on the edge's own threads.

    def _run(self, caller: Caller) -> None:
        """Body of a thread: one frame after the other, on one connection."""
        while (parcel := self._take()) is not None:
            try:
                lost = self._work(caller, parcel)
            except VdagError as err:
                lost = _Lost("failed", f"{type(err).__name__}: {err}")
            except Exception as err:  # a fault of ours: one frame must not stop the others
                logger.exception("%s: frame %d failed", self.endpoint, parcel.head.header.seq)
                lost = _Lost("failed", f"{type(err).__name__}: {err}")
            if lost is not None:
                logger.debug("%s: frame lost: %s", self.endpoint, lost)
                self._drop(parcel, "closed" if self._closing.is_set() else lost.reason, lost.detail)
            parcel.release()
            with self._changed:
                self._working -= 1
                self._returned += lost is None
        caller.close()

    def _take(self) -> Parcel | None:
        """Wait for a frame; None when the edge closes."""
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._waiting or self._closing.is_set())
            self._idle -= 1
            if self._closing.is_set():
                return None
            self._working += 1
            return self._waiting.popitem(last=False)[1]

    def _work(self, caller: Caller, parcel: Parcel) -> _Lost | None:
        """Have the service work on a frame, and send it on.

        Raises:
            VdagError: the frame, or the reply, is not what it should be.
        """
        begun_ns = time.monotonic_ns()
        if 0 < parcel.head.header.deadline_ns <= begun_ns:
            return _Lost("deadline")
        descriptor, graph = codec.decode([parcel.part]), parcel.user.graph
        body = write_request(graph, parcel.task, parcel.generated(descriptor), descriptor.context)
        reply = self._post(caller, parcel.path, body, begun_ns)
        if isinstance(reply, _Lost):
            return reply
        if not reply.is_good:
            return _Lost("failed", f"{self.endpoint} answers {reply}")
        found = read_reply(reply.body, taken_from(graph, parcel.task))
        times = times_of(found, parcel.offered_ns, begun_ns, time.monotonic_ns())
        return self._return(parcel, with_found(descriptor, parcel.task, found, times))

    def _post(self, caller: Caller, path: str, body: bytes, begun_ns: int) -> Reply | _Lost:
        """Post until there is an answer, as often as makes sense."""
        end_s = begun_ns / 1e9 + self._timeout_s
        for pause_s in (*PAUSES_S, None):
            left_s = max(end_s - time.monotonic(), 0.001)
            try:
                reply = caller.post(path, body, timeout_s=left_s)
                if reply.status not in BUSY or pause_s is None:
                    return reply
            except ChannelClosed as err:
                if pause_s is None or time.monotonic() + pause_s >= end_s:
                    return _Lost("unreachable", str(err))
            if self._closing.wait(pause_s):
                break
        return _Lost("closed")

    def _return(self, parcel: Parcel, packed: bytes) -> _Lost | None:
        """Put a frame back into the exchange, at its next hop."""
        part, reference = parcel.onward(packed)
        if self._enter(part):
            return None
        if reference is not None:
            reference.drop()
        return _Lost("peer_full", "the exchange of this node does not take it back")
