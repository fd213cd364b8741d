"""From the outputs of detection models to boxes, compiled.

`reference_decode` has the formulas; the stub describes each argument. Inputs are numpy arrays,
C-contiguous and only read. Boxes and points are x, y pairs in pixels of the model's input; all
results belong to the caller.

Each decoder first marks the anchors above the threshold, which the compiler turns into vector
code, then allocates exactly what it found, and only looks closely at the marked ones. The marks
are private: a thread that writes into the outputs meanwhile spoils values, never memory.
"""

from libc.math cimport INFINITY, expf
from libc.stdint cimport int32_t

import numpy as np

from vdag.errors import ConfigError, ModelError


cdef enum:
    MAX_SIDE = 1 << 20
    MAX_STRIDES = 8
    ANCHORS = 896


cdef struct Map:
    Py_ssize_t first  # number of its first cell
    Py_ssize_t columns
    Py_ssize_t stride


def centerface(heat, size, offset, landmarks, *, double threshold, Py_ssize_t stride=4):
    """Decode CenterFace: every cell above the threshold is a face.

    Returns:
        Boxes float32 `(N, 4)`, scores float32 `(N,)`, points float32 `(N, 5, 2)`, cell by cell.

    Raises:
        ModelError: the shapes do not fit each other.
        ConfigError: the threshold or the stride has no meaning.
    """
    cdef const float[:, ::1] hot = _checked(heat, "heat", "(h, w)", 2)
    cdef const float[:, :, ::1] log_sizes = _planes(size, "size", 2, heat)
    cdef const float[:, :, ::1] offsets = _planes(offset, "offset", 2, heat)
    cdef const float[:, :, ::1] marks = _planes(landmarks, "landmarks", 10, heat)
    cdef float limit = _threshold(threshold)
    cdef float step = _stride(stride)
    cdef Py_ssize_t width = hot.shape[1]
    cdef const float[:, ::1] flat = heat.reshape(1, -1)
    cdef unsigned char[::1] hits = bytearray(flat.shape[1])
    cdef Py_ssize_t n, cell, x, y, j, at = 0
    cdef float w, h, x1, y1
    with nogil:
        n = _mark_columns(flat, 0, limit, hits)
    faces, scores = np.empty((n, 4), np.float32), np.empty(n, np.float32)
    points = np.empty((n, 5, 2), np.float32)
    cdef float[:, ::1] box = faces
    cdef float[::1] score = scores
    cdef float[:, :, ::1] point = points
    with nogil:
        for cell in range(hits.shape[0]):
            if not hits[cell]:
                continue
            y, x = cell // width, cell % width
            h = expf(log_sizes[0, y, x]) * step
            w = expf(log_sizes[1, y, x]) * step
            x1 = (<float>x + offsets[1, y, x] + <float>0.5) * step - w / 2
            y1 = (<float>y + offsets[0, y, x] + <float>0.5) * step - h / 2
            _put(box, at, x1, y1, x1 + w, y1 + h)
            score[at] = flat[0, cell]
            for j in range(5):
                point[at, j, 0] = marks[2 * j + 1, y, x] * w + x1
                point[at, j, 1] = marks[2 * j, y, x] * h + y1
            at += 1
    return faces, scores, points


