"""Write EfficientNet-Lite0's feature extractor as ONNX from the arrays of its checkpoint.

The architecture is the "lite" variant of M. Tan, Q. Le: EfficientNet (2019): no squeeze and
excitation, Relu6 everywhere, stem and head of fixed width. Padding is TensorFlow's SAME, for the
weights come from there: with stride 2 on even sizes the odd pixel goes to the bottom and right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from graph import GraphWriter
from numpy.typing import NDArray

__all__ = ["FEATURES", "SIZE", "write_features"]

#: Side of the input picture and length of the pooled feature vector.
SIZE = 224
FEATURES = 1280

#: Of the batch normalisations; the checkpoint does not carry it.
EPSILON = 1e-3

Weights = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Stage:
    """A row of the architecture's table: the first block of a stage strides and widens."""

    repeats: int
    kernel: int
    stride: int
    expand: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


class _Layers:
    """Writes convolutions with the batch normalisation that follows folded into them."""

    def __init__(self, writer: GraphWriter, weights: Weights) -> None:
        self._writer = writer
        self._weights = weights

    def conv(self, source: str, name: str, norm: str, *, stride: int = 1, clip: bool = True) -> str:
        kernel = self._weights[f"{name}.weight"]
        scale = self._weights[f"{norm}.weight"] / np.sqrt(
            self._weights[f"{norm}.running_var"] + EPSILON
        )
        bias = self._weights[f"{norm}.bias"] - self._weights[f"{norm}.running_mean"] * scale
        total = kernel.shape[-1] - stride
        output = self._writer.add(
            "Conv",
            [source, self._writer.weight(kernel * scale[:, None, None, None]),
             self._writer.weight(bias, stem="bias")],
            strides=[stride, stride],
            pads=[total // 2] * 2 + [total - total // 2] * 2,
            group=kernel.shape[0] if "depthwise" in name else 1,
        )  # fmt: skip
        if not clip:
            return output
        low, high = (
            self._writer.constant(np.array(limit, np.float32), stem="limit") for limit in (0, 6)
        )
        return self._writer.add("Clip", [output, low, high])

    def block(self, source: str, name: str, stage: Stage, *, first: bool) -> str:
        output = source
        if stage.expand != 1:
            output = self.conv(output, f"{name}._expand_conv", f"{name}._bn0")
        stride = stage.stride if first else 1
        output = self.conv(output, f"{name}._depthwise_conv", f"{name}._bn1", stride=stride)
        output = self.conv(output, f"{name}._project_conv", f"{name}._bn2", clip=False)
        return output if first else self._writer.add("Add", [output, source])


def write_features(writer: GraphWriter, weights: Weights, images: str = "images") -> str:
    """Write the network up to its pooled features.

    Args:
        writer: takes the nodes.
        weights: the checkpoint's arrays by name.
        images: float32 `(N, 3, 224, 224)`, RGB, `(x - 127) / 128`.

    Returns:
        Name of the features, float32 `(N, 1280)`.
    """
    layers = _Layers(writer, weights)
    output = layers.conv(images, "_conv_stem", "_bn0", stride=2)
    number = 0
    for stage in STAGES:
        for repeat in range(stage.repeats):
            output = layers.block(output, f"_blocks.{number}", stage, first=repeat == 0)
            number += 1
    output = layers.conv(output, "_conv_head", "_bn1")
    output = writer.add("GlobalAveragePool", [output])
    return writer.add("Flatten", [output], name="features", axis=1)
