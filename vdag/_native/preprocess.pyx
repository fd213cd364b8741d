"""Pictures into planar tensors in one pass: resize, pad, normalise, reorder channels.

Each function reads only the pixels it needs and writes each sample of the tensor once, straight
from 8-bit BGR: no intermediate picture. The GIL is released meanwhile. Instruction sets are chosen
at run time; all give the same numbers to float32 rounding. `reference_preprocess` says which.
"""

from cpython.buffer cimport (
    PyBUF_FORMAT, PyBUF_STRIDES, PyBuffer_IsContiguous, PyBuffer_Release, PyObject_GetBuffer,
)
from libc.stdint cimport int32_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport strcmp

import operator
import os

from vdag._native.placement import TO_UNIT, Normalization, Placement
from vdag.errors import ConfigError, ImageError

__all__ = ["fill_batch", "letterbox", "simd", "stretch"]


cdef extern from "preprocess_kernel.h" nogil:
    const int VDAG_MAX_SIDE
    const int VDAG_MAX_THREADS

    ctypedef struct vdag_level:
        pass

    ctypedef struct vdag_target:
        int32_t width, height
        int half
        float gain[3]
        float bias[3]
        float pad[3]
        int plane[3]

    ctypedef struct vdag_item:
        const uint8_t *src
        Py_ssize_t stride
        int32_t src_width, src_height
        void *dst
        int32_t left, top, width, height

    void vdag_place(vdag_item *item, const vdag_target *target, int letterbox)
    int vdag_fill(
        vdag_item *items, size_t count, const vdag_target *target, const vdag_level *level,
        int threads,
    )
    const vdag_level *vdag_find_level(const char *name)
    const char *vdag_level_name(const vdag_level *level)


cdef tuple LEVELS = ("plain", "neon", "avx2", "avx512")
cdef const vdag_level *level = NULL  # chosen when first needed


cdef class _Job:
    """The buffers of one call; whatever happens, they are released when it is collected."""

    cdef vdag_item *items
    cdef Py_buffer *pictures
    cdef Py_ssize_t count
    cdef Py_ssize_t opened
    cdef Py_buffer tensor
    cdef bint has_tensor
    cdef vdag_target target

    def __cinit__(self, Py_ssize_t count):
        # At least one: calloc(0) may be NULL, which is no lack of memory.
        self.items = <vdag_item *>calloc(max(count, 1), sizeof(vdag_item))
        self.pictures = <Py_buffer *>calloc(max(count, 1), sizeof(Py_buffer))
        if self.items == NULL or self.pictures == NULL:
            raise MemoryError
        self.count = count

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.opened):
            PyBuffer_Release(&self.pictures[i])
        if self.has_tensor:
            PyBuffer_Release(&self.tensor)
        free(self.items)
        free(self.pictures)

    cdef int open_tensor(self, object dst, int ndim) except -1:
        """Take `dst` as what to write; nothing is written yet."""
        cdef Py_buffer *view = &self.tensor
        try:
            PyObject_GetBuffer(dst, view, PyBUF_STRIDES | PyBUF_FORMAT)
        except (TypeError, ValueError, BufferError) as err:
            raise ConfigError(
                f"dst of type {type(dst).__name__} gives no access to samples"
            ) from err
        self.has_tensor = True
        if view.ndim != ndim or view.shape[ndim - 3] != 3:
            layout = "(3, h, w)" if ndim == 3 else "(N, 3, h, w)"
            raise ConfigError(f"dst of shape {lengths(view, view.shape)} is not {layout}")
        if not (is_format(view, b"f") or is_format(view, b"e")):
            raise ConfigError(f"dst has samples of format '{format_of(view)}', not 'f' or 'e'")
        if view.readonly:
            raise ConfigError("dst is read-only")
        check_sides(ConfigError, "dst", view.shape[ndim - 1], view.shape[ndim - 2])
        if not PyBuffer_IsContiguous(view, b"C"):
            strides = lengths(view, view.strides)
            raise ConfigError(f"dst with strides {strides} is not C-contiguous")
        self.target.width = <int32_t>view.shape[ndim - 1]
        self.target.height = <int32_t>view.shape[ndim - 2]
        self.target.half = is_format(view, b"e")
        return 0

    cdef int open_picture(self, str name, object src) except -1:
        """Take `src` as the next picture, all of it."""
        cdef Py_buffer *view = &self.pictures[self.opened]
        cdef vdag_item *item = &self.items[self.opened]
        try:
            PyObject_GetBuffer(src, view, PyBUF_STRIDES | PyBUF_FORMAT)
        except (TypeError, ValueError, BufferError) as err:
            raise ImageError(
                f"{name} of type {type(src).__name__} gives no access to samples"
            ) from err
        self.opened += 1
        if view.ndim != 3 or view.shape[2] != 3:
            raise ImageError(f"{name} of shape {lengths(view, view.shape)} is not (H, W, 3)")
        if not is_format(view, b"B"):
            raise ImageError(f"{name} has samples of format '{format_of(view)}', not 'B'")
        check_sides(ImageError, name, view.shape[1], view.shape[0])
        if view.strides[2] != 1 or (view.strides[1] != 3 and view.shape[1] > 1):
            strides = lengths(view, view.strides)
            raise ImageError(f"{name} with strides {strides} has gaps inside its rows")
        item.src = <const uint8_t *>view.buf
        item.stride = view.strides[0]
        item.src_height = <int32_t>view.shape[0]
        item.src_width = <int32_t>view.shape[1]
        return 0

    cdef int set_norm(self, object norm) except -1:
        """Fold the normalisation into one gain and one bias per source channel."""
        cdef vdag_target *target = &self.target
        cdef int out, c
        if not isinstance(norm, Normalization):
            raise ConfigError(f"norm is a {type(norm).__name__}, not a Normalization")
        for out, (gain, bias) in enumerate(norm.affine()):
            c = 2 - out if norm.rgb else out
            target.plane[c] = out
            target.gain[c] = gain
            target.bias[c] = bias
            target.pad[c] = <float>norm.pad * target.gain[c] + target.bias[c]
        return 0

    cdef int run(self, bint letterbox, int threads) except -1:
        """Place every picture and write its tensor."""
        cdef Py_ssize_t i
        cdef Py_ssize_t samples = <Py_ssize_t>3 * self.target.width * self.target.height
        cdef Py_ssize_t nbytes = samples * (2 if self.target.half else 4)
        cdef const vdag_level *chosen = current_level()
        cdef int failed
        for i in range(self.count):
            self.items[i].dst = <char *>self.tensor.buf + i * nbytes
            vdag_place(&self.items[i], &self.target, letterbox)
        with nogil:
            failed = vdag_fill(self.items, self.count, &self.target, chosen, threads)
        if failed:
            raise MemoryError
        return 0

    cdef object placement(self, Py_ssize_t i, Py_ssize_t x1, Py_ssize_t y1):
        """Where picture `i`, cut from (x1, y1) of its frame, has landed."""
        cdef vdag_item *item = &self.items[i]
        cdef double scale_x = <double>item.width / item.src_width
        cdef double scale_y = <double>item.height / item.src_height
        return Placement(scale_x, scale_y, item.left - x1 * scale_x, item.top - y1 * scale_y)


