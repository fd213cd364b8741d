"""`Pipe` and `Wires`: one direction of a link, and the ways between nodes that are made of them."""

from __future__ import annotations

from collections.abc import Iterable

from vdag.control.simulation.scenario import Scenario, Step

__all__ = ["Pipe", "Wires"]

_NS = 1e9
#: Bytes per second of a megabit per second.
MBIT = 125_000.0


class Pipe:
    """A first-in first-out line: bytes go one after the other, at a rate that may change.

    What was sent is served before what is sent later, at the rates of the moments at which it is
    served. All changes of the rate are known beforehand: so is when a message will be through.

    Args:
        rate: bytes per second in the beginning.
        latency_ns: that every message takes beside.
    """

    def __init__(self, rate: float, latency_ns: int) -> None:
        #: From when on which rate and latency hold.
        self._steps = [(0, rate, latency_ns)]
        self._free_ns = 0
        self._index = 0
        #: Bytes that were sent in all.
        self.nbytes = 0

    def change(self, at_ns: int, rate: float | None, latency_ns: int | None) -> None:
        """Plan a change, later than those planned before; None for what stays."""
        _, last_rate, last_latency = self._steps[-1]
        step = (
            at_ns,
            last_rate if rate is None else rate,
            last_latency if latency_ns is None else latency_ns,
        )
        self._steps.append(step)

    def rate_at(self, now_ns: int) -> float:
        """Return the bytes per second of a moment."""
        return self._at(now_ns)[1]

    def latency_at(self, now_ns: int) -> int:
        """Return the latency of a moment, in ns."""
        return self._at(now_ns)[2]

    def send(self, now_ns: int, nbytes: float, ready_ns: int | None = None) -> tuple[int, int]:
        """Take a message; `now_ns` does not fall from one call to the next.

        Args:
            now_ns: when its first byte is there.
            nbytes: of it.
            ready_ns: when its last byte is there, if it comes out of another pipe.

        Returns:
            When its first and its last byte come out at the other end, ns.
        """
        start_ns = max(now_ns, self._free_ns)
        # Where bytes come in slower than they could go out, others use the gaps between them.
        self._free_ns = self._serve(start_ns, nbytes)
        done_ns = max(self._free_ns, ready_ns or 0)
        self.nbytes += int(nbytes)
        latency_ns = self.latency_at(start_ns)
        return start_ns + latency_ns, done_ns + latency_ns

    def _serve(self, start_ns: int, nbytes: float) -> int:
        """Return when the last of these bytes has left, from `start_ns` on."""
        while self._index + 1 < len(self._steps) and self._steps[self._index + 1][0] <= start_ns:
            self._index += 1
        index, at_ns, left = self._index, start_ns, nbytes
        while True:
            rate = self._steps[index][1]
            done_ns = at_ns + round(left * _NS / rate)
            if index + 1 == len(self._steps) or done_ns <= self._steps[index + 1][0]:
                return done_ns
            left -= (self._steps[index + 1][0] - at_ns) * rate / _NS
            index += 1
            at_ns = self._steps[index][0]

    def _at(self, now_ns: int) -> tuple[int, float, int]:
        for step in reversed(self._steps):
            if step[0] <= now_ns:
                return step
        return self._steps[0]


class Wires:
    """All ways between nodes: a link of the two, or the access of one and then that of the other.

    Args:
        scenario: what there is.
    """

    def __init__(self, scenario: Scenario) -> None:
        self._up: dict[str, Pipe] = {}
        self._down: dict[str, Pipe] = {}
        self._links: dict[tuple[str, str], Pipe] = {}
        for node in scenario.nodes:
            for pipes in (self._up, self._down):
                # Of a way over two accesses each has its own latency.
                pipes[node.name] = Pipe(node.mbit * MBIT, round(node.latency_ms * 1e6))
        for link in scenario.links:
            for ends in (link.between, link.between[::-1]):
                self._links[ends] = Pipe(link.mbit * MBIT, round(link.latency_ms * 1e6))
        for step in sorted(scenario.steps, key=lambda step: step.at_s):
            self._plan(step)

    def pipes(self, sender: str, receiver: str) -> tuple[Pipe, ...]:
        """Return the pipes of the way from one node to another, by their names."""
        link = self._links.get((sender, receiver))
        return (self._up[sender], self._down[receiver]) if link is None else (link,)

    def send(self, sender: str, receiver: str, nbytes: float, now_ns: int) -> int:
        """Send a message; return when all of it is there, ns."""
        first_ns, last_ns = now_ns, now_ns
        for pipe in self.pipes(sender, receiver):
            first_ns, last_ns = pipe.send(first_ns, nbytes, last_ns)
        return last_ns

    def latency_ns(self, sender: str, receiver: str, now_ns: int) -> int:
        """Return what a message of no size takes."""
        return sum(pipe.latency_at(now_ns) for pipe in self.pipes(sender, receiver))

    def rate(self, sender: str, receiver: str, now_ns: int) -> float:
        """Return the bytes per second of a way, if nobody else is on it."""
        return min(pipe.rate_at(now_ns) for pipe in self.pipes(sender, receiver))

    def _plan(self, step: Step) -> None:
        if step.mbit is None and step.latency_ms is None:
            return
        rate = None if step.mbit is None else step.mbit * MBIT
        latency_ns = None if step.latency_ms is None else round(step.latency_ms * 1e6)
        for pipe in self._pipes_of(step):
            pipe.change(round(step.at_s * _NS), rate, latency_ns)

    def _pipes_of(self, step: Step) -> Iterable[Pipe]:
        if step.link is not None:
            return self._links[step.link], self._links[step.link[::-1]]
        assert step.node is not None, "a step names one of the two"
        return self._up[step.node], self._down[step.node]
