"""`JobRun`: a job at work: its video, its frames' way through the exchange, and what it reports.

A thread of the run opens the video and takes the results; plans come from any other thread. A plan
takes effect between two frames: the rate and the size of the video, the routes of the frames and
the number they carry change at once, and frames under way end under the plan they began with.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

from vdag.config import VideoConfig
from vdag.control.jobs.frames import FrameDocuments
from vdag.control.jobs.lanes import lane_of
from vdag.control.jobs.live import LiveView
from vdag.control.rest.services import is_service
from vdag.control.scheduling.events import JobInfo, QueryState
from vdag.control.sniffing import Sniffer
from vdag.errors import ConfigError, VdagError
from vdag.graph import Graph
from vdag.itinerary import briefing, lighten, onward
from vdag.job import Job
from vdag.plan import Constraint, Plan
from vdag.results import Result
from vdag.sources import SingleFrameGenerator
from vdag.threads import wait_ended

if TYPE_CHECKING:
    from vdag.control.agent.framebook import FrameBook
    from vdag.control.rest.services import Services
    from vdag.control.service.plan_limits import PlanLimits
    from vdag.transport.exchange import Exchange
    from vdag.transport.peers import Peers

__all__ = ["JobRun", "Reporter", "Site"]

logger = logging.getLogger(__name__)

#: Plans that frames may still be under way with; older ones are forgotten.
MAX_PLANS = 64
#: How long a run may take to end before its thread is left behind.
END_TIMEOUT_S = 15.0

Reader = Literal["asked", "reported"]


class Reporter(Protocol):
    """Who carries what jobs have found to the cloud; any thread may call it, and none waits."""

    def report_result(self, job_uid: str, number: int, document: bytes) -> None:
        """Take a frame.

        Args:
            job_uid: of the job.
            number: the frame's `n_loop`, 1 more than that of the job's frame before.
            document: its frame object, JSON.
        """

    def report_state(self, job_uid: str, state: int, reason: str) -> None:
        """Take note of a job's new state, see `QueryState`."""


@dataclass(frozen=True, slots=True)
class Site:
    """What the jobs of a node work with; all of it outlives them.

    Attributes:
        exchange: of the node.
        peers: the other nodes; None if frames do not leave this one.
        node_ip: of the node.
        max_in_flight: frames of one job that are under way at a time.
        frame_timeout_s: a frame without a result by then is given up.
        services: nodes that do tasks only by the documented REST; None to have nothing to do with
            them.
        limits: of its tasks; None if plans that nobody orders them for do not limit them.
        frames: is told of every frame of its jobs; None if nobody wants to know.
    """

    exchange: Exchange
    peers: Peers | None
    node_ip: str
    max_in_flight: int = 8
    frame_timeout_s: float = 30.0
    services: Services | None = None
    limits: PlanLimits | None = None
    frames: FrameBook | None = None

    @property
    def alias(self) -> str:
        """What stands for this node in the routes of frames that leave it and come back."""
        return self.exchange.address if self.peers is None else self.peers.address