cdef bint is_format(const Py_buffer *view, const char *letter) noexcept:
    if view.format == NULL:  # the buffer protocol's short form of unsigned bytes
        return letter[0] == c"B"
    return strcmp(view.format, letter) == 0


cdef str format_of(const Py_buffer *view):
    return view.format.decode() if view.format != NULL else "B"


cdef tuple lengths(const Py_buffer *view, const Py_ssize_t *values):
    return tuple([values[i] for i in range(view.ndim)])


cdef int check_sides(object error, str name, Py_ssize_t width, Py_ssize_t height) except -1:
    if not 1 <= width <= VDAG_MAX_SIDE:
        raise error(f"{name} width {width} is outside 1..{VDAG_MAX_SIDE}")
    if not 1 <= height <= VDAG_MAX_SIDE:
        raise error(f"{name} height {height} is outside 1..{VDAG_MAX_SIDE}")
    return 0


cdef object fill_one(object src, object dst, object norm, object region, bint letterbox):
    cdef _Job job = _Job(1)
    cdef vdag_item *item = &job.items[0]
    cdef Py_ssize_t x1 = 0, y1 = 0
    job.set_norm(norm)
    job.open_tensor(dst, 3)
    job.open_picture("src", src)
    if region is not None:
        x1, y1 = crop(item, region)
    job.run(letterbox, 1)
    return job.placement(0, x1, y1)


cdef tuple crop(vdag_item *item, object region):
    """Narrow `item` to a region of itself, whose upper left corner is returned."""
    try:
        x1, y1, x2, y2 = [operator.index(value) for value in region]
    except (TypeError, ValueError) as err:
        raise ConfigError(f"region {region!r} is not four integers") from err
    if not (0 <= x1 < x2 <= item.src_width and 0 <= y1 < y2 <= item.src_height):
        raise ConfigError(
            f"region {(x1, y1, x2, y2)} is not inside the {item.src_width}x{item.src_height} src"
        )
    item.src += <Py_ssize_t>y1 * item.stride + 3 * <Py_ssize_t>x1
    item.src_width = x2 - x1
    item.src_height = y2 - y1
    return x1, y1


