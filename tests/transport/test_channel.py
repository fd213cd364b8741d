from __future__ import annotations

import os
import re
import socket as sockets
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from vdag.errors import ConfigError, TransportError
from vdag.transport.address import Address
from vdag.transport.channel import (
    Outgoing,
    bound_address,
    open_pull,
    open_push,
    try_send,
    try_send_leased,
)
from vdag.transport.folder import private_folder
from vdag.transport.sockets import Curve

TIMEOUT_MS = 10_000
LOOPBACK = "tcp://127.0.0.1:0"


@pytest.fixture
def context() -> Iterator[zmq.Context]:
    with zmq.Context() as context:
        yield context


class Lease:
    """Counts how often it was released."""

    def __init__(self) -> None:
        self.released = 0

    def release(self) -> None:
        self.released += 1


def wait_to_send(socket: zmq.Socket) -> None:
    """Wait until a PUSH is connected and has room."""
    assert socket.poll(TIMEOUT_MS, zmq.POLLOUT)


def receive(socket: zmq.Socket) -> list[bytes]:
    assert socket.poll(TIMEOUT_MS)
    return socket.recv_multipart()


# Addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("inproc://results", Address("inproc", "results")),
        ("ipc:///run/vdag/exchange", Address("ipc", "/run/vdag/exchange")),
        ("tcp://127.0.0.1:7000", Address("tcp", "127.0.0.1", 7000)),
        ("tcp://gpu-1.example:65535", Address("tcp", "gpu-1.example", 65535)),
        ("tcp://[::1]:0", Address("tcp", "::1", 0)),
    ],
)
def test_an_address_is_read_and_written(text: str, address: Address):
    assert Address.parse(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "address '' starts with none of inproc://, ipc://, tcp://"),
        ("udp://a:1", "address 'udp://a:1' starts with none of inproc://, ipc://, tcp://"),
        ("tcp:/a:1", "address 'tcp:/a:1' starts with none of inproc://, ipc://, tcp://"),
        ("inproc://", "address 'inproc://' has no name of 1 to 255 printable characters"),
        ("inproc://a b", "address 'inproc://a b' has no name of 1 to 255 printable characters"),
        ("ipc://relative", "address 'ipc://relative' has no absolute path"),
        ("ipc://@abstract", "address 'ipc://@abstract' has no absolute path"),
        ("tcp://a", "address 'tcp://a' is not tcp://HOST:PORT"),
        ("tcp://:1", "address 'tcp://:1' is not tcp://HOST:PORT"),
        ("tcp://::1:5", "address 'tcp://::1:5' is not tcp://HOST:PORT"),
        ("tcp://a:1/b", "address 'tcp://a:1/b' is not tcp://HOST:PORT"),
        ("tcp://a:65536", "port 65536 of 'tcp://a:65536' exceeds 65535"),
        ("tcp://[1.2.3.4]:5", "host of 'tcp://[1.2.3.4]:5' is no IPv6 address"),
    ],
)
def test_what_is_no_address_is_refused_with_the_reason(text: str, error: str):
    with pytest.raises(ConfigError, match=f"^{re.escape(error)}$"):
        Address.parse(text)


def test_a_path_too_long_for_a_socket_is_refused():
    text = "ipc:///" + 107 * "x"
    with pytest.raises(ConfigError, match=r"^path of 'ipc://.*' has 108 bytes, limit 107$"):
        Address.parse(text)
    assert Address.parse(text[:-1]).place == "/" + 106 * "x"


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_a_config_error(text: str):
    for candidate in (text, f"tcp://{text}", f"ipc://{text}", f"inproc://{text}"):
        try:
            address = Address.parse(candidate)
        except ConfigError:
            continue
        assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    ("text", "is_loopback"),
    [
        ("inproc://a", True),
        ("ipc:///a", True),
        ("tcp://127.1.2.3:1", True),
        ("tcp://[::1]:1", True),
        ("tcp://localhost:1", True),
        ("tcp://0.0.0.0:1", False),
        ("tcp://*:1", False),
        ("tcp://10.0.0.7:1", False),
        ("tcp://[::]:1", False),
        ("tcp://127.0.0.1.example:1", False),
    ],
)
def test_what_leaves_the_host_is_told_from_what_does_not(text: str, is_loopback: bool):
    assert Address.parse(text).is_loopback is is_loopback


@pytest.mark.parametrize(
    ("text", "is_everywhere"),
    [
        ("tcp://0.0.0.0:1", True),
        ("tcp://[::]:1", True),
        ("tcp://*:1", True),
        ("tcp://10.0.0.7:1", False),
        ("inproc://*", False),
    ],
)
def test_an_address_that_nobody_can_answer_to_is_told(text: str, is_everywhere: bool):
    assert Address.parse(text).is_everywhere is is_everywhere


