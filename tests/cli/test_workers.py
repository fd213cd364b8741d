from __future__ import annotations

import json
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def outputs(process):
    assert process.returncode == 0, process.stderr
    return [json.loads(line)["outputs"] for line in process.stdout.splitlines()]


def test_a_run_with_workers_finds_the_same_with_a_task_of_the_user_s(vdag_command, carphone):
    arguments = (
        *("run", "brightness", "--tasks", EXAMPLES / "brightness.py"),
        *("--source", carphone, "--frames", "20", "--results", "-"),
    )
    expected = outputs(vdag_command(*arguments))
    assert len(expected) == 20
    assert outputs(vdag_command(*arguments, "--workers", "2")) == expected


def test_a_run_with_workers_draws_what_it_found(vdag_command, carphone, tmp_path):
    process = vdag_command(
        *("run", EXAMPLES / "faces.json", "--source", carphone, "--frames", "5"),
        *("--workers", "1", "--output", f"{tmp_path / 'drawn'}/"),
    )
    assert process.returncode == 0, process.stderr
    assert len(list((tmp_path / "drawn").iterdir())) == 5
    assert "face_alignment" in process.stderr


def test_no_worker_is_refused(vdag_command):
    process = vdag_command("run", "face_detection", "--source", "synthetic:8x8@5", "--workers", "0")
    assert process.returncode != 0
    assert "workers of face_detection is 0, expected at least 1" in process.stderr
