"""`Run`: a job at work by the real rules: its camera, its frames under way, what it reports."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from vdag.control.simulation.agenda import Agenda
from vdag.control.simulation.books import Ledger
from vdag.control.simulation.scenario import QuerySpec
from vdag.control.simulation.scenes import Scene, View
from vdag.control.sniffing.sightings import FULL_HD, Objects, Sighting
from vdag.control.sniffing.window import Window
from vdag.itinerary import HOME, Itinerary
from vdag.job.homecoming import Homecoming
from vdag.job.parts import Times, parts_of
from vdag.plan import Plan
from vdag.results import Result
from vdag.sampling import FrameSampler
from vdag.transport.codec import Hop

__all__ = ["MAX_IN_FLIGHT", "Run", "Trip"]

_NS = 1_000_000_000
#: As of the real node: frames of a job under way, and when one is given up.
MAX_IN_FLIGHT = 8
FRAME_TIMEOUT_NS = 30 * _NS
#: Likewise what the context for the scheduler looks back on.
WINDOW_FRAMES, WINDOW_S = 512, 10.0


@dataclass(slots=True, eq=False)
class Trip:
    """A frame on its way.

    Attributes:
        run: whose it is.
        seq: its number in the job.
        capture_ns: when it was taken.
        itinerary: its routes.
        plan: that they are of.
        size: width and height of the frame.
        view: what is in it.
        times: task to when it was done.
        home_ns: when its last branch came home.
    """

    run: Run
    seq: int
    capture_ns: int
    itinerary: Itinerary
    plan: Plan
    size: tuple[int, int]
    view: View
    times: dict[str, Times] = field(default_factory=dict)
    home_ns: int = 0


#: Puts a frame on its way: frame, branch, position in its route, name of the node where it is.
Depart = Callable[[Trip, int, int, str], None]


class Run:
    """A job.

    Args:
        query_id: its id.
        spec: of the query.
        host: `node_addr` of the node that owns the video.
        stream: number of its frames' stream.
        agenda: the time.
        scene: what the camera sees.
        ledger: takes down what became of each frame.
        depart: puts a frame on its way.
    """

    def __init__(
        self,
        query_id: str,
        spec: QuerySpec,
        host: str,
        stream: int,
        agenda: Agenda,
        scene: Scene,
        ledger: Ledger,
        depart: Depart,
    ) -> None:
        self.query_id, self.spec, self.host = query_id, spec, host
        self.graph = spec.graph
        self._stream, self._agenda, self._scene, self._depart = stream, agenda, scene, depart
        self.ledger = ledger
        self._branches = spec.branches
        # As the real job: where the latest counts, more than one per task would only wait.
        is_latest = spec.video.policy == "latest"
        self.books = Homecoming(
            branches=len(self._branches),
            max_in_flight=min(MAX_IN_FLIGHT, len(self.graph.tasks) + 1)
            if is_latest
            else MAX_IN_FLIGHT,
            policy=spec.video.policy,
            timeout_ns=FRAME_TIMEOUT_NS,
        )
        self._sampler = FrameSampler(1.0, cam_fps=spec.video.fps)
        self._trips: OrderedDict[int, Trip] = OrderedDict()
        self._seq = self._cam_frame = -1
        self._begin_ns = 0
        # Cameras are not in step with each other.
        self._phase = scene.phase
        self._is_due = self._is_held = False
        self._window = Window(WINDOW_FRAMES, WINDOW_S, shifts=True)
        self._has_news = False
        self.plan: Plan | None = None
        self.taken = 0
        self.is_open = False

    def follow(self, plan: Plan) -> None:
        """Go on under a plan from the next frame on, and begin if it is the first."""
        if self.plan is not None and plan.number <= self.plan.number and self.is_open:
            return
        before, self.plan = self.plan, plan
        self._itinerary = self._lay_out(plan)
        self._sampler.fps = plan.video_conf.fps
        waiting = self.books.waiting
        if waiting is not None and before is not None and before.video_conf == plan.video_conf:
            trip = self._trips[waiting]
            trip.itinerary, trip.plan = self._itinerary, plan
        if not self.is_open:
            self.is_open = True
            if not self._begin_ns:
                wait_ns = round(self._phase * _NS / self.spec.video.fps)
                self._begin_ns = self._agenda.now_ns + wait_ns
            self._aim()

    def stop(self, reason: str) -> None:
        """Take no more frames, and give up those under way."""
        self.is_open = False
        for seq in self.books.drop_all(reason):
            self._give_up(seq)

    def give_up(self, node_addrs: Collection[str]) -> None:
        """Wait no more for the frames that have tasks on nodes that are lost."""
        for seq, trip in tuple(self._trips.items()):
            if seq != self.books.waiting and trip.itinerary.visits(node_addrs):
                self.lose(trip, "unreachable")

    def arrive(self, trip: Trip, branch: int) -> None:
        """Take a branch of a frame home."""
        now_ns = self._agenda.now_ns
        self._expire(now_ns)
        if self.books.arrive(trip.seq, branch):
            trip.home_ns = now_ns
            self._take_turns()
        self._dispatch()

    def lose(self, trip: Trip, reason: str) -> None:
        """Count a frame that will not come home."""
        if self.books.drop(trip.seq, reason):
            self._give_up(trip.seq)
            self._take_turns()
        self._dispatch()

    def report(self) -> dict[str, Any]:
        """Return the run-time context, if a frame has come home since the last call; else `{}`."""
        if not self._has_news:
            return {}
        self._has_news = False
        return self._window.describe()

    def _lay_out(self, plan: Plan) -> Itinerary:
        hops = {
            task: Hop(task, place.node_addr or self.host)
            for task, place in plan.flow_mapping.items()
        }
        routes = tuple(
            (*(hops[task] for task in branch), Hop(HOME, self.host)) for branch in self._branches
        )
        of = {task: index for index, branch in enumerate(self._branches) for task in branch}
        return Itinerary(self.query_id, self._stream, plan.number, routes, of, self.host)

    def _aim(self) -> None:
        """Await the next frame of the camera that is to be processed."""
        if self._is_due:
            return
        spf = _NS / self.spec.video.fps
        elapsed_ns = self._agenda.now_ns - self._begin_ns
        # A camera that was kept waiting, or whose node was away, goes on with what it sees now.
        number = max(self._cam_frame + 1, math.ceil(elapsed_ns / spf))
        while not self._sampler.take(number):
            number += 1
        self._cam_frame, self._is_due = number, True
        self._agenda.at(self._begin_ns + round(number * spf), self._capture)

    def _capture(self) -> None:
        self._is_due = False
        if not self.is_open:
            return
        now_ns = self._agenda.now_ns
        self._expire(now_ns)
        if not self.books.has_room():
            self._is_held = True  # the source waits, until a frame comes home
            return
        self._admit(now_ns)
        self._dispatch()
        self._aim()

    def _admit(self, now_ns: int) -> None:
        assert self.plan is not None, "it began with a plan"
        self._seq += 1
        video, plan = self.spec.video, self.plan
        view = self._scene.look((now_ns - round(self.spec.arrives_s * _NS)) / _NS)
        size = plan.video_conf.size or (video.width, video.height)
        trip = Trip(self, self._seq, now_ns, self._itinerary, plan, size, view)
        self._trips[self._seq] = trip
        self.ledger.capture(self._seq, now_ns, plan)
        superseded = self.books.admit(self._seq)
        if superseded is not None:
            self._give_up(superseded)
        self.taken = max(self.taken, plan.number)

    def _dispatch(self) -> None:
        if not self.is_open:
            return
        while (seq := self.books.depart(self._agenda.now_ns)) is not None:
            trip = self._trips[seq]
            for branch in range(len(trip.itinerary.routes)):
                self._depart(trip, branch, 0, self.host)
        if self._is_held and self.books.has_room():
            self._is_held = False
            self._aim()

    def _take_turns(self) -> None:
        """Hand over the frames that are home, in their order, as the real job's caller does."""
        while (seq := self.books.next_turn()) is not None:
            self.books.leave(seq)
            self._observe(self._trips.pop(seq))

    def _observe(self, trip: Trip) -> None:
        parts, home_s = parts_of(trip.itinerary, trip.times, trip.capture_ns, trip.home_ns)
        delay_s = (trip.home_ns - trip.capture_ns) / _NS
        self.ledger.deliver(trip.seq, delay_s)
        view, (width, height) = trip.view, trip.size
        # Sizes are those in the frame that was looked at, which may be smaller than the camera's.
        size = view.size * width * height / (FULL_HD[0] * FULL_HD[1]) if view.objects else None
        result = Result(
            stream=self.query_id,
            seq=trip.seq,
            cam_frame_id=trip.seq,
            pts_s=None,
            width=width,
            height=height,
            outputs={},
            delay_s=delay_s,
            plan=trip.plan.number,
            parts=parts,
            home_s=home_s,
        )
        speed = None if view.is_cut else view.speed if view.objects else 0.0
        now_s, objects = self._agenda.now_ns / _NS, Objects(view.objects, size)
        self._window.add(Sighting.of(result, now_s, objects, speed, view.is_cut))
        self._has_news = True

    def _expire(self, now_ns: int) -> None:
        for seq in self.books.expire(now_ns):
            self._give_up(seq)

    def _give_up(self, seq: int) -> None:
        del self._trips[seq]
        self.ledger.drop(seq)
