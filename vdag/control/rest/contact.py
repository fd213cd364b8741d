"""`Contact`: one node that never asks: its jobs, what it was told of them, and whether it answers.

Programs of the first system answer 200 if they did as they were told, or 200 with a `status` that
is not 0, or 500 with a page of HTML for everything that they did not expect, a job that they know
already among it. So what a node says to a job does not count; what it says to the job's plan does.
A plan that is refused by a node which was told the job before means that the node was started anew:
it is told the job again. A job that is refused together with its plan, time and again, has failed.
"""

from __future__ import annotations

import logging
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from vdag.control.rest.caller import Caller, Reply
from vdag.control.scheduling.events import (
    DispatchFailed,
    Event,
    JobReported,
    QueryState,
    RuntimeReported,
)
from vdag.control.scheduling.instructions import Order, SendPlan, StartJob
from vdag.errors import VdagError
from vdag.plan import Plan, ResourceLimit, VideoConf
from vdag.sampling import RESOLUTIONS

__all__ = ["Contact", "Listener", "job_of", "plan_of"]

logger = logging.getLogger(__name__)

#: A plan that is refused so often in a row, every few seconds, will be refused for ever.
MAX_REFUSALS = 3
#: Jobs that are to be stopped, and kept in mind while the node does not answer.
MAX_STOPS = 1_024
#: Pauses between attempts to reach a node that does not answer: doubled each time.
PAUSE_S, MAX_PAUSE_S = 0.5, 10.0
#: Sizes that every version of the documents knows.
SIZES = ("360p", "480p", "720p", "1080p")
NO_LIMIT = ResourceLimit()


class Listener(Protocol):
    """Who hears what comes of orders: the controller."""

    def tell(self, event: Event) -> None:
        """Take note of an event; see `Controller.tell`."""

    def answers(self, node_addr: str) -> None:
        """Take note that a node which was lost answers again."""


@dataclass(slots=True)
class _Job:
    """A job as its node is to have it.

    Attributes:
        order: to start it, with the present plan.
        is_told: the node has been told of it, as far as we know.
        is_due: its plan is to be posted.
        is_changed: so is its constraint.
        refusals: of its plan, in a row.
        runtime: what the node said last.
    """

    order: StartJob
    is_told: bool = False
    is_due: bool = True
    is_changed: bool = False
    refusals: int = 0
    runtime: Mapping[str, Any] = field(default_factory=dict)


