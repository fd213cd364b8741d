"""`vdag-node` as a process: its start, its end, and who may come in."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from node_kit import MAIN, ROOT, TIMEOUT_S, Caller, Running

pytestmark = pytest.mark.slow  # as a whole

TOKEN = "correct-horse-battery"
TASK = """
import vdag

@vdag.task(outputs=["brightness"])
def brightness(image):
    return {"brightness": float(image.mean())}
"""


@pytest.fixture
def settings(tmp_path: Path) -> list[str]:
    """A node with a task of the user's, which starts in a moment."""
    path = tmp_path / "user_tasks.py"
    path.write_text(TASK)
    values = {
        "service.modules": f"['{path}']",
        "service.tasks": "{brightness = {}}",
        "service.slots": "[[64, 64, 8]]",
    }
    return [part for name, value in values.items() for part in ("--set", f"{name}={value}")]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", MAIN, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_good_order(settings, number):
    node = Running(*settings)
    caller = Caller(node.url)
    reply = caller.post("/execute_task/brightness", {"image": [[7, 7], [7, 7]]})
    caller.close()
    assert reply.json()["brightness"] == 7.0
    workers = psutil.Process(node.process.pid).children()
    assert node.stop(number) == 0
    assert not any(worker.is_running() for worker in workers)
    assert "Traceback" not in "".join(node.log)


def test_workers_die_with_a_node_that_is_killed(settings):
    node = Running(*settings)
    workers = psutil.Process(node.process.pid).children()
    assert workers
    node.process.kill()
    node.wait()
    assert psutil.wait_procs(workers, TIMEOUT_S)[1] == []
    for path in node.folder.rglob("*"):  # what is left is swept by the next one in that place
        assert path.is_dir() or path.is_socket() or path.name == "lock"


def test_without_the_token_nobody_comes_in(settings, tmp_path):
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o600)
    node = Running(*settings, "--host", "0.0.0.0", "--token-file", str(path))
    caller = Caller(node.url)
    refused = caller.get("/get_service_list")
    assert refused.status == 401
    assert refused.json() == {
        "status": 1,
        "error": "this service wants a token: Authorization: Bearer <token>",
    }
    assert refused.headers["www-authenticate"] == "Bearer"
    assert caller.get("/get_service_list", authorization="Bearer no").status == 401
    assert caller.get("/get_service_list", authorization=f"Bearer {TOKEN}").status == 200
    assert caller.get("/healthz").status == 200
    caller.close()
    assert node.stop() == 0
    assert TOKEN not in "".join(node.log)


def test_systemd_is_told_that_it_serves_lives_and_stops(settings, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.settimeout(TIMEOUT_S)
        systemd.bind(str(tmp_path / "notify"))
        node = Running(*settings, NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="200000")
        port = node.url.rpartition(":")[2]
        assert systemd.recv(4096).decode() == f"READY=1\nSTATUS=serving service on port {port}"
        assert [systemd.recv(4096) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        node.stop()
        last = systemd.recv(4096)
        while last == b"WATCHDOG=1":
            last = systemd.recv(4096)
        assert last == b"STOPPING=1"


def test_a_port_that_is_taken_is_an_error_in_one_line():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        ended = run("--port", str(port))
    assert ended.returncode == 2
    text = f"vdag-node: port {port} of 127.0.0.1 cannot be had: Address already in use\n"
    assert ended.stderr == text


def test_a_model_that_is_missing_is_an_error_in_one_line(tmp_path):
    ended = run("--port", "0", "--set", "service.tasks={yolo={}}")
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith("vdag-node: ")
    assert "Traceback" not in ended.stderr


def test_settings_can_be_checked_without_a_start(settings):
    ended = run(*settings, "--check", "--port", "5600")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "port=5600" in ended.stdout
    ended = run("--set", "service")
    assert (ended.returncode, ended.stderr) == (
        2,
        "vdag-node: --set 'service' is not NAME=VALUE\n",
    )


def test_a_signal_during_the_start_ends_it(tmp_path, settings):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    slow = tmp_path / "slow.py"
    # The node runs the file, then each worker: the first reader of the gate is the node itself.
    slow.write_text(f"open({str(gate)!r}, 'rb').read()\n")
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, *settings, "--port", "0", "--set",
         f"service.modules=['{tmp_path / 'user_tasks.py'}', '{slow}']"],
        cwd=ROOT,
    )  # fmt: skip
    writer = os.open(gate, os.O_WRONLY)
    process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + TIMEOUT_S
    assert process.wait(deadline - time.monotonic()) == 0
    os.close(writer)


def test_jobs_alone_tell_how_far_their_frames_have_come(tmp_path):
    values = {
        "node.roles": '["edge"]',
        "node.state": str(tmp_path / "state"),
        "node.controller": "tcp://127.0.0.1:1",  # nobody is there
        "edge.port": "0",
        "edge.live_port": "0",
    }
    (tmp_path / "state").mkdir(mode=0o700)
    flags = [part for name, value in values.items() for part in ("--set", f"{name}={value}")]
    node = Running(*flags, section="edge")
    caller = Caller(node.url)
    told = caller.get("/metrics").body.decode().splitlines()
    caller.close()
    assert 'vdag_courier_frames_total{outcome="acknowledged"} 0.0' in told
    assert node.stop() == 0
