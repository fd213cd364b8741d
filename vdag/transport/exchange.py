"""`Exchange`: the one place of a node where frames wait.

It owns the node's shared memory, takes descriptors in over one socket, and runs one thread that
does nothing but pass messages through a `Router`. That thread never waits for anybody it sends to;
whoever else calls the exchange waits for it.

Jobs of the same process need no socket (`inside`): their thread takes the router's lock and passes
the message itself, which saves waking the exchange's thread. It never waits under that lock either.

A private folder is the exchange's address book:

    exchange     its inbox, a PULL: descriptors and control messages, see `messages`
    worker-*     inboxes of the workers
    job-*        homes of the jobs, as their `Join` says
    lock         held while an exchange uses the folder
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, MutableMapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import zmq

from vdag._native import ring
from vdag.errors import ChannelClosed, TransportError
from vdag.threads import wait_ended
from vdag.transport import inside
from vdag.transport.bell import Bell
from vdag.transport.books import Books, ExchangeStats
from vdag.transport.channel import open_pull
from vdag.transport.exits import Edge, Exits
from vdag.transport.folder import claim, private_folder, sweep
from vdag.transport.outbox import Outbox
from vdag.transport.poison import PoisonStore, PoisonWriter
from vdag.transport.roster import Member, Notify
from vdag.transport.router import Router
from vdag.transport.shelf import Shelf
from vdag.transport.station import Policy

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Edge", "Exchange"]

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

#: Messages that each job, worker or edge may have on their way to the exchange.
INBOX_MESSAGES = 4096
#: Messages taken in before anything else gets its turn.
BURST = 256
#: How long a caller waits for the exchange's thread, which never waits itself.
CALL_TIMEOUT_S = 10.0
_POLLIN = int(zmq.POLLIN)
#: Where Python's signal handlers run.
_MAIN_THREAD = threading.main_thread().ident
#: How often the leases of processes that died are taken back, see `Arena.reap`.
REAP_INTERVAL_NS = 1_000_000_000
#: What is left of the notices to jobs at the end goes out within this time.
LINGER_MS = 500


class Exchange:
    """The queues, the shared memory and the inbox of a node; closed by `close` or a `with` block.

        with Exchange(folder, classes=[(1920 * 1080 * 3, 32)]) as exchange:
            exchange.open_task("face_detection")

    All methods may be called from any thread. After a fault of its thread, they raise it.

    Args:
        folder: for its sockets, see above; made if need be, for this user alone.
        node: name of the node, in that of its shared memory.
        classes: slot size in bytes and number of slots, per size, see `Arena.create`.
        aliases: addresses under which other nodes know this exchange, as they stand in routes.
        edges: address of another node to the edge that leads there; the caller may change it, and
            closes the edges after the exchange.
        poison: where frames are kept that two workers died over; None keeps none.

    Raises:
        ConfigError: an argument has no meaning, or another exchange uses the folder.
        TransportError: the socket or the shared memory cannot be had.
    """

    def __init__(
        self,
        folder: Path,
        *,
        node: str = "local",
        classes: Sequence[tuple[int, int]],
        aliases: Collection[str] = (),
        edges: MutableMapping[str, Edge] | None = None,
        poison: PoisonStore | None = None,
    ) -> None:
        self.folder = private_folder(Path(os.path.abspath(folder)))
        self.address = f"ipc://{self.folder / 'exchange'}"
        self.edges: MutableMapping[str, Edge] = {} if edges is None else edges
        self._lock = threading.Lock()
        self._turn = threading.Lock()  # whose holder may use the router
        self._until_ns = 0  # when the thread will look at the clock next
        self._posted: deque[bytes] = deque()
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._fault: BaseException | None = None
        self._is_over = self._is_closing = False
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, claim(self.folder))
            stack.callback(sweep, self.folder, "exchange")
            self.arena = ring.Arena.create(node, classes)
            stack.callback(self.arena.close)
            self._shelf = Shelf(self.arena, ring.Arena.attach(self.arena.name, prefault=False))
            stack.callback(self._shelf.close)
            writer = PoisonWriter(poison)
            stack.callback(writer.close)
            self._context: zmq.Context[Any] = zmq.Context()
            stack.callback(self._context.term)
            self._inbox = open_pull(self.address, context=self._context, depth=INBOX_MESSAGES)
            stack.callback(self._inbox.close)
            self._bell = Bell()
            stack.callback(self._bell.close)
            self._outbox = Outbox(self._context)
            self._books = Books()
            self._exits = Exits(
                self.address,
                edges=self.edges,
                outbox=self._outbox,
                books=self._books,
                keep=writer.keep,
            )
            self._router = Router(
                mine={self.address, *aliases},
                books=self._books,
                shelf=self._shelf,
                exits=self._exits,
                outbox=self._outbox,
                reap=self.arena.reap,
            )
            inside.register(self.address, self._take)
            stack.callback(inside.forget, self.address)
            self._thread = threading.Thread(target=self._run, name="vdag-exchange", daemon=True)
            self._thread.start()
            self._stack = stack.pop_all()

    def open_task(
        self,
        task: str,
        *,
        policy: Policy = "latest",
        limit: int = 64,
        limit_nbytes: int = 1 << 30,
        cost_ns: int = 0,
    ) -> None:
        """Take frames for a task from now on; see `Flow.open_task` for arguments and errors."""
        settings = {
            "policy": policy,
            "limit": limit,
            "limit_nbytes": limit_nbytes,
            "cost_ns": cost_ns,
        }
        self._call(lambda: self._router.open_task(task, **settings))

    def add_alias(self, address: str) -> None:
        """Answer to one more address in routes."""
        self._call(lambda: self._router.add_alias(address))

    def close_task(self, task: str) -> None:
        """Drop what waits for a task as `closed` and retire its workers.

        Raises:
            InvalidTransition: the task is not open.
        """
        self._call(lambda: self._router.close_task(task, time.monotonic_ns()))

    def enlist(
        self,
        worker: str,
        task: str,
        *,
        token: str,
        address: str,
        hang_timeout_s: float,
        notify: Notify,
    ) -> None:
        """Expect a worker, before its process is started; for its supervisor.

        Args:
            worker: name of this incarnation of it.
            task: what it serves.
            token: secret that its messages carry.
            address: where it will take its batches.
            hang_timeout_s: how long it may hold frames without answering.
            notify: told what becomes of it, in the exchange's thread.

        Raises:
            ConfigError: the task is not open, or the name is taken.
        """
        member = Member(
            worker,
            task,
            token=token,
            address=address,
            hang_timeout_ns=int(hang_timeout_s * 1e9),
            notify=notify,
        )
        self._call(lambda: self._router.enlist(member))

    def retire(self, worker: str) -> None:
        """Give a worker nothing more; when it holds nothing it is told to stop."""
        self._call(lambda: self._router.retire(worker, time.monotonic_ns()))

    def dismiss(self, worker: str, reason: str) -> int:
        """Forget a worker whose process is gone; what it held is tried again, or dropped.

        Args:
            worker: its name; an unknown one is ignored.
            reason: how it ended, for people.

        Returns:
            Frames it has answered for.
        """
        return self._call(lambda: self._router.dismiss(worker, reason, time.monotonic_ns()))

    def stats(self) -> ExchangeStats:
        """Return where the frames are, and how the tasks and workers do."""
        return self._call(self._stats)

    def check(self) -> None:
        """Compare the books with what is really here.

        Raises:
            InvalidTransition: the flow rule's books are wrong.
            TransportError: those of the exchange are.
        """
        self._call(self._check)

    def close(self) -> None:
        """Drop every frame as `closed`, tell jobs and workers, and give everything back.

        Harmless when called again. Workers are their supervisor's: close it first. Should the
        thread not end within `CALL_TIMEOUT_S`, it keeps everything, as the log says.
        """
        self._is_closing = True
        self._bell.ring()
        if wait_ended(self._thread, timeout_s=CALL_TIMEOUT_S):
            self._stack.close()

    def _call(self, function: Callable[[], _T]) -> _T:
        """Have the exchange's thread run `function`, and return what it returns or raises."""
        future: Future[_T] = Future()
        with self._lock:
            if self._fault is not None:
                raise TransportError(f"exchange {self.address} has failed") from self._fault
            if self._is_over or self._is_closing:
                raise ChannelClosed(f"exchange {self.address} is closed")
            self._calls.append((function, future))
            self._bell.ring()
        try:
            return future.result(CALL_TIMEOUT_S)
        except FutureTimeout as err:
            future.cancel()
            raise TransportError(
                f"exchange {self.address} has not answered within {CALL_TIMEOUT_S:g} s"
            ) from err

    def _take(self, part: bytes) -> bool:
        """Take a message of a job of this process."""
        if threading.get_ident() == _MAIN_THREAD:
            # A signal may raise there, in the middle of anything: it only leaves the message.
            if self._is_over or len(self._posted) >= INBOX_MESSAGES:
                return False
            self._posted.append(part)
            self._bell.ring()
            return True
        with self._turn:
            if self._is_over or self._is_closing:
                return False
            try:
                self._take_posted()
                self._router.receive((part,), time.monotonic_ns())
                due_ns = self._router.due_ns()
            except BaseException as err:  # kept, as if our own thread had met it
                self._fault = err
                logger.exception("exchange %s has failed", self.address)
            if self._fault is not None or (due_ns or self._until_ns) < self._until_ns:
                self._bell.ring()
            return self._fault is None

    def _take_posted(self) -> None:
        while self._posted:
            self._router.receive((self._posted.popleft(),), time.monotonic_ns())

    def _run(self) -> None:
        """Body of the thread."""
        try:
            self._pass_messages()
        except BaseException as err:  # kept for whoever calls next
            self._fault = err
            logger.exception("exchange %s has failed", self.address)
        finally:
            with self._lock, self._turn:
                self._is_over = True
                calls = tuple(self._calls)
            for _, future in calls:
                if future.set_running_or_notify_cancel():
                    future.set_exception(ChannelClosed(f"exchange {self.address} is closed"))
            self._end()

    def _pass_messages(self) -> None:
        poll = select.poll()
        # Not ZeroMQ's own poller: it asks the kernel twice. This descriptor is readable when the
        # inbox has news, and not again before `_take_in` has found the inbox empty.
        inbox = int(self._inbox.getsockopt(zmq.FD))
        poll.register(inbox, select.POLLIN)
        bell = self._bell.fileno()
        poll.register(bell, select.POLLIN)
        is_empty, ready = False, {bell}
        reap_ns = time.monotonic_ns() + REAP_INTERVAL_NS
        while not self._is_closing and self._fault is None:
            with self._turn:
                if inbox in ready or not is_empty:
                    is_empty = self._take_in()
                if bell in ready:
                    self._answer()
                now_ns = time.monotonic_ns()
                if (due_ns := self._router.due_ns()) is not None and due_ns <= now_ns:
                    self._router.tick(now_ns)
                    due_ns = self._router.due_ns()
                if reap_ns <= now_ns:
                    self.arena.reap()
                    reap_ns = now_ns + REAP_INTERVAL_NS
                self._until_ns = reap_ns if due_ns is None else min(due_ns, reap_ns)
            # Rounded up, so as not to wake a moment too early and find nothing to do.
            left_ms = max(-((now_ns - self._until_ns) // 1_000_000), 0)
            ready = {fd for fd, _ in poll.poll(left_ms if is_empty else 0)}

    def _take_in(self) -> bool:
        """Pass on what has come; return whether that was all."""
        inbox, receive = self._inbox, self._router.receive
        for _ in range(BURST):
            # Asking first costs a quarter of the exception that says there is nothing.
            if not int(inbox.getsockopt(zmq.EVENTS)) & _POLLIN:
                return True
            parts = [inbox.recv(zmq.DONTWAIT)]
            while inbox.getsockopt(zmq.RCVMORE):
                parts.append(inbox.recv())
            receive(parts, time.monotonic_ns())
        return False

    def _answer(self) -> None:
        """Run what other threads have asked for."""
        self._bell.hush()
        self._take_posted()
        while self._calls:
            function, future = self._calls.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function())
            except Exception as err:
                future.set_exception(err)

    def _end(self) -> None:
        try:
            if self._fault is None:
                self._router.close(time.monotonic_ns())
        finally:
            self._outbox.close(LINGER_MS)

    def _stats(self) -> ExchangeStats:
        return self._books.report(
            self._router.flow.stats(),
            jobs=len(self._exits.jobs),
            workers={member.name: member.report() for member in self._router.roster},
            arena=self.arena.stats(),
        )

    def _check(self) -> None:
        self._router.flow.check()
        self._stats().check()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