class JobRun:
    """A job at work; any thread may call it.

    Args:
        job_uid: its id.
        graph: its tasks, checked.
        video: where its frames come from.
        site: what it works with.
        reporter: who is told.
        constraint: of its user.

    Attributes:
        constraint: likewise; others may set another one.
        live: what it sees, for people.
    """

    def __init__(
        self,
        job_uid: str,
        graph: Graph,
        video: VideoConfig,
        site: Site,
        reporter: Reporter,
        constraint: Constraint,
    ) -> None:
        self.constraint = constraint
        self._uid, self._graph, self._video = job_uid, graph, video
        self._site, self._reporter = site, reporter
        self._documents = FrameDocuments(graph, site.node_ip)
        self._track = None if site.frames is None else site.frames.open(job_uid, graph)
        self._lock = threading.Lock()
        self._plans: OrderedDict[int, Plan] = OrderedDict()
        self._routes: Mapping[str, str] = {}
        self._sniffer = Sniffer(video.fps)
        self.live = LiveView()
        self._job: Job | None = None
        self._source: SingleFrameGenerator | None = None
        self._taken_as: tuple[float, str] | None = None  # rate and size the source was told last
        self._stopping: str | None = None
        self._state, self._reason = QueryState.UNSCHEDULED, ""
        self._drops: Mapping[str, int] = {}
        self._thread = threading.Thread(target=self._run, name=f"vdag-{job_uid}", daemon=True)

    @property
    def plan(self) -> Plan:
        """The plan it was given last; there is one from `start` on."""
        return next(reversed(self._plans.values()))

    @property
    def is_over(self) -> bool:
        """Whether it has ended or failed."""
        return self._state.is_final

    @property
    def has_news(self) -> bool:
        """Whether there is something in the window of the reports."""
        with self._lock:
            return self._sniffer.has_news

    def start(self, plan: Plan, routes: Mapping[str, str], names: Mapping[str, str]) -> None:
        """Begin, under its first plan.

        Raises:
            ConfigError: another node cannot be reached.
        """
        self._plans[plan.number] = plan
        self._visit(plan, routes, names)
        self._routes = dict(routes)
        self._become(QueryState.READY)
        self._thread.start()

    def update_plan(self, plan: Plan, routes: Mapping[str, str], names: Mapping[str, str]) -> None:
        """Go on under another plan, from the next frame on; an older one is passed over.

        So is the present one, unless a node of it is to be reached elsewhere now.

        Raises:
            ConfigError: another node cannot be reached; the plan before stays.
        """
        with self._lock:
            present = self.plan.number
            is_old = plan.number < present or (plan.number == present and routes == self._routes)
            if is_old or self.is_over:
                return
            self._visit(plan, routes, names)
            self._plans[plan.number] = plan
            while len(self._plans) > MAX_PLANS:
                self._plans.popitem(last=False)
            self._routes = dict(routes)
            if self._job is not None:
                self._replan(self._job, plan)
        logger.info("job %s follows plan %d", self._uid, plan.number)

    def claim_limits(self) -> None:
        """Have this node limit what it does for the plan; for plans that no controller made."""
        limits = self._site.limits
        with self._lock:
            if limits is None or self.is_over:
                return
            here = [task for task in self._graph.tasks if task not in self._routes]
            limits.claim(self._uid, {task: self.plan.resource_limit.get(task) for task in here})

    def give_up(self, landings: Collection[str]) -> None:
        """Wait no more for the frames that have tasks on nodes which are lost."""
        with self._lock:
            if self._job is not None:
                self._job.give_up(landings, frozenset(self._routes.values()))

    def describe(self, reader: Reader) -> dict[str, Any]:
        """Return the run-time context for a reader, see `sniffing`."""
        with self._lock:
            found = self._sniffer.answer() if reader == "asked" else self._sniffer.report()
        return self._with_constraint(found)

    def _with_constraint(self, context: dict[str, Any]) -> dict[str, Any]:
        """Return a context with what the user wants, as the documents have it; none stays none."""
        return {**context, "user_constraint": self.constraint.to_document()} if context else {}

    def info(self) -> JobInfo:
        """Return how it is."""
        job = self._job
        drops = self._drops if job is None else job.stats().frames.dropped
        return JobInfo(
            self._uid,
            self.plan.number,
            self._state,
            reason=self._reason,
            drops=dict(drops),
            routes=self._routes,
        )

    def ask_to_stop(self, reason: str) -> None:
        """Have it end soon, without waiting for it."""
        with self._lock:
            self._stopping = self._stopping or reason
            job = self._job
        if job is not None:
            job.ask_to_close()

    def close(self, reason: str) -> None:
        """End it, and wait until it has."""
        self.ask_to_stop(reason)
        wait_ended(self._thread, timeout_s=END_TIMEOUT_S)

    def _visit(self, plan: Plan, routes: Mapping[str, str], names: Mapping[str, str]) -> None:
        """Open the ways to the nodes of a plan."""
        peers, services = self._site.peers, self._site.services
        endpoints = {address for address in routes.values() if is_service(address)}
        lanes = {
            address: lane_of(plan.conf_of(task), self._policy)
            for task, address in routes.items()
            if address not in endpoints
        }
        if endpoints and services is None:
            raise ConfigError(f"this node sends no frames to {min(endpoints)}")
        if lanes and peers is None:
            raise ConfigError("frames cannot leave this node: it has no node.landing")
        if endpoints and services is not None:
            services.visit(self._uid, lighten(self._graph), endpoints, self._policy)
        if lanes and peers is not None:
            ours = {task: address for task, address in routes.items() if address in lanes}
            ways = onward(self._graph, ours)
            peers.visit(self._uid, briefing(self._graph), lanes, names, ways)

    @property
    def _policy(self) -> Literal["block", "latest"]:
        if self._video.policy != "auto":
            return self._video.policy
        return "block" if self._video.pace == "asap" else "latest"

    @property
    def _max_in_flight(self) -> int:
        """Return how many frames may be under way.

        Where the latest frame counts, more than one per task and one on its way would only wait.
        """
        limit = self._site.max_in_flight
        return limit if self._policy == "block" else min(limit, len(self._graph.tasks) + 1)

    # From here on everything runs on the run's own thread, but for `_replan`.

    def _run(self) -> None:
        try:
            with self._open() as source:
                self._work(source)
            self._become(QueryState.ENDED, self._stopping or "the video is over")
        except VdagError as err:
            self._end(err)
        except Exception as err:  # a fault of ours: the cloud is told, and other jobs go on
            logger.exception("job %s has failed", self._uid)
            self._end(err)
        finally:
            self.live.close()
            for ways in (self._site.peers, self._site.services):
                if ways is not None:
                    ways.leave(self._uid)
            if self._track is not None:
                self._track.end()
            with self._lock:  # else a claim that is being made could outlast the job
                if self._site.limits is not None:
                    self._site.limits.leave(self._uid)

    def _end(self, err: Exception) -> None:
        if self._stopping is not None:
            self._become(QueryState.ENDED, self._stopping)
        else:
            self._become(QueryState.FAILED, f"{type(err).__name__}: {err}")

    def _open(self) -> SingleFrameGenerator:
        video, conf = self._video, self.plan.video_conf
        self._taken_as = (conf.fps, conf.resolution)
        return SingleFrameGenerator(
            video.path,
            fps=conf.fps,
            resolution=conf.resolution,
            pace=video.pace,
            loop=video.loop,
            cam_fps=video.fps or None,
            stream=self._uid,
        )

    def _work(self, source: SingleFrameGenerator) -> None:
        site = self._site
        with Job(
            self._graph,
            source,
            site.exchange.address,
            site.exchange.arena,
            alias=site.alias,
            policy=self._policy,
            max_in_flight=self._max_in_flight,
            frame_timeout_s=site.frame_timeout_s,
            on_error="drop",
            close_source=source.close,
            job_id=self._uid,
            on_drop=None if self._track is None else self._track.lose,
        ) as job:
            source.allocate = job.allocate
            with self._lock:
                self._source = source
                self._replan(job, self.plan)
                self._job = job
                is_stopping = self._stopping is not None
            try:
                if not is_stopping:
                    for result in job:
                        self._take(result)
            finally:
                with self._lock:
                    self._drops = dict(job.stats().frames.dropped)
                    self._job = None

    def _replan(self, job: Job, plan: Plan) -> None:
        """Give the job a plan; under the lock."""
        source, conf = self._source, plan.video_conf
        assert source is not None, "it is set before the job"
        before, self._taken_as = self._taken_as, (conf.fps, conf.resolution)

        def reconfigure() -> None:
            source.reconfigure(fps=conf.fps, resolution=conf.resolution)

        prepare = None if self._taken_as == before else reconfigure
        models = {task: placement.model_id for task, placement in plan.flow_mapping.items()}
        if self._track is not None:
            self._track.follow(plan.number, self._routes)
        job.replan(plan.number, self._routes, prepare, models)

    def _take(self, result: Result) -> None:
        """Report a frame."""
        if self._state is QueryState.READY:
            self._become(QueryState.RUNNING)
        with self._lock:
            sighting = self._sniffer.observe(result, time.monotonic())
            context = self._with_constraint(self._sniffer.context())
            plan = self._plans.get(result.plan, self.plan)
        document = self._documents.write(result, plan, sighting, context)
        if self._track is not None:
            self._track.deliver(result)
        self.live.show(result)
        result.drop_frame()
        number = self._documents.n_loop
        self._reporter.report_result(self._uid, number, msgspec.json.encode(document))

    def _become(self, state: QueryState, reason: str = "") -> None:
        self._state, self._reason = state, reason
        logger.info("job %s is %s%s", self._uid, state.name.lower(), reason and f": {reason}")
        self._reporter.report_state(self._uid, int(state), reason)
