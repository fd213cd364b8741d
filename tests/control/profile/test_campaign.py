"""Measuring for real: a small model, few frames, and what is kept of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import vdag
from vdag.cli.profile import profile
from vdag.control.profile import Profile
from vdag.control.profile.campaign import Campaign, Wanted
from vdag.control.profile.cells import CellFolder, CellKey, CellRecord, Found, fastest
from vdag.control.profile.measuring import (
    Clip,
    OwnTime,
    chain_of,
    cost_of,
    golden_resolution,
    look_at,
    models_of,
)
from vdag.control.scheduling.events import NodeInfo
from vdag.errors import ConfigError, GraphError, SourceError

NODE = NodeInfo("10.0.0.2:5001", "10.0.0.2")
TIMEOUT_S = 120
FRAMES = 12


def wanted(video: Path, **values: object) -> Wanted:
    given = {"models": (2,), "resolutions": ("360p",), "frames": FRAMES, "device": "cpu"}
    return Wanted(("face_detection",), video, **{**given, **values})


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "vdag", "profile", *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(vdag.__file__).parents[1]), "COLUMNS": "160"}


def call(*arguments: object) -> str:
    """Run `vdag profile` in this process; return what it prints."""
    done = CliRunner().invoke(profile, [str(each) for each in arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


@pytest.fixture
def vdag_profile() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `vdag profile` to its end."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments), env=environment(), capture_output=True, text=True,
            timeout=TIMEOUT_S,
        )  # fmt: skip

    return run


def test_a_campaign_measures_costs_sizes_and_accuracy(carphone: Path, tmp_path: Path):
    campaign = Campaign(wanted(carphone), tmp_path / "cells")
    campaign.begin(resume=False)
    # The golden cell, which nobody asked for, comes before the one that is judged by it.
    assert [str(step) for step in campaign.steps] == [
        "frames at 360p",
        "face_detection model 0 at 360p",
        "face_detection model 2 at 360p",
    ]
    known = Profile()
    seen = 0

    def advance() -> None:
        nonlocal seen
        seen += 1

    for step in campaign.steps:
        assert not campaign.is_done(step)
        campaign.run(step, advance)
        assert campaign.is_done(step)
        campaign.put(step, known)
    assert seen == 2 * FRAMES
    large, small = (known.cost("face_detection", model_id, "360p", NODE) for model_id in (0, 2))
    assert large is not None
    assert small is not None
    assert 0 < small.mean_s() < large.mean_s()
    for cost in (large, small):
        assert cost.compute_p50_s <= cost.compute_p95_s <= cost.compute_p99_s
        assert cost.mem_nbytes > 10_000_000
        assert 0 < cost.out_nbytes < 10_000
        assert cost.obj_n == 1.0
        sizes = [point.batch for point in cost.batches]
        assert sizes == [1, 2, 4, 8, 16, 32][: len(sizes)]
        assert len(sizes) >= 2
        assert 0 < cost.busy_s <= cost.compute_s
    points = {(model_id, point.fps): point for _, model_id, point in known.accuracies()}
    assert points[0, campaign.clip.fps].accuracy == 1.0
    assert all(point.accuracy > 0.5 for point in points.values())
    assert known.about["video"] == carphone.name
    assert known.about["engine"] == "onnx on cpu"
    assert 5_000 < known.frame_nbytes("360p", "JPEG") < 480 * 360
    assert known.frame_nbytes("360p", "H264") < known.frame_nbytes("360p", "JPEG")
    campaign.finish()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_task_after_another_is_measured_by_itself(carphone: Path, tmp_path: Path):
    plan = Wanted(("face_alignment",), carphone, resolutions=("360p",), frames=FRAMES)
    campaign = Campaign(plan, tmp_path / "cells")
    known = Profile()
    for step in campaign.steps:
        campaign.run(step)
        campaign.put(step, known)
    assert {row.task for row in known.costs()} == {"face_alignment"}
    assert known.accuracy("face_alignment", 0, "360p", 30) == 1.0


@pytest.mark.slow
def test_a_task_that_finds_too_little_has_no_accuracy(tmp_path: Path, bikes: Path):
    campaign = Campaign(wanted(bikes), tmp_path / "cells")
    known = Profile()
    for step in campaign.steps:
        campaign.run(step)
        campaign.put(step, known)
    assert list(known.accuracies()) == []
    assert campaign.notes == [
        "face_detection finds too little in bikes.mp4: its accuracy stays unknown"
    ]


@pytest.mark.slow
def test_an_interrupted_measurement_goes_on_where_it_was(
    carphone: Path, tmp_path: Path, vdag_profile
):
    out, frames = tmp_path / "profile.json", 120  # the last cell takes a while, to be interrupted
    arguments = (
        "--task", "face_detection", "--model", "2", "--resolution", "360p,480p",
        "--video", carphone, "--frames", frames, "--out", out,
    )  # fmt: skip
    with subprocess.Popen(
        command(*arguments), env=environment(), stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        # The fifth is said when the fourth, a cell, is done.
        assert next(line for line in lines if line.startswith("5 of 5"))
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(TIMEOUT_S) == 130
    assert "interrupted: what was measured is kept, go on with --resume" in rest
    cells = out.with_name("profile.json.cells")
    before = {path.name: path.stat().st_mtime_ns for path in cells.iterdir()}
    assert "face_detection-2-360p.json" in before
    assert Profile.load(out).cost("face_detection", 2, "360p", NODE) is not None

    refused = vdag_profile(*arguments[:-4], "--frames", frames + 1, "--out", out, "--resume")
    assert refused.returncode == 2
    assert refused.stderr == (
        f"vdag: {cells} has cells of another measurement: frames was {frames}, is {frames + 1}\n"
    )
    assert {path.name: path.stat().st_mtime_ns for path in cells.iterdir()} == before

    finished = vdag_profile(*arguments, "--resume")
    assert (finished.returncode, finished.stdout) == (0, f"{out}: 5 cells measured\n")
    assert finished.stderr == "5 of 5: face_detection model 2 at 480p\n"
    assert not cells.exists()
    found = {(row.model_id, row.resolution) for row in Profile.load(out).costs()}
    assert found == {(0, "360p"), (2, "360p"), (2, "480p")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "a measurement needs --task and --video, see vdag profile --help"),
        (("--task", "face_detection"), "a measurement needs --task and --video, see .*"),
        (("--task", "faces", "--video", "{clip}"), "unknown task 'faces': expected one of .*"),
        (("--task", "face_detection", "--video", "none.mp4"), "cannot read none.mp4: no such file"),
        (
            ("--task", "face_detection", "--video", "{clip}", "--model", "5"),
            "face_detection has none of the models asked for, only 0, 1, 2",
        ),
        (
            ("--task", "face_detection", "--video", "{clip}", "--model", "large"),
            "model is 'large', expected a model_id such as 1",
        ),
        (
            ("--task", "face_detection", "--video", "{clip}", "--resolution", "5p"),
            "resolution '5p' is unknown, expected 360p, .*",
        ),
        (
            ("--task", "face_detection", "--video", "{clip}", "--fps", "often"),
            "fps is 'often', expected a number",
        ),
        (
            ("--task", "face_detection", "--video", "{clip}", "--batch", "1,300"),
            "batch is 300, expected 1 to 256",
        ),
        (
            ("--task", "face_detection", "--video", "{clip}", "--batch", "few"),
            "batch is 'few', expected a whole number",
        ),
        (
            ("--task", "face_detection", "--video", "{clip}", "--frames", "1"),
            "frames is 1, expected 10 to 10000",
        ),
        (("show", "none.json"), "cannot read none.json: No such file or directory"),
        (
            ("export", "--what", "x"),
            "'x' is no table, expected one of costs, batches, accuracy, frames",
        ),
        (("merge", "none.json", "--out", "x.json"), "cannot read none.json: No such file .*"),
    ],
)
def test_a_mistake_is_told(carphone: Path, arguments: tuple[str, ...], message: str):
    with pytest.raises((ConfigError, GraphError), match=f"^{message}$"):
        call(*(each.format(clip=carphone) for each in arguments))


def test_a_mistake_is_one_line_and_status_2(vdag_profile):
    done = vdag_profile("show", "none.json")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "vdag: cannot read none.json: No such file or directory\n"


def test_profiles_are_imported_merged_shown_and_exported(tmp_path: Path):
    table = tmp_path / "face_detection.pf"
    table.write_text("360p\tedge\t0.1\n720p\tedge\t0.4\n")
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    call("import", table, "--out", first)
    call("import", table, "--out", first, "--place", "cloud")
    call("merge", first, "--out", second)
    exported = call("export", second).splitlines()
    assert [line.split(",")[2:5] for line in exported[1:]] == [
        ["360p", "cloud", "0.1"],
        ["720p", "cloud", "0.4"],
        ["360p", "edge", "0.1"],
        ["720p", "edge", "0.4"],
    ]
    shown = call("show", second)
    assert "face_detection" in shown
    assert "400.0" in shown


def test_the_profile_of_the_package_is_shown():
    shown = call("show")
    for task in ("car_detection", "face_alignment", "face_detection", "helmet_detection"):
        assert task in shown


def test_a_task_is_run_after_the_one_that_gives_its_inputs():
    assert chain_of("face_detection") == ("face_detection",)
    assert chain_of("helmet_detection") == ("helmet_detection",)
    assert chain_of("face_alignment") == ("face_detection", "face_alignment")
    with pytest.raises(GraphError, match=r"^unknown task 'faces': expected one of "):
        chain_of("faces")


def test_the_largest_model_is_the_first():
    assert models_of("face_detection") == [0, 1, 2]
    assert models_of("yolo") == [0]


@pytest.mark.parametrize(
    ("size", "best"),
    [((1920, 1080), "1080p"), ((1280, 720), "720p"), ((1279, 720), "630p"), ((176, 144), "480p")],
)
def test_the_golden_resolution_is_the_largest_that_the_clip_has(size: tuple[int, int], best: str):
    clip = Clip("x", *size, fps=25.0, frames=10)
    assert golden_resolution(clip, ["480p", "720p"]) == best


def test_a_live_source_cannot_be_measured_on():
    with pytest.raises(SourceError, match=r"cannot be opened|live source|no such"):
        look_at("rtsp://127.0.0.1:1/none", 10)


def record(times: list[float], counts: list[int], found: list[Found] | None = None) -> CellRecord:
    key = CellKey("t", 0, "360p")
    return CellRecord(key, times, counts, [100] * len(times), 1 << 20, found)


def test_the_part_of_each_object_is_told_apart_where_their_number_changes():
    counts = [n % 10 for n in range(40)]
    cost = cost_of(record([0.01 + 0.002 * n for n in counts], counts))
    assert cost.compute_s == pytest.approx(0.01)
    assert cost.per_object_s == pytest.approx(0.002)
    assert cost.mean_s(5) == pytest.approx(0.02)


def test_frames_that_something_held_up_do_not_bend_the_part_of_each_object():
    counts = [n % 10 for n in range(60)]
    times = [0.01 + 0.002 * n + (0.5 if n == 60 - k else 0.0) for k, n in enumerate(counts)]
    times[10] += 0.5
    cost = cost_of(record(times, counts))
    assert cost.per_object_s == pytest.approx(0.002, rel=0.01)
    assert cost.compute_p50_s == pytest.approx(0.01, rel=0.01)


def test_where_the_number_of_objects_hardly_changes_no_part_is_told_apart():
    counts = [24 - n % 2 for n in range(40)]
    cost = cost_of(record([0.1 + 0.01 * (n % 2) for n in range(40)], counts))
    assert cost.per_object_s == 0.0


def test_of_several_runs_each_frame_counts_at_its_fastest():
    runs = [record([0.1, 0.9, 0.1], [1, 1, 1]), record([0.5, 0.2, 0.1], [1, 1, 1])]
    assert fastest(runs).compute_s == [0.1, 0.2, 0.1]


def test_the_time_of_a_frame_without_that_of_others_is_at_most_all_of_it():
    own = OwnTime()
    assert own.of(0.5, os.getpid()) == 0.5  # the first look has none to compare with
    sum(range(100_000))
    assert 0.0 < own.of(0.5, os.getpid()) <= 0.5
    assert own.of(1e-9, os.getpid()) == 1e-6


def test_where_the_kernel_tells_nothing_all_of_the_time_counts():
    own = OwnTime()
    assert [own.of(0.25, 0), own.of(0.25, 0)] == [0.25, 0.25]


def test_a_cell_that_is_damaged_is_refused(tmp_path: Path):
    cells = CellFolder(tmp_path / "cells", clip="c", frames=10, device="cpu")
    cells.write(record([0.1] * 10, [1] * 10, [Found([(0.1, 0.1, 0.2, 0.2, 0.9, 0)])] * 10))
    key = CellKey("t", 0, "360p")
    again = cells.read(key)
    assert again is not None
    findings = again.findings()
    assert findings is not None
    assert findings[0].boxes.tolist() == [pytest.approx([0.1, 0.1, 0.2, 0.2])]
    path = tmp_path / "cells" / "t-0-360p.json"
    path.write_text(json.dumps({"key": 1}))
    with pytest.raises(ConfigError, match=r"^\S*t-0-360p.json is no measured cell: Expected "):
        cells.read(key)
