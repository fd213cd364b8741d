from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import vdag
from vdag.kinship import child_environment, open_pipe, read_pipe

#: Without the site module nothing that is installed is found.
FIND = "import importlib.util; print(importlib.util.find_spec('vdag').origin)"


def test_a_child_finds_the_package_of_its_parent_wherever_it_is_started(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = subprocess.run(
        [sys.executable, "-S", "-c", FIND],
        cwd=tmp_path,
        env=child_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(found.stdout.strip()).samefile(vdag.__file__)


def test_a_pipe_gives_what_is_there_and_is_closed_at_its_end():
    reader, writer = os.pipe()
    pipe = open_pipe(os.fdopen(reader, "rb", buffering=0))
    assert read_pipe(pipe) == b""
    os.write(writer, b"some")
    assert (read_pipe(pipe), pipe.closed) == (b"some", False)
    os.close(writer)
    assert (read_pipe(pipe), pipe.closed) == (b"", True)


def test_who_is_not_the_parent_is_told_apart():
    code = "import sys; from vdag.kinship import die_with; print(die_with(int(sys.argv[1])))"
    said = [
        subprocess.run(
            [sys.executable, "-c", code, str(pid)],
            env=child_environment(),
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for pid in (os.getpid(), 1 << 21)
    ]
    assert said == ["True", "False"]
