"""`JpegDecoder`: files go over the bus as they are, and become pictures in device memory.

Server GPUs have decoders for JPEG beside their cores, which know baseline files alone; what these
refuse goes nvJPEG's other way, where the CPU has the Huffman codes and one thread of it.

An engine of lanes takes such pictures as it takes others, and has its kernel wait for them:

    with JpegDecoder(engine.lanes.device) as decoder:
        outputs, placements = engine.infer_pictures(decoder.decode(files), preparation)
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vdag import _native as native
from vdag.engines.gpu.device import Device, DeviceMemory, Event, Stream
from vdag.engines.gpu.nvjpeg import Images, Library, find_library
from vdag.engines.gpu.pictures import DevicePicture
from vdag.errors import ConfigError, EngineError, EngineUnavailable, ImageError

if TYPE_CHECKING:
    from vdag._native.jpeg_terms import Data

__all__ = ["MAX_BATCH", "JpegDecoder"]

logger = logging.getLogger(__name__)

MAX_BATCH = 256
#: Of a JPEG, as libjpeg has it.
MAX_SIDE = 65_500
MAX_THREADS = 64
#: Blocks of device memory that are kept for the next batches.
MAX_FREE = 4
#: Batches in flight: the CPU's part of one runs beside the GPU's of the one before.
STATES = 2
#: Rows begin at multiples of this.
STEP_NBYTES = 256


class _Block:
    """The memory of a batch; it comes back when the last of its pictures is gone."""

    __slots__ = ("__weakref__", "memory")

    def __init__(self, memory: DeviceMemory) -> None:
        self.memory = memory


class _State:
    """What one batch at a time is decoded with."""

    __slots__ = ("count", "done", "files", "handle")

    def __init__(self, handle: Any, done: Event) -> None:
        self.handle, self.done, self.count = handle, done, 0
        self.files: list[NDArray[np.uint8]] = []


class _Way:
    """A kind of decoding: the library opened for it, and its states.

    Args:
        device: active.
        path: of the library.
        hardware: by the GPU's decoders for JPEG.
        threads: of the CPU.

    Raises:
        EngineUnavailable: the library does not load, or the GPU has no such decoders.
    """

    def __init__(self, device: Device, path: str, *, hardware: bool, threads: int) -> None:
        self.library = Library(path, hardware=hardware)
        self._threads = threads
        self._states = deque(_State(self.library.state(), device.event()) for _ in range(STATES))

    def run(
        self, arrays: list[NDArray[np.uint8]], targets: list[tuple[int, int]], stream: Stream
    ) -> Event:
        """Decode with the state that was used longest ago; return what tells that it is done."""
        state = self._states[0]
        self._states.rotate(-1)
        if state.files:
            state.done.synchronize()
        state.files = arrays  # which the library may read until it is done
        images = Images([(array.ctypes.data, array.nbytes) for array in arrays], targets)
        count, state.count = state.count, 0
        if count != len(arrays):
            self.library.prepare(state.handle, len(arrays), self._threads)
        try:
            self.library.decode(state.handle, images, stream.handle)
            state.count = len(arrays)  # a state that has failed is prepared anew
        finally:
            # Who still has pictures of this state's last batch waits for this one: that is done.
            state.done.record(stream)
        return state.done

    def close(self) -> None:
        """Free it; the stream is idle."""
        for state in self._states:
            self.library.drop_state(state.handle)
        self.library.close()


class JpegDecoder:
    """Decodes batches of JPEGs on a GPU; any thread may call it, one after another.

    Args:
        device: where pictures go.
        max_pixels: of a picture; a larger one is refused before memory is taken.
        threads: of the CPU, as far as nvJPEG uses them.
        hardware: by the GPU's decoders for JPEG, or not; None for by them where there are any, and
            what they refuse the other way.
        library: path of nvJPEG; what is installed if None.

    Raises:
        EngineUnavailable: nvJPEG is not installed, or the GPU has no such decoders.
        ConfigError: a number has no meaning.
    """

    def __init__(
        self,
        device: Device,
        *,
        max_pixels: int = native.jpeg.MAX_PIXELS,
        threads: int = 4,
        hardware: bool | None = None,
        library: str | None = None,
    ) -> None:
        if not 1 <= threads <= MAX_THREADS:
            raise ConfigError(f"threads of {threads} is outside 1..{MAX_THREADS}")
        if max_pixels < 1:
            raise ConfigError(f"max_pixels of {max_pixels} is less than 1")
        self._device, self._max_pixels = device, max_pixels
        self._lock = threading.Lock()
        self._free: deque[DeviceMemory] = deque()
        self._ways: list[_Way] = []
        self._is_open = True
        path = library or find_library()
        with device.active():
            self._stream = device.stream()
            for kind in (True, False) if hardware is None else (hardware,):
                try:
                    self._ways.append(_Way(device, path, hardware=kind, threads=threads))
                except EngineUnavailable:
                    if hardware is not None or not kind:
                        raise

    def decode(self, files: Sequence[Data]) -> list[DevicePicture]:
        """Begin to decode a batch; whoever reads the pictures waits for their `ready`.

        Args:
            files: whole JPEGs of any sizes, gray or colour; at most `MAX_BATCH`.

        Returns:
            Pictures in BGR, in order. Their memory is theirs together, and used again when all of
            them are gone. A damaged file may have become a damaged picture, of which what is
            missing can be anything: nvJPEG does not say so.

        Raises:
            ImageError: one is no JPEG, or not one that can be decoded here, or too large; says
                which. None of the batch is decoded then.
            ConfigError: there are too many.
            EngineError: the device failed, or the decoder is closed.
        """
        if not 1 <= len(files) <= MAX_BATCH:
            raise ConfigError(f"batch of {len(files)} files is not 1 to {MAX_BATCH}")
        arrays = [np.frombuffer(file, np.uint8) for file in files]
        with self._lock, self._device.active():
            if not self._is_open:
                raise EngineError("the decoder is closed")
            sizes = [self._size(index, array) for index, array in enumerate(arrays)]
            try:
                return self._decode(arrays, sizes)
            except ImageError:
                for index, (array, size) in enumerate(zip(arrays, sizes, strict=True)):
                    self._try(index, array, size)
                raise

    @property
    def hardware(self) -> bool:
        """Whether the GPU's decoders for JPEG are used."""
        return self._ways[0].library.hardware

    def close(self) -> None:
        """Wait for what is being decoded, and free everything; pictures that are left stay."""
        with self._lock:
            if not self._is_open:
                return
            self._is_open = False
            with self._device.active():
                self._stream.synchronize()
                for way in self._ways:
                    way.close()
                while self._free:
                    self._free.popleft().close()

    def __enter__(self) -> JpegDecoder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _size(self, index: int, array: NDArray[np.uint8]) -> tuple[int, int]:
        """Return width and height of a file that may be decoded."""
        try:
            width, height, components = self._ways[0].library.size(array.ctypes.data, array.nbytes)
        except ImageError as err:
            raise ImageError(f"files[{index}]: {err}") from err
        if components not in (1, 3):
            raise ImageError(f"files[{index}]: {components} components are not gray or colour")
        if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
            raise ImageError(f"files[{index}]: {width} x {height} pixels exceed side {MAX_SIDE}")
        if width * height > self._max_pixels:
            raise ImageError(
                f"files[{index}]: {width} x {height} pixels exceed max_pixels {self._max_pixels}"
            )
        return width, height

    def _decode(
        self, arrays: list[NDArray[np.uint8]], sizes: list[tuple[int, int]]
    ) -> list[DevicePicture]:
        pitches = [-(-width * 3 // STEP_NBYTES) * STEP_NBYTES for width, _ in sizes]
        rooms = [pitch * height for pitch, (_, height) in zip(pitches, sizes, strict=True)]
        starts = np.cumsum([0, *rooms])
        block = self._block(int(starts[-1]))
        targets = [
            (block.memory.address + int(start), pitch)
            for start, pitch in zip(starts, pitches, strict=False)
        ]
        ready = self._run(arrays, targets)
        return [
            DevicePicture(address, *size, pitch, ready, block)
            for (address, pitch), size in zip(targets, sizes, strict=True)
        ]

    def _run(self, arrays: list[NDArray[np.uint8]], targets: list[tuple[int, int]]) -> Event:
        """Decode the first way that takes the whole batch; the last one says what is wrong."""
        *first, last = self._ways
        for way in first:
            try:
                return way.run(arrays, targets, self._stream)
            except (EngineError, ImageError) as err:
                logger.debug("a batch of %d files is decoded otherwise: %s", len(arrays), err)
        return last.run(arrays, targets, self._stream)

    def _try(self, index: int, array: NDArray[np.uint8], size: tuple[int, int]) -> None:
        """Decode one file of a batch that has failed, and say so if it is the one."""
        try:
            self._decode([array], [size])
        except ImageError as err:
            raise ImageError(f"files[{index}]: {err}") from err

    def _block(self, nbytes: int) -> _Block:
        """Return memory of at least so many bytes, of an earlier batch if there is any."""
        for memory in tuple(self._free):
            if memory.nbytes >= nbytes:
                self._free.remove(memory)
                break
        else:
            memory = self._device.allocate(nbytes)
        block = _Block(memory)
        weakref.finalize(block, self._take_back, memory).atexit = False
        return block

    def _take_back(self, memory: DeviceMemory) -> None:
        # The last picture goes in any thread: only what is atomic by itself may be done here.
        if self._is_open and len(self._free) < MAX_FREE:
            self._free.append(memory)
            return
        with self._device.active():
            memory.close()
