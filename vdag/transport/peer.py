"""`Peer`: the ways to one other node, an edge for each way in which jobs want their frames sent."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from vdag._native import header as native_header
from vdag.errors import ConfigError, VdagError
from vdag.transport import messages
from vdag.transport.codec import decode_head
from vdag.transport.departures import MAX_DEPTH, Drop, EdgeStats, Policy
from vdag.transport.edge import Edge
from vdag.transport.encoders import H264, Encoder, Jpeg, Raw
from vdag.transport.messages import Dropped, Join, Leave, Way
from vdag.transport.meter import LinkStats, Meter

if TYPE_CHECKING:
    from vdag._native.ring import View
    from vdag.transport.link import Inbox
    from vdag.transport.sockets import Curve

__all__ = ["HOME_LANE", "IDLE_S", "Lane", "Peer"]

logger = logging.getLogger(__name__)

#: Edges to one node, and so the ways in which its jobs may want their frames sent.
MAX_LANES = 16
#: An edge without a job is closed after so long: plans come back to where they were.
IDLE_S = 30.0
#: A probe takes so long on a link as it was.
PROBE_S = 0.1
MIN_PROBE_NBYTES, FIRST_PROBE_NBYTES, MAX_PROBE_NBYTES = 32 << 10, 64 << 10, 256 << 10


class Lane(NamedTuple):
    """How frames go to another node.

    Attributes:
        policy: `block` or `latest`, see `Edge`.
        encoder: what becomes of their pixels.
    """

    policy: Policy = "block"
    encoder: Encoder = Raw()

    @classmethod
    def of(cls, way: Way) -> Lane:
        """Return how a message says that frames go."""
        encoder: Encoder = Raw()
        if way.encoder == "jpeg":
            encoder = Jpeg(way.number)
        elif way.encoder == "h264":
            encoder = H264(way.number, way.fps)
        return cls(way.policy, encoder)

    def way(self, address: str, name: str) -> Way:
        """Return what tells another node to send frames so."""
        encoder = self.encoder
        if isinstance(encoder, Jpeg):
            return Way(address, name, self.policy, "jpeg", encoder.quality)
        if isinstance(encoder, H264):
            return Way(address, name, self.policy, "h264", encoder.bitrate, encoder.fps)
        return Way(address, name, self.policy, "raw")


#: Of whatever has no pixels, and of jobs that never said how they want their frames sent.
HOME_LANE = Lane()


class Peer:
    """Another node: the edge of an exchange that picks the lane of each frame's job.

    Args:
        address: of its landing.
        inbox: of this node.
        curve: keys, with those of the other node; needed beyond loopback.
        dropped: see `Edge`.

    Raises:
        ConfigError: as of `Edge`.
    """

    def __init__(
        self,
        address: str,
        *,
        inbox: Inbox,
        curve: Curve | None,
        dropped: Callable[[str, Drop], None],
    ) -> None:
        self.address = address
        self.key = (curve.server or "") if curve is not None else ""
        self._inbox, self._curve = inbox, curve
        self._dropped = dropped
        self._meter = Meter()
        self._probed_ns: int | None = None
        self._lock = threading.Lock()
        self._lane_of: dict[str, Lane] = {}
        self._edges: dict[Lane, Edge] = {}
        self._idle_since_s: dict[Lane, float] = {}
        self._home = self._open(HOME_LANE)

    def send(self, part: bytes, view: View | None) -> bool:
        """Take a message over, without waiting; see `exits.Edge`."""
        if messages.is_control(part):
            return self._home.notify(part)
        head = decode_head([part])
        if head.header.kind != native_header.KIND_SLOT:
            return self._home.send(part, view)
        return self._edges.get(self._lane_of.get(head.job, HOME_LANE), self._home).send(part, view)

    def assign(self, job: str, lane: Lane) -> None:
        """Send a job's frames by a lane, from the next one on.

        Raises:
            ConfigError: there are too many lanes, or the encoder cannot be had.
        """
        with self._lock:
            if lane not in self._edges:
                if len(self._edges) >= MAX_LANES:
                    raise ConfigError(f"{len(self._edges)} edges to {self.address} are the limit")
                self._open(lane)
            self._lane_of[job] = lane

    def release(self, job: str) -> None:
        """Forget how a job's frames are sent."""
        with self._lock:
            self._lane_of.pop(job, None)

    def notify(self, message: Join | Leave | Dropped) -> bool:
        """Send the other node's exchange a message; it may get lost."""
        try:
            return self._home.notify(messages.encode(message))
        except VdagError as err:
            logger.debug("no notice to %s: %s", self.address, err)
            return False

    @property
    def is_used(self) -> bool:
        """Whether a job of this node sends its frames there."""
        return bool(self._lane_of)

    def take_idle(self, now_s: float) -> list[Edge]:
        """Take out the edges of lanes that no job has used for a while; the caller closes them."""
        with self._lock:
            idle = self._edges.keys() - set(self._lane_of.values()) - {HOME_LANE}
            since_s = {lane: self._idle_since_s.get(lane, now_s) for lane in idle}
            over = [lane for lane in idle if now_s - since_s[lane] > IDLE_S]
            self._idle_since_s = {lane: since_s[lane] for lane in idle.difference(over)}
            return [self._edges.pop(lane) for lane in over]

    def link(self) -> LinkStats:
        """Return what is known of the link to the node, from all that was sent there."""
        return self._meter.stats(time.monotonic_ns())

    def probe(self, after_s: float) -> bool:
        """Send bytes to measure the link, if it was not measured for so long.

        As many as it carries in `PROBE_S`, as far as is known, and never more than
        `MAX_PROBE_NBYTES`. They go behind all that waits, on the lane of the results.

        Returns:
            Whether it was time to.
        """
        now_ns, link = time.monotonic_ns(), self.link()
        latest_ns = max(link.measured_ns, self._probed_ns or 0)
        if latest_ns and now_ns - latest_ns < after_s * 1e9:
            return False
        self._probed_ns = now_ns
        nbytes = FIRST_PROBE_NBYTES if link.rate is None else int(link.rate * PROBE_S)
        nbytes = min(max(nbytes, MIN_PROBE_NBYTES), MAX_PROBE_NBYTES)
        try:
            self._home.probe(nbytes)
        except VdagError as err:
            logger.debug("no probe to %s: %s", self.address, err)
        return True

    def stats(self) -> Mapping[Lane, EdgeStats]:
        """Return what each lane has carried."""
        return {lane: edge.stats() for lane, edge in tuple(self._edges.items())}

    def close(self) -> None:
        """Drop what has not arrived; may be called again."""
        for edge in tuple(self._edges.values()):
            edge.close()

    def _open(self, lane: Lane) -> Edge:
        self._edges[lane] = edge = Edge(
            self.address,
            inbox=self._inbox,
            depth=MAX_DEPTH,
            policy=lane.policy,
            encoder=lane.encoder,
            curve=self._curve,
            dropped=lambda drop: self._dropped(self.address, drop),
            meter=self._meter,
        )
        return edge
