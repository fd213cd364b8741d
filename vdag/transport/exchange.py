"""`Exchange`: the one place of a node where frames wait.

It owns the node's shared memory, takes descriptors in over one socket, and runs one thread that
does nothing but pass messages through a `Router`. That thread never waits for anybody it sends to;
whoever else calls the exchange waits for it.

A private folder is the exchange's address book:

    exchange     its inbox, a PULL: descriptors and control messages, see `messages`
    worker-*     inboxes of the workers
    job-*        homes of the jobs, as their `Join` says
    lock         held while an exchange uses the folder
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import zmq

from vdag._native import ring
from vdag.errors import ChannelClosed, ConfigError, TransportError
from vdag.transport.books import Books, ExchangeStats
from vdag.transport.channel import open_pull, private_folder
from vdag.transport.exits import Edge, Exits
from vdag.transport.outbox import Outbox
from vdag.transport.poison import PoisonStore
from vdag.transport.roster import Member, Notify
from vdag.transport.router import Router
from vdag.transport.shelf import Held, Shelf
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
#: How often the leases of processes that died are taken back, see `Arena.reap`.
REAP_INTERVAL_NS = 1_000_000_000
#: What is left of the notices to jobs at the end goes out within this time.
LINGER_MS = 500
#: Poisoned frames that wait to be written; beyond, they are not kept.
MAX_KEEPING = 4


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
        edges: Mapping[str, Edge] = MappingProxyType({}),
        poison: PoisonStore | None = None,
    ) -> None:
        self.folder = private_folder(Path(os.path.abspath(folder)))
        self.address = f"ipc://{self.folder / 'exchange'}"
        self._lock = threading.Lock()
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._fault: BaseException | None = None
        self._is_over = self._is_closing = False
        self._poison = poison
        self._keeping = threading.BoundedSemaphore(MAX_KEEPING)
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, _take_folder(self.folder))
            stack.callback(_sweep, self.folder, "exchange")
            self.arena = ring.Arena.create(node, classes)
            stack.callback(self.arena.close)
            self._shelf = Shelf(self.arena, ring.Arena.attach(self.arena.name, prefault=False))
            stack.callback(self._shelf.close)
            self._writer = ThreadPoolExecutor(1, thread_name_prefix="vdag-poison")
            stack.callback(self._writer.shutdown)
            self._context: zmq.Context[Any] = zmq.Context()
            stack.callback(self._context.term)
            self._inbox = open_pull(self.address, context=self._context, depth=INBOX_MESSAGES)
            stack.callback(self._inbox.close)
            self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            stack.callback(os.close, self._wake)
            self._outbox = Outbox(self._context)
            self._books = Books()
            self._exits = Exits(
                self.address,
                edges=edges,
                outbox=self._outbox,
                books=self._books,
                keep=self._keep,
            )
            self._router = Router(
                mine={self.address, *aliases},
                books=self._books,
                shelf=self._shelf,
                exits=self._exits,
                outbox=self._outbox,
                reap=self.arena.reap,
            )
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

        Harmless when called again. Workers are their supervisor's: close it first.
        """
        with self._lock:
            if not self._is_over:
                self._is_closing = True
                os.eventfd_write(self._wake, 1)
        self._thread.join()
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
            os.eventfd_write(self._wake, 1)
        try:
            return future.result(CALL_TIMEOUT_S)
        except FutureTimeout as err:
            future.cancel()
            raise TransportError(
                f"exchange {self.address} has not answered within {CALL_TIMEOUT_S:g} s"
            ) from err

    def _run(self) -> None:
        """Body of the thread."""
        try:
            self._pass_messages()
        except BaseException as err:  # kept for whoever calls next
            self._fault = err
            logger.exception("exchange %s has failed", self.address)
        finally:
            with self._lock:
                self._is_over = True
                calls = tuple(self._calls)
            for _, future in calls:
                if future.set_running_or_notify_cancel():
                    future.set_exception(ChannelClosed(f"exchange {self.address} is closed"))
            self._end()

    def _pass_messages(self) -> None:
        poller = zmq.Poller()
        poller.register(self._inbox, zmq.POLLIN)
        poller.register(self._wake, zmq.POLLIN)
        reap_ns = time.monotonic_ns() + REAP_INTERVAL_NS
        while not self._is_closing:
            due_ns = self._router.due_ns()
            until_ns = reap_ns if due_ns is None else min(due_ns, reap_ns)
            # Rounded up, so as not to wake a moment too early and find nothing to do.
            timeout_ms = max(-((time.monotonic_ns() - until_ns) // 1_000_000), 0)
            events = dict(poller.poll(timeout_ms))
            if self._inbox in events:
                self._take_in()
            if self._wake in events:
                self._answer()
            now_ns = time.monotonic_ns()
            if due_ns is not None and due_ns <= now_ns:
                self._router.tick(now_ns)
            if reap_ns <= now_ns:
                self.arena.reap()
                reap_ns = now_ns + REAP_INTERVAL_NS

    def _take_in(self) -> None:
        inbox, receive = self._inbox, self._router.receive
        for _ in range(BURST):
            try:
                parts = [inbox.recv(zmq.DONTWAIT)]
            except zmq.Again:
                return
            while inbox.getsockopt(zmq.RCVMORE):
                parts.append(inbox.recv())
            receive(parts, time.monotonic_ns())

    def _answer(self) -> None:
        """Run what other threads have asked for."""
        os.eventfd_read(self._wake)
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

    def _keep(self, held: Held, reason: str) -> None:
        """Have a poisoned frame written by another thread: a disk may be slow."""
        if self._poison is None or not self._keeping.acquire(blocking=False):
            held.release()
            return
        self._writer.submit(self._write, self._poison, held, reason)

    def _write(self, store: PoisonStore, held: Held, reason: str) -> None:
        try:
            folder = store.keep(held.part(), held.pixels(), f"task {held.here.task}\n{reason}")
            logger.warning("two workers of %s died over a frame: %s", held.here.task, folder)
        except Exception:  # the books have the frame already; only its copy is lost
            logger.exception("a poisoned frame could not be kept in %s", store.folder)
        finally:
            held.release()
            self._keeping.release()

    def _stats(self) -> ExchangeStats:
        return self._books.report(
            self._router.flow.stats(),
            jobs=len(self._exits.jobs),
            workers={member.name: member.report() for member in self._router.roster},
            arena=self.arena.stats(),
        )

    def _check(self) -> None:
        self._router.flow.check()
        stats = self._stats()
        if stats.balance:
            raise TransportError(f"{stats.balance} of {stats.received} frames are in no column")
        held = sum(worker.holds for worker in stats.workers.values())
        if held != stats.outstanding:
            raise TransportError(
                f"{held} frames are at workers, {stats.outstanding} are outstanding"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _take_folder(folder: Path) -> int:
    """Claim a folder, and remove the sockets that an exchange killed there has left.

    Returns:
        A file descriptor; closing it ends the claim.
    """
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as err:
        os.close(lock)
        raise ConfigError(f"folder {folder} is in use by another exchange") from err
    _sweep(folder, "worker-*")
    return lock


def _sweep(folder: Path, pattern: str) -> None:
    for path in folder.glob(pattern):
        if path.is_socket():
            path.unlink(missing_ok=True)
