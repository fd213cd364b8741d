"""The parts of `bench_gpu.py` that go beyond an engine: workers, JPEG, what is said and taken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from comparison import quantile
from gpu_parts import MODELS, Report, pictures, preparation_of
from lone_worker import LoneWorker

from vdag import TaskOptions, engines
from vdag import _native as native
from vdag.engines import zoo
from vdag.engines.base import EngineSpec
from vdag.engines.gpu.device import Device, open_device
from vdag.engines.gpu.jpeg import JpegDecoder
from vdag.engines.gpu.onnx import OnnxCudaEngine
from vdag.engines.gpu.pictures import DevicePicture
from vdag.engines.measuring import measure
from vdag.errors import EngineUnavailable, ImageError
from vdag.graph import Edge, Graph
from vdag.transport import messages

VARIANTS = ("both", "loose", "single", "plain")
CASES = (("face_detection", 16), ("car_detection", 16), ("face_detection", 4))
#: Frames on their way at once, in batches; and how long is measured.
IN_FLIGHT, MEASURED_S = 6, 4.0
#: A worker that has seen its largest batch has prepared all sizes within that.
WARM_S = 10.0
TIMEOUT_S = 120.0
ON_GPU = TaskOptions(engine="onnx-cuda", device="cuda:0")


class Camera(LoneWorker):
    """A worker on the GPU, and frames in slots, each sent again and again."""

    def __init__(
        self,
        folder: Path,
        task: str,
        frames: list[np.ndarray],
        batch: int,
        options: TaskOptions = ON_GPU,
    ) -> None:
        edge = Edge("image", "SingleFrameGenerator", "image")
        graph = Graph("SingleFrameGenerator", (task,), {task: (edge,)})
        super().__init__(
            folder, task, options,
            slots=(frames[0].nbytes, len(frames) + 4),
            batch=batch,
            modules=(Path(__file__).with_name("gpu_variants.py"),),
            graph=json.dumps(graph.to_dag()).encode(),
            timeout_s=TIMEOUT_S,
            policy="fifo",
            limit=1024,
        )  # fmt: skip
        self.shape = frames[0].shape
        self.refs = [self.exchange.arena.put(frame, 1, TIMEOUT_S) for frame in frames]

    def send_next(self) -> None:
        """Send a frame: a lease more on a slot that was filled before."""
        kept = self.refs[self.sent % len(self.refs)]
        assert kept is not None
        self.send(kept.share(), self.shape)

    def take_times(self) -> tuple[float, float]:
        """Take a frame's result; return its delay and the worker's time, in seconds."""
        found = self.take()
        assert found is not None, str(self.last_notice)
        start_ns, end_ns = found.context[messages.TIMES][self.task][:2]
        return (time.monotonic_ns() - found.header.capture_ns) / 1e9, (end_ns - start_ns) / 1e9


@contextmanager
def open_camera(
    task: str, frames: list[np.ndarray], batch: int, options: TaskOptions = ON_GPU
) -> Iterator[Camera]:
    """Open one and close it."""
    with (
        tempfile.TemporaryDirectory(prefix="vdag-") as folder,
        Camera(Path(folder), task, frames, batch, options) as camera,
    ):
        yield camera


def workers(report: Report) -> None:
    """Frames per second of a worker process, with and without what was built for it."""
    frames = pictures(16, 1080, 1920)
    figures: dict[str, Any] = {}
    for task, batch in CASES:
        for variant in VARIANTS:
            os.environ["VDAG_VARIANT"] = variant
            with open_camera(task, frames, batch) as camera:
                found = worker_rate(camera, IN_FLIGHT * batch)
            figures[f"{task} {batch} {variant}"] = found
            report.line(f"worker, {task}, 1080p, batches of {batch}, {variant}: {found}")
        report.figures["workers"] = figures
        rates = {variant: figures[f"{task} {batch} {variant}"]["frames_s"] for variant in VARIANTS}
        report.line(f"{task} {batch}: both to plain {rates['both'] / rates['plain']:.2f}")


def devices(report: Report) -> None:
    """Frames per second of two workers of a task, on one GPU and on two, beside one worker."""
    frames = pictures(16, 1080, 1920)
    figures: dict[str, Any] = {}
    for task in ("face_detection", "car_detection"):
        for count, places in ((1, "cuda:0"), (2, "cuda:0"), (2, "cuda:0,cuda:1")):
            options = TaskOptions(engine="onnx-cuda", device=places)
            with open_camera(task, frames, 16, options) as camera:
                if count > 1:
                    camera.pool.add(task, options, count=count - 1, max_batch=16)
                    camera.pool.wait_ready(task, TIMEOUT_S)
                found = worker_rate(camera, IN_FLIGHT * 16 * count)
            figures[f"{task} {count} on {places}"] = found
            report.line(f"{task}, 1080p, batches of 16, {count} workers on {places}: {found}")
            report.figures["devices"] = figures


def worker_rate(camera: Camera, in_flight: int) -> dict[str, float]:
    """Keep so many frames on their way, for a while."""
    warm(camera, in_flight)
    delays, count, start_s = [], 0, time.perf_counter()
    while time.perf_counter() - start_s < MEASURED_S:
        delays.append(camera.take_times()[0])
        camera.send_next()
        count += 1
    elapsed_s = time.perf_counter() - start_s
    for _ in range(in_flight):
        camera.take_times()
    return {
        "frames_s": round(count / elapsed_s, 1),
        "p50_ms": round(quantile(delays, 0.5) * 1e3, 1),
        "p99_ms": round(quantile(delays, 0.99) * 1e3, 1),
    }


def warm(camera: Camera, in_flight: int) -> None:
    """Send frames until the sizes of batches are prepared, and leave so many on their way."""
    for _ in range(in_flight):
        camera.send_next()
    start_s = time.perf_counter()
    while time.perf_counter() - start_s < WARM_S:
        camera.take_times()
        camera.send_next()


def batches(report: Report) -> None:
    """What batches take of time and of the device's memory, as `vdag engine measure` says it."""
    figures: dict[str, Any] = {}
    for name, side in MODELS:
        card = zoo.card(name)
        width, height = (1920, 1080) if card.input.size == (0, 0) else (400, 400)
        preparation = preparation_of(card, side, width, height)
        spec = EngineSpec(card.path, "onnx-cuda", device="cuda:0")
        (picture,) = pictures(1, height, width)
        for cost in measure(spec, preparation, picture, (1, 4, 16), calls=10):
            figures[f"{name} {cost.batch}"] = asdict(cost)
            report.line(
                f"{name} {cost.batch}: {cost.mean_s * 1e3:.2f} ms, 95 % {cost.p95_s * 1e3:.2f} ms, "
                f"{cost.rate:.0f}/s, {cost.device_nbytes >> 20} MiB, host {cost.host_nbytes >> 20}"
            )
    report.figures["batches"] = figures


