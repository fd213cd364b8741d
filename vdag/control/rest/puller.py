"""`Puller`: asks a cloud of another make for this node's jobs and their plans, as newer nodes do.

Such a cloud hands out each job once, and the plans of all jobs every time. A job whose plan is not
among them any more is not wanted any more.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from vdag.control.rest.caller import Caller
from vdag.errors import FrameFormatError, VdagError
from vdag.graph import Graph
from vdag.threads import wait_ended

if TYPE_CHECKING:
    from typing_extensions import Self

    from vdag.control.rest.envoy import Envoy
    from vdag.control.rest.intake import Intake

__all__ = ["Puller"]

logger = logging.getLogger(__name__)

PATH = "/query/get_jobs_info_and_jobs_plan"
TIMEOUT_S = 5.0
JOIN_TIMEOUT_S = 10.0
#: A job that so many replies in a row do not name is stopped: one may have been made amid a change.
MAX_MISSED = 3
#: Names of a bandwidth, to how many of it are a byte per second.
UNITS: Mapping[str, float] = {"bps": 8.0, "kbps": 8e-3, "Mbps": 8e-6, "kB/s": 1e-3, "MB/s": 1e-6}


class _Work(msgspec.Struct):
    """The reply; jobs and plans are read one by one, so that one does not spoil the others."""

    jobs_info: dict[str, msgspec.Raw] = {}
    jobs_plan: dict[str, msgspec.Raw] = {}


class _Info(msgspec.Struct):
    """A job."""

    video_id: int
    pipeline: list[str] | None = None
    dag: dict[str, Any] | None = None
    user_constraint: dict[str, Any] | None = None


class _Plan(msgspec.Struct):
    """A plan."""

    video_conf: dict[str, Any] | None = None
    flow_mapping: dict[str, Any] | None = None
    resource_limit: dict[str, Any] | None = None


class Puller:
    """See above; closed by `close` or a `with` block. Its thread starts with it.

    Args:
        envoy: who has registered this node.
        intake: takes jobs and plans in.
        stop: ends a job: its id, and why.
        pull_s: between two questions.
    """

    def __init__(
        self, envoy: Envoy, intake: Intake, stop: Callable[[str, str], None], *, pull_s: float
    ) -> None:
        self._envoy, self._intake, self._stop, self._pull_s = envoy, intake, stop, pull_s
        self._caller = Caller(envoy.cloud, timeout_s=TIMEOUT_S, max_nbytes=8 << 20)
        self._jobs: set[str] = set()
        self._missed: Counter[str] = Counter()
        self._told: dict[str, str] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vdag-puller", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ask no more; the jobs go on. May be called again."""
        self._closing.set()
        self._caller.abort()
        wait_ended(self._thread, timeout_s=JOIN_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # From here on everything runs on the puller's own thread.

    def _run(self) -> None:
        while not self._closing.wait(self._pull_s):
            try:
                if self._envoy.wait_joined(self._pull_s):
                    self._pull()
            except VdagError as err:
                if not self._closing.is_set():
                    logger.debug("cloud %s: %s", self._envoy.cloud, err)
                    self._envoy.doubt()
            except Exception:  # a fault of ours: the next question may do better
                logger.exception("the puller has failed at a question")
        self._caller.close()

    def _pull(self) -> None:
        """Ask, and do what is said.

        Raises:
            VdagError: the cloud does not answer, or not in its words.
        """
        rate = self._envoy.bandwidth
        question = {
            "node_addr": self._envoy.node_addr,
            "bandwidth": {unit: rate * factor for unit, factor in UNITS.items()},
        }
        reply = self._caller.post(PATH, msgspec.json.encode(question))
        if not reply.is_good:
            raise FrameFormatError(f"it has no work to tell of: {reply}")
        work = _read(reply.body, _Work)
        for job_uid, text in work.jobs_info.items():
            self._try(job_uid, self._submit, text)
        for job_uid, text in work.jobs_plan.items():
            if job_uid in self._jobs:
                self._try(job_uid, self._plan, text)
        self._let_go(work.jobs_plan.keys() | work.jobs_info.keys())

    def _try(self, job_uid: str, act: Callable[[str, msgspec.Raw], None], text: Any) -> None:
        """Take a job or a plan in; what is wrong with it is said once."""
        try:
            act(job_uid, text)
        except VdagError as err:
            if self._told.get(job_uid) != str(err):
                self._told[job_uid] = str(err)
                logger.warning("job %.100s of %s: %s", job_uid, self._envoy.cloud, err)
        else:
            self._told.pop(job_uid, None)

    def _submit(self, job_uid: str, text: msgspec.Raw) -> None:
        info = _read(text, _Info)
        graph = Graph.from_dag(info.pipeline if info.dag is None else info.dag)
        self._intake.submit(job_uid, info.video_id, graph, info.user_constraint)
        self._jobs.add(job_uid)

    def _plan(self, job_uid: str, text: msgspec.Raw) -> None:
        plan = _read(text, _Plan)
        self._intake.plan(job_uid, plan.video_conf, plan.flow_mapping, plan.resource_limit)
        self._missed[job_uid] = 0

    def _let_go(self, named: set[str]) -> None:
        """Stop the jobs that had a plan and are not named any more."""
        for job_uid in self._missed.keys() - named:
            self._missed[job_uid] += 1
            if self._missed[job_uid] >= MAX_MISSED:
                self._stop(job_uid, "the cloud names it no more")
                del self._missed[job_uid]
                self._jobs.discard(job_uid)
        # What was refused is not remembered for ever.
        self._told = {uid: text for uid, text in self._told.items() if uid in named}


def _read(text: Any, kind: Any) -> Any:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise FrameFormatError(f"reply is malformed: {err}") from err
