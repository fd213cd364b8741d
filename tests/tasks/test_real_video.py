"""What the tasks find in real video. Nobody labelled it, so only loose facts are asserted."""

from __future__ import annotations

import numpy as np
import pytest

from vdag import Graph, Pipeline
from vdag.tasks import TaskOptions, load

pytestmark = pytest.mark.slow  # as a whole

FACES = Graph.chain("face_detection", "face_alignment")


def analyse(graph, frames, **options):
    with Pipeline(graph, iter(frames), **options) as run:
        return list(run)


def process(task, batch, **options):
    loaded = load(task, TaskOptions(**options))
    try:
        return loaded.process(batch)
    finally:
        loaded.close()


def poses(results):
    return np.array([result["face_alignment"]["head_pose"][0] for result in results])


@pytest.fixture(scope="module")
def faces(carphone_frames):
    return analyse(FACES, carphone_frames)


def test_there_is_exactly_one_face_in_every_frame(faces):
    assert [len(result["face_detection"]["bbox"]) for result in faces] == [1] * 120


@pytest.mark.parametrize("model_id", [1, 2])
def test_smaller_models_find_the_face_where_the_large_one_does(carphone_frames, faces, model_id):
    batch = [{"image": frame} for frame in carphone_frames[::10]]
    for found, result in zip(
        process("face_detection", batch, model_id=model_id), faces[::10], strict=True
    ):
        (box,), (expected,) = found["bbox"], result["face_detection"]["bbox"]
        corners = np.maximum(box[:2], expected[:2]), np.minimum(box[2:], expected[2:])
        common = np.prod(np.maximum(corners[1] - corners[0], 0))
        union = np.prod(box[2:] - box[:2]) + np.prod(expected[2:] - expected[:2]) - common
        assert common / union > 0.5


def test_the_head_turns_smoothly(faces):
    steps = np.abs(np.diff(poses(faces), axis=0)).max(axis=0)
    assert (steps < [6, 9, 6]).all()


def test_the_face_is_cut_out_with_a_margin(faces):
    for result in faces:
        (crop,) = result["face_detection"]["faces"]
        x1, y1, x2, y2 = result["face_detection"]["bbox"][0]
        assert max(crop.shape[:2]) == pytest.approx(1.5 * max(x2 - x1, y2 - y1), abs=1.5)
        assert np.shares_memory(crop, result.frame.pixels)


def test_mirrored_frames_turn_yaw_and_roll_around(carphone_frames, faces):
    mirrored = poses(analyse(FACES, [frame[:, ::-1].copy() for frame in carphone_frames]))
    straight = poses(faces)
    assert np.corrcoef(straight[:, 0], -mirrored[:, 0])[0, 1] > 0.9
    clear = np.abs(straight[:, 0]) > 5
    assert clear.sum() >= 20
    assert (np.sign(straight[clear, 0]) == -np.sign(mirrored[clear, 0])).all()
    assert (np.sign(straight[:, 2]) == -np.sign(mirrored[:, 2])).all()


def test_without_landmarks_a_second_look_finds_almost_the_same_pose(carphone_frames, faces):
    batch = [
        {"image": frame, "bbox": result["face_detection"]["bbox"]}
        for frame, result in zip(carphone_frames[::10], faces[::10], strict=True)
    ]
    alone = np.concatenate([found["head_pose"] for found in process("face_alignment", batch)])
    assert np.abs(alone - poses(faces)[::10]).max() < 8


def test_crops_with_their_boxes_do_as_well_as_the_whole_frame(carphone_frames, faces):
    fields = [result["face_detection"] for result in faces[::10]]
    whole = [
        {"image": frame, "bbox": found["bbox"], "landmarks": found["landmarks"]}
        for frame, found in zip(carphone_frames[::10], fields, strict=True)
    ]
    crops = [{name: found[name] for name in ("faces", "bbox", "landmarks")} for found in fields]
    for one, other in zip(
        process("face_alignment", whole), process("face_alignment", crops), strict=True
    ):
        assert np.abs(one["head_pose"] - other["head_pose"]).max() < 3


@pytest.mark.parametrize("model_id", [0, 1, 2])
def test_every_model_finds_the_face(carphone_frames, model_id):
    frames = carphone_frames[::10]
    found = process("face_detection", [{"image": frame} for frame in frames], model_id=model_id)
    assert sum(len(outputs["bbox"]) == 1 for outputs in found) >= 11


