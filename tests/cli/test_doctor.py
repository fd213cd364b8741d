from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

import vdag

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