QUIET = """
import sys
import numpy as np
from vdag import engines
from vdag.engines import zoo
card = zoo.card("blazeface")
for engine in ("onnx", "onnx-cuda"):
    with engines.load(card.path, engine=engine, device="cuda:0") as loaded:
        loaded.infer({card.input.name: np.zeros((1, 3, 256, 256), np.float32)})
"""


def quiet(report: Report) -> None:
    """Nothing is written to standard error by engines that have nothing to say."""
    ended = subprocess.run(
        [sys.executable, "-c", QUIET], capture_output=True, text=True, timeout=TIMEOUT_S
    )
    report.line(f"status {ended.returncode}, {len(ended.stderr)} characters of standard error")
    report.expect(ended.returncode == 0 and not ended.stderr, f"quiet: {ended.stderr[-600:]!r}")
    for name in ("onnx-tensorrt", "tensorrt"):
        try:
            with engines.load(zoo.card("blazeface").path, engine=name, device="cuda:0"):
                report.line(f"{name} runs here")
        except EngineUnavailable as err:
            report.line(f"{name}: {err}")


def jpeg(report: Report) -> None:
    """NvJPEG against libjpeg-turbo: how far pixels are off, and files per second."""
    device = open_device(0)
    report.line(f"CPU's decoder: {native.jpeg.library() if native.jpeg.available() else 'OpenCV'}")
    frames = pictures(16, 1080, 1920)
    figures: dict[str, Any] = {}
    for hardware in (None, False):
        with JpegDecoder(device, hardware=hardware, threads=8) as decoder:
            kind = "hardware" if decoder.hardware else "default"
            for subsampling in ("444", "422", "420", "gray", "progressive"):
                key = f"{kind} {subsampling}"
                figures[key] = jpeg_case(device, decoder, frames, subsampling)
                report.line(f"nvJPEG, {key}: {figures[key]}")
                levels = figures[key]["mean_levels"]
                report.expect(levels < 0.1, f"{key}: {levels} levels off")
    report.figures["jpeg"] = figures
    jpeg_faces(report, device, frames)
    jpeg_hostile(report, device, frames[0])


