"""Read a TensorFlow.js graph model: its operations and its weights.

The model is a JSON file with a TensorFlow GraphDef (`modelTopology.node`; strings in base64,
64-bit integers as strings) and a list of weights (`weightsManifest`), beside binary files that
hold those weights one after the other.
"""

from __future__ import annotations

import base64
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Node", "TfGraph", "load"]

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Node:
    """One TensorFlow operation: attributes decoded, control inputs left out."""

    name: str
    op: str
    inputs: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TfGraph:
    """Operations and weights by name; weights stored as float16 stay float16."""

    nodes: Mapping[str, Node]
    weights: Mapping[str, Array]

    def is_constant(self, name: str) -> bool:
        """Tell whether `name` is a weight or is computed from weights alone."""
        if name in self.weights:
            return True
        node = self.nodes[stem(name)]
        return node.op in FOLDED and all(self.is_constant(item) for item in node.inputs)

    def constant(self, name: str) -> Array:
        """Return the value of a constant; a view of the weights, read only."""
        if name in self.weights:
            return self.weights[name]
        node = self.nodes[stem(name)]
        return FOLDED[node.op](*(self.constant(item) for item in node.inputs))

    def ancestors(self, name: str, done: set[str]) -> Iterator[Node]:
        """Yield the operations that `name` needs, inputs first; constants are left out.

        Args:
            name: an operation.
            done: names to skip; every name yielded is added.
        """
        stack = [(name, False)]
        while stack:  # a loop, for a network is deeper than Python's stack
            name, ready = stack.pop()
            if ready:
                yield self.nodes[name]
            elif name not in done and not self.is_constant(name):
                done.add(name)
                stack.append((name, True))
                stack.extend((stem(item), False) for item in reversed(self.nodes[name].inputs))

    def count_uses(self) -> Counter[str]:
        """Count how often each tensor is read."""
        return Counter(item for node in self.nodes.values() for item in node.inputs)


def stem(tensor: str) -> str:
    """Return the operation's name of a tensor name such as `split:1`."""
    return tensor.partition(":")[0]


def _sparse_to_dense(indices: Array, shape: Array, values: Array, default: Array) -> Array:
    dense = np.full(shape, default)
    dense[tuple(indices.reshape(-1, len(shape)).T)] = values
    return dense


#: What exporters leave to be computed at run time although it never changes: shapes, mostly.
FOLDED: Mapping[str, Callable[..., Array]] = {
    "Add": np.add,
    "AddV2": np.add,
    "Identity": lambda value: value,
    "SparseToDense": _sparse_to_dense,
}


def load(path: Path) -> TfGraph:
    """Read a model: the JSON file at `path` and the weight files beside it.

    Raises:
        ValueError: the weights are quantised other than to float16, or do not fill their files.
    """
    document = json.loads(path.read_text())
    nodes = (_node(raw) for raw in document["modelTopology"]["node"])
    weights: dict[str, Array] = {}
    for group in document["weightsManifest"]:
        blob = b"".join((path.parent / part).read_bytes() for part in group["paths"])
        weights.update(_weights(group["weights"], blob))
    return TfGraph({node.name: node for node in nodes}, weights)


def _node(raw: Mapping[str, Any]) -> Node:
    inputs = tuple(name for name in raw.get("input", ()) if not name.startswith("^"))
    attributes = {key: _attribute(value) for key, value in raw.get("attr", {}).items()}
    return Node(raw["name"], raw["op"], inputs, attributes)


def _attribute(raw: Mapping[str, Any]) -> Any:
    """Decode an AttrValue: one key that names the type, and the value."""
    kind: str = next(iter(raw), "")
    value: Any = raw.get(kind)
    if kind == "list":
        return [_attribute({kind: item}) for kind, items in value.items() for item in items]
    if kind == "s":
        return base64.b64decode(value).decode()
    if kind == "i":
        return int(value)
    if kind == "shape":
        return [int(dim["size"]) for dim in value.get("dim", ())]
    return value


def _weights(entries: list[dict[str, Any]], blob: bytes) -> dict[str, Array]:
    weights: dict[str, Array] = {}
    offset = 0
    for entry in entries:
        quantization = entry.get("quantization", {})
        if "scale" in quantization:
            raise ValueError(f"weight {entry['name']} is quantised to {quantization['dtype']}")
        dtype = np.dtype(quantization.get("dtype", entry["dtype"]))
        count = math.prod(entry["shape"])
        weights[entry["name"]] = np.frombuffer(blob, dtype, count, offset).reshape(entry["shape"])
        offset += count * dtype.itemsize
    if offset != len(blob):
        raise ValueError(f"weights take {offset} bytes of {len(blob)}")
    return weights
