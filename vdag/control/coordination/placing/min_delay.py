"""`min_delay`: the placement with the least delay there is.

Handlers are placed in their order. What placements of the first handlers have to say to the rest is
little: where those handlers are that still feed others, the *front*; when a packet is done with
each of them; when it is done with all that feeds nobody; and how much of nodes and links is used.
That is a *label*. Of two labels with the same front on the same nodes, one that is nowhere later
and nowhere uses more makes the other superfluous: whatever completes the other completes it too, no
later. In a chain the front is one handler, so that a label is a node, a position and a time, and
where no capacity binds this is the dynamic program over node times position: `handlers * nodes`
labels, each with `nodes` ways on. Capacities couple positions; they are in the label, so nothing is
lost, and only those are that all handlers together could exceed.

Labels are looked at by what they could come to at best (A*): for each handler of the front the
longest way on, each step of it at its shortest, all capacities left aside. That never exceeds what
comes of it, so the first label with all handlers that turns up is the best. What `greedy` finds is
to be beaten.

With a front of at most `w` handlers there are up to `handlers * nodes ** w` sets of labels, and the
sets grow with capacities that bind: to place without overload is bin packing, for which no fast way
is known. After `MAX_LABELS` labels the best that is found so far is taken, completed by `greedy`,
and it is said how far from the least possible it may be at most.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from operator import le

from vdag.control.coordination.placing.costs import Costs
from vdag.control.coordination.placing.explaining import explained, milliseconds
from vdag.control.coordination.placing.greedy import expect_room_for_the_tied, finish
from vdag.control.coordination.placing.model import Model, Resource, exceeds
from vdag.control.coordination.placing.placement import Placement
from vdag.control.coordination.values import HandlerSpec, Node, Service
from vdag.errors import PlanError

__all__ = ["MAX_LABELS", "min_delay"]

#: Labels that are looked at for one placement.
MAX_LABELS = 20_000
#: Labels of a set that a new one is compared with; more would cost more than they save.
MAX_RIVALS = 64


@dataclass(frozen=True, slots=True)
class _Label:
    """A placement of the first handlers, as far as the others see it.

    Attributes:
        nodes: of the front, then of those that take an output which others still will.
        done: when a packet is done with each of the front.
        finished: when it is done with what feeds nobody.
        used: of the resources that may run out.
        node: of the handler that was placed last; -1 for none.
        parent: the label before that; None for the first.
    """

    nodes: tuple[int, ...]
    done: tuple[float, ...]
    finished: float
    used: tuple[float, ...]
    node: int = -1
    parent: _Label | None = None


def min_delay(
    service: Service, nodes: Sequence[Node], costs: Costs, *, max_labels: int = MAX_LABELS
) -> Placement:
    """Place the handlers so that a packet takes as little as it can.

    Args:
        service: that is placed.
        nodes: that are there.
        costs: of it.
        max_labels: after which it takes what it has.

    Raises:
        PlanError: handlers are tied to a node that cannot take them, or there is no placement
            that all nodes and links can bear, or none was found.
    """
    model = Model(service, nodes, costs)
    expect_room_for_the_tied(model)
    search = _Search(model, max_labels)
    placed, bound_s = search.run()
    delay_s = model.estimate(placed).delay_s
    bound_s = min(bound_s, delay_s)
    if bound_s < delay_s:
        how = f"the best found (labels: {search.looked_at}), none is below {milliseconds(bound_s)}"
    else:
        how = f"the least there is (labels: {search.looked_at})"
    return explained(model, placed, "min_delay", how, bound_s=bound_s)


class _Search:
    """See the module."""

    def __init__(self, model: Model, max_labels: int) -> None:
        self.looked_at = 0
        self._model = model
        self._max_labels = max_labels
        self._order = model.service.order
        self._fronts = tuple(self._front(i) for i in range(len(self._order) + 1))
        self._seen = tuple(
            (*front, *self._beside(i, front)) for i, front in enumerate(self._fronts)
        )
        self._to_go = self._ways_on()
        self._scarce = tuple(self._resources())
        self._places = {each: place for place, each in enumerate(self._scarce)}
        self._limits = tuple(model.limit(each) for each in self._scarce)
        self._sets: dict[tuple[int, tuple[int, ...]], list[_Label]] = {}
        self._heap: list[tuple[float, int, int, _Label]] = []
        self._numbers = count()
        self._refusal = ""
        self._best: dict[int, int] | None = None
        self._best_s = math.inf

    def run(self) -> tuple[dict[int, int], float]:
        """Return the best placement, and what none is below."""
        self._offer_known()
        self._push(0, _Label((), (), 0.0, self._used_by(self._model.reserved)))
        while self._heap:
            bound_s, left, _, label = heapq.heappop(self._heap)
            if bound_s >= self._best_s:
                break
            if self.looked_at == self._max_labels:
                return self._give_up(label), bound_s
            self.looked_at += 1
            if not left:
                self._offer(self._placed(label))
                break
            for found in self._grown(label, len(self._order) - left):
                self._push(len(self._order) - left + 1, found)
        return self._found(), self._best_s

    # What is there before the search.

    def _front(self, length: int) -> tuple[int, ...]:
        """Return those of the first handlers that feed others than these."""
        first = {spec.handler_id for spec in self._order[:length]}
        return tuple(
            spec.handler_id
            for spec in self._order[:length]
            if any(
                link.target_handler not in first
                for link in self._model.service.outputs[spec.handler_id]
            )
        )

    def _beside(self, length: int, front: tuple[int, ...]) -> Iterator[int]:
        """Yield those of the first handlers that take an output which others still will."""
        model = self._model
        first = {spec.handler_id for spec in self._order[:length]}
        for spec in self._order[:length]:
            others = {
                n for link in model.service.inputs[spec.handler_id] for n in model.sharing(link)
            }
            if spec.handler_id not in front and not others <= first:
                yield spec.handler_id

    def _ways_on(self) -> Mapping[tuple[int, int], float]:
        """Return for a handler and its node the longest way on, each step at its shortest."""
        found: dict[tuple[int, int], float] = {}
        for spec in reversed(self._order):
            for node in self._model.candidates[spec.handler_id]:
                steps = [
                    min(
                        self._model.way(link, node, other)
                        + sum(self._model.stay(link.target_handler, other))
                        + found[link.target_handler, other]
                        for other in self._model.candidates[link.target_handler]
                    )
                    for link in self._model.service.outputs[spec.handler_id]
                ]
                found[spec.handler_id, node] = max(steps, default=0.0)
        return found

    def _resources(self) -> Iterator[Resource]:
        """Yield the nodes and links that all handlers together could exceed."""
        model = self._model
        most = dict(model.reserved)
        for spec in self._order:
            for node in model.candidates[spec.handler_id]:
                if spec.node_id is None:
                    most[node] = most.get(node, 0.0) + model.demand(spec, node)
            for link in model.service.inputs[spec.handler_id]:
                for sender in model.candidates[link.source_handler]:
                    for node in model.candidates[spec.handler_id]:
                        if sender != node:
                            pair = sender, node
                            most[pair] = most.get(pair, 0.0) + model.flow(link)
        return (each for each, amount in most.items() if exceeds(amount, model.limit(each)))

    def _used_by(self, amounts: Mapping[Resource, float]) -> tuple[float, ...]:
        return tuple(amounts.get(each, 0.0) for each in self._scarce)

    def _offer_known(self) -> None:
        """Offer what `greedy` has."""
        try:
            self._offer(finish(self._model, {}))
        except PlanError as err:
            self._refusal = str(err)

    # The search.

    def _offer(self, placed: dict[int, int]) -> None:
        estimate = self._model.estimate(placed)
        if not estimate.overloads and estimate.delay_s < self._best_s:
            self._best, self._best_s = placed, estimate.delay_s

    def _push(self, length: int, label: _Label) -> None:
        bound_s = label.finished
        front = zip(self._fronts[length], label.nodes, label.done, strict=False)
        for number, node, done_s in front:
            bound_s = max(bound_s, done_s + self._to_go[number, node])
        if bound_s >= self._best_s:
            return
        rivals = self._sets.setdefault((length, label.nodes), [])
        if any(_is_as_good(rival, label) for rival in rivals):
            return
        if len(rivals) < MAX_RIVALS:
            rivals.append(label)
        left = len(self._order) - length
        heapq.heappush(self._heap, (bound_s, left, next(self._numbers), label))

    def _grown(self, label: _Label, length: int) -> Iterator[_Label]:
        """Yield the labels that have one handler more."""
        spec = self._order[length]
        placed = dict(zip(self._seen[length], label.nodes, strict=True))
        done = dict(zip(self._fronts[length], label.done, strict=True))
        for node in self._model.ordered(self._model.candidates[spec.handler_id], spec, placed):
            placed[spec.handler_id] = node
            used = self._used_with(label, spec, node, placed)
            done_s, _ = self._model.arrive(spec, placed, done)
            if used is None or math.isinf(done_s):
                continue
            done[spec.handler_id] = done_s
            ahead = self._fronts[length + 1]
            yield _Label(
                tuple(placed[number] for number in self._seen[length + 1]),
                tuple(done[number] for number in ahead),
                label.finished if spec.handler_id in ahead else max(label.finished, done_s),
                used,
                node,
                label,
            )

    def _used_with(
        self, label: _Label, spec: HandlerSpec, node: int, placed: Mapping[int, int]
    ) -> tuple[float, ...] | None:
        """Return what is used with one handler more, None if that is more than there is."""
        used = list(label.used)
        for resource, amount in self._model.asks(spec, node, placed).items():
            place = self._places.get(resource)
            if place is not None:
                used[place] += amount
                if exceeds(used[place], self._limits[place]):
                    return None
        return tuple(used)

    # What comes of it.

    def _placed(self, label: _Label) -> dict[int, int]:
        nodes: list[int] = []
        at: _Label | None = label
        while at is not None and at.parent is not None:
            nodes.append(at.node)
            at = at.parent
        numbers = (spec.handler_id for spec in self._order)
        return dict(zip(numbers, reversed(nodes), strict=False))

    def _give_up(self, label: _Label) -> dict[int, int]:
        with suppress(PlanError):  # then what was found before has to do
            self._offer(finish(self._model, self._placed(label)))
        return self._found()

    def _found(self) -> dict[int, int]:
        if self._best is None:
            raise PlanError(
                f"no placement found that nodes and links can bear (labels: {self.looked_at}); "
                f"by greedy {self._refusal}"
            )
        return self._best


def _is_as_good(rival: _Label, label: _Label) -> bool:
    """Whether whatever completes a label completes its rival, no later."""
    return (
        rival.finished <= label.finished
        and all(map(le, rival.done, label.done))
        and all(map(le, rival.used, label.used))
    )
