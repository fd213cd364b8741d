from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # as a whole

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX has no wheel here")


@pytest.fixture(scope="module")
def folder(vdag_command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("engines")
    process = vdag_command(
        "engine", "build", "blazeface", "--capability", "8.6", "--folder", str(made)
    )
    assert process.returncode == 0, process.stderr
    assert "blazeface: " in process.stdout
    assert " MiB in " in process.stdout
    return made


def test_what_is_there_is_not_built_again(vdag_command, folder: Path):
    process = vdag_command(
        "engine", "build", "blazeface", "--capability", "8.6", "--folder", str(folder)
    )
    assert process.returncode == 0
    assert "blazeface: is there" in process.stdout


def test_the_list_says_what_each_is_of(vdag_command, folder: Path):
    process = vdag_command("engine", "list", "--folder", str(folder))
    text = " ".join(process.stdout.split())
    for part in ("blazeface", "8.6", "tensorrt-rtx", "float16", "1 engines"):
        assert part in text


def test_check_finds_a_damaged_one_and_prune_makes_room(vdag_command, folder: Path, tmp_path: Path):
    (path,) = folder.glob("*.engine")
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    assert vdag_command("engine", "check", "--folder", str(tmp_path)).returncode == 0
    copy.write_bytes(path.read_bytes()[:-1] + b"?")
    process = vdag_command("engine", "check", "--folder", str(tmp_path))
    assert process.returncode == 1
    assert "checksum is wrong" in " ".join(process.stdout.split())
    process = vdag_command("engine", "prune", "--budget-gib", "0", "--folder", str(tmp_path))
    assert process.returncode == 0
    assert process.stdout.startswith("removed ")
    assert not copy.exists()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["blazeface", "--capability", "9.0"], "vdag: capability '9.0' is none of 7.5, "),
        (["nothing", "--capability", "8.6"], "vdag: the zoo has no model 'nothing', only "),
        (
            ["blazeface", "--capability", "8.6", "--precision", "int4"],
            "vdag: precision 'int4' is none of float16, float32, model",
        ),
    ],
)
def test_a_mistake_is_one_line(vdag_command, tmp_path: Path, arguments, problem: str):
    process = vdag_command("engine", "build", *arguments, "--folder", str(tmp_path))
    assert process.returncode == 2
    assert process.stderr.startswith(problem)
    assert process.stderr.count("\n") == 1
