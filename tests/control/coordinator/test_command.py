"""`vdag coordinator` and `vdag session` as they are typed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import vdag

pytestmark = pytest.mark.slow

TIMEOUT_S = 120.0
PORT = re.compile(r"coordinator at (http://127\.0\.0\.1:\d+)")
NODES = [
    {"node_id": 0, "node_name": "client", "node_type": "client", "node_addr": "192.0.2.20",
     "node_port": 9000},
    {"node_id": 1, "node_name": "edge_server", "node_type": "server", "node_addr": "192.0.2.10",
     "node_port": 9000},
]  # fmt: skip
CAPTURE = {"handler_id": 0, "handler_name": "capture", "handler_type": 2,
           "params": {"source": 0, "fps": 30, "width": 640, "height": 480}}  # fmt: skip
RENDER = {"handler_id": 1, "handler_name": "render", "handler_type": 3, "params": {}}
#: As the documents have it.
SERVICE = {
    "service_id": 0,
    "service_name": "local_render",
    "template": [
        {
            "node_id": 0,
            "blueprint": {
                "handlers": [CAPTURE, RENDER],
                "links": [
                    {"source_handler": 0, "source_output": 0,
                     "target_handler": 1, "target_input": 0},
                ],
            },
        }
    ],
}  # fmt: skip


def environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("VDAG_")}
    return {**kept, "PYTHONPATH": str(Path(vdag.__file__).parents[1]), "COLUMNS": "160"}


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vdag", *arguments],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=TIMEOUT_S,
        cwd=folder,
    )


def write(folder: Path, name: str, document: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The documented folders and files, the empty handler file among them, and the conf."""
    for number, node in enumerate(NODES):
        write(tmp_path / "resource/nodes", f"node-{number}.json", node)
    write(tmp_path / "resource/handlers", "handler-0.json", "")
    write(tmp_path / "resource/services", "service-0.json", SERVICE)
    write(
        tmp_path / "config",
        "coordinator.conf",
        "[coordinator]\n"
        "node_path         = ./resource/nodes\n"
        "handler_type_path = ./resource/handlers\n"
        "service_type_path = ./resource/services\n"
        "coordinator_port  = 0\n"
        "channel           = tcp://127.0.0.1:0\n"
        "[database]\n"
        "db_url = reports.db\n",
    )
    return tmp_path


@contextmanager
def running(place: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a coordinator; yield it and its address."""
    with subprocess.Popen(
        [sys.executable, "-m", "vdag", "--verbose", "coordinator", "config/coordinator.conf"],
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=place,
    ) as process:
        try:
            assert process.stderr is not None
            said = (PORT.search(line) for line in process.stderr)
            yield process, next(found[1] for found in said if found)
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_runs_by_the_documented_files_and_ends_by_a_signal(place: Path, number: int):
    with running(place) as (process, url):
        listed = run(place, "session", "list", "--coordinator", url)
        assert (listed.returncode, listed.stderr) == (0, "")
        assert listed.stdout.split() == [
            "session", "name", "service", "algorithm", "nodes", "state",
        ]  # fmt: skip
        process.send_signal(number)
        rest = process.communicate(timeout=TIMEOUT_S)[1]
    assert process.returncode == 0, rest
    assert "Traceback" not in rest


def break_conf(place: Path, key: str) -> None:
    path = place / "config/coordinator.conf"
    lines = [line for line in path.read_text().splitlines() if not line.startswith(key)]
    path.write_text("\n".join(lines))


def with_service(**changes: Any) -> Mapping[str, Any]:
    handlers = [
        {"handler_id": 0, "handler_name": "capture", "handler_type": 2, "node_id": 0},
        {"handler_id": 1, "handler_name": "resize", "handler_type": 4},
        {"handler_id": 2, "handler_name": "encode", "handler_type": 4},
    ]
    links = [
        {"source_handler": 0, "target_handler": 1},
        {"source_handler": 1, "target_handler": 2},
    ]
    return {"service_id": 1, "service_name": "s", "handlers": handlers, "links": links, **changes}


CYCLE = [{"source_handler": 1, "target_handler": 2}, {"source_handler": 2, "target_handler": 1}]
ELSEWHERE = [{**CAPTURE, "node_id": 7}, RENDER]
BROKEN = {
    "conf: [coordinator] has no node_path": lambda place: break_conf(place, "node_path"),
    "conf: [coordinator] has no service_type_path": lambda place: break_conf(
        place, "service_type_path"
    ),
    "conf: [coordinator] has no handler_type_path": lambda place: break_conf(
        place, "handler_type_path"
    ),
    "conf: [database] has no db_addr": lambda place: break_conf(place, "db_url"),
    "node file resource/nodes/bad.json is not JSON: Input data was truncated": lambda place: write(
        place / "resource/nodes", "bad.json", "{"
    ),
    "service file resource/services/bad.json is not JSON: Input data was truncated": (
        lambda place: write(place / "resource/services", "bad.json", "{")
    ),
    "service file resource/services/s.json: handler 0 capture: node_id 7 is of no node file": (
        lambda place: write(
            place / "resource/services", "s.json", with_service(handlers=ELSEWHERE, links=[])
        )
    ),
    "service file resource/services/s.json: links form a cycle: ": lambda place: write(
        place / "resource/services", "s.json", with_service(links=CYCLE)
    ),
}


@pytest.mark.parametrize("said", BROKEN)
def test_what_is_wrong_is_one_line_and_exit_status_2(place: Path, said: str):
    BROKEN[said](place)
    found = run(place, "coordinator", "config/coordinator.conf")
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.count("\n") == 1
    expected = said.replace("conf:", "conf config/coordinator.conf:", 1)
    assert found.stderr.startswith(f"vdag: {expected}"), found.stderr


def test_a_conf_that_is_not_there_is_one_line_and_exit_status_2(tmp_path: Path):
    found = run(tmp_path, "coordinator", "nowhere.conf")
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == "vdag: conf nowhere.conf cannot be read: No such file or directory\n"


def test_what_a_coordinator_refuses_is_one_line_and_exit_status_2(place: Path):
    with running(place) as (_, url):
        for arguments, said in [
            (("show", "7"), "session 7 is not known"),
            (("create", "nothing"), "service 'nothing' is of no service file"),
            (("create", "0", "--pin", "x=1"), "pin 'x=1' is not HANDLER=NODE, two numbers"),
            (("create", "0", "--pin", "9=1"), "service 0 has no handler 9"),
            (("create", "0", "--algorithm", "best"), "algorithm is 'best', expected"),
        ]:
            found = run(place, "session", *arguments, "--coordinator", url)
            assert (found.returncode, found.stdout) == (2, "")
            assert found.stderr.startswith(f"vdag: {said}"), found.stderr
            assert found.stderr.count("\n") == 1
