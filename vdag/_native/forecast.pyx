"""How a query would go under all plans, and the best of them, compiled.

`reference_forecast` is the specification. Nothing is worked out before it is asked for.
"""

cimport cython
from libc.stdint cimport int32_t, uint8_t
from libc.stdlib cimport free, malloc

import numpy as np

from vdag._native.forecast_terms import (
    COSTS,
    MAX_LOOKS,
    MAX_SIZE,
    RUNNERS_UP,
    SITES,
    SPOTS,
    Givens,
    Goal,
    Hit,
    Search,
)
from vdag.errors import ConfigError

__all__ = ["Forecast", "Givens", "Goal", "Hit", "Search"]


cdef extern from "forecast_kernel.h" nogil:
    ctypedef struct vdag_forecast:
        int tasks, resolutions, rates, models, nodes, combos, branches, host
        double objects, spread, sent_queries, sent_nbytes
        double *prior
        double *log
        double *spots
        double *sites
        double *accurate
        double *frames
        double *fps
        double *links
        double *excess
        double *sent
        double *accuracy
        double *delay
        double *p95
        double *use
        int32_t *combo
        int32_t *branch
        int32_t *length
        int32_t *now
        int32_t *placed
        uint8_t *good

    ctypedef struct vdag_aim:
        double limit_s, enough, least, crowding
        int free_only, fewest_moves
        const int32_t *present
        const uint8_t *only

    vdag_forecast *vdag_forecast_new(int tasks, int resolutions, int rates, int models, int nodes,
                                     int combos, int branches) noexcept
    void vdag_forecast_free(vdag_forecast *x) noexcept
    void vdag_forecast_prepare(vdag_forecast *x) noexcept
    void vdag_forecast_work(const vdag_forecast *x, double *out) noexcept
    void vdag_forecast_rank(vdag_forecast *x, const vdag_aim *aim) noexcept
    int vdag_forecast_next(vdag_forecast *x, const vdag_aim *aim) noexcept
    int vdag_forecast_reaches(vdag_forecast *x, const vdag_aim *aim, int r, int f, int c) noexcept
    int vdag_forecast_look(vdag_forecast *x, const vdag_aim *aim, int r, int f, int c,
                           int *fastest) noexcept
    int vdag_forecast_weigh(vdag_forecast *x, double crowding, int free_only, int r, int f,
                            int c) noexcept
    int vdag_forecast_pick(const vdag_forecast *x, const vdag_aim *aim, int count) noexcept
    double vdag_forecast_closest(vdag_forecast *x, double limit_s, int free_only, int *r, int *c,
                                 int *placement) noexcept


