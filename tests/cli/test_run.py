from __future__ import annotations

import json
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

EXAMPLES = Path(__file__).parents[2] / "examples"
#: How long a command may take to end after its outputs are closed.
TIMEOUT_S = 60
INTERRUPTED = 130
ENDLESS = ("face_detection", "--source", "synthetic:160x120@30", "--realtime")
SHORT = ("--source", "synthetic:64x48@30?frames=3")
TASKS = "car_detection, face_alignment, face_detection, helmet_detection, yolo"
SINKS = ".mp4, .mov, .mkv, .jsonl, .ndjson, a folder ending in / or -"


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


# --- runs that end early ----------------------------------------------------------------------


def first_lines(process: subprocess.Popen[str], count: int) -> str:
    """Wait until the command has written `count` results; the command's end ends the wait."""
    assert process.stdout is not None
    return "".join(process.stdout.readline() for _ in range(count))


def the_rest(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Both outputs up to the command's end.

    Not by `communicate`, which leaves out what a `readline` before it has taken into its buffer.
    """
    assert process.stdout is not None
    assert process.stderr is not None
    texts = process.stdout.read(), process.stderr.read()
    process.wait(TIMEOUT_S)
    return texts


def assert_nobody_is_left(process: subprocess.Popen[str], family: list[psutil.Process]) -> None:
    assert not [member for member in family if member.is_running()]
    with pytest.raises(ProcessLookupError):  # children whose parent died are in the group still
        os.killpg(process.pid, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
@pytest.mark.parametrize("times", [1, 2])
def test_an_interrupted_run_keeps_what_it_found(
    start_vdag, tmp_path: Path, number: signal.Signals, times: int
):
    video = tmp_path / "found.mp4"
    with start_vdag("run", *ENDLESS, "--output", video, "--results", "-") as process:
        before = first_lines(process, 3)
        assert before.count("\n") == 3, the_rest(process)[1]
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(True)]
        for _ in range(times):
            process.send_signal(number)
        after, messages = the_rest(process)
    assert process.returncode == INTERRUPTED
    rows = rows_of(before + after)
    assert [row["seq"] for row in rows] == list(range(len(rows)))
    assert len(decoded(video)) == len(rows)
    assert names_in(tmp_path) == ["found.mp4"]
    assert messages.startswith("interrupted: what was found so far is kept\n")
    assert table_rows(messages)["capture to result"][0] == str(len(rows))
    assert_nobody_is_left(process, family)


INTERRUPTS = """
import signal
import vdag

class Name:
    def __init__(self, seq):
        self.seq = seq

    def __str__(self):
        if self.seq == 5:
            signal.raise_signal(signal.SIGINT)
        return "told"

@vdag.task(outputs=["told"])
def tell(seq):
    return {"told": {Name(seq): seq}}
"""


def test_an_interrupt_between_the_two_files_of_a_frame_waits_for_the_second(
    vdag_command, tmp_path: Path
):
    (tmp_path / "tell.py").write_text(INTERRUPTS)  # it comes while the line is made
    process = vdag_command(
        *("run", "tell", "--tasks", "tell.py", "--source", "synthetic:64x48@60"),
        *("--output", "found.mp4", "--results", "found.jsonl"),
        cwd=tmp_path,
    )
    assert process.returncode == INTERRUPTED
    rows = rows_of((tmp_path / "found.jsonl").read_text("utf-8"))
    assert [row["outputs"]["tell"]["told"] for row in rows] == [{"told": n} for n in range(6)]
    assert len(decoded(tmp_path / "found.mp4")) == 6


TELLS = """
import sys
import vdag

@vdag.task(outputs=["told"])
def tell(seq):
    sys.stdout.write(f"{seq}\\n")
    sys.stdout.flush()
    return {"told": seq}
"""


def test_a_killed_run_leaves_the_older_files_as_they_were(start_vdag, tmp_path: Path):
    task, video, results = (tmp_path / name for name in ("tell.py", "found.mp4", "found.jsonl"))
    task.write_text(TELLS)
    video.write_bytes(b"older")
    with start_vdag(
        *("run", "tell", "--tasks", task, "--threads", "1", "--source", "synthetic:64x48@60"),
        *("--realtime", "--output", video, "--results", results),
    ) as process:
        # No more than 3 frames are between this task and the files, so some are written by then.
        assert first_lines(process, 9).count("\n") == 9, the_rest(process)[1]
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(True)]
        process.kill()
        the_rest(process)
    assert process.returncode == -signal.SIGKILL
    assert video.read_bytes() == b"older"
    assert not results.exists()
    partial = {name.rpartition(".")[0][:-9] for name in names_in(tmp_path) if ".part" in name}
    assert partial == {".found.mp4", ".found.jsonl"}  # hidden, and of no use
    assert_nobody_is_left(process, family)


def test_a_reader_that_goes_away_ends_the_run(start_vdag, tmp_path: Path):
    video = tmp_path / "found.mp4"
    with start_vdag("run", *ENDLESS, "--output", video, "--results", "-") as process:
        assert first_lines(process, 1)
        process.stdout.close()
        assert process.stderr.read() == "vdag: standard output: cannot be written: broken pipe\n"
        process.wait(TIMEOUT_S)
    assert process.returncode == 2
    assert names_in(tmp_path) == []


# --- mistakes: one line that says what and where, status 2 ------------------------------------


@pytest.fixture(scope="module")
def broken(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files that are not what their names say."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "text.mp4").write_text("this is no video, only a text\n" * 100)
    # Its index is at its end: what is left of it says nothing about where the pictures are.
    (folder / "short.mp4").write_bytes((clips / "carphone_pristine.mp4").read_bytes()[:20_000])
    (folder / "garbage.onnx").write_bytes(bytes(range(256)) * 4)
    (folder / "garbage.toml").write_text(CARD.replace("pets.onnx", "garbage.onnx"))
    (folder / "missing.toml").write_text(CARD.replace("pets.onnx", "missing.onnx"))
    (folder / "typo.toml").write_text(CARD.replace("colour", "color"))
    dag = {"flow": ["face_detection", "face_alignment"], "input": {}}
    dag["input"] = {
        "face_detection": {"image": "face_alignment.head_pose"},
        "face_alignment": {"image": "SingleFrameGenerator.image", "bbox": "face_detection.bbox"},
    }
    (folder / "cycle.json").write_text(json.dumps(dag))
    (folder / "half.json").write_text('{"flow": [')
    (folder / "raises.py").write_text("raise RuntimeError('not today')\n")
    (folder / "exits.py").write_text("raise SystemExit(3)\n")
    (folder / "syntax.py").write_text("def task(:\n")
    (folder / "taken.py").write_text(
        "import vdag\n\n"
        "@vdag.task(outputs=['x'], name='face_detection')\n"
        "def mine(image):\n    return {'x': 1}\n"
    )
    (folder / "fails.py").write_text(
        "import vdag\n\n"
        "@vdag.task(outputs=['x'])\n"
        "def fragile(seq):\n    return {'x': 1 / (1 - seq)}\n"
    )
    (folder / "file").write_text("")
    return folder


SOURCES = {
    "missing.mp4": "missing.mp4: no such file or directory",
    "text.mp4": "text.mp4: cannot be opened: invalid data found when processing input",
    "short.mp4": "short.mp4: cannot be opened: invalid data found when processing input",
    "gopher://x": "gopher://x: unknown scheme 'gopher', expected file, http, https, v4l2, rtsp, "
    "rtsps, rtmp, rtmps, srt, udp, tcp or synthetic:",
    "synthetic:64x48": "synthetic:64x48: expected synthetic:WIDTHxHEIGHT@FPS[?frames=N&seed=S]",
}

GRAPHS = {
    "cycle.json": "cycle.json: cycle: face_detection -> face_alignment -> face_detection",
    "half.json": "half.json is not JSON: Expecting value: line 1 column 11 (char 10)",
    "dog_detection": f"unknown task 'dog_detection': expected one of {TASKS}",
    "face_alignment": "input bbox of face_alignment comes from nowhere",
    "face_detection,face_detection": "flow lists face_detection twice",
    "yolo": "yolo needs a model card, such as --card yolo=mine.toml",
}

OPTIONS = {
    "--output found.avi": f"'found.avi' is no sink: expected {SINKS}",
    "--output nowhere/found.mp4": "nowhere/found.mp4: cannot be written: no such file or directory",
    "--output file/found.mp4": "file/found.mp4: cannot be written: not a directory",
    "--results nowhere/found.jsonl": (
        "nowhere/found.jsonl: cannot be written: no such file or directory"
    ),
    "--model face_detection": "model is 'face_detection', expected TASK=VALUE",
    "--model face_detection=small": (
        "model of face_detection is 'small', expected a model_id such as 1"
    ),
    "--model face_detection=9": "face_detection has no model_id 9, expected one of 0, 1, 2",
    "--model car_detection=1": "models names 'car_detection', which is no task of the graph",
    "--resolution 12": (
        "resolution '12' is unknown, expected 360p, 480p, 540p, 630p, 720p, 810p, 900p, 990p, "
        "1080p, WIDTHxHEIGHT or native"
    ),
    "--fps 0": "fps 0 is not between 0.001 and 1000",
    "--frames 0": "frames is 0, expected at least 1",
    "--threads 0": "threads is 0, expected at least 1",
    "--policy newest": "policy is 'newest', expected block or latest",
    "--device gpu": "device 'gpu' is none of auto, cpu, cuda, cuda:N",
    "--tasks raises.py": "raises.py failed: RuntimeError: not today",
    "--tasks exits.py": "exits.py failed: SystemExit: 3",
    "--tasks syntax.py": "syntax.py failed: SyntaxError: invalid syntax (syntax.py, line 1)",
    "--tasks taken.py": "taken.py failed: task face_detection is registered already",
    "--tasks missing.py": "cannot read tasks from missing.py: no such file",
    "--tasks cycle.json": "cannot read tasks from cycle.json: not a Python file",
}

CARDS = {
    "yolo=garbage.toml": "{folder}/garbage.onnx is not an ONNX model: protobuf parsing failed",
    "yolo=missing.toml": "model missing.onnx cannot be read: No such file or directory",
    "yolo=typo.toml": "card typo.toml: input: object contains unknown field color",
}


def assert_refused(process: subprocess.CompletedProcess[str], message: str) -> None:
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr == f"vdag: {message}\n"


@pytest.mark.parametrize("source", SOURCES)
def test_a_source_that_cannot_be_opened_is_one_line(vdag_command, broken: Path, source: str):
    process = vdag_command("run", "face_detection", "--source", source, cwd=broken)
    assert_refused(process, SOURCES[source])


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_graph_that_cannot_run_is_one_line(vdag_command, broken: Path, graph: str):
    assert_refused(vdag_command("run", graph, *SHORT, cwd=broken), GRAPHS[graph])


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_without_meaning_is_one_line(vdag_command, broken: Path, option: str):
    before = names_in(broken)
    process = vdag_command("run", "face_detection", *SHORT, *option.split(), cwd=broken)
    assert_refused(process, OPTIONS[option])
    assert names_in(broken) == before


@pytest.mark.parametrize("card", CARDS)
def test_a_model_that_cannot_be_used_is_one_line(vdag_command, broken: Path, card: str):
    process = vdag_command("run", "yolo", *SHORT, "--card", card, cwd=broken)
    assert_refused(process, CARDS[card].format(folder=broken))


def test_a_task_that_fails_names_itself_and_the_frame_and_leaves_no_file(
    vdag_command, broken: Path, tmp_path: Path
):
    process = vdag_command(
        *("run", "fragile", "--tasks", broken / "fails.py", *SHORT),
        *("--output", "found.mp4", "--results", "found.jsonl"),
        cwd=tmp_path,
    )
    assert_refused(process, "fragile failed on frame 1: ZeroDivisionError: division by zero")
    assert names_in(tmp_path) == []


def test_the_video_that_is_read_is_not_replaced(vdag_command, carphone: Path, tmp_path: Path):
    video = tmp_path / "street.mp4"
    video.write_bytes(carphone.read_bytes())
    process = vdag_command(
        *("run", "face_detection", "--source", video, "--output", "street.mp4"), cwd=tmp_path
    )
    assert_refused(process, "output street.mp4 is the source")
    assert video.read_bytes() == carphone.read_bytes()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to root")
def test_a_folder_that_is_read_only_is_one_line(vdag_command, tmp_path: Path):
    tmp_path.chmod(0o500)
    process = vdag_command("run", "face_detection", *SHORT, "--output", tmp_path / "found.mp4")
    assert_refused(process, f"{tmp_path}/found.mp4: cannot be written: permission denied")
