"""Users' policies in processes of their own: whatever they do, the others go on."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from adviser_kit import PATIENCE_S, PLAN, POLICY, Desk
from scheduler_kit import CONF, HOST

from vdag.control.advisers import Advisers
from vdag.control.advisers.advice import MAX_ANSWER_NBYTES
from vdag.control.scheduling.events import PlanProposed, PolicyFailed
from vdag.errors import ConfigError

pytestmark = pytest.mark.slow  # as a whole


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "theirs.py"
    path.write_text(POLICY.format(plan=PLAN, conf=CONF), encoding="utf-8")
    return path


@pytest.fixture
def desk(file: Path) -> Iterator[Desk]:
    """A desk whose policy is loaded; idle processes are kept longer than any test takes."""
    before = children()
    desk = Desk(f"{file}:plan", idle_s=PATIENCE_S * 10)
    desk.load()
    yield desk
    desk.advisers.close()
    assert children() == before
    assert desk.advisers.stats().processes == 0


@pytest.fixture
def hasty(file: Path) -> Iterator[Desk]:
    """A desk without patience for answers."""
    desk = Desk(f"{file}:plan", idle_s=PATIENCE_S * 10, timeout_s=0.5)
    desk.load()
    yield desk
    desk.advisers.close()


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def advisers() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children()
        if "vdag.control.advisers.adviser" in child.cmdline()
    ]


# Answers.


def test_a_policy_answers_from_a_process_of_its_own(desk):
    event = desk.ask("plain")
    assert isinstance(event, PlanProposed)
    assert (event.video_conf, event.flow_mapping, event.resource_limit) == (CONF, PLAN, None)
    assert [child.pid for child in advisers()] != [os.getpid()]
    assert len(advisers()) == 1


def test_a_policy_gets_the_question_with_all_its_nodes(desk):
    assert desk.ask("host").flow_mapping == [HOST, ["10.0.0.1"]]


def test_the_same_process_answers_one_question_after_the_other(desk):
    assert all(isinstance(desk.ask(f"plain-{n}"), PlanProposed) for n in range(20))
    assert desk.advisers.stats().answered == 20
    assert desk.advisers.stats().ended == 0
    assert len(advisers()) == 1


def test_numbers_of_numpy_are_numbers(desk):
    assert desk.ask("numpy").video_conf["fps"] == 12.5


def test_what_a_policy_prints_does_not_mix_with_its_answers(desk, caplog):
    with caplog.at_level(logging.INFO, logger="vdag.control.advisers.counsel"):
        assert isinstance(desk.ask("print"), PlanProposed)
        assert isinstance(desk.ask("plain"), PlanProposed)
    assert f"policy {desk.policy}: yyyy" in caplog.text


def test_a_policy_has_nothing_to_read(desk):
    assert desk.ask("input").flow_mapping == ""


@pytest.mark.parametrize(
    ("uid", "reason"),
    [
        ("raise", "ValueError: no idea"),
        ("sysexit", "SystemExit: bye"),
        ("interrupt", "KeyboardInterrupt: "),
        ("number", "it returned a int, expected video_conf, flow_mapping"),
        ("object", "a plan has no object in it"),
        ("cycle", "maximum recursion depth exceeded"),
        ("huge", f"answer of {(2 << 20) + 7} bytes exceeds {MAX_ANSWER_NBYTES}"),
    ],
)
def test_a_policy_without_an_answer_is_reported_and_goes_on(desk, uid, reason):
    event = desk.ask(uid)
    assert isinstance(event, PolicyFailed)
    assert _told(event.reason, reason)
    assert isinstance(desk.ask("plain"), PlanProposed)
    assert desk.advisers.stats().ended == 0


def _told(text: str, reason: str) -> bool:
    if "bytes" in reason:  # the length of what is around the text is MessagePack's business
        return re.fullmatch(r"answer of 2097\d{3} bytes exceeds 1048576", text) is not None
    return text.startswith(reason)


# Endings.


@pytest.mark.parametrize("uid", ["hang", "spin", "stubborn"])
def test_a_policy_that_hangs_is_killed_with_all_that_it_has_started(hasty, uid):
    (process,) = advisers()
    event = hasty.ask(uid)
    assert event.reason == "no answer within 0.5 s, its process was killed"
    psutil.wait_procs([process], timeout=PATIENCE_S)
    assert not process.is_running()
    assert "sleep" not in {child.name() for child in psutil.Process().children(recursive=True)}
    hasty.wait_for(lambda _: hasty.is_loaded())
    assert isinstance(hasty.ask("plain"), PlanProposed)


@pytest.mark.parametrize(
    ("uid", "reason"),
    [
        ("exit", "its process ended: exit status 7"),
        ("crash", "its process ended: killed by SIGSEGV"),
    ],
)
def test_a_policy_that_ends_its_process_is_reported_and_started_again(desk, uid, reason):
    event = desk.ask(uid)
    assert event.reason.startswith(reason)
    desk.wait_for(lambda _: desk.is_loaded())
    assert isinstance(desk.ask("plain"), PlanProposed)
    assert desk.advisers.stats().ended == 1


def test_a_policy_that_forges_its_answers_is_ended(desk):
    event = desk.ask("forge")
    assert isinstance(event, PolicyFailed)
    assert event.reason.startswith("its process said frame of 4294967295 bytes exceeds")


def test_a_query_that_ended_the_process_is_asked_about_in_another(desk):
    desk.ask("exit")
    desk.wait_for(lambda _: desk.is_loaded())
    (first,) = advisers()
    second = desk.advisers.ask(desk.order("exit"), time.monotonic_ns())
    assert second == []
    assert isinstance(desk.ask("plain"), PlanProposed)
    assert first.is_running()
    assert len(advisers()) == 2


def test_a_process_that_ends_again_and_again_is_not_started_for_each_question(desk):
    desk.ask("exit-1")
    desk.wait_for(lambda _: desk.is_loaded())
    desk.ask("exit-2")
    event = desk.ask("plain")
    assert event.reason.startswith("no process after the last: its process ended: exit status 7")
    assert advisers() == []


def test_a_policy_that_cannot_be_loaded_is_reported(tmp_path):
    desk = Desk(f"{tmp_path}/none.py:plan", timeout_s=PATIENCE_S)
    event = desk.ask("plain")
    assert event.reason == f"policy '{tmp_path}/none.py:plan': no such file"
    assert desk.ask("plain").reason.startswith("no process after the last: policy")
    desk.advisers.close()


def test_a_policy_that_takes_too_long_to_load_is_reported(tmp_path):
    path = tmp_path / "slow.py"
    path.write_text("import time; time.sleep(3600)\n", encoding="utf-8")
    desk = Desk(f"{path}:plan", timeout_s=PATIENCE_S, start_timeout_s=1.0)
    assert desk.ask("plain").reason == "not loaded within 1 s, its process was killed"
    desk.advisers.close()


def test_a_question_that_waits_for_too_long_is_let_go(tmp_path):
    path = tmp_path / "slow.py"
    path.write_text("import time; time.sleep(3600)\n", encoding="utf-8")
    desk = Desk(f"{path}:plan", timeout_s=0.2)
    assert desk.ask("plain").reason == "it is still being loaded"
    assert desk.advisers.stats().processes == 1
    desk.advisers.close()


def test_a_question_that_waits_is_replaced_by_the_next_one_about_its_query(file, desk):
    now_ns = time.monotonic_ns()
    for uid in ("wait", "plain", "plain", "plain"):
        assert desk.advisers.ask(desk.order(uid), now_ns) == []
    assert desk.advisers.stats().waiting == 1
    (file.parent / "gate").touch()
    found = desk.wait_for(lambda events: len(events) == 2)
    assert [(event.query_id, event.round) for event in found] == [("wait", 1), ("plain", 4)]


def test_an_idle_process_is_ended(file):
    desk = Desk(f"{file}:plan", idle_s=0.05, timeout_s=PATIENCE_S)
    assert isinstance(desk.ask("plain"), PlanProposed)
    desk.wait_for(lambda _: desk.advisers.stats().processes == 0)
    desk.wait_for(lambda _: desk.advisers.next_due_ns() is None)
    assert desk.advisers.fds() == []
    assert advisers() == []


def test_there_are_only_so_many_processes(desk, file):
    desk.advisers.close()
    few = Desk(f"{file}:plan", max_processes=1, timeout_s=PATIENCE_S)
    assert isinstance(few.ask("plain"), PlanProposed)
    few.policy = "other_policy:plan"
    assert few.ask("plain").reason == "1 other policies are at work"
    few.advisers.close()


def test_an_adviser_dies_with_its_parent(file):
    code = (
        "import psutil, time; from vdag.control.advisers import Advisers\n"
        f"Advisers().prepare('{file}:plan', time.monotonic_ns())\n"
        "print(psutil.Process().children()[0].pid, flush=True); input()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    assert parent.stdin is not None
    adviser = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait(PATIENCE_S)
    psutil.wait_procs([adviser], timeout=PATIENCE_S)
    assert not adviser.is_running() or adviser.status() == psutil.STATUS_ZOMBIE
    parent.stdout.close()
    parent.stdin.close()


# Policies of ours, and settings.


def test_a_built_in_policy_is_called_at_once_and_without_a_process():
    desk = Desk("golden")
    (event,) = desk.advisers.ask(desk.order("plain"), 5)
    assert isinstance(event, PlanProposed)
    assert event.now_ns == 5
    desk.policy = "static"
    (event,) = desk.advisers.ask(desk.order("plain"), 5)
    assert event == PolicyFailed(5, "plain", 2, "plain was submitted without a plan")
    assert (desk.advisers.stats().answered, desk.advisers.stats().failed) == (1, 1)
    assert desk.advisers.next_due_ns() is None


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"timeout_s": 0}, "timeout_s 0 is not above 0 to 3600"),
        ({"idle_s": 1e9}, "idle_s 1e+09 is not above 0 to 3600"),
        ({"max_processes": 0}, "max_processes 0 is not at least 1"),
    ],
)
def test_settings_without_meaning_are_refused(settings, text):
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
        Advisers(**settings)
