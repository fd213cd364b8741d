"""Greedy non-maximum suppression and IoU, compiled; `reference_nms` is the specification."""

from libc.stddef cimport ptrdiff_t
from libc.stdint cimport INT32_MAX, int32_t
from libc.stdlib cimport free, malloc

import numpy as np

from vdag.errors import ConfigError


cdef extern from "nms_kernel.h" nogil:
    ctypedef struct vdag_boxes:
        const char *data
        ptrdiff_t row
        ptrdiff_t column
        size_t n

    ctypedef struct vdag_column:
        const char *data
        ptrdiff_t step

    size_t vdag_nms_scratch(size_t n) noexcept
    size_t vdag_nms(vdag_boxes boxes, vdag_column scores, vdag_column classes, float iou,
                    float score, size_t max_out, void *scratch, int32_t *kept) noexcept
    size_t vdag_iou_scratch(size_t n) noexcept
    void vdag_iou_matrix(vdag_boxes a, vdag_boxes b, void *scratch, float *out) noexcept


def nms(boxes, scores, *, double iou, double score=0.0, classes=None, Py_ssize_t max_out=0):
    """Pick the best boxes, dropping each that overlaps a better one too much.

    Greedy: the best box stays, all boxes with an IoU above `iou` with it go, and so on. Equal
    scores go by index, lower first. A box with a coordinate that is not finite and a box whose
    score is NaN are never kept. Boxes without area overlap nothing.

    Args:
        boxes: float32 `(N, 4)`, x1, y1, x2, y2, any strides. Read only.
        scores: float32 `(N,)`, any stride. Read only.
        iou: boxes of the same class that overlap by more are dropped, 0..1.
        score: boxes that score less are left out.
        classes: int32 `(N,)`; boxes of different classes do not drop each other. None: one class.
        max_out: stop after so many boxes, 0 for all.

    Returns:
        int32 `(K,)`, indices of the boxes that stay, best first. The caller owns it.

    Raises:
        ConfigError: a shape, a dtype or a limit does not fit.
    """
    cdef vdag_boxes rows
    cdef vdag_column ranks
    cdef vdag_column groups = vdag_column(NULL, 0)
    cdef const float[:, :] box_view = _boxes(boxes, "boxes")
    cdef const float[:] score_view = _scores(scores, box_view.shape[0])
    cdef const int32_t[:] class_view
    cdef size_t n = box_view.shape[0]
    cdef size_t n_kept, room
    _check_limits(iou, score, max_out, n)
    if classes is not None:
        class_view = _classes(classes, n)
    if n == 0:
        return np.empty(0, np.int32)
    rows = _rows(box_view)
    ranks = vdag_column(<const char *>&score_view[0], score_view.strides[0])
    if classes is not None:
        groups = vdag_column(<const char *>&class_view[0], class_view.strides[0])
    room = min(n, <size_t>max_out) if max_out else n
    indices = np.empty(room, np.int32)
    cdef int32_t[::1] kept = indices
    cdef void *scratch = malloc(vdag_nms_scratch(n))
    if scratch is NULL:
        raise MemoryError(f"no memory to compare {n} boxes")
    with nogil:
        n_kept = vdag_nms(rows, ranks, groups, <float>iou, <float>score, <size_t>max_out,
                          scratch, &kept[0])
        free(scratch)
    return indices[:n_kept].copy()


def iou_matrix(a, b):
    """Compare every box of `a` with every box of `b`.

    Args:
        a: float32 `(N, 4)`, x1, y1, x2, y2, any strides. Read only.
        b: float32 `(M, 4)`, likewise.

    Returns:
        float32 `(N, M)`, intersection over union, 0..1. 0 where the union has no area or a
        coordinate is not finite. The caller owns it.

    Raises:
        ConfigError: a shape or a dtype does not fit.
    """
    cdef const float[:, :] a_view = _boxes(a, "a")
    cdef const float[:, :] b_view = _boxes(b, "b")
    cdef vdag_boxes left, right
    result = np.empty((a_view.shape[0], b_view.shape[0]), np.float32)
    cdef float[:, ::1] out = result
    if a_view.shape[0] == 0 or b_view.shape[0] == 0:
        return result
    left, right = _rows(a_view), _rows(b_view)
    cdef void *scratch = malloc(vdag_iou_scratch(right.n))
    if scratch is NULL:
        raise MemoryError(f"no memory to compare {right.n} boxes")
    with nogil:
        vdag_iou_matrix(left, right, scratch, &out[0, 0])
        free(scratch)
    return result


cdef vdag_boxes _rows(const float[:, :] view) noexcept:
    return vdag_boxes(<const char *>&view[0, 0], view.strides[0], view.strides[1], view.shape[0])


# A memoryview takes None for an array; the three below do not.


cdef const float[:, :] _boxes(object array, str name):
    cdef const float[:, :] view
    try:
        view = array
    except (BufferError, TypeError, ValueError) as err:
        raise _misfit(f"{name} are float32 (N, 4)", array) from err
    if view is None or view.shape[1] != 4:
        raise _misfit(f"{name} are float32 (N, 4)", array)
    return view


cdef const float[:] _scores(object array, Py_ssize_t n):
    cdef const float[:] view
    try:
        view = array
    except (BufferError, TypeError, ValueError) as err:
        raise _misfit("scores are float32 (N,)", array) from err
    if view is None:
        raise _misfit("scores are float32 (N,)", array)
    if view.shape[0] != n:
        raise ConfigError(f"{view.shape[0]} scores do not fit {n} boxes")
    return view


cdef const int32_t[:] _classes(object array, Py_ssize_t n):
    cdef const int32_t[:] view
    try:
        view = array
    except (BufferError, TypeError, ValueError) as err:
        raise _misfit("classes are int32 (N,)", array) from err
    if view.shape[0] != n:
        raise ConfigError(f"{view.shape[0]} classes do not fit {n} boxes")
    return view


cdef int _check_limits(double iou, double score, Py_ssize_t max_out, size_t n) except -1:
    if not 0.0 <= iou <= 1.0:
        raise ConfigError(f"iou {iou} outside 0..1")
    if score != score:
        raise ConfigError("score nan is not a limit")
    if max_out < 0:
        raise ConfigError(f"max_out {max_out} below 0")
    if n > INT32_MAX:
        raise ConfigError(f"{n} boxes exceed limit {INT32_MAX}")
    return 0


cdef object _misfit(str wanted, object array):
    try:
        return ConfigError(f"{wanted}, not {array.dtype} {array.shape}")
    except AttributeError:
        return ConfigError(f"{wanted}, not {type(array).__name__}")
