"""nvJPEG's C interface, as far as it is used: batches of JPEGs into interleaved BGR.

Declared after nvjpeg.h of CUDA 13; 12 has the same. The library works in the device that is active
in the calling thread.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Iterator, Sequence
from ctypes import POINTER, byref, c_int, c_size_t, c_uint, c_void_p
from pathlib import Path
from typing import Any

from vdag.errors import EngineError, EngineUnavailable, ImageError

__all__ = ["Images", "Library", "find_library"]

#: NVJPEG_MAX_COMPONENT.
COMPONENTS = 4
#: Names by which the loader knows it, newest first.
NAMES = ("libnvjpeg.so.13", "libnvjpeg.so.12", "libnvjpeg.so")
#: nvjpegBackend_t: the library's choice, which is the CPU for Huffman codes, or the GPU's own
#: decoders for JPEG.
DEFAULT, HARDWARE = 0, 3
#: NVJPEG_FLAGS_UPSAMPLING_WITH_INTERPOLATION: chroma between its samples, as libjpeg has it.
FLAGS = 1 << 5
#: NVJPEG_OUTPUT_BGRI.
INTERLEAVED_BGR = 6
#: nvjpegStatus_t.
STATUS = (
    "success",
    "not initialized",
    "invalid parameter",
    "bad JPEG",
    "JPEG not supported",
    "no memory",
    "execution failed",
    "device too old",
    "internal error",
    "not implemented",
    "incomplete bitstream",
)
#: Those that a picture is to blame for.
BAD_PICTURE = (3, 4, 9, 10)


class _Image(ctypes.Structure):
    """`nvjpegImage_t`: where planes go; interleaved samples are in the first."""

    _fields_ = (("channel", c_void_p * COMPONENTS), ("pitch", c_size_t * COMPONENTS))


class Images:
    """Arrays of C for a batch: the files, their lengths, and where pictures go.

    Args:
        files: addresses and lengths; the bytes stay where they are until the batch is decoded.
        targets: device addresses, and bytes from row to row.
    """

    def __init__(
        self, files: Sequence[tuple[int, int]], targets: Sequence[tuple[int, int]]
    ) -> None:
        self.count = len(files)
        self.data = (c_void_p * self.count)(*(address for address, _ in files))
        self.lengths = (c_size_t * self.count)(*(length for _, length in files))
        self.images = (_Image * self.count)()
        for image, (address, pitch) in zip(self.images, targets, strict=True):
            image.channel[0], image.pitch[0] = address, pitch


class Library:
    """nvJPEG with one handle.

    Args:
        path: of the library.
        hardware: by the GPU's decoders for JPEG, which know baseline files alone.

    Raises:
        EngineUnavailable: it does not load, or this GPU has no such decoders.
    """

    def __init__(self, path: str, *, hardware: bool = False) -> None:
        try:
            self._calls = _declared(ctypes.CDLL(path))
        except (OSError, AttributeError) as err:
            raise EngineUnavailable(f"nvJPEG does not load: {err}") from err
        self.hardware = hardware
        self._handle = c_void_p()
        backend = HARDWARE if hardware else DEFAULT
        status = self._calls.nvjpegCreateEx(backend, None, None, FLAGS, byref(self._handle))
        if status:
            what = "nvJPEG in hardware" if hardware else "nvJPEG"
            raise EngineUnavailable(f"{what} cannot be used here: {_name(status)}")

    def state(self) -> c_void_p:
        """Make what one batch at a time is decoded with; see `drop_state`."""
        state = c_void_p()
        _check("state", self._calls.nvjpegJpegStateCreate(self._handle, byref(state)))
        return state

    def drop_state(self, state: c_void_p) -> None:
        """Free a state; nothing may be decoded with it any more."""
        self._calls.nvjpegJpegStateDestroy(state)

    def size(self, address: int, length: int) -> tuple[int, int, int]:
        """Return width, height and number of components that a file says it has.

        Raises:
            ImageError: it is no JPEG that can be decoded here.
        """
        widths, heights = (c_int * COMPONENTS)(), (c_int * COMPONENTS)()
        components, subsampling = c_int(), c_int()
        status = self._calls.nvjpegGetImageInfo(
            self._handle,
            address,
            length,
            byref(components),
            byref(subsampling),
            widths,
            heights,
        )
        _check("header", status)
        return widths[0], heights[0], components.value

    def prepare(self, state: c_void_p, count: int, threads: int) -> None:
        """Make a state ready for batches of `count`."""
        status = self._calls.nvjpegDecodeBatchedInitialize(
            self._handle, state, count, threads, INTERLEAVED_BGR
        )
        _check("batch", status)

    def decode(self, state: c_void_p, images: Images, stream: int) -> None:
        """Give the decoding of a batch to a stream.

        Raises:
            ImageError: one of the files cannot be decoded.
            EngineError: the device failed.
        """
        status = self._calls.nvjpegDecodeBatched(
            self._handle, state, images.data, images.lengths, images.images, stream
        )
        _check("decoding", status)

    def close(self) -> None:
        """Let the library go, after its states."""
        handle, self._handle = self._handle, c_void_p()
        if handle:
            self._calls.nvjpegDestroy(handle)


def find_library() -> str:
    """Return the path or the name of the library.

    Raises:
        EngineUnavailable: it is not installed.
    """
    for candidate in _candidates():
        try:
            ctypes.CDLL(candidate)
        except OSError:
            continue
        return candidate
    raise EngineUnavailable(
        "nvJPEG is not installed: pip install '.[nvjpeg]' in the checkout, or CUDA's toolkit"
    )


def _candidates() -> Iterator[str]:
    """Yield the loader's names, and what packages of NVIDIA have put beside Python's."""
    yield from NAMES
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(folder).glob("*/lib/libnvjpeg.so.*"), reverse=True):
            yield str(path)


def _declared(library: Any) -> Any:
    """Tell ctypes of the arguments: without that, addresses would lose their upper half."""
    handle, state, images = c_void_p, c_void_p, POINTER(_Image)
    pointers, lengths = POINTER(c_void_p), POINTER(c_size_t)
    for name, arguments in (
        ("nvjpegCreateEx", (c_int, c_void_p, c_void_p, c_uint, POINTER(c_void_p))),
        ("nvjpegDestroy", (handle,)),
        ("nvjpegJpegStateCreate", (handle, POINTER(c_void_p))),
        ("nvjpegJpegStateDestroy", (state,)),
        (
            "nvjpegGetImageInfo",
            (handle, c_void_p, c_size_t, *(POINTER(c_int),) * 4),
        ),
        ("nvjpegDecodeBatchedInitialize", (handle, state, c_int, c_int, c_int)),
        ("nvjpegDecodeBatched", (handle, state, pointers, lengths, images, c_void_p)),
    ):
        call = getattr(library, name)
        call.argtypes, call.restype = arguments, c_int
    return library


def _name(status: int) -> str:
    return STATUS[status] if 0 <= status < len(STATUS) else f"status {status}"


def _check(what: str, status: int) -> None:
    if status in BAD_PICTURE:
        raise ImageError(f"{what}: {_name(status)}")
    if status:
        raise EngineError(f"nvJPEG, {what}: {_name(status)}")