def jpeg_case(
    device: Device, decoder: JpegDecoder, frames: list[np.ndarray], subsampling: str
) -> dict[str, float]:
    """Compare one kind of file, and time it."""
    files = encoded(frames, subsampling)
    expected = native.jpeg.decode_batch(files, threads=16)
    off = np.concatenate(
        [
            np.abs(host.astype(np.int16) - wanted).ravel()
            for host, wanted in zip(download(device, decoder.decode(files)), expected, strict=True)
        ]
    )
    found = {
        "mean_levels": round(float(off.mean()), 4),
        "beyond_4_levels": round(float((off > 4).mean()), 6),
        "max_levels": int(off.max()),
    }
    for count in (1, 16, 64):
        batch = (files * 4)[:count]
        decode = partial(gpu_batch, device, decoder, batch)
        found[f"gpu_{count}_s"] = round(jpeg_rate(decode, count), 0)
    found["cpu_1_thread_s"] = round(jpeg_rate(lambda: native.jpeg.decode(files[0]), 1), 0)
    found["cpu_16_threads_s"] = round(
        jpeg_rate(lambda: native.jpeg.decode_batch(files, threads=16), 16), 0
    )
    return found


def encoded(frames: list[np.ndarray], subsampling: str) -> list[bytes]:
    """Return files; progressive ones are none that decoders in hardware know."""
    if subsampling != "progressive":
        return native.jpeg.encode_batch(frames, quality=90, subsampling=subsampling, threads=16)
    flags = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_QUALITY, 90]
    return [cv2.imencode(".jpg", frame, flags)[1].tobytes() for frame in frames]


def gpu_batch(device: Device, decoder: JpegDecoder, files: list[bytes]) -> None:
    """Decode and wait."""
    found = decoder.decode(files)
    assert found[-1].ready is not None
    with device.active():
        found[-1].ready.synchronize()


def jpeg_rate(call: Any, count: int) -> float:
    """Files per second."""
    for _ in range(3):
        call()
    calls, start_s = 0, time.perf_counter()
    while time.perf_counter() - start_s < 0.7:
        call()
        calls += 1
    return calls * count / (time.perf_counter() - start_s)


def download(device: Device, found: list[DevicePicture]) -> list[np.ndarray]:
    """Return pictures as the host has them."""
    arrays = []
    with device.active():
        stream = device.stream()
        for picture in found:
            stream.wait_for_event(picture.ready)
            back = np.zeros(picture.stride * picture.height, np.uint8)
            device.download(back, picture.address, stream)
            stream.synchronize()
            rows = back.reshape(picture.height, picture.stride)[:, : picture.width * 3]
            arrays.append(rows.reshape(picture.height, picture.width, 3))
    return arrays


def jpeg_faces(report: Report, device: Device, frames: list[np.ndarray]) -> None:
    """Files to the model's outputs: decoded on the GPU, and on the CPU."""
    card = zoo.card("centerface")
    files = native.jpeg.encode_batch(frames, quality=90, threads=16)
    preparation = preparation_of(card, 1280, 1920, 1080)
    with (
        OnnxCudaEngine(EngineSpec(card.path, device="cuda:0")) as engine,
        JpegDecoder(device, threads=8) as decoder,
    ):

        def on_gpu() -> Any:
            return engine.infer_pictures(decoder.decode(files), preparation)

        def on_cpu() -> Any:
            return engine.infer_pictures(native.jpeg.decode_batch(files, threads=16), preparation)

        ours, theirs = on_gpu()[0], on_cpu()[0]
        engine.settle(TIMEOUT_S)
        off = {name: round(float(np.abs(ours[name] - theirs[name]).max()), 4) for name in ours}
        found = {
            "outputs_off": off,
            "gpu_frames_s": round(jpeg_rate(on_gpu, 16), 1),
            "cpu_16_threads_frames_s": round(jpeg_rate(on_cpu, 16), 1),
        }
    report.figures["jpeg_faces"] = found
    report.line(f"from files to outputs of centerface, batches of 16: {found}")
    report.expect(off["heat"] < 0.1, f"heat from files differs by {off['heat']}")


def jpeg_hostile(report: Report, device: Device, frame: np.ndarray) -> None:
    """Damaged files are refused or decoded to something, and the next batch is fine."""
    good = native.jpeg.encode(frame, quality=90)
    random = np.random.default_rng(5)
    refused = decoded = 0
    with JpegDecoder(device, threads=2) as decoder:
        for _ in range(100):
            bad = bytearray(good[: int(random.integers(2, len(good)))])
            for at in random.integers(0, len(bad), 20):
                bad[at] = int(random.integers(0, 256))
            try:
                download(device, decoder.decode([bytes(bad)]))
                decoded += 1
            except ImageError:
                refused += 1
        (same,) = download(device, decoder.decode([good]))
    off = np.abs(same.astype(np.int16) - native.jpeg.decode(good)).mean()
    report.expect(off < 4, f"100 damaged files: {refused} refused; the next is {off:.3f} off")
    report.figures["jpeg_damaged"] = {"refused": refused, "decoded": decoded}
