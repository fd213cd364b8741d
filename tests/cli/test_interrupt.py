"""Runs that end early: by a signal, by `kill -9`, by a reader that goes away."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import av
import psutil
import pytest

pytestmark = pytest.mark.slow  # as a whole

#: How long a command may take to end after its outputs are closed.
TIMEOUT_S = 60
INTERRUPTED = 130
ENDLESS = ("face_detection", "--source", "synthetic:160x120@30", "--realtime")


def rows_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def frame_count(path: Path) -> int:
    with av.open(path) as container:
        return sum(1 for _ in container.decode(video=0))


def names_in(folder: Path) -> list[str]:
    """All names, hidden ones too: temporary files are."""
    return sorted(path.name for path in folder.iterdir())


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
    assert frame_count(video) == len(rows)
    assert names_in(tmp_path) == ["found.mp4"]
    assert messages.startswith("interrupted: what was found so far is kept\n")
    assert re.search(rf"│ capture to result │ +{len(rows)} │", messages)
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
    assert frame_count(tmp_path / "found.mp4") == 6


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
