"""The parts of `bench_gpu.py` that ask whether the GPU path is right."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vdag import _native as native
from vdag import engines
from vdag.engines import zoo
from vdag.engines.base import EngineSpec
from vdag.engines.comparison import disagreement
from vdag.engines.gpu.device import Device, open_device
from vdag.engines.gpu.onnx import OnnxCudaEngine
from vdag.engines.gpu.pictures import ITEM, Launch, Preparation, place
from vdag.errors import EngineError

FACES = Path(__file__).parent.parent / "docs" / "faces.jpg"
BATCHES = (1, 2, 4, 8, 16, 32, 64)
#: Model and longest side, one for each task's largest model.
MODELS = (("centerface", 1280), ("nanodet", 960), ("facemesh", 192), ("helmet", 224))
MODELS = (*MODELS, ("blazeface", 256))


@dataclass
class Report:
    """What is printed, and the same for a file."""

    path: Path
    figures: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def line(self, text: str) -> None:
        """Print a line, and keep it."""
        print(text, flush=True)
        with self.path.open("a") as file:
            file.write(text + "\n")

    def fail(self, text: str) -> None:
        """Say what is wrong, and go on."""
        self.failures.append(text.strip().splitlines()[-1][:200])
        self.line(f"FAILED {text}")

    def expect(self, holds: bool, text: str) -> None:
        """Report one check."""
        if holds:
            self.line(f"ok  {text}")
        else:
            self.fail(text)


def timed_ms(device: Device, work: Callable[[Any], None], *, times: int = 20) -> float:
    """Return the median of a piece of work on a stream, in milliseconds, by events."""
    stream = device.stream()
    found = []
    for _ in range(times + 3):
        begin, end = device.event(timed=True), device.event(timed=True)
        begin.record(stream)
        work(stream)
        end.record(stream)
        end.synchronize()
        found.append(end.time_since(begin))
    return statistics.median(found[3:])


def pictures(count: int, height: int, width: int, *, seed: int = 0) -> list[np.ndarray]:
    """Different pictures with faces in them, and noise over them."""
    random = np.random.default_rng(seed)
    faces = cv2.resize(cv2.imread(str(FACES)), (width, height), interpolation=cv2.INTER_LINEAR)
    found = []
    for index in range(count):
        shifted = np.roll(faces, (index * 17 % height, index * 31 % width), (0, 1)).astype(np.int16)
        noise = random.integers(-20, 21, shifted.shape, dtype=np.int16)
        found.append(np.clip(shifted + noise, 0, 255).astype(np.uint8))
    return found


def preparation_of(card: zoo.Card, side: int, width: int, height: int) -> Preparation:
    """Return how the card wants pictures of this size."""
    spec = card.input
    norm = native.Normalization(
        scale=spec.scale, mean=spec.mean, std=spec.std, rgb=spec.colour == "RGB", pad=spec.pad
    )
    return Preparation(spec.name, spec.tensor_size(width, height, side), norm, spec.resize)


def layer(report: Report) -> None:
    """Memory, copies, streams, events, registration, graphs."""
    device = open_device(0)
    random = np.random.default_rng(1)
    with device.active():
        copies(report, device, random)
        registration(report, device, random)
        graphs(report, device, random)
        own_registration(report)


def copies(report: Report, device: Device, random: np.random.Generator) -> None:
    """A round trip, and what page-locked memory is worth."""
    nbytes = 64 << 20
    locked, back = device.page_locked(nbytes), device.page_locked(nbytes)
    locked[:] = random.integers(0, 256, nbytes, dtype=np.uint8)
    loose = locked.copy()
    memory = device.allocate(nbytes)
    stream = device.stream()
    device.upload(memory.address, locked, stream)
    device.download(back, memory.address, stream)
    stream.synchronize()
    report.expect(bool((back == locked).all()), "64 MiB to the device and back, page-locked")
    figures = {}
    for name, array in (("page_locked", locked), ("pageable", loose)):
        ms = timed_ms(device, lambda s, a=array: device.upload(memory.address, a, s))
        figures[f"upload_{name}_gb_s"] = round(nbytes / ms / 1e6, 2)
    ms = timed_ms(device, lambda s: device.download(back, memory.address, s))
    figures["download_page_locked_gb_s"] = round(nbytes / ms / 1e6, 2)
    report.figures["copies"] = figures
    report.line(str(figures))
    memory.close()


def registration(report: Report, device: Device, random: np.random.Generator) -> None:
    """Locking of pages that are shared memory and may only be read, as a worker's slots."""
    with native.ring.Arena.create("gpu", [(8 << 20, 4)]) as arena:
        data = random.integers(0, 256, 6 << 20, dtype=np.uint8)
        ref = arena.put(data)
        assert ref is not None
        with (
            native.ring.Arena.attach(arena.name) as reader,
            reader.acquire(ref.slot, ref.generation) as view,
        ):
            slot_rate(report, device, np.frombuffer(view, np.uint8))