# Sockets


@pytest.mark.parametrize("scheme", ["inproc", "ipc", "tcp"])
def test_a_message_arrives(context: zmq.Context, tmp_path: Path, scheme: str):
    address = {"inproc": "inproc://a", "ipc": f"ipc://{tmp_path}/own/a", "tcp": LOOPBACK}[scheme]
    with (
        open_pull(address, context=context, depth=4) as pull,
        open_push(bound_address(pull), context=context, depth=4) as push,
    ):
        wait_to_send(push)
        assert try_send(push, [b"head", memoryview(b"body")])
        assert receive(pull) == [b"head", b"body"]


@pytest.mark.parametrize("scheme", ["inproc", "ipc", "tcp"])
def test_a_channel_that_nobody_reads_is_full_after_what_it_holds(context, tmp_path, scheme: str):
    address = {"inproc": "inproc://a", "ipc": f"ipc://{tmp_path}/own/a", "tcp": LOOPBACK}[scheme]
    part = bytes(1 << 20)
    with (
        open_pull(address, context=context, depth=3) as pull,
        open_push(bound_address(pull), context=context, depth=2) as push,
    ):
        wait_to_send(push)
        sent = 0
        while push.poll(200, zmq.POLLOUT):  # until the kernel's buffers are full as well
            sent += try_send(push, [part])
        assert not try_send(push, [part])
        for _ in range(sent):
            assert receive(pull) == [part]
    # Both depths, one message between them, and what the kernel holds of one connection.
    assert 5 <= sent <= 5 + 1 + 40


@pytest.mark.parametrize("scheme", ["ipc", "tcp"])
def test_nothing_is_taken_while_there_is_no_connection(context, tmp_path: Path, scheme: str):
    with sockets.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
        if scheme == "ipc":
            address = f"ipc://{private_folder(tmp_path / 'own')}/a"
        with open_push(address, context=context, depth=4) as push:
            assert not try_send(push, [b"lost"])
            assert not try_send_leased(push, [b"lost"], None, Outgoing(4))


def test_a_pull_that_comes_back_is_found_again(context: zmq.Context):
    # Only the end of its context frees a socket's port for certain.
    with zmq.Context() as first, open_pull(LOOPBACK, context=first, depth=4) as pull:
        address = bound_address(pull)
        push = open_push(address, context=context, depth=4)
        wait_to_send(push)
        assert try_send(push, [b"one"])
        assert receive(pull) == [b"one"]
    with push, zmq.Context() as second, open_pull(address, context=second, depth=4) as pull:
        # What is sent into the connection that is just going is lost; `edge` counts that.
        while not pull.poll(10):
            try_send(push, [b"two"])
        assert receive(pull) == [b"two"]


@pytest.mark.parametrize("host", ["0.0.0.0", "*", "192.0.2.1"])
def test_tcp_beyond_loopback_needs_keys(context: zmq.Context, host: str):
    address = f"tcp://{host}:7000"
    error = (
        f"address {address!r} is beyond loopback and there are no keys: "
        "make some with `vdag keys new`, or use 127.0.0.1"
    )
    for open_one in (open_pull, open_push):
        with pytest.raises(ConfigError, match=f"^{re.escape(error)}$"):
            open_one(address, context=context, depth=1)


def test_options_without_a_meaning_are_refused(context: zmq.Context):
    keys = Curve("p" * 40, "s" * 40)
    for depth in (0, 65537):
        error = f"depth of {depth} is not between 1 and 65536"
        with pytest.raises(ConfigError, match=f"^{error}$"):
            open_pull(LOOPBACK, context=context, depth=depth)
    with pytest.raises(
        ConfigError, match=r"^address 'inproc://a' takes no keys: they are for tcp$"
    ):
        open_pull("inproc://a", context=context, depth=1, curve=keys)
    with pytest.raises(ConfigError, match=r"^connecting to tcp://.* needs the public key of that"):
        open_push("tcp://127.0.0.1:1", context=context, depth=1, curve=keys)
    with pytest.raises(ConfigError, match=r"^address 'tcp://127.*' has no port to connect to$"):
        open_push(LOOPBACK, context=context, depth=1)
    assert "s" * 40 not in repr(keys)


def test_an_address_in_use_is_an_error_that_names_it(context: zmq.Context):
    with open_pull(LOOPBACK, context=context, depth=1) as pull:
        address = bound_address(pull)
        error = f"{address} cannot be bound: address already in use"
        with pytest.raises(TransportError, match=f"^{re.escape(error)}$"):
            open_pull(address, context=context, depth=1)


def test_a_closed_socket_is_an_error_and_no_full_one(context: zmq.Context):
    push = open_push("inproc://a", context=context, depth=1)
    push.close()
    with pytest.raises(TransportError, match=r"^message cannot be sent: "):
        try_send(push, [b"x"])


