from __future__ import annotations

import importlib
import os
import re
from pathlib import Path

import pytest

import vdag
from vdag.errors import EngineUnavailable

#: The module, whose name in its package is the command's.
doctor = importlib.import_module("vdag.cli.doctor")
#: What a machine that runs pipelines needs: the report has a line for each of them.
NEEDED = ["vdag", "kernels", "JPEG", "av", "opencv-python-headless", "engine onnx"]
MODELS = ["blazeface", "centerface", "facemesh", "helmet", "nanodet"]


def findings(text: str) -> dict[str, tuple[str, str]]:
    """What was looked at to its mark and what was found, folded lines joined."""
    lines = re.split(r"^ (?=ok|missing|without)", text, flags=re.MULTILINE)[1:]
    cells = [re.split(r"\s{2,}", " ".join(line.split("\n")).strip(), maxsplit=2) for line in lines]
    return {what: (mark, " ".join(found.split())) for mark, what, found in cells}


@pytest.fixture(scope="module")
def report(vdag_command) -> dict[str, tuple[str, str]]:
    process = vdag_command("doctor")
    assert (process.returncode, process.stderr) == (0, ""), process.stdout
    return findings(process.stdout)


@pytest.mark.parametrize("what", [*NEEDED, *(f"model {name}" for name in MODELS)])
def test_everything_that_is_needed_is_here(report, what: str):
    assert report[what][0] == "ok"


def test_it_says_what_is_in_use(report):
    assert report["vdag"][1].startswith(f"{vdag.__version__}, Python 3.")
    assert re.fullmatch(r"compiled, SIMD (avx512|avx2|neon|plain)", report["kernels"][1])
    jpeg = re.fullmatch(r"tj3? \S+ at (\S+)", report["JPEG"][1])
    assert jpeg is not None
    assert Path(jpeg[1]).name.startswith("libturbojpeg")
    assert re.fullmatch(r"\d+\.\d+\S* on (cuda, )?cpu", report["engine onnx"][1])


class Board:
    """A GPU as it describes itself."""

    name, compute_capability, nbytes = "Orin", (8, 7), 8 << 30

    def __init__(self, *, integrated: bool) -> None:
        self.integrated = integrated


def test_every_gpu_has_a_line(monkeypatch: pytest.MonkeyPatch):
    boards = [Board(integrated=False), Board(integrated=True)]

    def open_device(index: int) -> Board:
        if index >= len(boards):
            raise EngineUnavailable(f"device cuda:{index} is not there: {len(boards)} found")
        return boards[index]

    monkeypatch.setattr(doctor, "open_device", open_device)
    assert [(each.what, each.state) for each in doctor._devices()] == [
        ("GPU cuda:0", "Orin, compute capability 8.7, 8.0 GiB"),
        ("GPU cuda:1", "Orin, compute capability 8.7, 8.0 GiB shared with the host"),
    ]
    boards.clear()
    (finding,) = doctor._devices()
    assert (finding.what, finding.needed) == ("GPU", False)
    assert finding.problem == "device cuda:0 is not there: 0 found"


def test_an_opencv_of_the_system_will_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "_version", lambda *packages: None)
    found = {each.what: each for each in doctor._packages()}
    assert re.fullmatch(r"\S+ of the system, resizes, .*", found["opencv-python-headless"].state)
    assert found["av"].problem.startswith("not installed: pip install '.[video]'")
    monkeypatch.setitem(doctor.MODULES, "opencv-python-headless", "no_such_module")
    found = {each.what: each for each in doctor._packages()}
    assert found["opencv-python-headless"].problem.startswith("not installed: pip install")


def test_two_builds_of_onnxruntime_are_one_too_many(monkeypatch: pytest.MonkeyPatch):
    def lines() -> dict[str, str]:
        return {each.what: each.problem for each in doctor._gpu()}

    monkeypatch.setattr(doctor, "_version", lambda *packages: "1.2")
    assert lines()["onnxruntime"].startswith("onnxruntime and onnxruntime-gpu are one module")
    monkeypatch.setattr(doctor, "_version", lambda *packages: packages[0] == "onnxruntime" or None)
    assert "onnxruntime" not in lines()


def test_an_engine_that_is_not_here_is_no_fault(report):
    assert report["engine tensorrt"][0] in ("ok", "without")


def test_the_numpy_twins_are_named_when_they_are_in_use(vdag_command):
    process = vdag_command("doctor", env={"VDAG_NATIVE": "reference"})
    assert process.returncode == 0, process.stdout
    assert findings(process.stdout)["kernels"] == ("ok", "numpy twins, SIMD numpy")


def test_a_jpeg_library_that_cannot_be_loaded_is_a_fault_among_the_others(vdag_command):
    process = vdag_command("doctor", env={"VDAG_TURBOJPEG": "/nonexistent"})
    assert (process.returncode, process.stderr) == (1, "")
    found = findings(process.stdout)
    assert found["JPEG"] == (
        "missing",
        "VDAG_TURBOJPEG names /nonexistent, which is no usable libturbojpeg: /nonexistent: "
        "cannot open shared object file: No such file or directory",
    )
    assert found["kernels"][0] == found["engine onnx"][0] == "ok"


def test_a_missing_package_is_named_with_what_to_install(vdag_command, tmp_path: Path):
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('hidden')\n")
    folders = (tmp_path, Path(vdag.__file__).parents[1])
    process = vdag_command("doctor", env={"PYTHONPATH": os.pathsep.join(map(str, folders))})
    assert (process.returncode, process.stderr) == (1, "")
    assert findings(process.stdout)["engine onnx"] == (
        "missing",
        "onnxruntime is not installed: pip install '.[onnx]' in the checkout, or '.[gpu]' for CUDA",
    )