def slot_rate(report: Report, device: Device, slot: np.ndarray) -> None:
    """Lock the pages of a slot, copy it to the device and back."""
    start, end = mapping(slot.ctypes.data)
    try:
        device.register(start, end - start)
    except EngineError as err:
        report.fail(f"read-only shared memory: {err}")
        return
    memory, back = device.allocate(slot.nbytes), device.page_locked(slot.nbytes)
    ms = timed_ms(device, lambda s: device.upload(memory.address, slot, s))
    stream = device.stream()
    device.download(back, memory.address, stream)
    stream.synchronize()
    report.expect(bool((back == slot).all()), "read-only shared memory is page-locked")
    report.figures["upload_slot_gb_s"] = round(slot.nbytes / ms / 1e6, 2)
    report.line(f"a slot goes up at {report.figures['upload_slot_gb_s']} GB/s")
    memory.close()
    device.unregister(start)


def mapping(address: int) -> tuple[int, int]:
    """Return begin and end of the mapping that an address lies in."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(part, 16) for part in line.split(" ", 1)[0].split("-"))
        if start <= address < end:
            return start, end
    raise AssertionError(f"nothing is mapped at {address:#x}")


def graphs(report: Report, device: Device, random: np.random.Generator) -> None:
    """A captured kernel and copy, replayed on new bytes, against the same without a graph."""
    norm = native.Normalization()
    preparation = Preparation("x", (640, 384), norm, "letterbox")
    picture = device.page_locked(720 * 1280 * 3).reshape(720, 1280, 3)
    items = device.page_locked(ITEM.itemsize).view(ITEM)
    place(items[0], 1280, 720, preparation)
    source, table = device.allocate(picture.nbytes), device.allocate(ITEM.itemsize)
    tensor = np.empty((1, 3, 384, 640), np.float32)
    target, back = device.allocate(tensor.nbytes), device.page_locked(tensor.nbytes)
    items[0]["src"], items[0]["stride"] = source.address, 1280 * 3
    launch = Launch(table.address, target.address, 1, "float32", preparation)
    stream = device.stream()

    def work(on: Any) -> None:
        device.upload(source.address, picture.reshape(-1), on)
        device.upload(table.address, items.view(np.uint8), on)
        device.fill_pictures(launch, on)
        device.download(back, target.address, on)

    work(stream)  # compiles the kernel, which no capture may
    stream.synchronize()
    graph = device.capture(stream, lambda: work(stream))
    for _ in range(3):
        picture[:] = random.integers(0, 256, picture.shape, dtype=np.uint8)
        graph.launch(stream)
        stream.synchronize()
        native.preprocess.letterbox(picture, tensor[0], norm)
        levels = np.abs(back.view(np.float32).reshape(tensor.shape) - tensor).max() * 255
        report.expect(float(levels) <= 1, f"a replayed graph is {levels:.4f} levels off")
    plain, replayed = timed_ms(device, work), timed_ms(device, graph.launch)
    report.figures["graph"] = {"plain_ms": plain, "replayed_ms": replayed}
    report.line(f"four calls {plain:.4f} ms, the same as a graph {replayed:.4f} ms")
    graph.close()
    for memory in (source, table, target):
        memory.close()


def own_registration(report: Report) -> None:
    """Say what pycuda's own registration does; vdag does not use it."""
    import pycuda.driver

    try:
        array = pycuda.driver.aligned_empty(1 << 20, np.uint8, alignment=4096)
        held = pycuda.driver.register_host_memory(array)
        result = f"gives a {type(held).__name__} on a {type(held.base).__name__}"
        held.base.unregister()
    except Exception as err:
        result = f"{type(err).__name__}: {err}"
    report.figures["pycuda_register_host_memory"] = result
    report.line(f"pycuda's register_host_memory: {result}")


