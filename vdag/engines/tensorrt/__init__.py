"""TensorRT 10, 11 and TensorRT for RTX: engines built from ONNX, cached, and taken into service.

    flavour         which TensorRT is there, and how they differ
    network         the ONNX model in the precision that is wanted
    profiles        the shapes to build for, from the model's card
    builder         ONNX to engine
    build_process   the same as a process
    builds          has that process run, within limits
    cache           built engines on disk
    compute         a built engine in a lane
    platform        what of it needs a GPU
    takeover        built, loaded, warmed up, compared, installed
    engine          serves with ONNX Runtime until then

Importing this package imports no TensorRT and none of CUDA.
"""

from __future__ import annotations

from vdag.engines.tensorrt.engine import TensorRTEngine

__all__ = ["TensorRTEngine"]