def letterbox(src, dst, norm=TO_UNIT, *, region=None):
    """Fit a picture into a tensor, keeping its aspect ratio.

    The picture is scaled by `min(w / W, h / H)`, both sides rounded to whole pixels, and centred;
    `norm.pad` fills the rest. Sampling is bilinear with pixel centres at halves and no filter
    against aliasing, as OpenCV's `INTER_LINEAR`, from which the result differs by less than one
    grey level, since it is not rounded to 8 bits on the way.

    Args:
        src: uint8 `(H, W, 3)`, BGR. Rows may be any distance apart, upwards too; the pixels of a
            row lie together. Read only; any object with such a buffer will do.
        dst: float32 or float16 `(3, h, w)`, C-contiguous. Written in full; the caller owns it.
            It must not overlap `src`.
        norm: what becomes of a sample.
        region: `(x1, y1, x2, y2)`: use only this part of `src`, in its pixels, end exclusive.
            No pixel outside is looked at.

    Returns:
        Where all of `src` lies in `dst`, even if only a region of it can be seen there.

    Raises:
        ImageError: `src` is not such a picture, or a side is not in 1..65535.
        ConfigError: `dst`, `norm` or `region` is not as above, or `VDAG_SIMD` cannot be had.
            `dst` is untouched after any error.
    """
    return fill_one(src, dst, norm, region, True)


def stretch(src, dst, norm=TO_UNIT, *, region=None):
    """Fill a tensor with a picture, whatever its aspect ratio.

    Args, sampling, result and errors are those of `letterbox`; there is no border.
    """
    return fill_one(src, dst, norm, region, False)


def fill_batch(srcs, dst, norm=TO_UNIT, *, mode, threads=1):
    """Fill the first tensors of a batch, one picture each.

    Args:
        srcs: pictures as `letterbox` takes them, each of its own size.
        dst: float32 or float16 `(N, 3, h, w)`, C-contiguous, the caller's. The first `len(srcs)`
            tensors are written in full, the rest is untouched.
        norm: what becomes of a sample.
        mode: `letterbox` or `stretch`.
        threads: 1..64, how many share the rows; the caller is one of them. The others live for
            this call alone, so that nothing is left over, or missing after a fork. The numbers
            do not depend on it.

    Returns:
        One placement per picture.

    Raises:
        ImageError: an item of `srcs` is not a picture, or a side is not in 1..65535.
        ConfigError: another argument is not as above, or `srcs` exceeds `dst`. `dst` is untouched
            after any error.
    """
    cdef Py_ssize_t i, count = len(srcs)
    cdef _Job job = _Job(count)
    job.set_norm(norm)
    if mode not in ("letterbox", "stretch"):
        raise ConfigError(f"mode {mode!r} is not letterbox or stretch")
    if not 1 <= threads <= VDAG_MAX_THREADS:
        raise ConfigError(f"threads {threads} is outside 1..{VDAG_MAX_THREADS}")
    job.open_tensor(dst, 4)
    if count > job.tensor.shape[0]:
        raise ConfigError(f"batch of {count} exceeds dst of {job.tensor.shape[0]}")
    for i in range(count):
        job.open_picture(f"srcs[{i}]", srcs[i])
    job.run(mode == "letterbox", threads)
    return [job.placement(i, 0, 0) for i in range(count)]


cdef const vdag_level *current_level() except NULL:
    if level == NULL:
        _set_simd(os.environ.get("VDAG_SIMD") or None)
    return level


def simd():
    """Name the instruction set in use: `avx512`, `avx2`, `neon` or `plain`.

    The best that this CPU has, unless the environment variable `VDAG_SIMD` names a lower one when
    a function of this module is first called.

    Raises:
        ConfigError: `VDAG_SIMD` is unknown, or not in this CPU.
    """
    return vdag_level_name(current_level()).decode()


def _set_simd(name):
    """Use the level of that name, or the best for None, from now on. For tests."""
    global level
    if name is not None and name not in LEVELS:
        raise ConfigError(f"VDAG_SIMD {name!r} is not one of {', '.join(LEVELS)}")
    cdef bytes wanted = b"" if name is None else name.encode()
    cdef const vdag_level *found = vdag_find_level(NULL if name is None else <char *>wanted)
    if found == NULL:
        raise ConfigError(f"VDAG_SIMD {name!r} is not in this CPU: {', '.join(_simd_levels())}")
    level = found


def _simd_levels():
    """The levels that this CPU can run, the lowest first. For tests."""
    return [name for name in LEVELS if vdag_find_level(name.encode()) != NULL]