def test_a_part_over_the_limit_costs_its_sender_the_connection(context: zmq.Context):
    with (
        open_pull(LOOPBACK, context=context, depth=4, max_message_nbytes=1 << 16) as pull,
        open_push(bound_address(pull), context=context, depth=4) as push,
        open_push(bound_address(pull), context=context, depth=4) as honest,
    ):
        monitor = push.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        wait_to_send(push)
        assert try_send(push, [bytes((1 << 16) + 1)])
        assert monitor.poll(TIMEOUT_MS)
        push.disable_monitor()
        monitor.close()
        wait_to_send(honest)
        assert try_send(honest, [bytes(1 << 16)])
        assert receive(pull) == [bytes(1 << 16)]


# Folders


def test_the_folder_of_an_ipc_socket_is_for_its_user_alone(context: zmq.Context, tmp_path: Path):
    folder = tmp_path / "own"
    with open_pull(f"ipc://{folder}/a", context=context, depth=1):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_that_others_can_enter_is_refused(context: zmq.Context, tmp_path: Path):
    folder = tmp_path / "open"
    folder.mkdir(mode=0o700)
    folder.chmod(0o750)
    error = f"folder {folder} has mode 0750, not 0700"
    with pytest.raises(ConfigError, match=f"^{re.escape(error)}$"):
        open_pull(f"ipc://{folder}/a", context=context, depth=1)
    assert not (folder / "a").exists()


def test_what_is_no_folder_is_refused(tmp_path: Path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ConfigError, match=f"^folder {file} cannot be made: file exists$"):
        private_folder(file)
    link = tmp_path / "link"
    link.symlink_to(private_folder(tmp_path / "own"))
    with pytest.raises(ConfigError, match=f"^{link} is not a folder$"):
        private_folder(link)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_refused(tmp_path: Path):
    folder = private_folder(tmp_path / "own")
    os.chown(folder, 12345, 12345)
    with pytest.raises(ConfigError, match=f"^folder {folder} belongs to user 12345, not 0$"):
        private_folder(folder)


# Memory that ZeroMQ reads


def test_a_lease_is_kept_until_the_frame_has_left(context: zmq.Context):
    frame = np.full(8 << 20, 7, np.uint8)
    lease, outgoing = Lease(), Outgoing(4)
    with open_pull(LOOPBACK, context=context, depth=1) as pull:
        with open_push(bound_address(pull), context=context, depth=4) as push:
            wait_to_send(push)
            assert try_send_leased(push, [b"head", frame.data], lease, outgoing)
            outgoing.settle()
            kept_while_nobody_read = len(outgoing) == 1 and not lease.released
            assert receive(pull) == [b"head", frame.tobytes()]
        assert outgoing.close(TIMEOUT_MS / 1e3) == 0
    assert kept_while_nobody_read
    assert lease.released == 1


def test_a_small_part_is_copied_and_its_lease_released_at_once(context: zmq.Context):
    lease, outgoing = Lease(), Outgoing(4)
    with (
        open_pull("inproc://a", context=context, depth=1) as pull,
        open_push("inproc://a", context=context, depth=1) as push,
    ):
        assert try_send_leased(push, [b"head", b"small"], lease, outgoing)
        assert (lease.released, len(outgoing)) == (1, 0)
        assert receive(pull) == [b"head", b"small"]


def test_a_full_list_of_leases_takes_no_more(context: zmq.Context):
    frame = np.zeros(1 << 20, np.uint8)
    first, second, outgoing = Lease(), Lease(), Outgoing(1)
    with (
        open_pull("inproc://a", context=context, depth=4) as pull,
        open_push("inproc://a", context=context, depth=4) as push,
    ):
        assert try_send_leased(push, [frame.data], first, outgoing)
        assert outgoing.is_full
        assert not try_send_leased(push, [frame.data], second, outgoing)
        receive(pull)
        assert not pull.poll(0)
    assert outgoing.close(TIMEOUT_MS / 1e3) == 0
    assert (first.released, second.released) == (1, 0)


def test_memory_that_zeromq_does_not_let_go_of_is_never_released(context: zmq.Context):
    frame = np.zeros(1 << 20, np.uint8)
    lease, outgoing = Lease(), Outgoing(1)
    with (
        open_pull("inproc://a", context=context, depth=4) as pull,
        open_push("inproc://a", context=context, depth=4) as push,
    ):
        assert try_send_leased(push, [frame.data], lease, outgoing)
        assert outgoing.close(0.01) == 1
        assert lease.released == 0
        receive(pull)
    assert outgoing.close(TIMEOUT_MS / 1e3) == 0
    assert lease.released == 1
