"""Users' policies that look into the profile: it reaches their process once per version of it."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from policy_kit import CLOUD, EDGE, HOST, TASKS, Around, node, profile, question

from vdag.control.advisers import Advisers, knowledge
from vdag.control.advisers.knowledge import Knowledge, Library, lessons
from vdag.control.policies import load
from vdag.control.profile import Cost
from vdag.control.scheduling.events import PlanProposed, PolicyFailed
from vdag.control.scheduling.instructions import AskPolicy, Question
from vdag.control.scheduling.surroundings import Snapshot
from vdag.errors import ConfigError

#: Longer than anything here takes, even on a machine that has other things to do.
PATIENCE_S = 60.0

POLICY = '''
import os


def cheapest(dag, nodes, profile):
    """Every task where a frame takes the least time."""
    mapping = {}
    for task in dag["flow"]:
        able = [node for node in nodes if task in node.services]
        best = min(able, key=lambda node: profile.cost(task, 0, "1080p", node).compute_s)
        mapping[task] = {"node_ip": best.ip, "node_addr": best.node_addr}
    return {"resolution": "1080p", "fps": 10, "encoder": "JPEG"}, mapping


def looks_around(dag, around):
    host = around.host
    seen = [
        around.profile.cost("face_detection", 0, "1080p", host).compute_s,
        around.profile.frame_nbytes("1080p", "JPEG"),
        around.bandwidth_between(host.node_addr, "10.0.0.9:5001"),
        [each.node_addr for each in around.candidates("face_detection")],
    ]
    return {"fps": 1}, seen


def who_is_told(dag, profile, memory):
    return {"fps": 1}, [os.getpid(), id(profile), len([*profile.costs()])]


def writes(dag, profile):
    profile.forget("10.0.0.1:5001")
    return {"fps": 1}, {}
'''


class Desk:
    """Asks one question at a time of a function in the file."""

    def __init__(self, path: Path, function: str) -> None:
        self.advisers = Advisers(
            timeout_s=PATIENCE_S, start_timeout_s=PATIENCE_S, idle_s=PATIENCE_S * 10
        )
        self.policy = f"{path}:{function}"
        self.rounds = 0

    def ask(self, asked: Question) -> PlanProposed | PolicyFailed:
        self.rounds += 1
        order = AskPolicy("q", self.rounds, self.policy, asked)
        found = self.advisers.ask(order, time.monotonic_ns())
        deadline = time.monotonic() + PATIENCE_S
        while not found:
            assert time.monotonic() < deadline, "no answer at all"
            poll = select.poll()
            for fd, events in self.advisers.fds():
                poll.register(fd, events)
            poll.poll(100)
            found = self.advisers.serve(time.monotonic_ns())
        (event,) = found
        assert event.round == self.rounds
        return event

    def plan(self, asked: Question) -> object:
        event = self.ask(asked)
        assert isinstance(event, PlanProposed), event.reason
        return event.flow_mapping


class Told(Around):
    """`Around` whose snapshot knows what it knows, like that of the scheduler."""

    def snapshot(self) -> Snapshot:
        return replace(self.still, knowledge=self.profile)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "theirs.py"
    path.write_text(POLICY, encoding="utf-8")
    return path


@pytest.fixture
def desk(file: Path, request: pytest.FixtureRequest) -> Iterator[Desk]:
    desk = Desk(file, request.param)
    yield desk
    desk.advisers.close()


def places(mapping: object) -> list[str]:
    assert isinstance(mapping, dict)
    return [mapping[task]["node_addr"] for task in TASKS]


@pytest.mark.parametrize("desk", ["cheapest"], indirect=True)
def test_a_users_policy_picks_the_node_with_the_lowest_cost(desk):
    around = Told(links={HOST: {CLOUD: 1e7}})
    assert places(desk.plan(question(around))) == [CLOUD, CLOUD]
    known = around.profile
    known.put_cost("face_alignment", 0, "1080p", Cost(0.001, 0.001, samples=9), EDGE)
    # What was measured on a node for one task is believed of its others too.
    assert places(desk.plan(question(around))) == [EDGE, EDGE]


@pytest.mark.parametrize("desk", ["cheapest"], indirect=True)
def test_it_is_told_what_nodes_have_taught_since_without_the_whole_again(desk):
    around = Told()
    known, cloud = around.profile, node(CLOUD, 4, cores=16)
    assert places(desk.plan(question(around))) == [CLOUD, CLOUD]
    edition, _ = desk.advisers._library.edition(known)
    for _ in range(20):
        known.observe("face_detection", 0, "1080p", cloud, 3.0, 3.2, 100)
    assert places(desk.plan(question(around))) == [HOST, HOST]
    for _ in range(20):
        known.observe("face_detection", 0, "1080p", cloud, 0.02, 0.024, 100)
    assert places(desk.plan(question(around))) == [CLOUD, CLOUD]
    assert desk.advisers._library.edition(known)[0] == edition


@pytest.mark.parametrize("desk", ["looks_around"], indirect=True)
def test_a_users_policy_may_take_the_surroundings_themselves(desk):
    around = Told(links={HOST: {CLOUD: 1e7}})
    known = around.profile
    cost = known.cost("face_detection", 0, "1080p", node(HOST))
    nbytes = known.frame_nbytes("1080p", "JPEG")
    seen = desk.plan(question(around))
    expected = [pytest.approx(cost.compute_s, rel=1e-4), pytest.approx(nbytes, rel=1e-4)]
    assert seen == [*expected, 1e7, [HOST, CLOUD, EDGE]]


@pytest.mark.parametrize("desk", ["who_is_told"], indirect=True)
def test_the_profile_is_read_once_per_version_and_anew_by_another_process(desk):
    around = Told()
    known = around.profile
    rows = len([*known.costs()])
    pid, first, count = desk.plan(question(around))
    assert count == rows
    known.observe("face_detection", 0, "1080p", node(HOST), 0.1, 0.1, 100)
    assert desk.plan(question(around)) == [pid, first, rows]

    known.put_cost("bird_detection", 0, "1080p", Cost(0.1, 0.1, samples=1))
    assert desk.plan(question(around))[::2] == [pid, rows + 1]

    process = psutil.Process(pid)
    os.kill(pid, signal.SIGKILL)
    psutil.wait_procs([process], timeout=PATIENCE_S)
    event = desk.ask(question(around))  # that it has ended is found out by this one, or before
    again = event if isinstance(event, PlanProposed) else desk.ask(question(around))
    assert again.flow_mapping[0] != pid
    assert again.flow_mapping[2] == rows + 1


@pytest.mark.parametrize("desk", ["writes"], indirect=True)
def test_a_users_policy_cannot_change_the_profile(desk):
    event = desk.ask(question(Told()))
    assert event.reason == "TypeError: the profile of a policy is for reading"


@pytest.mark.parametrize("desk", ["cheapest"], indirect=True)
def test_a_profile_that_is_too_large_to_send_fails_the_question_alone(desk, monkeypatch):
    around = Told()
    monkeypatch.setattr(knowledge, "MAX_ENTRIES", 10)
    assert desk.ask(question(around)).reason == (
        "profile exceeds 10 entries, too many for a policy"
    )
    monkeypatch.undo()
    assert places(desk.plan(question(around))) == [CLOUD, CLOUD]
    assert desk.advisers.stats().ended == 0


def test_a_library_writes_a_document_once_per_version():
    library, known = Library(), profile()
    number, document = library.edition(known)
    assert library.edition(known)[1] is document
    known.put_cost("bird_detection", 0, "1080p", Cost(0.1, 0.1, samples=1))
    assert library.edition(known) == (number + 1, known.to_bytes())
    assert library.edition(profile())[0] == number + 2


def test_lessons_make_the_copy_predict_what_the_original_does():
    around = Told()
    known = around.profile
    copy = Knowledge.read(known.to_bytes())
    known.observe_load(node(EDGE), 3.0)
    known.observe("face_detection", 1, "720p", node(HOST), 0.5, 0.9, 200)
    known.observe_frame("1080p", "JPEG", 123_456.0)
    asked = question(around)
    copy.revise(lessons(asked))
    for task in TASKS:
        for each in around.nodes():
            for name in ("480p", "720p", "1080p"):
                expected = known.cost(task, 1, name, each).compute_s
                got = copy.cost(task, 1, name, each).compute_s
                assert got == pytest.approx(expected, rel=1e-3)
    assert copy.frame_nbytes("1080p", "JPEG") == pytest.approx(
        known.frame_nbytes("1080p", "JPEG"), rel=1e-3
    )


def test_what_is_no_profile_is_refused():
    with pytest.raises(ConfigError, match=r"^profile is no profile: format is '', not "):
        Knowledge.read(b"{}")


def test_who_takes_no_profile_is_sent_none(file):
    assert load(f"{file}:cheapest").takes_profile
    assert load(f"{file}:looks_around").takes_profile
    assert not load("static").takes_profile