@cython.final
cdef class Forecast:
    """How a query would go under each configuration and placement; for one thread.

    Args:
        givens: see `forecast_terms.Givens`; its arrays are copied, its `links` is kept.

    Raises:
        ConfigError: shapes or dtypes do not fit each other.
        MemoryError: there is too little memory.
    """

    cdef vdag_forecast *_x
    cdef object _accuracy, _links
    cdef int32_t *_present
    cdef const uint8_t[:, :, ::1] _only
    cdef vdag_aim _aim

    def __cinit__(self, givens):
        cdef const double[:, :, :, ::1] block = _block(givens.costs, 0)
        cdef Py_ssize_t tasks = block.shape[1], nodes = len(givens.costs)
        cdef Py_ssize_t rates = len(givens.fps), combos = len(givens.combos)
        sizes = (tasks, block.shape[2], rates, block.shape[3], nodes, combos)
        if not all(0 < size <= MAX_SIZE for size in sizes) or len(givens.branches) > tasks:
            raise ConfigError(f"a forecast of sizes {sizes} is not of 1 to {MAX_SIZE} each")
        self._x = vdag_forecast_new(tasks, block.shape[2], rates, block.shape[3], nodes, combos,
                                    len(givens.branches))
        self._present = <int32_t *>malloc(tasks * sizeof(int32_t))
        if self._x is NULL or self._present is NULL:
            raise MemoryError(f"no memory for a forecast of sizes {sizes}")
        self._x.objects, self._x.spread, self._x.host = givens.objects, givens.spread, givens.host
        self._x.sent_queries, self._x.sent_nbytes = givens.sent
        if not -1 <= self._x.host < nodes:
            raise ConfigError(f"host {self._x.host} is none of {nodes} nodes")
        self._links = givens.links
        self._take_costs(givens.costs)
        self._take_arrays(givens)
        self._take_indexes(givens)
        self._take_slowdowns(givens.corrections)
        self._accuracy = np.empty((self._x.resolutions, rates, combos))
        cdef double[:, :, ::1] accuracy = self._accuracy
        self._x.accuracy = &accuracy[0, 0, 0]
        with nogil:
            vdag_forecast_prepare(self._x)

    def __dealloc__(self):
        vdag_forecast_free(self._x)
        free(self._present)

    @property
    def accuracy(self):
        """Accuracy of configurations, float64 `(resolution, rate, combination)`; for reading."""
        return self._accuracy

    def work(self):
        """Return the fewest workers that configurations keep busy; shape as `accuracy`."""
        found = np.empty_like(self._accuracy)
        cdef double[:, :, ::1] out = found
        vdag_forecast_work(self._x, &out[0, 0, 0])
        return found

    def search(self, goal, refuse=None):
        """Return the best configuration that has a placement within a goal, and that placement.

        Best is: most steps of accuracy up to what is enough; then the highest rate; then the least
        work. Of placements: fewest moves and least price; then the fastest.

        Args:
            goal: see `forecast_terms.Goal`.
            refuse: placements that shall not be; asked of those that would be taken, in order.
        """
        cdef int index, rest, count, fastest = 0, looks = 0, most = MAX_LOOKS
        near = []
        self._take_goal(goal)
        vdag_forecast_rank(self._x, &self._aim)
        while looks < most:
            index = vdag_forecast_next(self._x, &self._aim)
            if index < 0:
                break
            rest = index // self._x.combos
            config = (rest // self._x.rates, rest % self._x.rates, index % self._x.combos)
            self._ask_links()
            if not vdag_forecast_reaches(self._x, &self._aim, config[0], config[1], config[2]):
                continue
            looks += 1
            count = self._look(config, &fastest)
            hit = self._pick(config, count, refuse)
            if hit is not None:
                return Search(hit, looks, near)
            if count and len(near) < RUNNERS_UP:
                near.append((config, self._placed(fastest)))
        return Search(None, looks, near)

    def place(self, goal, config, refuse=None):
        """Return the best placement of a configuration within a goal; without one, the fastest.

        Returns:
            One of the two, or neither if nothing can run the configuration.
        """
        cdef int fastest = 0, count
        self._check(config)
        self._take_goal(goal)
        self._ask_links()
        count = self._look(config, &fastest)
        hit = self._pick(config, count, refuse)
        return hit, None if hit is not None or not count else self._placed(fastest)

    def closest(self, double limit_s, *, bint free_only):
        """Return how far what comes closest to a limit and to capacity is off, and what it is.

        How far it is off is the larger of delay over limit and use over share, at the lowest rate.

        Returns:
            None if there is a task that nothing can run.
        """
        cdef int r = -1, c = -1, placement = 0
        cdef double off
        self._ask_links()
        off = vdag_forecast_closest(self._x, limit_s, free_only, &r, &c, &placement)
        if r == -2:
            raise MemoryError("no memory to look at placements")
        return None if r < 0 else (off, self._hit((r, 0, c), placement))

    def weigh(self, config, double crowding, *, bint free_only):
        """Return all placements of a configuration whose tasks each fit, and what they come to.

        Returns:
            Nodes, intp `(placement, task)`; mean and 95th percentile of the delay, and the largest
            ratio of what is taken to what may be, float64 `(placement,)` each. The caller's.
        """
        cdef int count, i
        self._check(config)
        self._ask_links()
        count = vdag_forecast_weigh(self._x, crowding, free_only, config[0], config[1], config[2])
        if count < 0:
            raise MemoryError("no memory to look at placements")
        placed = np.array([self._placed(i) for i in range(count)], np.intp)
        rows = [(self._x.delay[i], self._x.p95[i], self._x.use[i]) for i in range(count)]
        delay, p95, use = np.array(rows).reshape(count, 3).T.copy()
        return placed.reshape(count, self._x.tasks), delay, p95, use

    cdef int _check(self, config) except -1:
        sizes = (self._x.resolutions, self._x.rates, self._x.combos)
        if not all(0 <= index < size for index, size in zip(config, sizes, strict=True)):
            raise ConfigError(f"configuration {config} is none of {sizes}")
        return 0

    cdef int _look(self, config, int *fastest) except -1:
        cdef int r = config[0], f = config[1], c = config[2], count
        with nogil:
            count = vdag_forecast_look(self._x, &self._aim, r, f, c, fastest)
        if count < 0:
            raise MemoryError("no memory to look at placements")
        return count

    cdef object _pick(self, config, int count, refuse):
        cdef int chosen = vdag_forecast_pick(self._x, &self._aim, count)
        while chosen >= 0:
            if refuse is None or not refuse(config, self._placed(chosen)):
                return self._hit(config, chosen)
            self._x.good[chosen] = 0
            chosen = vdag_forecast_pick(self._x, &self._aim, count)
        return None

    cdef object _placed(self, int placement):
        cdef int t, tasks = self._x.tasks
        return tuple([self._x.placed[placement * tasks + t] for t in range(tasks)])

    cdef object _hit(self, config, int i):
        return Hit(config, self._placed(i), self._x.delay[i], self._x.p95[i])

    cdef int _take_goal(self, goal) except -1:
        cdef int t
        limit_s, enough, least, crowding, free_only, fewest_moves, present, only = goal
        if len(present) != self._x.tasks:
            raise ConfigError(f"{len(present)} present nodes do not fit {self._x.tasks} tasks")
        for t in range(self._x.tasks):
            self._present[t] = present[t]
        self._aim = vdag_aim(limit_s, enough, least, crowding, bool(free_only), bool(fewest_moves),
                             self._present, NULL)
        if only is not None:
            if only.shape != self._accuracy.shape or only.dtype != np.bool_:
                raise ConfigError(f"only is bool {self._accuracy.shape}, not {only.shape}")
            self._only = np.ascontiguousarray(only).view(np.uint8)
            self._aim.only = &self._only[0, 0, 0]
        return 0

    cdef int _ask_links(self) except -1:
        """Ask for the ways between nodes, once, if any frame takes one."""
        cdef int nodes = self._x.nodes
        if self._links is None or self._x.branches == self._x.tasks:
            return 0
        links, excess, sent = self._links()
        _copy(links, (nodes, nodes), "links", self._x.links)
        _copy(excess, (nodes, nodes), "excess", self._x.excess)
        _copy(sent, (2, nodes), "sent", self._x.sent)
        self._links = None
        return 0

    cdef int _take_costs(self, costs) except -1:
        cdef int nodes = self._x.nodes, n, k, t, r, m
        cdef double *to = self._x.prior
        cdef const double[:, :, :, ::1] block
        shape = (len(COSTS), self._x.tasks, self._x.resolutions, self._x.models)
        for n in range(nodes):
            block = _block(costs, n)
            if (block.shape[0], block.shape[1], block.shape[2], block.shape[3]) != shape:
                raise ConfigError(f"costs of node {n} are not {shape}")
            to = self._x.prior + n
            for k in range(block.shape[0]):
                for t in range(block.shape[1]):
                    for r in range(block.shape[2]):
                        for m in range(block.shape[3]):
                            to[0] = block[k, t, r, m]
                            to += nodes
        return 0

    cdef int _take_arrays(self, givens) except -1:
        cdef int tasks = self._x.tasks, nodes = self._x.nodes, models = self._x.models, t, m
        cdef int resolutions = self._x.resolutions, rates = self._x.rates
        _copy(givens.spots, (len(SPOTS), tasks, nodes), "spots", self._x.spots)
        _copy(givens.sites, (len(SITES), nodes), "sites", self._x.sites)
        _copy(givens.frames, (2, resolutions), "frames", self._x.frames)
        _copy(givens.fps, (rates,), "fps", self._x.fps)
        if len(givens.accuracies) != tasks:
            raise ConfigError(f"accuracies of {len(givens.accuracies)} tasks do not fit {tasks}")
        for t in range(tasks):
            rows = givens.accuracies[t]
            if not 0 < len(rows) <= models:
                raise ConfigError(f"task {t} has {len(rows)} models, not 1 to {models}")
            for m in range(len(rows)):
                _copy(rows[m], (resolutions, rates), "accuracies",
                      self._x.accurate + (t * models + m) * resolutions * rates)
        return 0

    cdef int _take_indexes(self, givens) except -1:
        cdef int tasks = self._x.tasks, at = 0, b, t, i
        cdef const Py_ssize_t[:, ::1] combos = givens.combos
        for i in range(self._x.combos):
            for t in range(tasks):
                if not 0 <= combos[i, t] < len(givens.accuracies[t]):
                    raise ConfigError(f"combination {i} has model {combos[i, t]} of task {t}")
                self._x.combo[i * tasks + t] = combos[i, t]
        if sorted([t for branch in givens.branches for t in branch]) != [*range(tasks)]:
            raise ConfigError(f"branches {givens.branches} do not have {tasks} tasks once each")
        for b in range(self._x.branches):
            self._x.length[b] = len(givens.branches[b])
            for t in givens.branches[b]:
                self._x.branch[at] = t
                at += 1
        for t in range(tasks):
            self._x.now[t] = givens.now[t]
            if not -1 <= self._x.now[t] < self._x.nodes:
                raise ConfigError(f"task {t} is on node {givens.now[t]} of {self._x.nodes}")
        return 0

    cdef int _take_slowdowns(self, corrections) except -1:
        cdef int tasks = self._x.tasks, nodes = self._x.nodes, t, n, _row
        cdef int rows = self._x.resolutions * self._x.models
        cdef int kind = SPOTS.index("log_factor")
        cdef double *log = self._x.spots + kind * tasks * nodes
        cdef double *to = self._x.log
        cdef Py_ssize_t index
        cdef double more
        for t in range(tasks):
            for _row in range(rows):
                for n in range(nodes):
                    to[0] = log[t * nodes + n]
                    to += 1
        for index, more in corrections:
            if not 0 <= index < tasks * rows * nodes:
                raise ConfigError(f"correction {index} is none of {tasks * rows * nodes}")
            self._x.log[index] += more
        return 0


cdef const double[:, :, :, ::1] _block(costs, Py_ssize_t n):
    try:
        return costs[n]
    except (IndexError, TypeError, ValueError) as err:
        raise ConfigError(f"costs of node {n} are float64 (6, task, resolution, model)") from err


cdef int _copy(array, tuple shape, str name, double *to) except -1:
    cdef const double[::1] flat
    cdef Py_ssize_t i
    try:
        if array.shape != shape:
            raise ConfigError(f"{name} are {shape}, not {array.shape}")
        flat = array.reshape(-1)
    except ConfigError:
        raise
    except (AttributeError, ValueError) as err:
        raise ConfigError(f"{name} are float64 {shape}") from err
    for i in range(flat.shape[0]):
        to[i] = flat[i]
    return 0
