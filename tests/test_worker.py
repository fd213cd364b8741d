"""A worker process, with the test in the place of its exchange and its parent."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from worker_kit import TIMEOUT_MS, Desk, found

from vdag.child import LOST, NO_SETTINGS, NO_TASK, STOPPED, Refusal, WorkerSettings
from vdag.errors import ConfigError, EngineError
from vdag.tasks import TaskOptions
from vdag.transport import messages

pytestmark = pytest.mark.slow  # as a whole

TASKS = """
import os, signal, vdag, vdag.errors

@vdag.task(outputs=["mean"])
def brightness(image):
    print("looking")
    if image[0, 0, 0] == 255:
        raise ValueError("too bright")
    return {"mean": float(image.mean())}

class Pairs:
    '''Answers with the number of frames it was given at once; waits at a gate first.'''

    signature = vdag.Signature(frozenset({"image"}), frozenset({"size"}))
    max_batch = 4

    def __init__(self, options):
        print("loading", flush=True)

    def warm_up(self, max_batch):
        if "COLD" in os.environ:
            raise vdag.errors.EngineError(f"cannot run {max_batch}")

    def process(self, batch):
        if batch[0]["image"][0, 0, 0] == 100:
            with open(os.environ["GATE"], "rb") as gate:
                gate.read()
        if batch[0]["image"][0, 0, 0] == 200:
            os.kill(os.getpid(), signal.SIGTERM)
        return [{"size": len(batch)}] * len(batch)

    def close(self):
        print("closed", flush=True)

