"""`Envoy`: this node at a cloud of another make: registers its videos, and posts what jobs found.

A node of the documents registers each video once, and a cloud of the documents forgets them when it
is started anew. So the envoy looks from time to time whether they are still there, and registers
them again. Jobs and plans come from that cloud to `:5001`, or are asked for by the `puller`.

Results wait in memory, in their order, up to a number of bytes; beyond it the oldest are lost and
counted. Nothing that such a cloud answers, or fails to answer, stops a job.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from vdag.control.rest.caller import Caller
from vdag.errors import ChannelClosed, VdagError
from vdag.sparing import SparingLog
from vdag.threads import wait_ended

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Envoy", "EnvoyStats", "Registration"]

logger = logging.getLogger(__name__)

#: Of results that wait.
LIMIT_NBYTES = 16 << 20
#: How often it is looked whether the cloud still knows the node.
CHECK_S = 5.0
#: Pauses after a cloud has not answered: doubled each time.
PAUSE_S, MAX_PAUSE_S = 0.25, 4.0
#: What waits at the end goes out within this time.
LINGER_S = 2.0
TIMEOUT_S = 5.0
JOIN_TIMEOUT_S = 10.0
#: Share of the latest measurement in the estimate of the bandwidth.
SMOOTHING = 0.2
FIRST_BANDWIDTH = 1e6


@dataclass(frozen=True, slots=True)
class Registration:
    """What a node says of itself.

    Attributes:
        port: of its job manager.
        videos: their numbers to what they show, in words.
        ip: of the node, for clouds that want it said: those that are asked for plans. Empty to have
            the cloud take the address that it is called from.
    """

    port: int
    videos: Mapping[int, str]
    ip: str = ""


@dataclass(frozen=True, slots=True)
class EnvoyStats:
    """What became of the results.

    Attributes:
        posted: that the cloud has taken.
        refused: that it has not: it knows no such job, for instance.
        lost: that were thrown away because too many waited, or at the end.
        waiting: that have not been posted.
        joins: how often the videos were registered.
    """

    posted: int
    refused: int
    lost: int
    waiting: int
    joins: int


class _Frame(msgspec.Struct):
    """The part of a frame object that earlier clouds look for beside it."""

    ext_plan: msgspec.Raw = msgspec.Raw(b"{}")


class Envoy:
    """A `jobs.Reporter`; closed by `close` or a `with` block. Its thread starts with it.

    Args:
        cloud: `host:port` of its query manager.
        registration: of this node.
        limit_nbytes: of results that wait.
        check_s: how often it is looked whether the cloud knows the node.

    Raises:
        ConfigError: `cloud` is no place.
    """

    def __init__(
        self,
        cloud: str,
        registration: Registration,
        *,
        limit_nbytes: int = LIMIT_NBYTES,
        check_s: float = CHECK_S,
    ) -> None:
        self.cloud = cloud
        self._registration, self._check_s = registration, check_s
        self._limit_nbytes = limit_nbytes
        self._caller = Caller(cloud, timeout_s=TIMEOUT_S)
        self._changed = threading.Condition()
        self._log = SparingLog(logger)
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._nbytes = self._posted = self._refused = self._lost = self._joins = 0
        self._node_addr = ""
        self._check_at_s = 0.0
        self._pause_s = 0.0
        self._bandwidth = FIRST_BANDWIDTH
        self._end_at_s: float | None = None
        self._thread = threading.Thread(target=self._run, name="vdag-envoy", daemon=True)
        self._thread.start()

    @property
    def node_addr(self) -> str:
        """How the cloud calls this node; empty while it does not know it."""
        return self._node_addr

    @property
    def bandwidth(self) -> float:
        """Bytes per second on the way to the cloud, as far as results show."""
        return self._bandwidth

    def report_result(self, job_uid: str, number: int, document: bytes) -> None:
        """Take a frame; see `jobs.Reporter`."""
        with self._changed:
            self._waiting.append((job_uid, document))
            self._nbytes += len(document)
            self._trim()
            self._changed.notify()

    def report_state(self, job_uid: str, state: int, reason: str) -> None:
        """Do nothing: such clouds know no states."""

    def doubt(self) -> None:
        """Look at once whether the cloud still knows this node."""
        with self._changed:
            self._check_at_s = 0.0
            self._changed.notify()

    def wait_joined(self, timeout_s: float) -> bool:
        """Wait until the cloud knows this node, or the envoy closes; whether it knows it."""
        with self._changed:
            self._changed.wait_for(lambda: self._node_addr or self._end_at_s, timeout_s)
            return bool(self._node_addr)

    def stats(self) -> EnvoyStats:
        """Return what became of the results."""
        with self._changed:
            return EnvoyStats(
                self._posted, self._refused, self._lost, len(self._waiting), self._joins
            )

    def close(self) -> None:
        """Post what waits, if that is quickly done, and end; may be called again."""
        with self._changed:
            if self._end_at_s is None:
                self._end_at_s = time.monotonic() + LINGER_S
            self._changed.notify_all()
        self._thread.join(LINGER_S)
        self._caller.abort()
        wait_ended(self._thread, timeout_s=JOIN_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _trim(self) -> None:
        """Throw away the oldest beyond the limit; under the lock."""
        while self._nbytes > self._limit_nbytes:
            self._nbytes -= len(self._waiting.popleft()[1])
            self._lost += 1
            self._log.warning("lost", "a result for %s is lost", self.cloud)

    # From here on everything runs on the envoy's own thread.

    def _run(self) -> None:
        while self._wait():
            try:
                self._step()
                self._pause_s = 0.0
            except VdagError as err:
                self._fail(err)
            except Exception as err:  # a fault of ours: the node's jobs go on
                logger.exception("the envoy to %s has failed at a step", self.cloud)
                self._fail(err)
        with self._changed:
            self._lost += len(self._waiting)
            self._waiting.clear()
        self._caller.close()

    def _wait(self) -> bool:
        """Wait until there is something to do; False when it is time to end."""
        with self._changed:
            if self._pause_s:
                self._changed.wait_for(lambda: self._end_at_s is not None, self._pause_s)
            while self._end_at_s is None:
                due_s = self._check_at_s - time.monotonic()
                if due_s <= 0 or (self._waiting and self._node_addr):
                    return True
                self._changed.wait(due_s)
            is_of_use = not self._pause_s and bool(self._node_addr) and bool(self._waiting)
            return is_of_use and time.monotonic() < self._end_at_s

    def _step(self) -> None:
        """Register, look whether that still holds, or post a result."""
        if self._end_at_s is None and time.monotonic() >= self._check_at_s:
            if not (self._node_addr and self._is_known()):
                self._join()
            with self._changed:
                self._check_at_s = time.monotonic() + self._check_s
        else:
            self._post()

    def _fail(self, err: Exception) -> None:
        """Begin anew with a cloud that does not answer, after a pause."""
        if not self._pause_s:
            logger.warning("cloud %s: %s", self.cloud, err)
        with self._changed:
            self._node_addr = ""
            self._check_at_s = 0.0
            self._pause_s = min(max(2 * self._pause_s, PAUSE_S), MAX_PAUSE_S)

    def _join(self) -> None:
        """Register every video.

        Raises:
            VdagError: the cloud does not take one.
        """
        known = self._registration
        where = {"node_ip": known.ip} if known.ip else {}
        node_addr = ""
        for number, words in known.videos.items():
            order = {"node_port": known.port, "video_id": number, "video_type": words, **where}
            reply = self._caller.post("/node/join", msgspec.json.encode(order))
            if not reply.is_good:
                raise ChannelClosed(f"it does not take video {number}: {reply}")
            node_addr = str(reply.object().get("node_addr") or node_addr)
        with self._changed:
            self._node_addr = node_addr or f"{known.ip}:{known.port}"
            self._joins += 1
            self._changed.notify_all()
        logger.info("cloud %s knows this node as %s", self.cloud, self._node_addr)

    def _is_known(self) -> bool:
        """Whether the cloud has the videos; true of one that cannot be asked."""
        reply = self._caller.get("/node/get_video_info")
        if not reply.is_good:
            return True
        videos = reply.object().get(self._node_addr)
        wanted = {str(number) for number in self._registration.videos}
        return isinstance(videos, dict) and wanted <= videos.keys()

    def _post(self) -> None:
        """Post the oldest result, which stays if nobody answers."""
        with self._changed:
            if not self._waiting:
                return
            job_uid, document = self._waiting.popleft()
            self._nbytes -= len(document)
        begun_s = time.monotonic()
        body = _body(job_uid, document)
        try:
            reply = self._caller.post("/query/sync_result", body)
        except VdagError as err:
            with self._changed:
                if isinstance(err, ChannelClosed):
                    self._waiting.appendleft((job_uid, document))
                    self._nbytes += len(document)
                    self._trim()
                else:
                    self._refused += 1
            raise
        if reply.is_good:
            with self._changed:
                self._posted += 1
            rate = len(body) / max(time.monotonic() - begun_s, 1e-6)
            self._bandwidth += SMOOTHING * (rate - self._bandwidth)
            return
        logger.debug("cloud %s does not take a result of %s: %s", self.cloud, job_uid, reply)
        with self._changed:
            self._refused += 1
            # It may have been started anew; that is looked at soon, but not at every result.
            self._check_at_s = min(self._check_at_s, time.monotonic() + PAUSE_S)


def _body(job_uid: str, document: bytes) -> bytes:
    """Return the body of a report: the frame as it is, and its plan beside it for older clouds."""
    plan = msgspec.json.decode(document, type=_Frame).ext_plan
    result = {"appended_result": msgspec.Raw(document), "latest_result": {"plan": plan}}
    return msgspec.json.encode({"job_uid": job_uid, "job_result": result})
