from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

pytestmark = pytest.mark.slow  # as a whole

EXAMPLES = Path(__file__).parents[2] / "examples"
#: How long a command may take to end after its outputs are closed.
TIMEOUT_S = 60
SHORT = ("--source", "synthetic:64x48@30?frames=3")


def rows_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def decoded(path: Path) -> list[np.ndarray]:
    with av.open(path) as container:
        return [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]


def names_in(folder: Path) -> list[str]:
    """All names, hidden ones too: temporary files are."""
    return sorted(path.name for path in folder.iterdir())


def table_rows(text: str) -> dict[str, list[str]]:
    """First cell to the other cells, of the table of figures."""
    rows = [line.strip("│┃").replace("┃", "│").split("│") for line in text.splitlines()]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows if len(row) == 7}


# --- whole runs over real clips ---------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A finished `vdag run`: what it printed, its files, and the lines of its results."""

    process: subprocess.CompletedProcess[str]
    folder: Path
    rows: list[dict[str, Any]]


@pytest.fixture(scope="module")
def faces(vdag_command, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("faces")
    process = vdag_command(
        *("run", EXAMPLES / "faces.json", "--source", clips / "carphone_pristine.mp4"),
        *("--frames", "10", "--output", folder / "faces.mp4"),
        *("--results", folder / "faces.jsonl"),
    )
    assert process.returncode == 0, process.stderr
    return Run(process, folder, rows_of((folder / "faces.jsonl").read_text("utf-8")))


def test_a_run_leaves_the_video_and_the_results_and_no_other_file(faces: Run):
    assert names_in(faces.folder) == ["faces.jsonl", "faces.mp4"]


def test_the_video_has_a_frame_for_each_line_and_something_is_drawn_into_it(
    faces: Run, carphone: Path
):
    frames = decoded(faces.folder / "faces.mp4")
    assert len(frames) == len(faces.rows) == 10
    assert frames[0].shape == (576, 704, 3)  # 176x144, enlarged four times to 480 rows and more
    plain = np.kron(decoded(carphone)[0], np.ones((4, 4, 1), np.uint8))
    changed = np.abs(frames[0].astype(int) - plain).max(axis=2) > 100
    x1, y1, x2, y2 = (4 * side for side in faces.rows[0]["outputs"]["face_detection"]["bbox"][0])
    at_box = changed[int(y1) - 24 : int(y2) + 4, int(x1) - 4 : int(x2) + 4]
    assert at_box.sum() > 0.9 * changed.sum() > 1000


def test_the_results_say_where_the_face_is_and_where_it_looks(faces: Run):
    assert [row["seq"] for row in faces.rows] == list(range(10))
    for row in faces.rows:
        assert (row["stream"], row["width"], row["height"]) == ("carphone_pristine.mp4", 176, 144)
        assert row["frame_id"] == row["seq"]
        assert row["pts_s"] == pytest.approx(row["seq"] * 1001 / 30000, abs=1e-4)
        assert set(row["task_delay"]) == {"face_detection", "face_alignment"}
        assert row["delay"] >= max(row["task_delay"].values()) > 0
        x1, y1, x2, y2 = row["outputs"]["face_detection"]["bbox"][0]
        assert 50 < x1 < x2 < 130
        assert 20 < y1 < y2 < 110
        (pose,) = row["outputs"]["face_alignment"]["head_pose"]
        assert np.abs(pose).max() < 60


def test_the_figures_have_a_row_for_each_task_and_one_for_the_whole(faces: Run):
    assert faces.process.stdout == ""
    table = table_rows(faces.process.stderr)
    assert list(table) == ["task", "face_detection", "face_alignment", "capture to result"]
    assert table["task"] == ["frames", "dropped", "p50 ms", "p95 ms", "p99 ms", "fps"]
    assert table["capture to result"][0] == "10"
    for name in ("face_detection", "face_alignment"):
        frames, dropped, p50, p95, p99, fps = table[name]
        assert int(frames) >= 10
        assert dropped == "0"
        assert 0 < float(p50) <= float(p95) <= float(p99)
        assert float(fps) > 0


def test_the_numpy_twins_of_the_kernels_find_the_same(faces: Run, vdag_command, carphone: Path):
    process = vdag_command(
        *("run", EXAMPLES / "faces.json", "--source", carphone, "--frames", "5", "--results", "-"),
        env={"VDAG_NATIVE": "reference"},
    )
    assert process.returncode == 0, process.stderr
    twins = rows_of(process.stdout)
    assert len(twins) == 5
    for twin, row in zip(twins, faces.rows, strict=False):
        for task, field, tolerance in (
            ("face_detection", "bbox", 0.1),
            ("face_detection", "prob", 0.01),
            ("face_alignment", "head_pose", 1.0),
        ):
            found = np.array(twin["outputs"][task][field])
            np.testing.assert_allclose(found, row["outputs"][task][field], atol=tolerance)


def test_a_terminal_shows_how_far_it_is(start_vdag):
    terminal, its_end = os.openpty()
    try:
        with start_vdag("run", "face_detection", *SHORT, stderr=its_end) as process:
            os.close(its_end)
            shown = b"".join(iter(lambda: read_terminal(terminal), b"")).decode()
            process.wait(TIMEOUT_S)
    finally:
        os.close(terminal)
    assert process.returncode == 0
    assert "3/3" in shown
    assert "0 dropped" in shown
    assert "capture to result" in shown


def read_terminal(terminal: int) -> bytes:
    """What comes next; nothing when the other end is closed, which Linux reports as an error."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""


def test_lines_stream_to_standard_output_and_figures_go_elsewhere(vdag_command, bikes: Path):
    process = vdag_command(
        *("run", EXAMPLES / "cars.json", "--source", bikes, "--fps", "1", "--frames", "7"),
        *("--model", "car_detection=1", "--results", "-"),
    )
    assert process.returncode == 0, process.stderr
    rows = rows_of(process.stdout)
    assert [row["frame_id"] for row in rows] == [0, 25, 50, 75, 100, 125, 150]
    found = rows[-1]["outputs"]["car_detection"]
    assert found["count_result"]["car"] >= 2
    assert sum(found["count_result"].values()) == len(found["result"])
    assert "car_detection" in table_rows(process.stderr)


def test_rate_size_model_threads_and_batch_can_be_chosen(
    vdag_command, carphone: Path, tmp_path: Path
):
    process = vdag_command(
        *("run", "face_detection", "--source", carphone, "--fps", "10", "--resolution", "320x240"),
        *("--model", "face_detection=2", "--threads", "1", "--batch", "4", "--device", "cpu"),
        *("--frames", "4", "--results", "-", "--output", f"{tmp_path}/"),
    )
    assert process.returncode == 0, process.stderr
    rows = rows_of(process.stdout)
    assert [row["frame_id"] for row in rows] == [0, 3, 6, 9]
    assert {(row["width"], row["height"]) for row in rows} == {(320, 240)}
    assert names_in(tmp_path) == [f"{seq:08d}.jpg" for seq in range(4)]


def test_independent_branches_both_report_on_every_frame(vdag_command, bikes: Path):
    process = vdag_command(
        *("run", EXAMPLES / "faces_and_cars.json", "--source", bikes, "--frames", "2"),
        *("--model", "car_detection=2", "--results", "-"),
    )
    assert process.returncode == 0, process.stderr
    rows = rows_of(process.stdout)
    assert len(rows) == 2
    for row in rows:
        assert set(row["outputs"]) == {"face_detection", "face_alignment", "car_detection"}


def test_a_graph_over_clips_gets_clips(vdag_command, carphone: Path, tmp_path: Path):
    graph = tmp_path / "clips.json"
    dag = {"flow": ["helmet_detection"], "generator": "ClipGenerator"}
    dag["input"] = {"helmet_detection": {"clip": "ClipGenerator.clip"}}
    graph.write_text(json.dumps(dag))
    process = vdag_command(
        *("run", graph, "--source", carphone, "--frames", "1", "--results", "-"),
    )
    assert process.returncode == 0, process.stderr
    (row,) = rows_of(process.stdout)
    assert len(row["outputs"]["helmet_detection"]["clip_result"]) == 5
    assert row["frame_id"] == 4  # of a clip, its last frame


# --- tasks and models of the user's -----------------------------------------------------------


def test_a_function_of_the_users_is_a_task(vdag_command, carphone: Path):
    process = vdag_command(
        *("run", "brightness", "--tasks", EXAMPLES / "brightness.py", "--source", carphone),
        *("--frames", "3", "--results", "-"),
    )
    assert process.returncode == 0, process.stderr
    rows = rows_of(process.stdout)
    assert len(rows) == 3
    for row in rows:
        found = row["outputs"]["brightness"]
        assert found["brightness"] == pytest.approx(97.5, abs=1)
        assert found["sharpness"] > 500
        assert found["problems"] == []


def test_a_class_of_the_users_is_a_task_behind_another(vdag_command, bikes: Path):
    process = vdag_command(
        *("run", "car_detection,zone_count", "--tasks", EXAMPLES / "custom_task.py"),
        *("--source", bikes, "--fps", "1", "--frames", "7", "--results", "-"),
    )
    assert process.returncode == 0, process.stderr
    row = rows_of(process.stdout)[-1]
    boxes = np.array(row["outputs"]["car_detection"]["result"])
    inside = row["outputs"]["zone_count"]["inside"]
    assert inside == list(boxes[:, 3] > row["height"] / 2)
    assert row["outputs"]["zone_count"]["count_result"] == {"in zone": sum(inside)}


#: Centre x, centre y, width, height in the input's pixels; then dog, cat.
ANCHORS = (
    (32, 32, 20, 10, 0.75, 0.125),
    (33, 32, 20, 10, 0.5, 0.125),  # the same dog again
    (10, 20, 8, 8, 0.0, 0.625),
    (50, 40, 8, 8, 0.1, 0.1),  # below the threshold
    (2, 12, 16, 16, 0.5, 0.0),  # reaches beyond the picture
)

CARD = """
name = "pets"
version = "1"
file = "pets.onnx"

[input]
name = "images"
colour = "RGB"
resize = "letterbox"
scale = 0.00392156862745098

[decode]
kind = "yolo"
layout = "v8"
threshold = 0.25
iou = 0.5
classes = ["dog", "cat"]
"""


def detector_of_always_the_same() -> onnx.ModelProto:
    """A YOLO in v8 layout, `(N, 4 + classes, anchors)`, that finds `ANCHORS` in any picture."""
    table = np.array(ANCHORS, np.float32).T
    constants = {
        "table": table[np.newaxis],
        "rest": np.array(table.shape, np.int64),
        "start": np.array([0], np.int64),
        "end": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Shape", ["images"], ["shape"]),
        helper.make_node("Slice", ["shape", "start", "end"], ["count"]),
        helper.make_node("Concat", ["count", "rest"], ["wanted"], axis=0),
        helper.make_node("Expand", ["table", "wanted"], ["found"]),
    ]
    graph = helper.make_graph(
        nodes,
        "pets",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("found", TensorProto.FLOAT, ["n", *table.shape])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def test_a_yolo_of_the_users_reports_its_boxes_in_pixels_of_the_frame(vdag_command, tmp_path: Path):
    onnx.save(detector_of_always_the_same(), tmp_path / "pets.onnx")
    (tmp_path / "pets.toml").write_text(CARD)
    process = vdag_command(
        *("run", "yolo", *SHORT, "--card", f"yolo={tmp_path / 'pets.toml'}", "--batch", "2"),
        *("--results", "-"),
    )
    assert process.returncode == 0, process.stderr
    rows = rows_of(process.stdout)
    assert len(rows) == 3
    for row in rows:
        found = row["outputs"]["yolo"]
        assert found["count_result"] == {"cat": 1, "dog": 2}
        # The input is 64x64: the picture of 48 rows is in its middle, 8 rows from its upper edge.
        assert sorted(found["result"]) == [
            [0.0, 0.0, 10.0, 12.0, 0.5, 0.0],
            [6.0, 8.0, 14.0, 16.0, 0.625, 1.0],
            [22.0, 19.0, 42.0, 29.0, 0.75, 0.0],
        ]
