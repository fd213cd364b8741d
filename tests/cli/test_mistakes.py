"""Mistakes of the caller's: one line that says what is wrong and where, and status 2."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # as a whole

SHORT = ("--source", "synthetic:64x48@30?frames=3")
TASKS = "car_detection, face_alignment, face_detection, helmet_detection, yolo"
SINKS = ".mp4, .mov, .mkv, .jsonl, .ndjson, a folder ending in / or -"

CARD = """
name = "pets"
version = "1"
file = "pets.onnx"

[input]
name = "images"
colour = "RGB"
resize = "letterbox"

[decode]
kind = "yolo"
layout = "v8"
classes = ["dog", "cat"]
"""


def names_in(folder: Path) -> list[str]:
    """All names, hidden ones too: temporary files are."""
    return sorted(path.name for path in folder.iterdir())


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
