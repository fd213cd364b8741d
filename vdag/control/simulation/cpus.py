"""`Cpu`: at which rate the busy workers of a machine go on, with or without a quota of CPU time."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MIN_CORES", "Cpu"]

_NS = 1_000_000_000
#: Of a core, at least, however much the node itself keeps busy.
MIN_CORES = 1e-3


@dataclass(slots=True)
class Cpu:
    """The cores of a machine. All busy workers run at one rate at a time.

    Without a quota `n` workers on `c` cores each run at `min(1, c / n)` of the speed. With one,
    they run at full speed while there is CPU time left in the period, and not at all afterwards;
    what the node does for itself spends of it as well, evenly. That is how Linux confines control
    groups.

    Attributes:
        cores: that there are, or the quota over its period.
        speed: of each.
        own_load: cores that the node keeps busy itself.
        period_ns: of the quota; 0 for none.
        cpus: with a quota, the cores of the machine.
        begun_ns: when the present period began.
        busy_s: CPU seconds that workers have had.
    """

    cores: float
    speed: float = 1.0
    own_load: float = 0.0
    period_ns: int = 0
    cpus: float = 4096.0
    begun_ns: int = 0
    busy_s: float = 0.0
    _spent_s: float = 0.0
    _at_ns: int = 0

    def advance(self, now_ns: int, busy: int) -> float:
        """Go on to a moment, and return the work that each worker has done, in seconds at speed 1.

        Args:
            now_ns: not before that of the last call.
            busy: workers, as many as all the time since the last call.
        """
        if not busy:
            self._rest(now_ns)
            return 0.0
        if not self.period_ns:
            elapsed_s = (now_ns - self._at_ns) / _NS
            self._at_ns = now_ns
            self.busy_s += elapsed_s * min(busy, self.cores)
            return elapsed_s * self._pace(busy)
        ran_s = 0.0
        while self._at_ns < now_ns:
            ran_s += self._run(min(now_ns, self.begun_ns + self.period_ns), busy)
        return ran_s * self._pace(busy)

    def until_done_ns(self, busy: int, work_s: float) -> int:
        """Return how long a worker takes from now for so much work, if nothing changes, in ns.

        Rounded up: by then the work is done.
        """
        left_s = work_s / self._pace(busy)
        if not self.period_ns:
            return int(left_s * _NS) + 1
        drain, quota_s = self._drain(busy), self._quota_s
        waited_ns, at_ns, spent_s = 0, self._at_ns - self.begun_ns, self._spent_s
        while True:
            rest_ns = self.period_ns - at_ns
            runs_s = min(rest_ns / _NS, max(quota_s - spent_s, 0.0) / drain)
            if left_s <= runs_s:
                return waited_ns + int(left_s * _NS) + 1
            left_s -= runs_s
            waited_ns, at_ns, spent_s = waited_ns + rest_ns, 0, 0.0
            # Whole periods are alike.
            full_s = min(self.period_ns / _NS, quota_s / drain)
            if left_s > 2.0 * full_s:
                count = int(left_s / full_s) - 1
                left_s -= count * full_s
                waited_ns += count * self.period_ns

    def spend(self, cpu_s: float) -> None:
        """Take CPU time off what is left of the period, as of the last `advance`."""
        if self.period_ns:
            self._spent_s = min(self._spent_s + cpu_s, self._quota_s)

    def wakes_ns(self) -> int:
        """Return when the node can do something, as of the last `advance`: at once, or later."""
        if self.period_ns and self._spent_s >= self._quota_s - 1e-12:
            return self.begun_ns + self.period_ns
        return self._at_ns

    @property
    def _quota_s(self) -> float:
        return self.cores * self.period_ns / _NS

    def _pace(self, busy: int) -> float:
        """Return the seconds of work per second of a worker that runs."""
        if self.period_ns:
            return self.speed * min(1.0, self.cpus / busy)
        return self.speed * min(1.0, max(self.cores - self.own_load, MIN_CORES) / busy)

    def _drain(self, busy: int) -> float:
        """Return the CPU seconds that are spent per second while workers run."""
        return min(busy, self.cpus) + self.own_load

    def _run(self, end_ns: int, busy: int) -> float:
        """Go on to a moment of the present period; return the seconds in which workers ran."""
        drain, left_s = self._drain(busy), max(self._quota_s - self._spent_s, 0.0)
        ran_s = min((end_ns - self._at_ns) / _NS, left_s / drain)
        self._spent_s += ran_s * drain
        self.busy_s += ran_s * min(busy, self.cpus)
        self._at_ns = end_ns
        if end_ns == self.begun_ns + self.period_ns:
            self.begun_ns, self._spent_s = end_ns, 0.0
        return ran_s

    def _rest(self, now_ns: int) -> None:
        """Go on to a moment without workers."""
        if self.period_ns:
            periods = (now_ns - self.begun_ns) // self.period_ns
            if periods > 0:
                self.begun_ns += periods * self.period_ns
                self._at_ns, self._spent_s = self.begun_ns, 0.0
            spent_s = self.own_load * (now_ns - self._at_ns) / _NS
            self._spent_s = min(self._spent_s + spent_s, self._quota_s)
        self._at_ns = now_ns
