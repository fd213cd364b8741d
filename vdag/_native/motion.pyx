"""How large boxes are and how far they have moved, compiled; `reference_motion` specifies it."""

from libc.math cimport isfinite, sqrt
from libc.stdint cimport int32_t
from libc.stdlib cimport free, malloc, qsort
from libc.string cimport memset

from vdag.errors import ConfigError


cdef struct Pair:
    double iou
    int32_t before
    int32_t after


cdef struct Box:
    double x1
    double y1
    double x2
    double y2
    double area  # below 0: a corner is not finite


MAX_BOXES = 1024


def mean_area(boxes, *, double largest):
    """Return how many boxes have an area, and the mean of it.

    Args:
        boxes: float32 `(N, C)`, of C >= 4 columns the first are x1, y1, x2, y2; any strides.
            Read only.
        largest: area; beyond it, and with a corner that is not finite, a box counts for nothing.

    Returns:
        The number and the mean, 0.0 for the mean of none. A side that ends before it begins is 0.

    Raises:
        ConfigError: the shape or the dtype does not fit.
    """
    cdef const float[:, :] rows = _boxes(boxes, "boxes")
    cdef Py_ssize_t index
    cdef size_t count = 0
    cdef double total = 0.0
    cdef Box box
    with nogil:
        for index in range(rows.shape[0]):
            box = _box(rows, index)
            if 0.0 <= box.area <= largest:
                count += 1
                total += box.area
    return count, total / count if count else 0.0


def longest_way(before, after, *, double iou, double x=1.0, double y=1.0):
    """Match the boxes of two pictures, and return how far the one that has moved most has.

    Greedy: the two that overlap most are one object, then the two among the others that do, and so
    on. Equal overlaps go by the index in `before`, then by that in `after`. A box with a corner
    that is not finite, or without an area, matches none.

    Args:
        before: as of `mean_area`, at most `MAX_BOXES`.
        after: likewise.
        iou: intersection over union that two boxes of one object have at least, above 0 to 1.
        x: by how much ways along x are multiplied.
        y: likewise.

    Returns:
        How many are matched, and the longest way between the centres of two that are, 0.0 if none.

    Raises:
        ConfigError: a shape, a dtype or a limit does not fit.
    """
    cdef const float[:, :] was = _boxes(before, "before")
    cdef const float[:, :] now = _boxes(after, "after")
    cdef size_t n = was.shape[0], m = now.shape[0], count = 0, matched = 0
    cdef double way = 0.0
    cdef Box *boxes
    cdef Pair *pairs
    cdef char *taken
    if not 0.0 < iou <= 1.0:
        raise ConfigError(f"iou {iou} outside 0..1")
    if max(n, m) > MAX_BOXES:
        raise ConfigError(f"{max(n, m)} boxes exceed limit {MAX_BOXES}")
    if n == 0 or m == 0:
        return 0, 0.0
    cdef size_t pairs_nbytes = n * m * sizeof(Pair), boxes_nbytes = (n + m) * sizeof(Box)
    cdef char *scratch = <char *>malloc(pairs_nbytes + boxes_nbytes + n + m)
    if scratch is NULL:
        raise MemoryError(f"no memory to compare {n} boxes with {m}")
    with nogil:
        pairs = <Pair *>scratch
        boxes = <Box *>(scratch + pairs_nbytes)
        taken = scratch + pairs_nbytes + boxes_nbytes
        memset(taken, 0, n + m)
        count = _pairs(was, now, iou, boxes, pairs)
        qsort(pairs, count, sizeof(Pair), &_compare)
        matched = _match(pairs, count, boxes, n, taken, x, y, &way)
        free(scratch)
    return matched, way


cdef size_t _pairs(const float[:, :] was, const float[:, :] now, double iou, Box *boxes,
                   Pair *pairs) noexcept nogil:
    """Write the boxes of both, and the pairs that overlap enough."""
    cdef Py_ssize_t n = was.shape[0], m = now.shape[0], i, j
    cdef size_t count = 0
    cdef double overlap
    for i in range(n):
        boxes[i] = _box(was, i)
    for j in range(m):
        boxes[n + j] = _box(now, j)
    for i in range(n):
        if boxes[i].area <= 0.0:
            continue
        for j in range(m):
            overlap = _iou(&boxes[i], &boxes[n + j])
            if overlap >= iou:
                pairs[count] = Pair(overlap, <int32_t>i, <int32_t>j)
                count += 1
    return count


cdef size_t _match(const Pair *pairs, size_t count, const Box *boxes, size_t n, char *taken,
                   double x, double y, double *way) noexcept nogil:
    """Take the best pair of which neither was taken, until there is none."""
    cdef size_t index, matched = 0
    cdef const Box *was
    cdef const Box *now
    cdef double dx, dy, longest = 0.0
    for index in range(count):
        if taken[pairs[index].before] or taken[n + pairs[index].after]:
            continue
        taken[pairs[index].before] = taken[n + pairs[index].after] = 1
        matched += 1
        was, now = &boxes[pairs[index].before], &boxes[n + pairs[index].after]
        dx = ((now.x1 + now.x2) - (was.x1 + was.x2)) / 2.0 * x
        dy = ((now.y1 + now.y2) - (was.y1 + was.y2)) / 2.0 * y
        longest = max(longest, dx * dx + dy * dy)
    way[0] = sqrt(longest)
    return matched


cdef int _compare(const void *a, const void *b) noexcept nogil:
    cdef const Pair *left = <const Pair *>a
    cdef const Pair *right = <const Pair *>b
    if left.iou != right.iou:
        return -1 if left.iou > right.iou else 1
    if left.before != right.before:
        return -1 if left.before < right.before else 1
    return -1 if left.after < right.after else 1


cdef inline double _iou(const Box *a, const Box *b) noexcept nogil:
    cdef double width, height, inter
    if b.area <= 0.0:
        return 0.0
    width = min(a.x2, b.x2) - max(a.x1, b.x1)
    height = min(a.y2, b.y2) - max(a.y1, b.y1)
    if width <= 0.0 or height <= 0.0:
        return 0.0
    inter = width * height
    return inter / (a.area + b.area - inter)


cdef inline Box _box(const float[:, :] rows, Py_ssize_t index) noexcept nogil:
    cdef Box box
    box.x1, box.y1 = rows[index, 0], rows[index, 1]
    box.x2, box.y2 = rows[index, 2], rows[index, 3]
    if isfinite(box.x1) and isfinite(box.y1) and isfinite(box.x2) and isfinite(box.y2):
        box.area = max(box.x2 - box.x1, 0.0) * max(box.y2 - box.y1, 0.0)
    else:
        box.area = -1.0
    return box


# A memoryview takes None for an array; this does not.


cdef const float[:, :] _boxes(object array, str name):
    cdef const float[:, :] view
    try:
        view = array
    except (BufferError, TypeError, ValueError) as err:
        raise _misfit(name, array) from err
    if view is None or view.shape[1] < 4:
        raise _misfit(name, array)
    return view


cdef object _misfit(str name, object array):
    wanted = f"{name} are float32 (N, 4) or wider"
    try:
        return ConfigError(f"{wanted}, not {array.dtype} {array.shape}")
    except AttributeError:
        return ConfigError(f"{wanted}, not {type(array).__name__}")
