from __future__ import annotations

from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def listed(text: str) -> dict[str, list[str]]:
    """Task to what it takes, what it gives, and its models."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("│")[1:-1]]
        if len(cells) != 4:
            continue
        name = cells[0] or name
        rows = found.setdefault(name, ["", "", ""])
        found[name] = [f"{row} {cell}".strip() for row, cell in zip(rows, cells[1:], strict=True)]
    return found


@pytest.fixture(scope="module")
def tasks(vdag_command) -> dict[str, list[str]]:
    process = vdag_command("tasks", "--tasks", EXAMPLES / "brightness.py")
    assert (process.returncode, process.stderr) == (0, "")
    return listed(process.stdout)


def test_the_tasks_of_the_package_and_the_users_are_listed(tasks):
    assert list(tasks) == [
        "brightness",
        "car_detection",
        "face_alignment",
        "face_detection",
        "helmet_detection",
        "yolo",
    ]


def test_fields_and_models_are_named(tasks):
    assert tasks["car_detection"] == [
        "image",
        "count_result, result",
        "0: nanodet up to 960 1: nanodet up to 640 2: nanodet up to 320",
    ]
    assert tasks["brightness"] == ["image", "brightness, problems, sharpness", ""]
    assert tasks["yolo"] == ["image", "count_result, result", "a card of your own"]


def test_a_file_of_tasks_that_fails_is_one_line(vdag_command, tmp_path: Path):
    (tmp_path / "mine.py").write_text("import nowhere\n")
    process = vdag_command("tasks", "--tasks", "mine.py", cwd=tmp_path)
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr == (
        "vdag: mine.py failed: ModuleNotFoundError: No module named 'nowhere'\n"
    )


def test_a_file_may_have_the_name_of_a_module(vdag_command, tmp_path: Path):
    source = (EXAMPLES / "brightness.py").read_text()
    (tmp_path / "json.py").write_text(source)
    process = vdag_command("tasks", "--tasks", tmp_path / "json.py")
    assert (process.returncode, process.stderr) == (0, "")
    assert "brightness" in listed(process.stdout)
