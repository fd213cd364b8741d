"""JPEG through libturbojpeg, which is looked for when the first picture comes.

It is not needed to build: its functions are found with dlopen, those of version 3 where it has
them, else those of version 2. No call of it holds the GIL; handles are used again; pixels go
straight into the caller's memory and come straight from it, whatever the stride of its rows.

Headers are read here, strictly, before any memory is taken. `reference_jpeg.py` is the same on
OpenCV: the specification, and what runs where there is no libturbojpeg.
"""

import atexit
import os
import threading

import numpy as np

from vdag._native.jpeg_terms import (
    MAX_PIXELS, MAX_THREADS, SUBSAMPLINGS, Info, Library, check_decoding, check_encoding,
    check_pixels, check_sides, check_threads, find_library, library_version,
)
from vdag.errors import ImageError, NativeUnavailable

cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from libc.limits cimport INT_MAX
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from vdag._native.jpeg_kernel cimport (
    VDAG_JPEG_DECODE, VDAG_JPEG_ENCODE, VDAG_JPEG_GRAY, vdag_jpeg_bound, vdag_jpeg_close,
    vdag_jpeg_coders, vdag_jpeg_header, vdag_jpeg_job, vdag_jpeg_open, vdag_jpeg_path,
    vdag_jpeg_run,
)


cdef extern from "Python.h":
    Py_buffer *PyMemoryView_GET_BUFFER(object view) noexcept
    # Raw pointers: an object that is still to be resized has one reference, held here.
    PyObject *PyBytes_FromStringAndSize(const char *text, Py_ssize_t nbytes) except NULL
    char *PyBytes_AS_STRING(PyObject *bytes_object) noexcept
    int _PyBytes_Resize(PyObject **bytes_object, Py_ssize_t nbytes) except -1


__all__ = [
    "MAX_PIXELS", "MAX_THREADS", "Info", "Library", "available", "decode", "decode_batch",
    "encode", "encode_batch", "library", "max_nbytes", "read_header",
]

# Every subsampling that a header can have, in the order of the kernel's numbers.
cdef tuple READABLE = (*SUBSAMPLINGS, "440", "411", "441", "unknown")
cdef str loaded_api = None  # None until a library is loaded, then "tj3" or "tj"
cdef object loading = threading.Lock()


cdef str open_library(str path, bint legacy):
    """Return the api of the library at `path`, or raise OSError with the loader's reason."""
    cdef char text[200]
    cdef int version = vdag_jpeg_open(os.fsencode(path), legacy, text)
    if version == 0:
        raise OSError(text.decode(errors="replace"))
    return "tj3" if version == 3 else "tj"


def _load(*, bint legacy=False):
    """Find a library now; `legacy` takes the functions of version 2 even where 3 has its own."""
    global loaded_api
    loaded_api = find_library(lambda path: open_library(path, legacy))


cdef int ensure_loaded() except -1:
    if loaded_api is None:
        with loading:
            if loaded_api is None:
                _load()
    return 0


def available():
    """Tell whether a library is there; without one, `reference_jpeg` is to take this place.

    A library that VDAG_TURBOJPEG names counts as there even if it is not: what the user asked for
    and cannot have is an error at the first picture, not a fallback.
    """
    if os.environ.get("VDAG_TURBOJPEG"):
        return True
    try:
        ensure_loaded()
    except NativeUnavailable:
        return False
    return True


def library():
    """Name the library in use, loading it if need be.

    It is the one that VDAG_TURBOJPEG names; else the system's; else that of the `turbojpeg` wheel.

    Raises:
        NativeUnavailable: there is none, or the named one cannot be used.
    """
    ensure_loaded()
    path = os.fsdecode(vdag_jpeg_path())
    return Library(path, library_version(path), loaded_api)


def _coders():
    """Count the library's handles: those alive, and those of them that wait for a picture."""
    cdef int live, idle
    vdag_jpeg_coders(&live, &idle)
    return live, idle


atexit.register(vdag_jpeg_close)