class Contact:
    """See above; for one thread at a time.

    Args:
        node_addr: `ip:port` of the node.
        listener: who hears of it.
        poll_s: between two questions for the jobs' runtimes.
        timeout_s: for one request.

    Attributes:
        is_lost: it does not answer.
        pause_s: until the next attempt makes sense, if it is lost.

    Raises:
        ConfigError: `node_addr` is none.
    """

    def __init__(
        self, node_addr: str, listener: Listener, *, poll_s: float, timeout_s: float = 5.0
    ) -> None:
        self.node_addr = node_addr
        self.is_lost, self.pause_s = False, 0.0
        self._listener, self._poll_s = listener, poll_s
        self._ask_at_s = 0.0
        self._caller = Caller(node_addr, timeout_s=timeout_s)
        self._jobs: dict[str, _Job] = {}
        self._stops: dict[str, str] = {}
        self._is_said_lost = False
        self._reason = ""

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to be done for this node any more."""
        return not (self._jobs or self._stops or self.is_lost or self._is_said_lost)

    def abort(self) -> None:
        """Have a request that is under way fail; by any thread."""
        self._caller.abort()

    def close(self) -> None:
        """End the connection."""
        self._caller.close()

    def turn(self, orders: Mapping[str, Order]) -> None:
        """Take orders, and do all that there is to do: post, repeat, ask.

        Args:
            orders: the latest of each job.
        """
        for order in orders.values():
            self._note(order)
        try:
            self._reach()
            for job_uid in tuple(self._stops):
                self._stop(job_uid)
            for job_uid, job in tuple(self._jobs.items()):
                if job.is_due:
                    self._bring(job_uid, job)
            self._ask_all()
        except VdagError as err:
            self.is_lost, self._reason = True, str(err)
            self.pause_s = min(max(2 * self.pause_s, PAUSE_S), MAX_PAUSE_S)
        self._say()

    def _note(self, order: Order) -> None:
        job_uid = order.query_id
        if isinstance(order, StartJob):
            self._jobs[job_uid] = _Job(order)
            self._stops.pop(job_uid, None)
        elif not isinstance(order, SendPlan):
            self._jobs.pop(job_uid, None)
            if len(self._stops) < MAX_STOPS:
                self._stops[job_uid] = order.reason
        elif (job := self._jobs.get(job_uid)) is not None:
            query = order.applied_to(job.order.query)
            job.is_changed = job.is_changed or query is not job.order.query
            job.order = StartJob(order.node_addr, query, order.plan, order.routes)
            job.is_due = True
        else:
            logger.debug("no job %s at %s for a plan", job_uid, self.node_addr)

    def _reach(self) -> None:
        """Find out whether a lost node is back.

        Raises:
            VdagError: it is not.
        """
        if self.is_lost:
            self._caller.get(_runtime_path(next(iter(self._jobs), "none")))
            self.is_lost, self.pause_s = False, 0.0

    def _say(self) -> None:
        """Tell that the node is lost, or there again, until that has been heard."""
        if self.is_lost == self._is_said_lost:
            return
        try:
            if self.is_lost:
                self._listener.tell(DispatchFailed(0, self.node_addr, self._reason))
            else:
                self._listener.answers(self.node_addr)
        except VdagError as err:
            logger.debug("nobody hears of %s: %s", self.node_addr, err)
        else:
            self._is_said_lost = self.is_lost

    def _bring(self, job_uid: str, job: _Job) -> None:
        """Post a job, unless the node has it, and its plan."""
        was_told = job.is_told
        if not was_told:
            told = self._post("/job/submit_job", job_of(job.order))
            job.is_told = _is_done(told)
        elif job.is_changed:  # versions that cannot be told say so, which does not matter
            wanted = job.order.query.constraint.to_document()
            words = {"job_uid": job_uid, "user_constraint": wanted}
            self._post("/node/submit_job_user_constraint", words)
        job.is_changed = False
        reply = self._post("/job/update_plan", plan_of(job.order.query_id, job.order.plan))
        job.is_due = False
        if _is_done(reply):
            job.is_told, job.refusals = True, 0
        elif was_told:
            job.is_told = False
            self._bring(job_uid, job)
        else:
            self._refuse(job_uid, job, f"{told}, then {reply}")

    def _refuse(self, job_uid: str, job: _Job, words: str) -> None:
        """Note that a node has taken neither a job nor its plan."""
        job.is_told = False
        job.refusals += 1
        logger.warning("node %s refuses %s: %s", self.node_addr, job_uid, words)
        if job.refusals < MAX_REFUSALS:
            return
        reason = f"node {self.node_addr} refuses it: {words}"
        failed = JobReported(0, job_uid, self.node_addr, QueryState.FAILED, reason)
        if self._tell(failed):
            del self._jobs[job_uid]

    def _ask_all(self) -> None:
        """Ask for the runtimes, if it is time to."""
        if time.monotonic() < self._ask_at_s:
            return
        for job_uid, job in self._jobs.items():
            if job.is_told:
                self._ask(job_uid, job)
        self._ask_at_s = time.monotonic() + self._poll_s

    def _ask(self, job_uid: str, job: _Job) -> None:
        """Ask for a job's runtime; what was said before is no news."""
        reply = self._caller.get(_runtime_path(job_uid))
        if not reply.is_good:
            return  # a later version has no such path
        try:
            runtime = reply.object()
        except VdagError as err:
            logger.debug("node %s, %s: %s", self.node_addr, job_uid, err)
            return
        is_news = bool(runtime) and "status" not in runtime and runtime != job.runtime
        if is_news and self._tell(RuntimeReported(0, job_uid, runtime)):
            job.runtime = runtime

    def _stop(self, job_uid: str) -> None:
        """Stop a job; nodes of the first system cannot, and say so, which does not matter."""
        order = {"job_uid": job_uid, "reason": self._stops[job_uid]}
        reply = self._post("/job/stop_job", order)
        del self._stops[job_uid]
        if not _is_done(reply):
            logger.info("node %s goes on with %s: it cannot stop jobs", self.node_addr, job_uid)

    def _post(self, path: str, order: Mapping[str, Any]) -> Reply:
        return self._caller.post(path, msgspec.json.encode(order))

    def _tell(self, event: Event) -> bool:
        try:
            self._listener.tell(event)
        except VdagError as err:
            logger.debug("nobody hears of %s: %s", self.node_addr, err)
            return False
        return True


def job_of(order: StartJob) -> dict[str, Any]:
    """Return the body of `/job/submit_job`."""
    query = order.query
    return {
        "job_uid": query.query_id,
        "node_addr": query.node_addr,
        "video_id": query.video_id,
        "pipeline": list(query.graph.tasks),
        "dag": query.graph.to_dag(),
        "user_constraint": query.constraint.to_document(),
    }


def plan_of(job_uid: str, plan: Plan) -> dict[str, Any]:
    """Return the body of `/job/update_plan`, with limits of every task, as later versions want."""
    documents = plan.to_documents()
    limits = {
        task: plan.resource_limit.get(task, NO_LIMIT).to_document() for task in plan.flow_mapping
    }
    conf = _documented(plan.video_conf)
    return {
        "job_uid": job_uid,
        "video_conf": conf.to_document(),
        "flow_mapping": documents["flow_mapping"],
        "resource_limit": limits,
    }


def _documented(conf: VideoConf) -> VideoConf:
    """Return a conf in values that every version of the documents knows, the nearest there are."""
    resolution = conf.resolution
    if resolution not in RESOLUTIONS:
        width, height = conf.size or RESOLUTIONS[SIZES[-1]]
        pixels = width * height
        resolution = min(SIZES, key=lambda name: abs(_pixels(name) - pixels))
    return VideoConf(resolution, conf.fps, "JPEG" if conf.encoder == "raw" else conf.encoder)


def _pixels(name: str) -> int:
    width, height = RESOLUTIONS[name]
    return width * height


def _is_done(reply: Reply) -> bool:
    """Whether a node says that it did what it was told to."""
    if not reply.is_good:
        return False
    try:
        return reply.object().get("status", 0) in (0, None)
    except VdagError:
        return False


def _runtime_path(job_uid: str) -> str:
    return f"/job/get_runtime/{urllib.parse.quote(job_uid, safe='')}"