def blazeface(scores, boxes, *, double threshold, Py_ssize_t size=256):
    """Decode BlazeFace: boxes and six points relative to 896 anchors.

    Returns:
        Boxes float32 `(N, 4)`, scores float32 `(N,)`, points float32 `(N, 6, 2)`, anchor by
        anchor.

    Raises:
        ModelError: a shape is not BlazeFace's.
        ConfigError: the threshold or the size has no meaning.
    """
    cdef const float[:, ::1] values = _checked(scores, "scores", "(896,)", 1).reshape(1, -1)
    cdef const float[:, ::1] rows = _checked(boxes, "boxes", "(896, 16)", 2)
    if values.shape[1] != ANCHORS:
        raise ModelError(f"scores is float32 (896,), not float32 {scores.shape}")
    if rows.shape[0] != ANCHORS or rows.shape[1] != 16:
        raise ModelError(f"boxes is float32 (896, 16), not float32 {boxes.shape}")
    cdef float limit = _threshold(threshold)
    if not 16 <= size <= MAX_SIDE or size % 16:
        raise ConfigError(f"size {size} is no multiple of 16 in 16..{MAX_SIDE}")
    cdef unsigned char[::1] hits = bytearray(ANCHORS)
    cdef Py_ssize_t n, a, j, cells, cell, at = 0
    cdef float ax, ay
    with nogil:
        n = _mark_columns(values, 0, limit, hits)
    faces, found = np.empty((n, 4), np.float32), np.empty(n, np.float32)
    points = np.empty((n, 6, 2), np.float32)
    cdef float[:, ::1] box = faces
    cdef float[::1] score = found
    cdef float[:, :, ::1] point = points
    with nogil:
        for a in range(ANCHORS):
            if not hits[a]:
                continue
            # 16 x 16 cells with two anchors each, then 8 x 8 cells with six
            cells = 16 if a < 512 else 8
            cell = a // 2 if a < 512 else (a - 512) // 6
            ax = (<float>(cell % cells) + <float>0.5) * (size // cells)
            ay = (<float>(cell // cells) + <float>0.5) * (size // cells)
            _put_around(box, at, rows[a, 0] + ax, rows[a, 1] + ay, rows[a, 2], rows[a, 3])
            score[at] = values[0, a]
            for j in range(6):
                point[at, j, 0] = rows[a, 4 + 2 * j] + ax
                point[at, j, 1] = rows[a, 5 + 2 * j] + ay
            at += 1
    return faces, found, points


def yolo(output, *, double threshold, str layout not None):
    """Decode a YOLO head whose boxes are already centre x, centre y, width, height in pixels.

    Returns:
        Boxes float32 `(N, 4)`, scores float32 `(N,)`, classes int32 `(N,)`, anchor by anchor.

    Raises:
        ModelError: the shape does not fit the layout.
        ConfigError: the threshold or the layout has no meaning.
    """
    if layout not in ("v8", "v5"):
        raise ConfigError(f"layout {layout!r} is neither 'v8' nor 'v5'")
    cdef bint is_v8 = layout == "v8"
    wanted = "(4 + C, A)" if is_v8 else "(A, 5 + C)"
    cdef const float[:, ::1] table = _checked(output, "output", wanted, 2)
    if table.shape[0 if is_v8 else 1] < (5 if is_v8 else 6):
        raise ModelError(f"output is float32 {wanted}, not float32 {output.shape}")
    cdef float limit = _threshold(threshold)
    cdef unsigned char[::1] hits = bytearray(table.shape[1 if is_v8 else 0])
    cdef Py_ssize_t first = 4 if is_v8 else 5, step = table.shape[1] if is_v8 else 1
    cdef Py_ssize_t class_count = table.shape[0 if is_v8 else 1] - first, n, a, at = 0
    cdef const float *values
    with nogil:
        n = _mark_columns(table, first, limit, hits) if is_v8 else _mark_v5(table, limit, hits)
    boxes, scores, classes = _found(n)
    cdef float[:, ::1] box = boxes
    cdef float[::1] score = scores
    cdef int32_t[::1] class_ = classes
    with nogil:
        for a in range(hits.shape[0]):
            if not hits[a]:
                continue
            values = &table[0, a] if is_v8 else &table[a, 0]
            _put_around(box, at, values[0], values[step], values[2 * step], values[3 * step])
            class_[at] = _best(values + first * step, class_count, step, &score[at])
            if not is_v8:
                score[at] *= values[4]
            at += 1
    return boxes, scores, classes


def cells(score, label, cell, distance, *, size, double threshold, strides=(8, 16, 32)):
    """Decode the best cells that a graph has picked, as NanoDet's in the zoo.

    Returns:
        Boxes float32 `(N, 4)`, scores float32 `(N,)`, classes int32 `(N,)`, entry by entry.

    Raises:
        ModelError: the shapes do not fit each other, or a cell lies outside the maps.
        ConfigError: the threshold, the size or a stride has no meaning.
    """
    cdef const float[:, ::1] scores = _checked(score, "score", "(K,)", 1).reshape(1, -1)
    cdef Py_ssize_t count = scores.shape[1]
    cdef const int32_t[::1] labels = _entries(label, "label", "(K,)", 1, "int32", count)
    cdef const int32_t[::1] numbers = _entries(cell, "cell", "(K,)", 1, "int32", count)
    cdef const float[:, ::1] sides = _entries(distance, "distance", "(K, 4)", 2, "float32", count)
    if sides.shape[1] != 4:
        raise ModelError(f"distance is float32 (K, 4), not float32 {distance.shape}")
    cdef float limit = _threshold(threshold), x, y, step
    cdef Map[MAX_STRIDES] maps
    cdef Py_ssize_t total = _lay_maps(size[0], size[1], strides, maps), levels = len(strides)
    cdef Py_ssize_t n, k, level, within, at = 0
    cdef unsigned char[::1] hits = bytearray(count)
    for k in range(count):
        if not 0 <= numbers[k] < total:
            raise ModelError(
                f"cell[{k}] {numbers[k]} outside 0..{total - 1}: {size[0]} x {size[1]} pixels "
                f"with strides {tuple(strides)}"
            )
    with nogil:
        n = _mark_columns(scores, 0, limit, hits)
    boxes, found, classes = _found(n)
    cdef float[:, ::1] box = boxes
    cdef float[::1] found_score = found
    cdef int32_t[::1] found_class = classes
    with nogil:
        for k in range(count):
            if not hits[k]:
                continue
            level = 0
            while level + 1 < levels and numbers[k] >= maps[level + 1].first:
                level += 1
            within = numbers[k] - maps[level].first
            x = <float>(within % maps[level].columns) + <float>0.5
            y = <float>(within // maps[level].columns) + <float>0.5
            step = <float>maps[level].stride
            _put(box, at, (x - sides[k, 0]) * step, (y - sides[k, 1]) * step,
                 (x + sides[k, 2]) * step, (y + sides[k, 3]) * step)
            found_score[at] = scores[0, k]
            found_class[at] = labels[k]
            at += 1
    return boxes, found, classes


cdef tuple _found(Py_ssize_t n):
    return np.empty((n, 4), np.float32), np.empty(n, np.float32), np.empty(n, np.int32)


cdef inline void _put(float[:, ::1] boxes, Py_ssize_t at, float x1, float y1, float x2,
                      float y2) noexcept nogil:
    boxes[at, 0] = x1
    boxes[at, 1] = y1
    boxes[at, 2] = x2
    boxes[at, 3] = y2


cdef inline void _put_around(float[:, ::1] boxes, Py_ssize_t at, float x, float y, float w,
                             float h) noexcept nogil:
    _put(boxes, at, x - w / 2, y - h / 2, x + w / 2, y + h / 2)


cdef int32_t _best(const float *first, Py_ssize_t n, Py_ssize_t step, float *best) noexcept nogil:
    cdef Py_ssize_t c
    cdef int32_t found = 0
    best[0] = -INFINITY
    for c in range(n):
        if first[c * step] > best[0]:
            best[0] = first[c * step]
            found = <int32_t>c
    return found


cdef Py_ssize_t _mark_columns(const float[:, ::1] table, Py_ssize_t first, float limit,
                              unsigned char[::1] hits) noexcept nogil:
    cdef Py_ssize_t a, c, n = 0
    for c in range(first, table.shape[0]):
        for a in range(hits.shape[0]):
            hits[a] |= table[c, a] > limit
    for a in range(hits.shape[0]):
        n += hits[a]
    return n


cdef Py_ssize_t _mark_v5(const float[:, ::1] table, float limit,
                         unsigned char[::1] hits) noexcept nogil:
    cdef Py_ssize_t a, n = 0
    cdef float best
    for a in range(hits.shape[0]):
        if table[a, 4] > limit:
            _best(&table[a, 5], table.shape[1] - 5, 1, &best)
            hits[a] = best * table[a, 4] > limit
            n += hits[a]
    return n


cdef Py_ssize_t _lay_maps(Py_ssize_t height, Py_ssize_t width, object strides,
                          Map *maps) except -1:
    """Check the size and the strides, fill in their maps and return the number of cells."""
    cdef Py_ssize_t total = 0, level, stride
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise ConfigError(f"size {height} x {width} outside 1..{MAX_SIDE}")
    if not 1 <= len(strides) <= MAX_STRIDES:
        raise ConfigError(f"{len(strides)} strides outside 1..{MAX_STRIDES}")
    for level in range(len(strides)):
        stride = strides[level]
        _stride(stride)
        maps[level].first = total
        maps[level].columns = (width + stride - 1) // stride
        maps[level].stride = stride
        total += (height + stride - 1) // stride * maps[level].columns
    return total


cdef float _threshold(double threshold) except -1:
    if not 0.0 <= threshold <= 1.0:
        raise ConfigError(f"threshold {threshold} outside 0..1")
    return <float>threshold


cdef float _stride(Py_ssize_t stride) except -1:
    if not 1 <= stride <= MAX_SIDE:
        raise ConfigError(f"stride {stride} outside 1..{MAX_SIDE}")
    return <float>stride


cdef object _planes(object array, str name, Py_ssize_t channels, object heat):
    _checked(array, name, f"({channels}, h, w)", 3)
    if array.shape != (channels, *heat.shape):
        raise ModelError(f"{name} of shape {array.shape} does not fit heat of shape {heat.shape}")
    return array


cdef object _entries(object array, str name, str wanted, int ndim, str dtype, Py_ssize_t count):
    _checked(array, name, wanted, ndim, dtype)
    if len(array) != count:
        raise ModelError(f"{len(array)} entries of {name} do not fit {count} of score")
    return array


cdef object _checked(object array, str name, str wanted, int ndim, str dtype="float32"):
    wanted = f"{name} is {dtype} {wanted}"
    if not isinstance(array, np.ndarray):
        raise ModelError(f"{wanted}, not {type(array).__name__}")
    if array.dtype != dtype or array.ndim != ndim:
        raise ModelError(f"{wanted}, not {array.dtype} {array.shape}")
    if not array.flags.c_contiguous:
        raise ModelError(f"{wanted}, C-contiguous, not strides {array.strides}")
    return array
