"""What an exchange does about each message: the flow rule's instructions, carried out.

`Router` has no thread of its own: `exchange` gives it every message with the time, one at a time.
A frame that comes in is put on the shelf and submitted to `Flow` under the task of its hop. When a
worker has answered for it, it goes on: to `Flow` again, or to one of the exits.

A message that has no meaning is counted, and changes nothing.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from vdag.errors import ConfigError, FrameFormatError, InvalidTransition, StaleFrame, TransportError
from vdag.transport import codec, messages
from vdag.transport.books import Books, Reason, Times
from vdag.transport.exits import Exits
from vdag.transport.flow import Deliver, Drop, Flow, Grant, Instruction, Item
from vdag.transport.outbox import Outbox
from vdag.transport.roster import Member, Roster
from vdag.transport.shelf import Held, Shelf

__all__ = ["Router"]

logger = logging.getLogger(__name__)

#: More than any worker has credit for, so that a socket to one that lives is never full.
WORKER_MESSAGES = 8192
#: Most bytes of descriptors in one message to a worker; a larger batch goes in several.
BATCH_NBYTES = messages.MAX_NBYTES // 2


class Router:
    """See above; one thread at a time.

    Args:
        mine: addresses that mean this exchange in a route.
        books: to count in.
        shelf: for the frames.
        exits: for the frames that leave.
        outbox: for messages to workers.
        reap: takes back the leases of processes that are gone.
    """

    def __init__(
        self,
        *,
        mine: Collection[str],
        books: Books,
        shelf: Shelf,
        exits: Exits,
        outbox: Outbox,
        reap: Callable[[], object],
    ) -> None:
        self.flow = Flow()
        self.roster = Roster()
        self._open: set[str] = set()
        self._mine = set(mine)
        self._books = books
        self._shelf = shelf
        self._exits = exits
        self._outbox = outbox
        self._reap = reap
        self._handlers: dict[type, Callable[[Any, int], None]] = {
            messages.Done: self._done,
            messages.Ready: self._ready,
            messages.CreditWanted: self._credit_wanted,
            messages.Hello: self._hello,
            messages.Join: self._join,
            messages.Leave: self._leave,
            messages.Dropped: self._dropped_elsewhere,
        }

    def receive(self, parts: Sequence[bytes], now_ns: int) -> None:
        """Take a message, whatever it is."""
        try:
            if len(parts) > 1:
                raise FrameFormatError(f"message of {len(parts)} parts")
            if not messages.is_control(parts[0]):
                self._take(codec.decode_head(parts), parts[0], now_ns)
                return
            message = messages.decode(parts[0])
        except FrameFormatError as err:
            self._books.malformed += 1
            logger.debug("message ignored: %s", err)
            return
        try:
            handler = self._handlers.get(type(message))
            if handler is None:
                raise ConfigError("it is not for an exchange")
            handler(message, now_ns)
        except (ConfigError, InvalidTransition, TransportError) as err:
            self._books.refused += 1
            logger.debug("%s refused: %s", type(message).__name__, err)

    def tick(self, now_ns: int) -> None:
        """Do what is due: drop late frames, report workers that hang."""
        self._carry_out(self.flow.tick(now_ns), now_ns)
        for member in self.roster.overdue(now_ns):
            member.report_fault("hung")

    def due_ns(self) -> int | None:
        """Return when `tick` will next have something to do, or None."""
        due = [ns for ns in (self.flow.next_due_ns(), self.roster.due_ns()) if ns is not None]
        return min(due, default=None)

    def add_alias(self, address: str) -> None:
        """Answer to one more address in routes."""
        self._mine.add(address)

    def open_task(self, task: str, **settings: Any) -> None:
        """Take frames for a task; see `Flow.open_task`."""
        self.flow.open_task(task, **settings)
        self._open.add(task)
        self._books.times.setdefault(task, Times())

    def close_task(self, task: str, now_ns: int) -> None:
        """Drop what waits for a task and retire its workers.

        Raises:
            InvalidTransition: the task is not open.
        """
        out = self.flow.close_task(task, now_ns)
        self._open.discard(task)
        for member in self.roster:
            if member.task == task and member.has_credit and member.state == "serving":
                member.state = "retired"  # the flow rule knows already
            elif member.task == task:
                self.retire(member.name, now_ns)
        self._carry_out(out, now_ns)

    def enlist(self, member: Member) -> None:
        """Expect a worker.

        Raises:
            ConfigError: its task is not open, or its name is taken.
        """
        if member.task not in self._open:
            raise ConfigError(f"task {member.task} of worker {member.name} is not open")
        self.roster.add(member)

    def retire(self, name: str, now_ns: int) -> None:
        """Give a worker nothing more; it is released when it holds nothing."""
        member = self.roster.get(name)
        if member is None or member.state in ("retired", "released"):
            return
        member.state = "retired"
        if member.has_credit:
            self._carry_out(self.flow.worker_retired(name, now_ns), now_ns)
        else:
            self._release(member)

    def dismiss(self, name: str, reason: str, now_ns: int) -> int:
        """Forget a worker whose process is gone; its frames are tried again, or dropped.

        Args:
            name: of the worker.
            reason: how it ended, for the report about a frame that it was the second to die over.
            now_ns: the time.

        Returns:
            Frames it has answered for.
        """
        member = self.roster.get(name)
        if member is None:
            return 0
        self._reap()
        for item in member.holds():
            self._shelf.take_back(item.token)
        if member.has_credit and member.state != "released":
            self._carry_out(self.flow.worker_lost(name, now_ns), now_ns, reason)
        self.roster.remove(name)
        self._outbox.shut(member.address)
        return member.frames

    def close(self, now_ns: int) -> None:
        """Drop every frame as `closed`, and tell jobs and workers."""
        for task in tuple(self._open):
            self.close_task(task, now_ns)
        for member in self.roster:
            self.dismiss(member.name, "the exchange closes", now_ns)

    def _take(self, head: codec.Head, part: bytes, now_ns: int) -> None:
        if head.here is None:
            raise FrameFormatError(f"hop {head.header.hop} is behind the end of the route")
        self._books.received += 1
        try:
            held = self._shelf.take(head, part, now_ns)
        except (StaleFrame, FrameFormatError) as err:
            reason: Reason = "stale" if isinstance(err, StaleFrame) else "unreadable"
            self._exits.count_drop(head.job, head.header, head.route, reason, str(err))
            return
        if self._exits.leads_home(head.job, head.route):
            self._go_on(held, head.job, now_ns)
        else:
            self._exits.drop(held, "stray", f"job {head.job} has not joined")

    def _go_on(self, held: Held, producer: str, now_ns: int) -> None:
        """Bring a frame to the hop it is at."""
        here, header = held.here, held.header
        if held.is_last:
            self._exits.bring_home(held)
        elif here.endpoint not in self._mine:
            self._exits.send_on(held)
        else:
            held.arrived_ns = now_ns
            item = Item(
                f"{held.job}/{header.stream}",
                header.seq,
                here.task,
                header.deadline_ns,
                header.plan,
                held.nbytes,
                held.job,
                producer,
                held,
            )
            self._carry_out(self.flow.submit(item, now_ns), now_ns)

    def _carry_out(
        self, instructions: Sequence[Instruction], now_ns: int, detail: str = ""
    ) -> None:
        """Do as the flow rule says; `detail` is about the frames it drops."""
        todo = deque(instructions)
        while todo:
            each = todo.popleft()
            if isinstance(each, Deliver):
                todo.extend(self._deliver(each, now_ns))
            elif isinstance(each, Drop):
                self._exits.drop(each.item.token, each.reason, detail)
            elif isinstance(each, Grant):
                self._exits.tell(each.producer, messages.Grant(each.task, each.credit))
            elif (member := self.roster.get(each.worker)) is not None:
                self._release(member)

    def _deliver(self, order: Deliver, now_ns: int) -> list[Instruction]:
        """Send a batch; return what follows from frames that could not be lent."""
        member = self.roster.get(order.worker)
        assert member is not None, "the flow rule knows no worker that the roster does not"
        wait = self._books.times[member.task].wait
        lent: list[tuple[Item, bytes]] = []
        refused: list[Item] = []
        for item in order.items:
            wait.observe(now_ns - item.token.arrived_ns)
            try:
                lent.append((item, self._shelf.lend(item.token)))
            except TransportError:  # its slot has as many leases as it can
                refused.append(item)
        for items, parts in _cut(lent):
            number = member.give(items, now_ns)
            arrived_ns = [item.token.arrived_ns for item in items]
            graphs, ended, member.ended = self._untold(member, items), member.ended, []
            batch = messages.Batch(number, parts, graphs, ended, arrived_ns)
            if not self._outbox.send(member.address, messages.encode(batch)):
                member.report_fault("broken")
        return self.flow.worker_failed(member.name, refused, now_ns) if refused else []

    def _untold(self, member: Member, items: Sequence[Item]) -> dict[str, bytes]:
        """Return the graphs of jobs that the worker does not know yet."""
        graphs = {}
        for item in items:
            if item.job not in member.told and (graph := self._exits.graph_of(item.job)):
                graphs[item.job] = graph
                member.told.add(item.job)
        return graphs

    def _done(self, message: messages.Done, now_ns: int) -> None:
        member = self._speaker(message)
        items = member.batches.get(message.batch, ())
        if len(items) != len(message.frames) or message.end_ns < message.start_ns:
            member.report_fault("broken")
            raise ConfigError(f"batch {message.batch} of {len(items)} frames is answered wrongly")
        del member.batches[message.batch]
        member.progress_ns = now_ns
        done, failed = self._sort(items, message.frames)
        member.count(len(items), len(failed), message.start_ns, message.end_ns)
        times = self._books.times[member.task]
        for item in items:
            times.hop.observe(now_ns - item.token.arrived_ns)
            times.compute.observe(message.end_ns - message.start_ns)
        # The worker's next batch goes out before these frames go on: it may be waiting for it.
        if done or message.credit:
            self._carry_out(
                self.flow.worker_done(member.name, done, now_ns, message.credit), now_ns
            )
        for item, detail in failed:
            self._carry_out(self.flow.worker_failed(member.name, [item], now_ns), now_ns, detail)
        for item in done:
            self._go_on(item.token, "", now_ns)

    def _sort(
        self, items: Sequence[Item], answers: Sequence[messages.Found | messages.Failure]
    ) -> tuple[list[Item], list[tuple[Item, str]]]:
        """Move the frames on that a worker is through with; return them, and the failed ones."""
        done: list[Item] = []
        failed: list[tuple[Item, str]] = []
        for item, answer in zip(items, answers, strict=True):
            held: Held = item.token
            try:
                if isinstance(answer, messages.Found):
                    held.advance(answer.context)
                    self._shelf.returned(held)
                    done.append(item)
                    continue
                detail = f"{answer.error}\n{answer.traceback}".strip()
            except FrameFormatError as err:
                detail = str(err)
            self._shelf.take_back(held)
            failed.append((item, detail))
        return done, failed

    def _ready(self, message: messages.Ready, now_ns: int) -> None:
        member = self._speaker(message)
        if member.state == "expected":
            raise ConfigError(f"worker {member.name} has not said hello")
        if member.state == "serving":  # otherwise it was sent before it knew
            out = self.flow.worker_ready(
                member.task,
                member.name,
                credit=message.credit,
                max_batch=message.max_batch,
                now_ns=now_ns,
            )
            member.has_credit = True
            self._carry_out(out, now_ns)

    def _hello(self, message: messages.Hello, now_ns: int) -> None:
        member = self._speaker(message)
        if member.state == "expected":
            self._outbox.open(member.address, WORKER_MESSAGES)
            member.state = "serving"
            member.pid = message.pid
            member.notify(member.name, "hello")

    def _speaker(self, message: messages.Hello | messages.Ready | messages.Done) -> Member:
        member = self.roster.speaker(message.worker, message.token)
        if member is None:
            raise ConfigError(f"it is not from worker {message.worker}")
        return member

    def _join(self, message: messages.Join, now_ns: int) -> None:
        if self._exits.join(message) is not None:
            self.roster.forget_job(message.job, has_ended=False)
        if (silent := self._exits.surplus()) is not None:
            logger.warning("job %s is forgotten: too many have joined", silent)
            self._forget_job(silent, now_ns)

    def _leave(self, message: messages.Leave, now_ns: int) -> None:
        if not self._exits.has_joined(message.job):
            raise ConfigError(f"no job {message.job} has joined")
        self._forget_job(message.job, now_ns)

    def _forget_job(self, job: str, now_ns: int) -> None:
        self._carry_out(self.flow.producer_lost(job, now_ns), now_ns)
        self._carry_out(self.flow.cancel(now_ns, job=job), now_ns)
        self.roster.forget_job(job, has_ended=True)
        self._exits.leave(job)

    def _credit_wanted(self, message: messages.CreditWanted, now_ns: int) -> None:
        if message.job not in self._exits.jobs:
            raise ConfigError(f"no job {message.job} has joined")
        out = self.flow.producer_ready(
            message.task, message.job, wanted=message.count, now_ns=now_ns
        )
        self._carry_out(out, now_ns)

    def _dropped_elsewhere(self, message: messages.Dropped, now_ns: int) -> None:
        """Pass another node's notice on to the job it is about."""
        if message.job not in self._exits.jobs:
            raise ConfigError(f"no job {message.job} has joined")
        self._exits.tell(message.job, message)

    def _release(self, member: Member) -> None:
        member.state = "released"
        self._outbox.send(member.address, messages.encode(messages.Stop()))
        member.notify(member.name, "released")


def _cut(lent: Sequence[tuple[Item, bytes]]) -> Iterator[tuple[tuple[Item, ...], list[bytes]]]:
    """Yield frames and their descriptors in batches that a message can hold."""
    start = nbytes = 0
    for index, (_, part) in enumerate(lent):
        if nbytes and nbytes + len(part) > BATCH_NBYTES:
            yield _columns(lent[start:index])
            start, nbytes = index, 0
        nbytes += len(part)
    if lent:
        yield _columns(lent[start:])


def _columns(lent: Sequence[tuple[Item, bytes]]) -> tuple[tuple[Item, ...], list[bytes]]:
    return tuple(item for item, _ in lent), [part for _, part in lent]
