"""`Agent`: a node's end of the plan channel.

It dials the controller, so that a node behind a NAT takes part, and asks on two lines. On the one
it joins and reports: how the node is, what its jobs have found. On the other it asks for orders,
which the controller holds back until there are some, so that a plan arrives within one trip; they
go to the node's jobs.

While the controller is away, jobs go on under their last plan, and their results wait in a spool.
When it is back, or another one in its place, the agent joins again: with what it has, for that is
what the controller goes on from. An order that comes twice is carried out once; a report is sent
until it is answered, and says the same each time.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import zmq

from vdag.control import wire
from vdag.control.agent.errands import Errands
from vdag.control.agent.notebook import Notebook
from vdag.control.agent.spool import Spool
from vdag.control.agent.values import AgentStats, Profile
from vdag.control.agent.works import works_of
from vdag.control.cluster import Hearsay, NodeView, offers_of, state_of
from vdag.errors import ConfigError, FrameFormatError, VdagError
from vdag.threads import wait_ended
from vdag.transport.roundtrip import RemoteClock
from vdag.transport.rpc import Requester

if TYPE_CHECKING:
    from typing_extensions import Self

    from vdag.control.jobs import Jobs
    from vdag.control.scheduling.events import JobInfo
    from vdag.control.service.openings import Openings
    from vdag.control.service.plan_limits import PlanLimits
    from vdag.transport.sockets import Curve

__all__ = ["Agent", "AgentStats", "Profile"]

logger = logging.getLogger(__name__)

#: For an answer; one that is held back has this long more.
ANSWER_TIMEOUT_S = 1.5
#: Two reports are at least this far apart, so that results travel together.
REPORT_GAP_NS = 20_000_000
#: Likewise two joins: of two nodes with one name, each is sent away when the other joins.
JOIN_GAP_NS = 250_000_000
#: Of the results in one report: what a link of 1 Mbit/s carries in half a second.
BATCH_NBYTES = 64 << 10
#: Longest time between two looks at whether the agent has been closed.
IDLE_NS = 1_000_000_000
JOIN_TIMEOUT_S = 10.0
#: The controller's own interval is not known before it has answered.
REPORT_S = 0.5

_count = itertools.count()


class Agent:
    """See above; closed by `close` or a `with` block. Its thread starts with it.

    Args:
        controller: address of the plan channel: `tcp://HOST:PORT`.
        profile: of the node.
        view: says how the node is now; returns at once.
        notebook: that the node's jobs write into; its `run` is the session. The caller's.
        jobs: of the node; None if it runs none.
        limits: of its tasks; None if it does none.
        openings: tasks that it is ordered to do; likewise.
        spool: folder for results that cannot be sent; None to keep few.
        curve: keys, with that of the controller.
        bandwidth: bytes per second to other nodes, by `node_addr`; returns at once.
        cluster: is told of the other nodes; None for one of the agent's own.

    Raises:
        ConfigError: the address has no meaning, or is beyond loopback without keys.
    """

    def __init__(
        self,
        controller: str,
        *,
        profile: Profile,
        view: Callable[[], NodeView],
        notebook: Notebook,
        jobs: Jobs | None = None,
        limits: PlanLimits | None = None,
        openings: Openings | None = None,
        spool: Path | None = None,
        curve: Curve | None = None,
        bandwidth: Callable[[], Mapping[str, float]] = dict,
        cluster: Hearsay | None = None,
    ) -> None:
        self._controller, self._profile, self._view = controller, profile, view
        self._notebook, self._jobs, self._bandwidth = notebook, jobs, bandwidth
        self._errands = Errands(jobs, notebook, limits, openings)
        self.cluster = cluster or Hearsay(view)
        self._cloud = self._awaited = ""  # sessions: that it has joined, that it asks for orders
        self._hold_s, self._report_ns = 1.0, int(REPORT_S * 1e9)
        self._last_ns = self._next_ns = self._join_ns = 0
        self._number = 0
        self._open: wire.Report | None = None
        self._said = wire.Join(profile.node_addr, notebook.run, profile.name, "edge")
        self._clock = RemoteClock()
        self._joins = self._reports = self._failures = self._results = self._round_trip_ns = 0
        self._spool = Spool(spool)
        self._spool_stats = self._spool.stats()
        self._closing = self._has_late_ends = False
        self._fault: BaseException | None = None
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            self._report_line = Requester(controller, context=self._context, curve=curve)
            self._order_line = Requester(controller, context=self._context, curve=curve)
        except BaseException:
            self._context.destroy(linger=0)
            raise
        name = f"vdag-agent-{next(_count)}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def fault(self) -> str:
        """Why the agent has ended by itself; empty if it has not."""
        return "" if self._fault is None else f"agent failed: {self._fault!r}"

    def stats(self) -> AgentStats:
        """Return how the agent is."""
        return AgentStats(
            bool(self._cloud),
            self._joins,
            self._reports,
            self._errands.count,
            self._failures,
            self._results,
            self._spool_stats,
            self._clock.offset_ns,
            self._round_trip_ns,
        )

    def close(self) -> None:
        """Ask no more, write down what was not acknowledged, and end; may be called again."""
        self._closing = True
        self._notebook.bell.ring()
        wait_ended(self._thread, timeout_s=JOIN_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # From here on everything runs on the agent's own thread.

    def _run(self) -> None:
        try:
            while not self._closing:
                self._wait()
                now_ns = time.monotonic_ns()
                for result in self._notebook.take_results():
                    self._spool.add(result)
                self._listen(now_ns)
                self._ask(now_ns)
        except BaseException as err:  # kept for whoever asks
            logger.exception("agent of %s failed", self._profile.node_addr)
            self._fault = err
        finally:
            self._report_line.close()
            self._order_line.close()
            self._context.term()
            for result in self._notebook.take_results():
                self._spool.add(result)
            self._spool.close()
            self._spool_stats = self._spool.stats()

    def _wait(self) -> None:
        now_ns = time.monotonic_ns()
        due_ns = [line.due_ns(now_ns) for line in (self._report_line, self._order_line)]
        if not self._report_line.is_waiting:
            due_ns.append(self._report_due_ns())
        soonest_ns = min((each for each in due_ns if each is not None), default=now_ns + IDLE_NS)
        wait_ns = min(max(soonest_ns - now_ns, 0), IDLE_NS)
        bell = self._notebook.bell
        events = zmq.zmq_poll(
            [
                (bell.fileno(), zmq.POLLIN),
                (self._report_line.socket, zmq.POLLIN),
                (self._order_line.socket, zmq.POLLIN),
            ],
            -(-wait_ns // 1_000_000),
        )
        if any(each == bell.fileno() for each, _ in events):
            bell.hush()
            # A result, or a job's new state: it need not wait for the next report.
            self._next_ns = 0

    def _report_due_ns(self) -> int:
        if not self._cloud:
            return self._join_ns
        return max(self._next_ns, self._last_ns + REPORT_GAP_NS)

    def _listen(self, now_ns: int) -> None:
        for line, hear in (
            (self._report_line, self._hear_report),
            (self._order_line, self._hear_orders),
        ):
            answer = line.take(now_ns)
            if answer is not None:
                try:
                    hear(wire.decode(answer), now_ns)
                except VdagError as err:
                    logger.warning("answer of %s ignored: %s", self._controller, err)
                    line.fail(now_ns)
                    self._failures += 1
            elif line.expire(now_ns):
                logger.info("no answer from %s", self._controller)
                self._failures += 1

    def _ask(self, now_ns: int) -> None:
        if self._report_line.may_ask(now_ns):
            is_due = now_ns >= self._report_due_ns()
            if is_due and self._cloud:
                self._report(now_ns)
            elif is_due:
                self._join(now_ns)
        if self._cloud and self._order_line.may_ask(now_ns):
            self._await(now_ns)

    def _join(self, now_ns: int) -> None:
        self._join_ns = now_ns + JOIN_GAP_NS
        view, profile = self._view(), self._profile
        self._said = wire.Join(
            profile.node_addr,
            self._notebook.run,
            profile.name,
            view.role,
            view.port,
            profile.landing,
            dict(profile.videos),
            offers_of(view),
            self._works(self._infos()),
            state_of(view),
            self._errands.limits(),
            self._errands.opened(),
        )
        self._report_line.ask(wire.encode(self._said), now_ns=now_ns, timeout_s=ANSWER_TIMEOUT_S)

    def _await(self, now_ns: int) -> None:
        self._awaited = self._cloud
        question = wire.Await(
            self._profile.node_addr, self._notebook.run, self._cloud, self._errands.last
        )
        timeout_s = self._hold_s + ANSWER_TIMEOUT_S
        self._order_line.ask(wire.encode(question), now_ns=now_ns, timeout_s=timeout_s)

    def _report(self, now_ns: int) -> None:
        if self._open is None:
            self._open = self._compose()
        # The same report, but for its times: they are about this trip.
        report = msgspec.structs.replace(
            self._open,
            view=self.cluster.version,
            sent_ns=now_ns,
            offset_ns=self._clock.offset_ns,
            round_trip_ns=self._round_trip_ns,
        )
        self._open = report
        self._last_ns, self._next_ns = now_ns, now_ns + self._report_ns
        self._report_line.ask(wire.encode(report), now_ns=now_ns, timeout_s=ANSWER_TIMEOUT_S)

    def _compose(self) -> wire.Report:
        self._number += 1
        opened = self._notebook.opened()  # before it is looked at what the node offers by that
        view, infos = self._view(), self._infos()
        works = self._works(infos)
        self._notebook.keep_only(work.job_uid for work in works)
        jobs, taken = self._notebook.changed(works)
        plans = {work.job_uid: work.plan for work in works}
        runtimes = {} if self._jobs is None else self._jobs.runtimes()
        state, services = state_of(view), offers_of(view)
        return wire.Report(
            self._profile.node_addr,
            self._notebook.run,
            self._cloud,
            self._number,
            self.cluster.version,
            0,
            state=b"" if state == self._said.state else state,
            services=None if services == self._said.services else services,
            jobs=jobs,
            taken=taken,
            runtimes=[
                wire.Runtime(
                    uid,
                    # Of the frames that it is about, which may be those of the plan before.
                    runtime.get("plan_number", plans.get(uid, 0)),
                    wire.write_document(runtime),
                )
                for uid, runtime in itertools.islice(runtimes.items(), wire.MAX_RESULTS)
            ],
            drops=self._notebook.dropped(infos),
            bandwidth=dict(self._bandwidth()),
            results=self._spool.batch(BATCH_NBYTES),
            refusals=self._notebook.refused(),
            opened=opened,
        )

    def _works(self, infos: tuple[JobInfo, ...]) -> list[wire.Work]:
        works, self._has_late_ends = works_of(infos, self._notebook, self._spool)
        return works

    def _infos(self) -> tuple[JobInfo, ...]:
        return () if self._jobs is None else self._jobs.infos()

    def _hear_report(self, message: wire.Message, now_ns: int) -> None:
        if isinstance(message, wire.Joined):
            self._enter(message)
        elif isinstance(message, wire.Reported) and self._open is not None:
            self._settle(self._open, message, now_ns)
        elif isinstance(message, wire.Refused):
            self._refused(message)
        else:
            raise FrameFormatError(f"{type(message).__name__} answers no report")

    def _enter(self, message: wire.Joined) -> None:
        logger.info("joined the controller at %s", self._controller)
        self._cloud, self._hold_s = message.cloud, message.hold_s
        self._report_ns = int(message.report_s * 1e9)
        self._errands.start_over()
        self._number, self._open = 0, None
        self._clock = RemoteClock()  # it may be another host by now
        self._notebook.forget()
        self._notebook.told(self._said.jobs)
        self.cluster.forget()
        self.cluster.hear(message.view)
        self._errands.hear(self._cloud, message.view)
        self._next_ns = 0
        self._joins += 1

    def _settle(self, report: wire.Report, message: wire.Reported, now_ns: int) -> None:
        if message.number != report.number:
            raise FrameFormatError(f"report {message.number} is answered, not {report.number}")
        self._open = None
        self._clock.observe(report.sent_ns, message.heard_ns, message.answered_ns, now_ns)
        round_trip_ns = now_ns - report.sent_ns - (message.answered_ns - message.heard_ns)
        self._said = msgspec.structs.replace(
            self._said,
            state=report.state or self._said.state,
            services=self._said.services if report.services is None else report.services,
        )
        self.cluster.hear(message.view)
        self._errands.hear(self._cloud, message.view)
        self._notebook.told(report.jobs, report.drops if message.is_stored else ())
        self._notebook.told_refused(report.refusals)
        self._notebook.told_opened(report.opened)
        if message.is_stored:
            self._results += len(report.results)
            self._spool.acknowledge(report.results)
            if self._has_late_ends or not self._spool.is_empty:
                self._next_ns = 0
        self._spool_stats = self._spool.stats()
        self._reports += 1
        self._round_trip_ns = max(round_trip_ns, 0)

    def _refused(self, message: wire.Refused) -> None:
        self._cloud = ""
        if not message.must_join:
            raise ConfigError(message.reason)

    def _hear_orders(self, message: wire.Message, now_ns: int) -> None:
        if self._awaited != self._cloud:
            return  # asked before the node joined again: who answers is not who is asked now
        if isinstance(message, wire.Refused):
            self._refused(message)
            return
        if not isinstance(message, wire.Orders):
            raise FrameFormatError(f"{type(message).__name__} answers no question for orders")
        self._errands.carry_out(message.orders)
