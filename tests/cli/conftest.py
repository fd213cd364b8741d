"""The real command, in a process of its own, and a node for it to speak to."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from command_kit import FRAMES, POLICY, SETTINGS, TASK, Vdag
from node_kit import Running

import vdag

#: Far beyond what any command here takes on a busy machine.
TIMEOUT_S = 120

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def environment(**variables: str) -> dict[str, str]:
    """The environment of a command that finds this vdag, from whichever folder it is called."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("VDAG_")}
    folders = [str(Path(vdag.__file__).parents[1]), kept.get("PYTHONPATH", "")]
    path = os.pathsep.join(folder for folder in folders if folder)
    return {**kept, "PYTHONPATH": path, "COLUMNS": "160", **variables}


@pytest.fixture(scope="session")
def vdag_command() -> Command:
    """Run `vdag` with the arguments to its end; `env` adds variables, `cwd` is its folder."""

    def run(
        *arguments: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "vdag", *map(str, arguments)],
            cwd=cwd,
            env=environment(**(env or {})),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=TIMEOUT_S,
        )

    return run


@pytest.fixture(scope="session")
def start_vdag() -> Callable[..., AbstractContextManager[subprocess.Popen[str]]]:
    """Start `vdag` as the only member of a new process group, with both outputs as pipes.

    `stderr` may be another file. Leaving the `with` block kills the command if it is still there;
    so does `TIMEOUT_S`, which ends a read.
    """

    @contextmanager
    def start(
        *arguments: str | Path, stderr: int = subprocess.PIPE
    ) -> Iterator[subprocess.Popen[str]]:
        with subprocess.Popen(
            [sys.executable, "-m", "vdag", *map(str, arguments)],
            env=environment(TERM="xterm"),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        ) as process:
            watchdog = threading.Timer(TIMEOUT_S, process.kill)
            watchdog.start()
            try:
                yield process
            finally:
                watchdog.cancel()
                process.kill()

    return start


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A node that does everything."""
    folder = tmp_path_factory.mktemp("node")
    (folder / "user_tasks.py").write_text(TASK)
    config = folder / "node.toml"
    config.write_text(SETTINGS.format(folder=folder, policy=POLICY, frames=FRAMES))
    node = Running("--config", str(config))
    yield node
    assert node.stop() == 0
    assert "Traceback" not in "".join(node.log)


@pytest.fixture(scope="module")
def address(cloud: Running) -> str:
    """What names the node: its address and the port of its jobs."""
    return urllib.parse.urlsplit(cloud.urls["edge"]).netloc


@pytest.fixture(scope="module")
def ask(vdag_command, cloud: Running) -> Vdag:
    """Run a command that speaks to the node."""
    variables = {"VDAG_CLOUD": cloud.urls["cloud"]}
    return lambda *arguments: vdag_command(*arguments, env=variables)
