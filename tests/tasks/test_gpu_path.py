"""Tasks whose engine takes pictures: the same findings, from shared memory, two batches at once."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gpu_kit
import numpy as np
import pytest

from vdag import _native as native
from vdag import engines, tasks
from vdag.errors import EngineError, EngineUnavailable
from vdag.tasks import TaskOptions, overlap
from vdag.tasks.faces import FaceDetection
from vdag.tasks.helmets import HelmetDetection
from vdag.tasks.objects import ObjectDetection
from vdag.tasks.pose import FaceAlignment

FACES = Path(__file__).parents[2] / "docs" / "faces.jpg"


class Everything(ObjectDetection):
    """All classes: the picture has people and no cars."""

    task = "car_detection"


#: Each kind of task whose model wants frames themselves, and which model.
TASKS = [(FaceDetection, 2), (Everything, 0)]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return gpu_kit.compile_kernels(tmp_path_factory.mktemp("kernels"))


@pytest.fixture
def host(library: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[gpu_kit.HostDevice]:
    host = gpu_kit.HostDevice(library)
    monkeypatch.setattr(gpu_kit.HostEngine, "host", host, raising=False)
    monkeypatch.setitem(engines._TARGETS, "stand-in", "gpu_kit:HostEngine")
    yield host
    assert host.allocated == {}
    assert host.registered == {}


def on_device(model_id: int) -> TaskOptions:
    return TaskOptions(model_id=model_id, engine="stand-in", device="cuda")


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    """Frames with people in them, of one size, and one of another."""
    whole = native.jpeg.decode(FACES.read_bytes())
    height, width = (side // 2 for side in whole.shape[:2])
    corners = [(0, 0), (0, width), (height, 0), (height, width)]
    return [np.ascontiguousarray(whole[y : y + height, x : x + width]) for y, x in corners] + [
        np.ascontiguousarray(whole[:, : width + width // 3])
    ]


def inputs(frames: list[np.ndarray]) -> list[dict[str, np.ndarray]]:
    return [{"image": frame} for frame in frames]


def assert_same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ("bbox", "prob", "landmarks", "result"):
            if name in theirs:
                assert ours[name].shape == theirs[name].shape
                np.testing.assert_allclose(ours[name], theirs[name], atol=0.5)


@pytest.mark.parametrize(("task", "model_id"), TASKS)
def test_findings_are_those_of_the_cpu(host, frames, task, model_id):
    cpu = task(TaskOptions(model_id=model_id, device="cpu"))
    gpu = task(on_device(model_id))
    tasks.warm_up(gpu, 8)
    host.uploads.clear()
    expected = cpu.process(inputs(frames))
    assert sum(len(found.get("bbox", found.get("result"))) for found in expected)
    assert_same(gpu.process(inputs(frames)), expected)
    # Bytes went up, and no tensor of floats.
    largest = sorted((nbytes for _, nbytes in host.uploads), reverse=True)[: len(frames)]
    assert largest == sorted((frame.nbytes for frame in frames), reverse=True)
    cpu.close()
    gpu.close()


@pytest.mark.parametrize(("task", "model_id"), TASKS)
def test_two_batches_at_once_keep_their_own(host, frames, task, model_id):
    gpu = task(on_device(model_id))
    batches = [frames[:2], frames[2:4], frames[:1], frames[3:]]
    expected = [gpu.process(inputs(batch)) for batch in batches]
    first, second = (overlap.begin(gpu, inputs(batch)) for batch in batches[:2])
    assert not first.is_finished
    assert not second.is_finished
    assert_same(second.result(), expected[1])
    third = overlap.begin(gpu, inputs(batches[2]))
    assert_same(first.result(), expected[0])
    # Pictures that become tensors of two sizes are run at once, beside the batch at work.
    mixed = overlap.begin(gpu, inputs(batches[3]))
    assert mixed.is_finished is (task is Everything)
    assert_same(third.result(), expected[2])
    assert_same(mixed.result(), expected[3])
    gpu.close()


@pytest.fixture(scope="module")
def people() -> list[dict[str, Any]]:
    """Frames with one face or two, and those faces; with the last come none."""
    left = native.jpeg.decode(FACES.read_bytes())
    right = np.ascontiguousarray(left[:, ::-1])
    frames = [left, right, np.hstack([left, right]), np.ascontiguousarray(left[20:])]
    finder = FaceDetection(TaskOptions(model_id=0, device="cpu"))
    found = finder.process(inputs(frames))
    finder.close()
    assert [len(each["bbox"]) for each in found] == [1, 1, 2, 1]
    given = [{"image": frame} | each for frame, each in zip(frames, found, strict=True)]
    nobody = {name: values[:0] for name, values in found[0].items()}
    return [*given, {"image": left} | nobody]


def without(people: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    return [{name: each[name] for name in each.keys() - {*names}} for each in people]


#: Tasks whose model wants parts of frames, and what they do without.
PARTS = [(FaceAlignment, ()), (FaceAlignment, ("landmarks",)), (HelmetDetection, ()),
         (HelmetDetection, ("bbox",))]  # fmt: skip


def assert_parts_same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        assert ours["count_result"] == theirs["count_result"]
        for name, most in (("head_pose", 1.0), ("prob", 0.05), ("bbox_list", 0.5)):
            if name in theirs:
                np.testing.assert_allclose(ours[name], theirs[name], atol=most)


@pytest.mark.parametrize(("task", "missing"), PARTS)
def test_parts_of_frames_go_up_together_two_batches_at_once(host, people, task, missing):
    cpu, gpu = task(TaskOptions(device="cpu")), task(on_device(0))
    given = without(people, *missing)
    batches = [given[:2], given[2:], given[4:]]
    expected = [cpu.process(batch) for batch in batches]
    first, second = (overlap.begin(gpu, batch) for batch in batches[:2])
    assert not first.is_finished
    assert not second.is_finished
    assert_parts_same(second.result(), expected[1])
    # Nothing is there to be begun of a frame without anybody in it.
    third = overlap.begin(gpu, batches[2])
    assert third.is_finished is ("bbox" not in missing)
    assert_parts_same(first.result(), expected[0])
    assert_parts_same(third.result(), expected[2])
    cpu.close()
    gpu.close()


def test_a_clip_has_its_heads_together_with_those_of_frames_beside_it(host, people):
    gpu = HelmetDetection(on_device(0))
    clip = {"clip": [people[0]["image"], people[1]["image"]]}
    single = without(people[:2], "bbox")
    alone = [gpu.process([each])[0] for each in (clip, people[2], *single)]
    together = gpu.process([clip, people[2], *single])
    assert_parts_same(together, alone)
    whole = together[0]
    assert [each["ntotal"] for each in whole["clip_result"]] == [
        len(each["prob"]) for each in together[2:]
    ]
    gpu.close()


def test_frames_in_slots_go_up_from_there(host, frames):
    gpu = tasks.load("face_detection", on_device(2))
    with native.ring.Arena.create("task", [(frames[0].nbytes, 4)]) as arena:
        assert overlap.lock_pages(gpu, *arena.mapping)
        refs = [arena.put(frame) for frame in frames[:3]]
        views = [arena.acquire(ref.slot, ref.generation) for ref in refs if ref is not None]
        slots = [np.frombuffer(view, np.uint8).reshape(frames[0].shape) for view in views]
        host.uploads.clear()
        found = gpu.process(inputs(slots))
        assert [(slot.ctypes.data, slot.nbytes) for slot in slots] == host.uploads[:3]
        assert_same(found, gpu.process(inputs(frames[:3])))
        del slots, found
        gpu.close()
        for view in views:
            view.release()
        gc.collect()
        assert arena.stats().leases == 0


def test_a_task_on_the_cpu_locks_nothing_and_begins_nothing(frames):
    with_cpu = tasks.load("face_detection", TaskOptions(model_id=2, device="cpu"))
    assert not overlap.lock_pages(with_cpu, 1 << 20, 8192)
    begun = overlap.begin(with_cpu, inputs(frames[:1]))
    assert begun.is_finished
    assert_same(begun.result(), with_cpu.process(inputs(frames[:1])))
    with_cpu.close()


def test_a_batch_that_fails_leaves_the_task_usable(host, frames, monkeypatch):
    gpu = tasks.load("face_detection", on_device(2))
    expected = gpu.process(inputs(frames[:1]))
    begun = overlap.begin(gpu, inputs(frames[:1]))
    with monkeypatch.context() as broken:
        broken.setattr(host, "fill_pictures", _out_of_memory)
        for _ in range(3):
            with pytest.raises(EngineError, match="out of memory"):
                overlap.begin(gpu, inputs(frames[:1]))
    assert_same(begun.result(), expected)
    assert_same(gpu.process(inputs(frames[:1])), expected)
    gpu.close()


def _out_of_memory(*_: object) -> None:
    raise EngineError("out of memory")


def test_whoever_writes_process_anew_is_not_gone_round():
    class Mine(FaceDetection):
        def __init__(self) -> None:
            self.max_batch = 1

        def process(self, batch):
            return [{"mine": True} for _ in batch]

    begun = overlap.begin(Mine(), inputs([np.zeros((4, 4, 3), np.uint8)]))
    assert begun.is_finished
    assert begun.result() == [{"mine": True}]


def test_a_task_without_use_for_pages_is_left_alone():
    @tasks.task(outputs=["width"], name="gpu_path_width")
    def width(image):
        return {"width": image.shape[1]}

    plain = tasks.load("gpu_path_width")
    try:
        assert not overlap.lock_pages(plain, 1 << 20, 8192)
        begun = overlap.begin(plain, inputs([np.zeros((4, 6, 3), np.uint8)]))
        assert begun.result() == [{"width": 6}]
    finally:
        del tasks.base._registry["gpu_path_width"]


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
@pytest.mark.parametrize(("task", "model_id"), TASKS)
def test_a_real_gpu_finds_what_the_cpu_finds(frames, task, model_id, device):
    try:
        gpu = task(TaskOptions(model_id=model_id, engine="onnx-cuda", device=device))
    except EngineUnavailable as err:
        pytest.skip(str(err))
    cpu = task(TaskOptions(model_id=model_id, device="cpu"))
    first, second = (overlap.begin(gpu, inputs(frames[at : at + 2])) for at in (0, 2))
    expected = cpu.process(inputs(frames[:4]))
    assert_same([*first.result(), *second.result()], expected)
    cpu.close()
    gpu.close()


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
@pytest.mark.parametrize(("task", "missing"), PARTS)
def test_a_real_gpu_finds_in_parts_what_the_cpu_finds(people, task, missing, device):
    try:
        gpu = task(TaskOptions(engine="onnx-cuda", device=device))
    except EngineUnavailable as err:
        pytest.skip(str(err))
    cpu, given = task(TaskOptions(device="cpu")), without(people, *missing)
    first, second = (overlap.begin(gpu, batch) for batch in (given[:2], given[2:]))
    assert_parts_same([*first.result(), *second.result()], cpu.process(given))
    cpu.close()
    gpu.close()
