from __future__ import annotations

import pytest

from vdag.control.profile import Profile

pytestmark = pytest.mark.slow  # as a whole


def test_every_size_of_batch_has_a_line(vdag_command):
    process = vdag_command(
        "engine", "measure", "blazeface", "--device", "cpu", "--batch", "2,1", "--calls", "2"
    )
    assert process.returncode == 0, process.stderr
    title, *lines = process.stdout.splitlines()
    assert title.split()[:2] == ["model", "batch"]
    assert [line.split()[:2] for line in lines] == [["blazeface", "1"], ["blazeface", "2"]]


def test_what_was_measured_goes_into_a_profile(vdag_command, tmp_path):
    path = tmp_path / "profile.json"
    process = vdag_command(
        "engine", "measure", "blazeface", "--device", "cpu", "--batch", "1,2", "--calls", "2",
        "--size", "640x360", "--profile", path, "--place", "cloud",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    found = Profile.load(path)
    assert found.about == {"engine": "onnx on cpu"}
    (row,) = found.costs()
    assert row[:4] == ("face_detection", 2, "640x360", "cloud")
    assert [point.batch for point in row.cost.batches] == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--batch", "0"], "vdag: batch is '0', expected numbers such as 1,4,16"),
        (["--batch", "1,x"], "vdag: batch is '1,x', expected numbers such as 1,4,16"),
        (["--batch", "300"], "vdag: batch of 300 is not 1 to 256"),
        (["--size", "12"], "vdag: size is '12', expected numbers such as WIDTHxHEIGHT"),
        (
            ["--batch", "2,4", "--profile", "profile.json"],
            "vdag: batch is '2,4': a profile needs to know what a batch of 1 takes",
        ),
        (["--engine", "none"], "vdag: engine 'none' is none of onnx, "),
    ],
)
def test_mistakes_are_told_in_a_line(vdag_command, arguments: list[str], problem: str):
    process = vdag_command("engine", "measure", "blazeface", *arguments)
    assert process.returncode != 0
    assert process.stderr.startswith(problem)