cdef int point_at(vdag_jpeg_job *job, pixels, str name) except -1:
    """Let a job use the pixels of a buffer, if libturbojpeg can walk through them."""
    cdef const Py_buffer *view = PyMemoryView_GET_BUFFER(pixels)
    cdef Py_ssize_t row_nbytes, stride
    if view.format[0] != c"B" or view.format[1] != 0:
        raise ImageError(f"{name} has samples of format {pixels.format!r}, not uint8")
    if not (view.ndim == 2 or (view.ndim == 3 and view.shape[2] == 3)):
        raise ImageError(
            f"{name} of shape {pixels.shape} is neither (height, width, 3) nor (height, width)"
        )
    check_sides(view.shape[1], view.shape[0])
    job.channels = 3 if view.ndim == 3 else 1
    job.height, job.width = <int> view.shape[0], <int> view.shape[1]
    cdef bint apart = job.width > 1 and view.strides[1] != job.channels
    if apart or view.suboffsets != NULL or (view.ndim == 3 and view.strides[2] != 1):
        raise ImageError(f"samples within a row of {name} are not contiguous")
    row_nbytes = <Py_ssize_t> job.width * job.channels
    stride = view.strides[0] if job.height > 1 else row_nbytes
    if not row_nbytes <= abs(stride) <= INT_MAX:
        raise ImageError(f"{name} has rows of {row_nbytes} bytes at a stride of {stride}")
    job.bottom_up = stride < 0
    job.pitch = <int> abs(stride)
    job.rows = <unsigned char *> view.buf
    if stride < 0:
        job.rows += stride * (job.height - 1)
    return 0


