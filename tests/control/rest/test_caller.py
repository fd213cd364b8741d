"""One connection to a server that may do anything: every wait ends, every reply is bounded."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from vdag.control.rest.caller import Caller, check_place
from vdag.errors import ChannelClosed, ConfigError, FrameFormatError

WAIT_S = 30.0
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


class Server:
    """Gives each connection to the next of some functions, in a thread."""

    def __init__(self, *talks: Callable[[socket.socket], None]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.place = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run, args=(talks,))
        self._thread.start()

    def _run(self, talks: tuple[Callable[[socket.socket], None], ...]) -> None:
        for talk in talks:
            self._listener.settimeout(WAIT_S)
            connection, _ = self._listener.accept()
            with connection:
                talk(connection)

    def close(self) -> None:
        self._thread.join(WAIT_S)
        self._listener.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Caller]]:
    with ExitStack() as stack:

        def serve(*talks: Callable[[socket.socket], None], **options: float) -> Caller:
            server = Server(*talks)
            stack.callback(server.close)
            caller = Caller(server.place, **options)  # type: ignore[arg-type]
            stack.callback(caller.close)
            return caller

        yield serve


def request(connection: socket.socket) -> bytes:
    """Read a request; nothing is returned when the caller has left."""
    found = b""
    while b"\r\n\r\n" not in found and (chunk := connection.recv(65536)):
        found += chunk
    return found


def says(*replies: bytes) -> Callable[[socket.socket], None]:
    def talk(connection: socket.socket) -> None:
        for reply in replies:
            request(connection)
            connection.sendall(reply)

    return talk


def until_closed(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


def test_requests_share_a_connection(serve):
    caller = serve(says(OK, OK, OK))
    assert [caller.get("/a").object() for _ in range(2)] == [{}, {}]
    assert caller.post("/b", b"{}").status == 200


def test_a_connection_that_was_closed_meanwhile_is_made_anew(serve):
    caller = serve(says(OK), says(OK))
    assert caller.get("/a").is_good
    assert caller.get("/a").is_good


def test_a_server_that_closes_every_connection_is_not_asked_for_ever(serve):
    caller = serve(says(OK), request, request)
    assert caller.get("/a").is_good
    with pytest.raises(ChannelClosed, match=r"does not answer /a: "):
        caller.get("/a")
    with pytest.raises(ChannelClosed, match=r"does not answer /a: "):
        caller.get("/a")


def test_nobody_there_is_an_error_at_once():
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        caller = Caller(f"127.0.0.1:{reserved.getsockname()[1]}")
        with pytest.raises(ChannelClosed, match=r"does not answer /a: Connection refused$"):
            caller.get("/a")


def test_a_server_that_says_nothing_is_waited_for_no_longer_than_told(serve):
    caller = serve(until_closed, timeout_s=0.1)
    with pytest.raises(ChannelClosed, match=r"^127.0.0.1:\d+ does not answer /a in time$"):
        caller.get("/a")


@pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK\r\nx: ", OK[:-2].replace(b"2\r", b"999\r")])
def test_a_server_that_says_little_at_a_time_is_waited_for_no_longer(serve, start):
    def trickle(connection: socket.socket) -> None:
        request(connection)
        connection.sendall(start)
        left = threading.Event()
        try:
            while not left.wait(0.02):
                connection.sendall(b"x")
        except OSError:  # the caller has had enough
            return

    caller = serve(trickle, timeout_s=0.2)
    with pytest.raises(ChannelClosed, match=r"does not answer /a in time$"):
        caller.get("/a")


@pytest.mark.parametrize(
    "reply",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n",
    ],
)
def test_what_is_not_http_is_said_to_be_none(serve, reply):
    caller = serve(says(reply))
    with pytest.raises(FrameFormatError, match=r"answers /a with what is not HTTP: \w+$"):
        caller.get("/a")


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 999999999\r\n\r\n" + b"x" * 2000,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n7d0\r\n" + b"x" * 2000 + b"\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 2000,
    ],
)
def test_a_reply_beyond_the_limit_is_refused(serve, reply):
    caller = serve(says(reply), max_nbytes=1000)
    with pytest.raises(FrameFormatError, match=r"^reply of /a exceeds 1000 bytes$"):
        caller.get("/a")


def test_a_reply_that_ends_early_is_none(serve):
    caller = serve(says(OK[:-1]))
    with pytest.raises(ChannelClosed, match=r"ends amid its reply to /a$"):
        caller.get("/a")


@pytest.mark.parametrize("body", [b"", b"[]", b"<html>", b"\xff", b"[" * 2000])
def test_a_body_that_is_no_object_is_said_to_be_none(serve, body):
    caller = serve(says(b"HTTP/1.0 200 OK\r\n\r\n" + body))
    with pytest.raises(FrameFormatError, match=r"^reply is no JSON object: "):
        caller.get("/a").object()


def test_a_request_under_way_can_be_aborted(serve):
    asked = threading.Event()

    def talk(connection: socket.socket) -> None:
        request(connection)
        asked.set()
        until_closed(connection)

    caller = serve(talk, timeout_s=WAIT_S)
    aborter = threading.Thread(target=lambda: (asked.wait(WAIT_S), caller.abort()))
    aborter.start()
    with pytest.raises(ChannelClosed):
        caller.get("/a")
    aborter.join(WAIT_S)
    with pytest.raises(ChannelClosed, match="the caller is closed"):
        caller.get("/a")


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("10.0.0.7:5500", ("10.0.0.7", 5500)),
        ("gate-3.example:1", ("gate-3.example", 1)),
        ("[fe80::1]:65535", ("fe80::1", 65535)),
    ],
)
def test_a_place_is_a_host_and_a_port(place, expected):
    assert check_place(place) == expected


@pytest.mark.parametrize(
    "place",
    ["", "host", "host:", ":80", "host:65536", "host:0", "a b:80", "a\r\nb:80", "u@h:80", "h/p:80",
     "fe80::1:80", "-h:80", "host:8\u0663"],
)  # fmt: skip
def test_anything_else_is_none(place):
    with pytest.raises(ConfigError, match=r"is not HOST:PORT$"):
        check_place(place)