SIZES = ((1080, 1920), (720, 1280), (480, 640), (333, 517), (64, 64), (1, 1), (7, 3), (2160, 3840))


def kernel(report: Report) -> None:
    """Random pictures through the GPU's kernel and the CPU's, all modes and dtypes."""
    device = open_device(0)
    random = np.random.default_rng(2)
    norms = (
        native.Normalization(),
        native.Normalization(
            scale=1.0, mean=(103.5, 116.3, 123.7), std=(57.4, 57.1, 58.4), rgb=False
        ),
    )
    worst: dict[str, float] = {}
    sources = [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]
    for norm in norms:
        for mode in ("letterbox", "stretch"):
            for dtype in ("float32", "float16"):
                for size in ((640, 384), (1280, 736), (224, 224), (33, 65)):
                    preparation = Preparation("x", size, norm, mode)
                    off = compare_kernels(device, sources, preparation, dtype)
                    key = f"{mode} {dtype}"
                    worst[key] = max(worst.get(key, 0.0), off)
    report.figures["kernel_levels"] = worst
    for key, off in worst.items():
        report.expect(off <= 1, f"kernel, {key}: at most {off:.4f} grey levels from the CPU's")
    kernel_rate(report, device, sources[0])


def compare_kernels(
    device: Device, sources: list[np.ndarray], preparation: Preparation, dtype: str
) -> float:
    """Return the largest difference in grey levels, rounding to the dtype not counted."""
    width, height = preparation.size
    expected = np.empty((len(sources), 3, height, width), np.float32)
    native.preprocess.fill_batch(sources, expected, preparation.norm, mode=preparation.mode)
    found = fill(device, sources, preparation, dtype).astype(np.float32)
    gains = np.array([gain for gain, _ in preparation.norm.affine()], np.float32)
    rounding = np.abs(expected) / 2048 if dtype == "float16" else 0.0
    off = np.maximum(np.abs(found - expected) - rounding, 0) / gains.reshape(3, 1, 1)
    return float(off.max()) if np.isfinite(found).all() else float("inf")


def fill(
    device: Device, sources: list[np.ndarray], preparation: Preparation, dtype: str
) -> np.ndarray:
    """Run the kernel on sources of any sizes; the tensor is poisoned before."""
    width, height = preparation.size
    back = np.full((len(sources), 3, height, width), np.nan, dtype)
    items = np.zeros(len(sources), ITEM)
    with device.active():
        stream = device.stream()
        table, target = device.allocate(items.nbytes), device.allocate(back.nbytes)
        device.upload(target.address, back.reshape(-1), stream)
        memories = []
        for item, picture in zip(items, sources, strict=True):
            memory = device.allocate(picture.nbytes)
            device.upload(memory.address, picture.reshape(-1), stream)
            place(item, picture.shape[1], picture.shape[0], preparation)
            item["src"], item["stride"] = memory.address, picture.shape[1] * 3
            memories.append(memory)
        device.upload(table.address, items.view(np.uint8), stream)
        launch = Launch(table.address, target.address, len(sources), dtype, preparation)
        device.fill_pictures(launch, stream)
        device.download(back, target.address, stream)
        stream.synchronize()
        for memory in (*memories, table, target):
            memory.close()
    return back


def kernel_rate(report: Report, device: Device, picture: np.ndarray) -> None:
    """Time the kernel on 16 pictures of 1080p that are on the device."""
    preparation = Preparation("x", (1280, 736), native.Normalization(), "stretch")
    items = np.zeros(16, ITEM)
    with device.active():
        source, table = device.allocate(16 * picture.nbytes), device.allocate(items.nbytes)
        target = device.allocate(16 * 3 * 736 * 1280 * 4)
        for index, item in enumerate(items):
            place(item, 1920, 1080, preparation)
            item["src"], item["stride"] = source.address + index * picture.nbytes, 1920 * 3
        stream = device.stream()
        device.upload(table.address, items.view(np.uint8), stream)
        stream.synchronize()
        launch = Launch(table.address, target.address, 16, "float32", preparation)
        ms = timed_ms(device, lambda s: device.fill_pictures(launch, s), times=50)
        for memory in (source, table, target):
            memory.close()
    report.figures["kernel_16_1080p_ms"] = ms
    report.line(f"kernel: 16 pictures of 1080p to 1280x736 float32 in {ms:.3f} ms")