vdag.register("pairs", Pairs)
"""


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    fds = psutil.Process().num_fds()
    (tmp_path / "tasks.py").write_text(textwrap.dedent(TASKS), encoding="utf-8")
    tmp_path.chmod(0o700)
    desk = Desk(tmp_path)
    yield desk
    desk.close()
    assert not psutil.Process().children()
    assert psutil.Process().num_fds() == fds


def test_a_worker_answers_a_batch_and_stops_when_told(desk: Desk):
    child = desk.start(task="brightness")
    desk.greet(child, credit=1)
    desk.give(7, 40, task="brightness")
    done = desk.take()
    context = found(done.frames[0])
    assert (done.worker, done.token, done.batch, done.credit) == ("w", "secret", 7, 1)
    assert context["brightness"] == {"mean": 40.0}
    assert context[messages.TIMES] == {"brightness": [done.start_ns, done.end_ns, child.pid]}
    desk.send(messages.Stop())
    ending = desk.end(child, STOPPED)
    assert ending.error is None
    assert ending.tail == "looking"  # what a task prints does not get between us
    assert desk.arena.stats().leases == 0


def test_a_frame_on_which_the_task_raises_fails_alone(desk: Desk):
    child = desk.start(task="brightness")
    desk.greet(child, credit=1)
    desk.give(0, 255, task="brightness")
    (failure,) = desk.take().frames
    assert failure.error == "ValueError: too bright"
    assert re.search(r'tasks.py", line \d+, in brightness\n', failure.traceback)
    desk.give(1, 1, task="brightness")
    assert found(desk.take().frames[0])["brightness"] == {"mean": 1.0}
    assert desk.arena.stats().leases == 0


def test_batches_that_came_meanwhile_are_worked_on_together(desk: Desk, monkeypatch, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    monkeypatch.setenv("GATE", str(gate))
    child = desk.start()
    desk.greet(child)
    desk.give(0, 100, 100)
    assert desk.take() == messages.Ready("w", "secret", 1, 4)  # it has begun with two, not with one
    for number in range(1, 4):
        desk.give(number, 1, 2)
    with gate.open("wb"):  # opens when the worker stands at it
        pass
    done = [desk.take() for _ in range(4)]
    assert [reply.batch for reply in done] == [0, 1, 2, 3]
    sizes = [found(frame)["pairs"]["size"] for reply in done for frame in reply.frames]
    assert sizes == [2, 2, 4, 4, 4, 4, 2, 2]
    assert [reply.credit for reply in done] == [4, 2, 0, 1]
    assert done[1].start_ns == done[2].start_ns < done[3].start_ns


def test_a_worker_takes_no_larger_batches_than_it_is_told(desk: Desk):
    child = desk.start(max_batch=2)
    desk.greet(child, credit=2)


def test_sigterm_ends_a_worker_after_its_batch(desk: Desk):
    child = desk.start()
    desk.greet(child)
    desk.give(0, 200, 200)
    assert desk.take() == messages.Ready("w", "secret", 1, 4)
    assert [found(frame)["pairs"]["size"] for frame in desk.take().frames] == [2, 2]
    assert desk.end(child, STOPPED).tail == "loading\nclosed"


def test_sigterm_ends_an_idle_worker(desk: Desk):
    child = desk.start()
    desk.greet(child)
    child.ask_to_stop()
    desk.end(child, STOPPED)


def test_nonsense_in_its_inbox_is_ignored(desk: Desk):
    child = desk.start(task="brightness")
    desk.greet(child, credit=1)
    for part in (b"", b"VCTL", b"VDAG", b"x" * 1000):
        desk.outlet.send(part)
    desk.send(messages.Leave("job"))
    desk.give(0, 3, task="brightness")
    assert found(desk.take().frames[0])["brightness"] == {"mean": 3.0}
    desk.send(messages.Stop())
    assert "message ignored: magic b'xxxx' is not b'VCTL'" in desk.end(child, STOPPED).tail


def test_a_killed_worker_says_how_it_ended(desk: Desk):
    child = desk.start()
    desk.greet(child)
    child.kill()
    ending = desk.end(child, -signal.SIGKILL)
    assert str(ending) == "killed by SIGKILL\nloading"


# Workers that do not start.


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_thing", "ModuleNotFoundError: No module named 'no_such_thing'"),
        ("import vdag.errors\nraise vdag.errors.ModelError('torn')", "torn"),
        ("import sys\nsys.exit('no')", "SystemExit: no"),
    ],
)
def test_a_worker_whose_tasks_cannot_be_imported_says_why(desk: Desk, source, message):
    (desk.folder / "tasks.py").write_text(source)
    ending = desk.end(desk.start(), NO_TASK)
    assert type(ending.error) is ConfigError
    assert str(ending.error) == f"{desk.folder / 'tasks.py'} failed: {message}"
    assert source.split("\n")[-1] in ending.tail


def test_a_worker_without_its_tasks_file_or_task_says_so(desk: Desk):
    ending = desk.end(desk.start(modules=("/nowhere.py",)), NO_TASK)
    assert type(ending.error) is ConfigError
    assert str(ending.error) == "cannot read tasks from /nowhere.py: no such file"
    ending = desk.end(desk.start(task="no_such_task"), NO_TASK)
    assert str(ending.error).startswith("unknown task 'no_such_task': expected one of ")
    ending = desk.end(desk.start("face_detection", options=TaskOptions(model_id=9)), NO_TASK)
    assert type(ending.error) is ConfigError
    assert str(ending.error).startswith("face_detection has no model_id 9, expected one of ")


def test_a_worker_that_cannot_be_warmed_up_says_why_and_closes_its_task(desk: Desk, monkeypatch):
    monkeypatch.setenv("COLD", "1")
    ending = desk.end(desk.start(max_batch=3), NO_TASK)
    assert (type(ending.error), str(ending.error)) == (EngineError, "cannot run 3")
    assert "\nclosed\n" in ending.tail + "\n"


def test_a_worker_without_a_node_ends(desk: Desk):
    ending = desk.end(desk.start(arena="vdag-nowhere-0"), LOST)
    assert "TransportError: arena vdag-nowhere-0: no such file or directory" in ending.tail
    desk.end(desk.start(parent=1), LOST)


def test_settings_that_have_no_meaning_are_refused():
    run = subprocess.run(
        [sys.executable, "-m", "vdag.worker"], input=b'{"worker": 1}\n', capture_output=True
    )
    assert run.returncode == NO_SETTINGS
    refusal = json.loads(run.stdout)
    assert refusal["kind"] == "ConfigError"
    assert refusal["message"].startswith("settings of a worker: Expected `str`, got `int`")


def test_settings_are_read_back_as_they_were_written(desk: Desk, tmp_path):
    settings = desk.settings(options=TaskOptions(2, "cuda:1", "onnx", 3, tmp_path / "card.toml"))
    assert settings.encode().endswith(b"}\n")
    assert WorkerSettings.decode(settings.encode()) == settings


@pytest.mark.parametrize(
    ("refusal", "error"),
    [
        (Refusal("ConfigError", "no"), ConfigError("no")),
        (Refusal("KeyError", "'x'"), EngineError("KeyError: 'x'")),
        (Refusal("StageError", "no"), EngineError("StageError: no")),  # takes more than a text
        (Refusal("__name__", "no"), EngineError("__name__: no")),
    ],
)
def test_a_refusal_becomes_an_error_of_ours(refusal, error):
    assert (type(refusal.error()), refusal.error().args) == (type(error), error.args)


def test_a_worker_dies_with_its_parent(desk: Desk):
    """A process between us starts the worker; its kill must end both."""
    script = f"""
        import dataclasses, os, signal, msgspec
        from vdag.child import Child, WorkerSettings
        settings = WorkerSettings.decode({desk.settings().encode()!r})
        child = Child(msgspec.structs.replace(settings, parent=os.getpid()))
        signal.pause()
    """
    middle = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)])
    hello = desk.take()
    worker = psutil.Process(hello.pid)
    fd = os.pidfd_open(hello.pid)
    middle.kill()
    middle.wait()
    assert select.select([fd], [], [], TIMEOUT_MS / 1000)[0]
    os.close(fd)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
