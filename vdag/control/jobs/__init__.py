"""`JobManager`: the jobs of a node that owns videos.

Orders come from whoever speaks to the cloud, the plan channel's agent or the documented REST, as
calls of `Jobs`; what the jobs have found goes back the same way, as calls of a `Reporter`. A job is
at first without a plan (state 0); with its first plan it is ready (1), and at work (2) as soon as
its video is open; in the end it has ended (3) or failed (4).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from vdag.config import VideoConfig
from vdag.control.jobs.live import LiveView
from vdag.control.jobs.run import JobRun, Reporter, Site
from vdag.control.scheduling.events import JobInfo, QueryState
from vdag.errors import ConfigError, NotFound, PlanError
from vdag.graph import Graph
from vdag.plan import Constraint, Plan
from vdag.tasks import find

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["JobManager", "Jobs", "Reporter"]

logger = logging.getLogger(__name__)

#: Jobs that have ended and are still answered for; beyond, the oldest are forgotten.
MAX_ENDED = 256


class Jobs(Protocol):
    """The jobs of a node, as the cloud's orders reach them."""

    def submit(
        self,
        job_uid: str,
        video_id: int,
        graph: Graph,
        constraint: Constraint,
    ) -> None:
        """Take a job in, without a plan; harmless if it is there already.

        Args:
            job_uid: its id.
            video_id: of a video of this node.
            graph: its tasks.
            constraint: of its user.

        Raises:
            NotFound: there is no such video.
            ConfigError: there are too many jobs, or the id is that of a job with another video.
            GraphError: its tasks are not known, or do not fit together.
        """

    def update_plan(
        self,
        job_uid: str,
        plan: Plan,
        routes: Mapping[str, str] = MappingProxyType({}),
        names: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Give a job a plan, from its next frame on.

        Args:
            job_uid: its id.
            plan: the plan; one with the number of the present plan, or an older one, is passed
                over.
            routes: task to the landing of the node that does it, where that is another one.
            names: landing to the name under which the keys know that node.

        Raises:
            NotFound: there is no such job.
            ConfigError: a node cannot be reached.
            PlanError: the plan places a task here that this node does not offer, or not with that
                model.
        """

    def change_constraint(self, job_uid: str, constraint: Constraint) -> None:
        """Take note of what a job's user wants now; plans are made elsewhere.

        Raises:
            NotFound: there is no such job.
        """

    def give_up(self, job_uid: str, landings: Collection[str]) -> None:
        """Wait no more for frames that have tasks on nodes which are lost; the next plan is there.

        Harmless if there is no such job.
        """

    def stop(self, job_uid: str, reason: str) -> None:
        """End a job; harmless if there is none."""

    def infos(self) -> tuple[JobInfo, ...]:
        """Return how every job is."""

    def runtimes(self) -> dict[str, dict[str, Any]]:
        """Return the run-time context of each job that has news, since the last call."""


@dataclass(slots=True)
class _Job:
    """A job, at work or not.

    Attributes:
        video_id: of the video.
        graph: of its tasks.
        constraint: of its user.
        run: it at work; None before its first plan.
    """

    video_id: int
    graph: Graph
    constraint: Constraint
    run: JobRun | None = None

    def constrain(self, constraint: Constraint) -> None:
        """Take note of what its user wants now."""
        self.constraint = constraint
        if self.run is not None:
            self.run.constraint = constraint


class JobManager:
    """The jobs of one node; closed by `close` or a `with` block. Any thread may call it.

    Args:
        site: what jobs work with.
        videos: of the node, by their ids.
        offered: returns the tasks that this node does itself, at the moment, and the `model_id`s
            of each.
        reporter: who is told.
        max_jobs: that may be at work at a time.
    """

    def __init__(
        self,
        site: Site,
        videos: Mapping[int, VideoConfig],
        *,
        offered: Callable[[], Mapping[str, Collection[int]]],
        reporter: Reporter,
        max_jobs: int = 256,
    ) -> None:
        self._site, self._videos, self._offered = site, dict(videos), offered
        self._reporter, self._max_jobs = reporter, max_jobs
        self._lock = threading.Lock()
        self._jobs: dict[str, _Job] = {}
        self._closed = False

    def submit(
        self,
        job_uid: str,
        video_id: int,
        graph: Graph,
        constraint: Constraint,
    ) -> None:
        """See `Jobs.submit`."""
        if video_id not in self._videos:
            raise NotFound(f"video_id {video_id} is no video of this node")
        checked = graph.check({task: find(task).signature for task in graph.tasks})
        with self._lock:
            self._forget_old()
            if (job := self._jobs.get(job_uid)) is not None:
                if (job.video_id, job.graph) != (video_id, checked):
                    raise ConfigError(f"job {job_uid} is there with another video or other tasks")
                job.constrain(constraint)
                return
            if len(self._jobs) - self._ended() >= self._max_jobs:
                raise ConfigError(f"{self._max_jobs} jobs are the limit of this node")
            self._jobs[job_uid] = _Job(video_id, checked, constraint)

    def update_plan(
        self,
        job_uid: str,
        plan: Plan,
        routes: Mapping[str, str] = MappingProxyType({}),
        names: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """See `Jobs.update_plan`."""
        with self._lock:
            job = self._find(job_uid)
            _check_offered(plan, set(job.graph.tasks) - routes.keys(), self._offered())
            if job.run is not None:
                job.run.update_plan(plan, routes, names)
                return
            video = self._videos[job.video_id]
            job.run = JobRun(job_uid, job.graph, video, self._site, self._reporter, job.constraint)
            try:
                job.run.start(plan, routes, names)
            except BaseException:
                job.run = None
                raise

    def claim_limits(self, job_uid: str) -> None:
        """Limit the tasks that this node does for a job as its plan says, until it is over.

        For plans of the documented REST: a controller of the plan channel orders limits itself.

        Raises:
            NotFound: there is no such job.
        """
        with self._lock:
            run = self._find(job_uid).run
            if run is not None:
                run.claim_limits()

    def change_constraint(self, job_uid: str, constraint: Constraint) -> None:
        """See `Jobs.change_constraint`."""
        with self._lock:
            self._find(job_uid).constrain(constraint)

    def next_number(self, job_uid: str) -> int:
        """Return a number for the job's next plan, for callers whose plans have none."""
        with self._lock:
            run = self._find(job_uid).run
            return 1 if run is None else run.plan.number + 1

    def plan_of(self, job_uid: str) -> Plan | None:
        """Return the plan that a job was given last, None before the first."""
        with self._lock:
            run = self._find(job_uid).run
            return None if run is None else run.plan

    def graph_of(self, job_uid: str) -> Graph:
        """Return the tasks of a job."""
        with self._lock:
            return self._find(job_uid).graph

    def live_view(self, job_uid: str) -> LiveView | None:
        """Return what a job sees, None if it is not there or not at work."""
        with self._lock:
            job = self._jobs.get(job_uid)
            return None if job is None or job.run is None or job.run.is_over else job.run.live

    def runtime_of(self, job_uid: str) -> dict[str, Any]:
        """Return the documented `/job/get_runtime`: the context since its last call."""
        with self._lock:
            run = self._find(job_uid).run
        return {} if run is None else run.describe("asked")

    def give_up(self, job_uid: str, landings: Collection[str]) -> None:
        """See `Jobs.give_up`."""
        with self._lock:
            job = self._jobs.get(job_uid)
            run = None if job is None else job.run
        if run is not None:
            run.give_up(landings)

    def stop(self, job_uid: str, reason: str) -> None:
        """See `Jobs.stop`."""
        with self._lock:
            job = self._jobs.pop(job_uid, None)
        if job is not None and job.run is not None:
            job.run.close(reason)

    def infos(self) -> tuple[JobInfo, ...]:
        """See `Jobs.infos`."""
        with self._lock:
            jobs = tuple(self._jobs.items())
        return tuple(
            JobInfo(uid, 0, QueryState.UNSCHEDULED) if job.run is None else job.run.info()
            for uid, job in jobs
        )

    def runtimes(self) -> dict[str, dict[str, Any]]:
        """See `Jobs.runtimes`."""
        with self._lock:
            runs = {uid: job.run for uid, job in self._jobs.items() if job.run is not None}
        return {uid: run.describe("reported") for uid, run in runs.items() if run.has_news}

    def close(self) -> None:
        """End every job; what is in flight is given up."""
        with self._lock:
            self._closed = True
            jobs = tuple(self._jobs.values())
            self._jobs.clear()
        runs = [job.run for job in jobs if job.run is not None]
        for run in runs:
            run.ask_to_stop("the node stops")
        for run in runs:
            run.close("the node stops")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _find(self, job_uid: str) -> _Job:
        if self._closed:
            raise ConfigError("the node stops")
        job = self._jobs.get(job_uid)
        if job is None:
            raise NotFound(f"job {job_uid!r:.100} is not known")
        return job

    def _ended(self) -> int:
        return sum(job.run is not None and job.run.is_over for job in self._jobs.values())

    def _forget_old(self) -> None:
        over = [uid for uid, job in self._jobs.items() if job.run is not None and job.run.is_over]
        for uid in over[: max(len(over) - MAX_ENDED, 0)]:
            del self._jobs[uid]


def _check_offered(
    plan: Plan, tasks: Collection[str], offered: Mapping[str, Collection[int]]
) -> None:
    """Check that this node has what a plan wants done here.

    Raises:
        PlanError: it has not.
    """
    for task in sorted(tasks):
        if task not in offered:
            raise PlanError(f"flow_mapping.{task}: this node does not offer the task")
        model = plan.flow_mapping[task].model_id
        if model not in offered[task]:
            known = ", ".join(map(str, offered[task]))
            raise PlanError(f"flow_mapping.{task}.model_id is {model}, this node has only {known}")