def slots(report: Report) -> None:
    """Frames in the shared memory of a node, straight from their slots, against copies of them."""
    card = zoo.card("blazeface")
    frames = pictures(4, 1080, 1920)
    preparation = preparation_of(card, 256, 1920, 1080)
    with (
        native.ring.Arena.create("gpu", [(8 << 20, 6)]) as arena,
        native.ring.Arena.attach(arena.name) as reader,
        OnnxCudaEngine(EngineSpec(card.path, device="cuda:0")) as engine,
    ):
        refs = [arena.put(frame) for frame in frames]
        views = [reader.acquire(ref.slot, ref.generation) for ref in refs if ref is not None]
        slotted = [np.frombuffer(view, np.uint8).reshape(1080, 1920, 3) for view in views]
        loose, _ = engine.infer_pictures(frames, preparation)
        report.expect(engine.lock_pages(*reader.mapping), "the slots are page-locked")
        locked, _ = engine.infer_pictures(slotted, preparation)
        problem = disagreement(loose, locked, card.agreement)
        report.expect(not problem, f"pictures straight from the slots give the same: {problem}")
        engine.unlock_pages(reader.mapping[0])
        del slotted
        for view in views:
            view.release()
    locking(report)


def locking(report: Report) -> None:
    """How long a worker takes to lock a large node's slots, and to let them go."""
    device = open_device(0)
    with (
        native.ring.Arena.create("gpu", [(8 << 20, 256)]) as arena,
        native.ring.Arena.attach(arena.name, prefault=False) as reader,
        device.active(),
    ):
        begun = time.perf_counter()
        device.register(*reader.mapping)
        locked = time.perf_counter()
        device.unregister(reader.mapping[0])
        ended = time.perf_counter()
    found = {"lock_s": round(locked - begun, 3), "unlock_s": round(ended - locked, 3)}
    report.figures["locking_2_gib"] = found
    report.line(f"2 GiB of slots: {found}")


def models(report: Report) -> None:
    """The zoo's models on CUDA against the CPU, batches of 1 to 64."""
    figures: dict[str, Any] = {}
    for name, side in MODELS:
        card = zoo.card(name)
        for batch, off, problem in model_differences(card, side):
            figures.setdefault(name, {})[batch] = off
            worst = ", ".join(f"{key} {value:.2g}" for key, value in off.items())
            report.expect(
                not problem, f"{name} batch {batch}: largest differences {worst} {problem}"
            )
    report.figures["models"] = figures


def model_differences(card: zoo.Card, side: int) -> Iterator[tuple[int, dict[str, float], str]]:
    """Yield batch, the largest difference of each output, and what is wrong if something is."""
    width, height = (1920, 1080) if card.input.size == (0, 0) else (400, 400)
    preparation = preparation_of(card, side, width, height)
    frames = pictures(8, height, width)
    tensor = np.empty((8, 3, *preparation.size[::-1]), np.float32)
    native.preprocess.fill_batch(frames, tensor, preparation.norm, mode=preparation.mode, threads=8)
    with engines.load(card.path, device="cpu", threads=8) as cpu:
        expected = cpu.infer({card.input.name: tensor})
    with OnnxCudaEngine(EngineSpec(card.path, device="cuda:0")) as engine:
        for batch in BATCHES:
            chosen = [index % 8 for index in range(batch)]
            found, _ = engine.infer_pictures([frames[i] for i in chosen], preparation)
            wanted = {name: values[chosen] for name, values in expected.items()}
            off = {
                name: float(np.abs(found[name].astype(float) - wanted[name]).max())
                for name in found
            }
            yield batch, off, disagreement(wanted, found, card.agreement)
