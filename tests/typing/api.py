"""A page of user code that `mypy --strict` must accept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

import vdag


@vdag.task(outputs=["brightness"])
def brightness(image: NDArray[np.uint8], prob: NDArray[np.float32] | None = None) -> dict[str, Any]:
    return {"brightness": float(image.mean())}


@vdag.task(outputs=["shade"], params={"factor": 0.5})
def shade(image: NDArray[np.uint8], factor: float) -> dict[str, Any]:
    return {"shade": factor * float(image.mean())}


class Count:
    signature = vdag.Signature(frozenset({"bbox"}), frozenset({"count"}))
    max_batch = 8

    def __init__(self, options: vdag.TaskOptions) -> None:
        self.model_id = options.model_id
        self.least = options.params.get("least", 0)

    def process(self, batch: Iterable[Any]) -> list[dict[str, Any]]:
        return [{"count": len(inputs["bbox"])} for inputs in batch]

    def close(self) -> None:
        pass


vdag.register("count", Count)


def poses(video: str) -> list[NDArray[np.float32]]:
    graph = vdag.Graph.chain("face_detection", "face_alignment")
    found: list[NDArray[np.float32]] = []
    with vdag.Pipeline(graph, source=video, models={"face_detection": 1}, policy="latest") as run:
        for result in run:
            seq: int = result.seq
            delay_s: float = result.delay_s
            found.append(result["face_alignment"]["head_pose"])
            del seq, delay_s
    dropped: int = sum(run.stats().dropped.values())
    p99_s: float = run.stats().tasks["face_alignment"].process.p99_s
    del dropped, p99_s
    return found


def sizes(video: str) -> list[tuple[int, int]]:
    with vdag.open_source(video, fps=5, resolution="480p") as source:
        return [(frame.width, frame.height) for frame in source]
