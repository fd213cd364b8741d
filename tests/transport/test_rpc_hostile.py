"""Questions and answers with peers that send, or keep, what they should not."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st
from rpc_kit import LOOPBACK, TIMEOUT_S, answer_of, ask, hear, wait_for

from vdag.transport import rpc
from vdag.transport.address import Address
from vdag.transport.rpc import Replier, Requester


@pytest.fixture
def stranger(context, replier) -> Iterator[Any]:
    """Sends whatever it likes."""
    dealer = context.socket(zmq.DEALER)
    dealer.connect(replier.bound)
    yield dealer
    dealer.close(linger=0)


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"x"],
        [b"", b"a", b"b"],
        [b"x" * 257, b"", b"a"],
        [b"x"] * 100,
        [b"x"] * rpc.MAX_ENVELOPE + [b"", b"a"],
        [b"", b"", b"", b"a"],
    ],
    ids=lambda frames: f"{len(frames)} of {len(frames[0])}",
)
def test_what_no_req_sends_is_counted_and_ignored(requester, replier, stranger, frames):
    stranger.send_multipart(frames)
    wait_for(lambda: replier.receive() or replier.stats().malformed or None, replier.socket)
    assert (replier.stats().malformed, replier.stats().questions) == (1, 0)
    ask(requester, b"and now")
    question = hear(replier)
    assert question.body == b"and now"
    replier.reply(question, b"well")
    assert answer_of(requester) == b"well"


@settings(max_examples=100, deadline=None)
@given(frames=st.lists(st.binary(max_size=300), min_size=1, max_size=12))
def test_any_frames_are_a_question_or_malformed(frames: list[bytes]):
    context: zmq.Context[Any] = zmq.Context()
    with Replier("inproc://any", context=context) as replier:
        dealer = context.socket(zmq.DEALER)
        dealer.connect("inproc://any")
        dealer.send_multipart(frames)
        question = replier.receive()
        stats = replier.stats()
        assert (stats.questions, stats.malformed) == (question is not None, question is None)
        if question is not None:
            assert question.body == frames[-1]
            assert replier.reply(question, b"answer")
            assert dealer.recv_multipart(zmq.NOBLOCK) == [*frames[:-1], b"answer"]
        dealer.close(linger=0)
    context.term()


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", bytes(4096), b"\xff" * 4096])
def test_bytes_that_are_no_zmtp_disturb_nobody(requester, replier, data: bytes):
    target = Address.parse(replier.bound)
    with socket.create_connection((target.place, target.port), TIMEOUT_S) as raw:
        raw.sendall(data)
        ask(requester, b"still there")
        replier.reply(hear(replier), b"yes")
        assert answer_of(requester) == b"yes"
    assert replier.stats().questions == 1


def test_a_question_beyond_the_limit_is_not_taken_in(context):
    with (
        Replier(LOOPBACK, context=context, max_nbytes=1000) as replier,
        Requester(replier.bound, context=context) as requester,
    ):
        requester.ask(bytes(1001), now_ns=0, timeout_s=1.0)
        with Requester(replier.bound, context=context) as other:
            ask(other, bytes(1000))
            assert len(hear(replier).body) == 1000
        assert replier.receive() is None
        assert requester.expire(1_000_000_000)


def test_an_answer_beyond_the_limit_is_not_taken_in(context, replier):
    with Requester(replier.bound, context=context, max_nbytes=1000) as requester:
        ask(requester, b"much")
        replier.reply(hear(replier), bytes(1001))
        with Requester(replier.bound, context=context, max_nbytes=1000) as other:
            ask(other, b"little")
            replier.reply(hear(replier), bytes(1000))
            assert len(answer_of(other)) == 1000
        assert requester.take(0) is None
        assert requester.is_waiting


def test_an_answer_of_several_parts_is_a_failure(context):
    bad = context.socket(zmq.REP)
    bad.bind(LOOPBACK)
    address = bad.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()
    with Requester(address, context=context) as requester:
        ask(requester, b"one")
        assert bad.poll(TIMEOUT_S * 1000)
        bad.recv()
        bad.send_multipart([b"a", b"b"])
        wait_for(
            lambda: requester.take(time.monotonic_ns()) or requester.failures or None,
            requester.socket,
        )
        assert (requester.failures, requester.is_waiting) == (1, False)
    bad.close(linger=0)


def test_who_asks_and_never_reads_is_held_back(context, replier):
    greedy = context.socket(zmq.DEALER)
    greedy.setsockopt(zmq.SNDHWM, 1)
    greedy.setsockopt(zmq.RCVHWM, 1)
    greedy.connect(replier.bound)
    body = bytes(1 << 20)
    greedy.send_multipart([b"", body])
    question = hear(replier)
    answered = 0
    # What both sockets and the kernel hold, and no more.
    while replier.reply(question, body):
        answered += 1
        assert answered < 100
    greedy.close(linger=0)