@cython.final
cdef class _Batch:
    """Jobs for the kernel, and everything they point into; all of it goes when this goes."""

    cdef vdag_jpeg_job *jobs
    cdef PyObject **coded  # bytes objects that are being written, not seen by anybody else yet
    cdef Py_ssize_t count
    cdef list views
    cdef bint numbered  # errors say which item

    def __cinit__(self, Py_ssize_t count, bint numbered):
        # One more than needed: calloc(0) may be NULL, which is no lack of memory.
        self.count, self.numbered = count, numbered
        self.jobs = <vdag_jpeg_job *> calloc(count + 1, sizeof(vdag_jpeg_job))
        self.coded = <PyObject **> calloc(count + 1, sizeof(PyObject *))
        self.views = []
        if self.jobs == NULL or self.coded == NULL:
            raise MemoryError

    def __dealloc__(self):
        cdef Py_ssize_t i
        if self.coded != NULL:
            for i in range(self.count):
                Py_XDECREF(self.coded[i])
        free(self.coded)
        free(self.jobs)

    cdef memoryview hold(self, source, str name, bint contiguous, bint writable):
        """Keep a buffer until this goes."""
        view = memoryview(source)
        if contiguous and not view.c_contiguous:
            raise ImageError(f"{name} is not contiguous")
        if writable and view.readonly:
            raise ImageError(f"{name} is read-only")
        self.views.append(view)
        return view

    cdef int read_header(self, Py_ssize_t i, data, max_pixels) except -1:
        """Point a job at a JPEG, unless it is too large."""
        cdef vdag_jpeg_job *job = &self.jobs[i]
        view = self.hold(data, "data", True, False)
        job.jpeg = <unsigned char *> PyMemoryView_GET_BUFFER(view).buf
        job.nbytes = PyMemoryView_GET_BUFFER(view).len
        # Only bytes cannot change between our reading of the header and the library's.
        job.shared = not isinstance(view.obj, bytes)
        if vdag_jpeg_header(job.jpeg, job.nbytes, &job.info, job.text) < 0:
            raise ImageError(job.text.decode(errors="replace"))
        check_pixels(job.info.width, job.info.height, max_pixels)
        return 0

    cdef read_jpeg(self, Py_ssize_t i, data, out, bint rgb, int reduce, max_pixels, bint strict):
        """Prepare one decoding; return the array that its pixels will be in."""
        cdef vdag_jpeg_job *job = &self.jobs[i]
        self.read_header(i, data, max_pixels)
        if job.info.components == 4:
            raise ImageError("picture has 4 components: CMYK is not supported")
        sides = job.info.height + reduce - 1, job.info.width + reduce - 1
        shape = (sides[0] // reduce, sides[1] // reduce, 3)
        if out is None:
            out = np.empty(shape, np.uint8)
        view = self.hold(out, "out", False, True)
        if view.shape != shape:
            raise ImageError(f"out of shape {view.shape} does not fit a picture of shape {shape}")
        point_at(job, view, "out")
        job.rgb, job.reduce, job.strict = rgb, reduce, strict
        return out

    cdef int read_pixels(self, Py_ssize_t i, pixels, int quality, int code, bint rgb) except -1:
        """Prepare one encoding."""
        cdef vdag_jpeg_job *job = &self.jobs[i]
        point_at(job, self.hold(pixels, "picture", False, False), "picture")
        job.rgb, job.quality, job.strict = rgb, quality, True
        job.subsampling = VDAG_JPEG_GRAY if job.channels == 1 else code
        return 0

    cdef int make_room(self, Py_ssize_t i) except -1:
        """Give an encoding a bytes object of its worst size; pages never written cost nothing."""
        cdef vdag_jpeg_job *job = &self.jobs[i]
        job.nbytes = vdag_jpeg_bound(job.width, job.height, job.subsampling)
        self.coded[i] = PyBytes_FromStringAndSize(NULL, job.nbytes)
        job.jpeg = <unsigned char *> PyBytes_AS_STRING(self.coded[i])
        return 0

    cdef bytes take_bytes(self, Py_ssize_t i):
        _PyBytes_Resize(&self.coded[i], self.jobs[i].nbytes)
        return <bytes> self.coded[i]

    cdef int run(self, int kind, int threads) except -1:
        """Run all jobs without the GIL."""
        cdef Py_ssize_t failed
        with nogil:
            failed = vdag_jpeg_run(self.jobs, self.count, kind, threads)
        if failed >= 0:
            raise self.located(failed, self.jobs[failed].text.decode(errors="replace"))
        return 0

    cdef located(self, Py_ssize_t i, reason):
        """Return the error to raise for an item."""
        return ImageError(f"item {i}: {reason}" if self.numbered else reason)


def read_header(data, *, max_pixels=MAX_PIXELS):
    """Tell size and kind of a JPEG without decoding it or taking memory for it.

    Args:
        data: contiguous bytes of the JPEG. Read only.
        max_pixels: largest width x height that is taken.

    Raises:
        ImageError: the header is broken, or the picture exceeds a limit.
    """
    check_decoding(1, max_pixels)
    cdef _Batch batch = _Batch(1, False)
    batch.read_header(0, data, max_pixels)
    found = batch.jobs.info
    return Info(found.width, found.height, found.components, READABLE[found.subsampling])


def decode(data, out=None, *, bint rgb=False, int reduce=1, max_pixels=MAX_PIXELS,
           bint strict=True):
    """Decode one JPEG into uint8 `(H, W, 3)`, BGR; gray ones get three equal channels.

    Args:
        data: contiguous bytes of the JPEG. Read only.
        out: uint8 `(H, W, 3)` to write to, rows at any stride; the caller's. None: a new array.
        rgb: order the samples RGB.
        reduce: 1, 2, 4 or 8: each side shrinks to ceil(side / reduce), while decoding.
        max_pixels: largest width x height, before reduction, that is taken.
        strict: refuse a picture at the library's first warning, above all a truncated one.
            Otherwise what is missing is gray.

    Returns:
        `out`, or the new array, which the caller owns.

    Raises:
        ImageError: the data are broken or exceed a limit, or `out` does not fit. `out` is then
            untouched, unless the data broke off in the midst of the picture.
        ConfigError: an option has no meaning.
        NativeUnavailable: there is no libturbojpeg.
    """
    cdef _Batch batch = _Batch(1, False)
    check_decoding(reduce, max_pixels)
    ensure_loaded()
    out = batch.read_jpeg(0, data, out, rgb, reduce, max_pixels, strict)
    batch.run(VDAG_JPEG_DECODE, 1)
    return out


def decode_batch(datas, *, int threads=1, bint rgb=False, int reduce=1, max_pixels=MAX_PIXELS,
                 bint strict=True):
    """Decode several JPEGs on several threads; options and errors as in `decode`.

    Args:
        datas: one JPEG each.
        threads: how many work, the calling one among them, 1..64.

    Returns:
        One new array for each, in their order.

    Raises:
        ImageError: names the first item that failed; nothing of the others is kept.
    """
    cdef list items = list(datas)
    cdef _Batch batch = _Batch(len(items), True)
    cdef Py_ssize_t i
    check_decoding(reduce, max_pixels)
    check_threads(threads)
    ensure_loaded()
    pictures = []
    for i in range(batch.count):
        try:
            pictures.append(batch.read_jpeg(i, items[i], None, rgb, reduce, max_pixels, strict))
        except ImageError as err:
            raise batch.located(i, err) from err
    batch.run(VDAG_JPEG_DECODE, threads)
    return pictures


def max_nbytes(int width, int height, str subsampling="420"):
    """Bound the bytes of a JPEG of this size, whatever it shows: room for `encode(out=)`."""
    cdef int code = check_encoding(100, subsampling)
    check_sides(width, height)
    ensure_loaded()
    return vdag_jpeg_bound(width, height, code)


def encode(pixels, *, int quality=90, str subsampling="420", bint rgb=False, out=None):
    """Encode one picture as a baseline JPEG.

    Args:
        pixels: uint8 `(H, W, 3)`, BGR, or `(H, W)`, gray; rows at any stride. Read only.
        quality: 1..100, libjpeg's scale.
        subsampling: "420", "422", "444", or "gray" for luma alone; gray pixels stay gray.
        rgb: the samples are ordered RGB.
        out: contiguous buffer to write to, the caller's. With `max_nbytes` of room the JPEG is
            written in place, else it is copied there if it fits.

    Returns:
        The JPEG; with `out`, the number of bytes written to it.

    Raises:
        ImageError: the pixels are no such array, or the JPEG does not fit in `out`, which is then
            untouched.
        ConfigError: an option has no meaning.
        NativeUnavailable: there is no libturbojpeg.
    """
    cdef _Batch batch = _Batch(1, False)
    cdef vdag_jpeg_job *job = batch.jobs
    cdef int code = check_encoding(quality, subsampling)
    cdef Py_buffer *room = NULL
    cdef bint in_place = False
    ensure_loaded()
    batch.read_pixels(0, pixels, quality, code, rgb)
    if out is not None:
        room = PyMemoryView_GET_BUFFER(batch.hold(out, "out", True, True))
        in_place = <size_t> room.len >= vdag_jpeg_bound(job.width, job.height, job.subsampling)
    if in_place:
        job.jpeg, job.nbytes = <unsigned char *> room.buf, room.len
    else:  # the library trusts that there is room for the worst case
        batch.make_room(0)
    batch.run(VDAG_JPEG_ENCODE, 1)
    if room == NULL:
        return batch.take_bytes(0)
    if job.nbytes > <size_t> room.len:
        raise ImageError(f"JPEG of {job.nbytes} bytes does not fit in out of {room.len} bytes")
    if not in_place:
        memcpy(room.buf, job.jpeg, job.nbytes)
    return job.nbytes


def encode_batch(images, *, int quality=90, str subsampling="420", bint rgb=False, int threads=1):
    """Encode several pictures on several threads; options and errors as in `encode`.

    Args:
        images: one picture each, of any sizes.
        threads: how many work, the calling one among them, 1..64.

    Returns:
        One JPEG for each, in their order; the same bytes for any number of threads.

    Raises:
        ImageError: names the first item that failed; nothing of the others is kept.
    """
    cdef list items = list(images)
    cdef _Batch batch = _Batch(len(items), True)
    cdef int code = check_encoding(quality, subsampling)
    cdef Py_ssize_t i
    check_threads(threads)
    ensure_loaded()
    for i in range(batch.count):
        try:
            batch.read_pixels(i, items[i], quality, code, rgb)
        except ImageError as err:
            raise batch.located(i, err) from err
        batch.make_room(i)
    batch.run(VDAG_JPEG_ENCODE, threads)
    return [batch.take_bytes(i) for i in range(batch.count)]
