"""Questions and answers over real sockets: losses, keys, and ends that are killed."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st
from rpc_kit import LOOPBACK, TIMEOUT_S, answer_of, ask, hear, wait_for

from vdag.errors import ChannelClosed, ConfigError, TransportError
from vdag.transport import rpc
from vdag.transport.keys import Gate, KeyFolder
from vdag.transport.rpc import Backoff, Replier, Requester

#: Answers to what it is asked, until it is killed; says where it listens.
ECHO = """
import sys, zmq
from vdag.transport.rpc import Replier

with Replier(sys.argv[1], context=zmq.Context.instance()) as replier:
    print(replier.bound, flush=True)
    while True:
        replier.socket.poll(1000)
        while (question := replier.receive()) is not None:
            replier.reply(question, b"re: " + question.body)
"""


def ask_until_answered(requester: Requester, body: bytes, timeout_s: float = 0.3) -> bytes:
    """Ask again after each failure, as a node does."""

    def once() -> bytes | None:
        now_ns = time.monotonic_ns()
        requester.expire(now_ns)
        if requester.may_ask(now_ns):
            requester.ask(body, now_ns=now_ns, timeout_s=timeout_s)
        return requester.take(now_ns)

    deadline_s = time.monotonic() + TIMEOUT_S
    while (found := once()) is None:
        assert time.monotonic() < deadline_s
        requester.socket.poll(20)
    return found


# One question


def test_a_question_is_answered(requester, replier):
    ask(requester, b"who")
    question = hear(replier)
    assert (question.body, question.peer) == (b"who", "")
    assert replier.reply(question, b"me")
    assert answer_of(requester) == b"me"
    assert (requester.is_waiting, requester.failures) == (False, 0)
    assert replier.stats() == rpc.ReplierStats(questions=1, malformed=0, answers=1, gone=0)


def test_answers_may_be_held_back_and_given_in_any_order(context, replier):
    with (
        Requester(replier.bound, context=context) as first,
        Requester(replier.bound, context=context) as second,
    ):
        ask(first, b"first")
        held = hear(replier)
        ask(second, b"second")
        replier.reply(hear(replier), b"to second")
        assert answer_of(second) == b"to second"
        assert first.take(time.monotonic_ns()) is None
        replier.reply(held, b"to first")
        assert answer_of(first) == b"to first"


@pytest.mark.parametrize("correlate", [0, 1])
def test_any_req_socket_can_ask(context, replier, correlate: int):
    plain = context.socket(zmq.REQ)
    plain.setsockopt(zmq.REQ_CORRELATE, correlate)
    plain.connect(replier.bound)
    plain.send(b"")
    question = hear(replier)
    assert question.body == b""
    replier.reply(question, b"")
    assert plain.poll(TIMEOUT_S * 1000)
    assert plain.recv_multipart() == [b""]
    plain.close()


def test_a_question_may_be_asked_before_anybody_listens(context):
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    with Requester(address, context=context) as requester:
        ask(requester, b"early")
        with Replier(address, context=context) as late:
            late.reply(hear(late), b"yes")
            assert answer_of(requester) == b"yes"


def test_one_question_at_a_time(requester, replier):
    ask(requester, b"one")
    error = f"a question to {replier.bound} is under way, or a pause"
    with pytest.raises(TransportError, match=f"^{re.escape(error)}$"):
        ask(requester, b"two")
    requester.close()
    with pytest.raises(ChannelClosed, match=f"^requester to {replier.bound} is closed$"):
        ask(requester, b"three")


# No answer


def test_a_question_that_is_not_answered_in_time_is_given_up_with_its_connection(
    requester, replier
):
    before = requester.socket
    requester.ask(b"lost", now_ns=1_000, timeout_s=2.0)
    late = hear(replier)  # before the socket goes, with what has not left it
    assert requester.due_ns(1_000) == 2_000_001_000
    assert not requester.expire(2_000_000_999)
    assert requester.expire(2_000_001_000)
    assert (requester.is_waiting, requester.failures) == (False, 1)
    assert before.closed
    assert requester.socket is not before

    due_ns = requester.due_ns(2_000_001_000)
    assert due_ns is not None
    assert 0.05e9 <= due_ns - 2_000_001_000 <= 0.1e9
    assert not requester.may_ask(due_ns - 1)
    requester.ask(b"again", now_ns=due_ns, timeout_s=TIMEOUT_S)
    again = hear(replier)
    replier.reply(late, b"to the lost one")
    replier.reply(again, b"to the other")
    assert answer_of(requester) == b"to the other"
    assert requester.failures == 0


def test_an_idle_requester_has_nothing_due(requester):
    assert requester.due_ns(5) is None
    assert not requester.expire(1 << 62)
    assert requester.take(5) is None


def test_pauses_double_up_to_a_second_and_leave_half_to_chance():
    backoff = Backoff()
    for most_s in (0.1, 0.2, 0.4, 0.8, *[1.0] * 2000):
        assert most_s / 2 * 1e9 <= backoff.fail() <= most_s * 1e9
    backoff.succeed()
    assert backoff.fail() <= 0.1e9


def test_an_answer_that_makes_no_sense_can_be_refused(requester, replier):
    ask(requester, b"one")
    replier.reply(hear(replier), b"nonsense")
    assert answer_of(requester) == b"nonsense"
    before = requester.socket
    requester.fail(7)
    assert before.closed
    assert not requester.may_ask(8)
    assert requester.failures == 1


def test_an_answer_to_somebody_who_is_gone_is_counted(requester, replier):
    ask(requester, b"one")
    question = hear(replier)
    requester.close()
    wait_for(lambda: not replier.reply(question, b"me") or None)
    assert replier.stats().gone == 1


def start_echo(address: str) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", ECHO, address], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_an_end_that_is_killed_and_started_anew_is_asked_again(context):
    process, address = start_echo(LOOPBACK)
    try:
        with Requester(address, context=context) as requester:
            assert ask_until_answered(requester, b"1", TIMEOUT_S) == b"re: 1"
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=TIMEOUT_S)
            ask(requester, b"lost", 0.3)
            wait_for(lambda: requester.expire(time.monotonic_ns()) or None, requester.socket)
            process, _ = start_echo(address)
            assert ask_until_answered(requester, b"2") == b"re: 2"
    finally:
        process.kill()
        process.communicate(timeout=TIMEOUT_S)


# Losses


class Lossy:
    """Stands between the two ends and, as told, loses, doubles or keeps what passes."""

    def __init__(self, context: zmq.Context[Any], target: str, fates: Iterator[str]) -> None:
        self.front, self.back = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
        self.front.bind(LOOPBACK)
        self.back.connect(target)
        self.address = self.front.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()
        self._fates = fates
        self._kept: deque[tuple[Any, list[bytes]]] = deque()

    def step(self) -> None:
        """Pass on what has come, each message by its fate."""
        for source, target in ((self.front, self.back), (self.back, self.front)):
            while source.poll(0):
                parts = source.recv_multipart()
                fate = next(self._fates, "pass")
                if fate == "keep":
                    self._kept.append((target, parts))
                    continue
                for _ in range({"lose": 0, "pass": 1, "double": 2}[fate]):
                    target.send_multipart(parts)
                if self._kept and fate != "lose":
                    late, old = self._kept.popleft()
                    late.send_multipart(old)

    def close(self) -> None:
        self.front.close(linger=0)
        self.back.close(linger=0)


@settings(max_examples=40, deadline=None)
@given(fates=st.lists(st.sampled_from(["pass", "lose", "double", "keep"]), max_size=12))
def test_whatever_is_lost_doubled_or_late_each_answer_is_that_of_its_question(fates: list[str]):
    context: zmq.Context[Any] = zmq.Context()
    replier = Replier(LOOPBACK, context=context)
    lossy = Lossy(context, replier.bound, iter(fates))
    requester = Requester(lossy.address, context=context)
    heard: list[int] = []
    try:
        now_ns = 1
        for number in range(4):
            # Time passes when nothing else happens any more: no test waits for a time-out.
            quiet = 0
            while True:
                if requester.may_ask(now_ns):
                    requester.ask(b"%d" % number, now_ns=now_ns, timeout_s=1.0)
                lossy.step()
                while (question := replier.receive()) is not None:
                    heard.append(int(question.body))
                    replier.reply(question, b"re: " + question.body)
                lossy.step()
                if (answer := requester.take(now_ns)) is not None:
                    assert answer == b"re: %d" % number
                    break
                sockets = (lossy.front, lossy.back, replier.socket, requester.socket)
                if not zmq.zmq_poll([(each, zmq.POLLIN) for each in sockets], 25):
                    quiet += 1
                    assert quiet < 200
                    now_ns = requester.due_ns(now_ns) or now_ns
                    requester.expire(now_ns)
        # Every question was heard, none after a later one was asked for the first time but those
        # that the way itself has kept.
        assert set(heard) == set(range(4))
        if "keep" not in fates:
            assert heard == sorted(heard)
    finally:
        requester.close()
        lossy.close()
        replier.close()
        context.term()


# Keys


def test_beyond_loopback_there_is_no_way_without_keys(context):
    error = (
        "address 'tcp://0.0.0.0:0' is beyond loopback and there are no keys: "
        "make some with `vdag keys new`, or use 127.0.0.1"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(error)}$"):
        Replier("tcp://0.0.0.0:0", context=context)
    with pytest.raises(ConfigError, match=r"^address 'tcp://192\.0\.2\.1:5010' is beyond loopback"):
        Requester("tcp://192.0.2.1:5010", context=context)
    with pytest.raises(ConfigError, match=r"^address 'tcp://127\.0\.0\.1:0' has no port"):
        Requester(LOOPBACK, context=context)


def test_an_address_that_is_taken_is_an_error(context, replier):
    error = f"{replier.bound} cannot be bound: address already in use"
    with pytest.raises(TransportError, match=f"^{re.escape(error)}$"):
        Replier(replier.bound, context=context)


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, KeyFolder]:
    """Those of a controller and of a node, who trust each other, and of a stranger."""
    found = {name: KeyFolder(tmp_path / name) for name in ("cloud", "edge", "stranger")}
    public = {name: folder.new(name).public for name, folder in found.items()}
    found["cloud"].trust("edge", public["edge"])
    found["edge"].trust("cloud", public["cloud"])
    found["stranger"].trust("cloud", public["cloud"])
    return found


@pytest.fixture
def guarded(context, folders) -> Iterator[Replier]:
    gate = Gate(context, folders["cloud"])
    with Replier(LOOPBACK, context=context, curve=folders["cloud"].to_bind()) as replier:
        yield replier
    gate.close()


def test_a_question_says_whose_key_it_came_with(folders, guarded):
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    curve = folders["edge"].to_connect("cloud")
    with Requester(guarded.bound, context=context, curve=curve) as requester:
        ask(requester, b"who am I")
        question = hear(guarded)
        assert question.peer == folders["edge"].own().public
        guarded.reply(question, b"edge")
        assert answer_of(requester) == b"edge"
    context.term()


def test_who_is_not_trusted_is_not_heard(folders, guarded):
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with (
        Requester(
            guarded.bound, context=context, curve=folders["stranger"].to_connect("cloud")
        ) as stranger,
        Requester(guarded.bound, context=context) as plain,
        Requester(
            guarded.bound, context=context, curve=folders["edge"].to_connect("cloud")
        ) as trusted,
    ):
        ask(stranger, b"let me in")
        ask(plain, b"me too")
        ask(trusted, b"hello")
        assert hear(guarded).body == b"hello"
        assert guarded.receive() is None
    context.term()


def test_keys_without_that_of_the_other_end_connect_nowhere(context, folders):
    with pytest.raises(
        ConfigError, match=r"^connecting to tcp://127\.0\.0\.1:5 needs the public key of that node$"
    ):
        Requester("tcp://127.0.0.1:5", context=context, curve=folders["edge"].to_bind())
