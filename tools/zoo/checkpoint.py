"""Read the tensors of a PyTorch checkpoint in its legacy file format, without PyTorch.

The file is five pickles (magic number, protocol, system facts, the tensors by name, the keys of
the storages in file order), then for each storage its number of elements as a 64-bit integer and
its bytes. A pickle can run code, so the reader allows nothing but what a dictionary of tensors is
made of.
"""

from __future__ import annotations

import collections
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["read_checkpoint"]

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001

#: Class names of storages and the element types they stand for.
STORAGES: dict[str, np.dtype[Any]] = {
    "FloatStorage": np.dtype("<f4"),
    "LongStorage": np.dtype("<i8"),
}


@dataclass(frozen=True, slots=True)
class Storage:
    """A flat run of elements, known by key until the end of the file is reached."""

    key: str
    dtype: np.dtype[Any]
    count: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """A view of a storage, in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _tensor(
    storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object
) -> Tensor:
    return Tensor(storage, offset, shape, strides)


class _Unpickler(pickle.Unpickler):
    """Knows dictionaries, tensors and storages; any other class is refused."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch" and name in STORAGES:
            return lambda: name  # never called: it stands for the type in a persistent id
        raise ValueError(f"checkpoint holds {module}.{name}, expected tensors alone")

    def persistent_load(self, pid: tuple[Any, ...]) -> Storage:
        kind, make_name, key, _location, count, _view = pid
        if kind != "storage":
            raise ValueError(f"checkpoint refers to {kind!r}, expected storages alone")
        return Storage(key, STORAGES[make_name()], count)


def read_checkpoint(path: Path) -> dict[str, NDArray[Any]]:
    """Return every tensor of the checkpoint by name, as arrays of their own.

    Raises:
        ValueError: the file is not a legacy checkpoint, or holds anything but tensors.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        magic, protocol, _system = (_Unpickler(file).load() for _ in range(3))
        if (magic, protocol) != (MAGIC, PROTOCOL):
            raise ValueError(f"{path.name} is not a checkpoint in the legacy format")
        tensors: dict[str, Tensor] = _Unpickler(file).load()
        keys: list[str] = _Unpickler(file).load()
        storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
        data = {key: _read_storage(file, storages[key], size) for key in keys}
    return {name: _array(tensor, data[tensor.storage.key]) for name, tensor in tensors.items()}


def _read_storage(file: IO[bytes], storage: Storage, file_size: int) -> NDArray[Any]:
    count = int.from_bytes(file.read(8), "little")
    nbytes = count * storage.dtype.itemsize
    if count != storage.count or nbytes > file_size:
        raise ValueError(f"storage {storage.key} has {count} elements, expected {storage.count}")
    return np.frombuffer(file.read(nbytes), storage.dtype, count)


def _array(tensor: Tensor, data: NDArray[Any]) -> NDArray[Any]:
    last = tensor.offset + sum(
        (size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True)
    )
    if last >= data.size or min((*tensor.strides, 0)) < 0:
        raise ValueError(f"tensor of shape {tensor.shape} reaches beyond its storage")
    strides = [stride * data.itemsize for stride in tensor.strides]
    view = np.lib.stride_tricks.as_strided(data[tensor.offset :], tensor.shape, strides)
    return np.array(view)