@pytest.fixture(scope="module")
def cars(bikes_frames):
    return analyse(["car_detection"], bikes_frames[138:186])


def test_there_are_at_least_two_vehicles_in_the_street(cars):
    assert min(len(result["car_detection"]["result"]) for result in cars) >= 2


def test_rows_are_boxes_inside_the_frame_with_confidence_and_class(cars):
    rows = np.concatenate([result["car_detection"]["result"] for result in cars])
    assert (rows[:, :2] < rows[:, 2:4]).all()
    assert rows[:, :4].min() >= 0
    assert (rows[:, 2] <= 640).all()
    assert (rows[:, 3] <= 272).all()
    assert (rows[:, 4] >= 0.3).all()
    assert set(rows[:, 5]) <= {2.0, 3.0, 5.0, 7.0}
    counted = sum(sum(result["car_detection"]["count_result"].values()) for result in cars)
    assert counted == len(rows)


def test_a_smaller_model_costs_accuracy(bikes_frames, cars):
    small = analyse(["car_detection"], bikes_frames[138:186], models={"car_detection": 2})
    count = sum(len(result["car_detection"]["result"]) for result in small)
    assert 0 < count < sum(len(result["car_detection"]["result"]) for result in cars)


def test_a_helmet_is_told_from_bare_heads(bikes_frames, carphone_frames):
    graph = ["face_detection", "helmet_detection"]
    cyclist = analyse(graph, bikes_frames[103:130])
    worn = sum(len(result["helmet_detection"]["bbox_list"]) for result in cyclist)
    assert worn >= 20
    bare = analyse(graph, carphone_frames[::4])
    assert sum(result["helmet_detection"]["count_result"]["helmet"] for result in bare) == 0
    assert sum(result["helmet_detection"]["count_result"]["total"] for result in bare) == 30


def test_a_clip_gives_the_numbers_of_each_of_its_pictures(carphone_frames):
    (found,) = process("helmet_detection", [{"clip": carphone_frames[:3]}])
    assert found["clip_result"] == [{"ntotal": 1, "n_no_helmet": 1}] * 3


def same(one, other):
    """Compare two tasks' outputs: floats as sums in another order leave them, the rest exactly."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_allclose(value, other[name], rtol=2e-3, atol=2e-2, err_msg=name)
        elif name == "faces":
            assert len(value) == len(other[name])
        else:
            assert value == other[name]


def test_a_pipeline_finds_what_its_tasks_find_one_by_one(carphone_frames, faces):
    frames = carphone_frames[:24]
    detected = process("face_detection", [{"image": frame} for frame in frames])
    aligned = process(
        "face_alignment",
        [{"image": frame, **found} for frame, found in zip(frames, detected, strict=True)],
    )
    for result, found, pose in zip(faces, detected, aligned, strict=False):
        same(result["face_detection"], found)
        same(result["face_alignment"], pose)


@pytest.mark.parametrize("task", ["face_detection", "car_detection"])
def test_a_batch_of_eight_finds_what_single_frames_find(bikes_frames, task):
    batch = [{"image": frame} for frame in bikes_frames[140:148]]
    together = process(task, batch)
    for inputs, found in zip(batch, together, strict=True):
        same(process(task, [inputs])[0], found)


def test_two_branches_give_the_results_of_the_two_chains(bikes_frames):
    frames = bikes_frames[104:134:3]
    both = analyse(["face_detection", "face_alignment", "car_detection"], frames, threads=3)
    chains = (analyse(FACES, frames), analyse(["car_detection"], frames))
    assert sum(len(result["face_detection"]["bbox"]) for result in both) > 0
    for result, face, car in zip(both, *chains, strict=True):
        for task in ("face_detection", "face_alignment"):
            same(result[task], face[task])
        same(result["car_detection"], car["car_detection"])


def test_a_frame_without_faces_has_empty_results(bikes_frames):
    (result,) = analyse(FACES, [np.zeros_like(bikes_frames[0])])
    assert result["face_detection"]["bbox"].shape == (0, 4)
    assert result["face_alignment"]["head_pose"].shape == (0, 3)
    assert result["face_alignment"]["count_result"] == {"up": 0, "total": 0}
