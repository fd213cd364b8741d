"""Frames that do not arrive, and links that break: every frame is delivered or accounted for."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from vdag.transport.codec import decode
from vdag.transport.edge import Edge
from vdag.transport.encoders import H264, Jpeg, Raw

TIMEOUT_S = 30.0
NOBODY = "tcp://127.0.0.1:9"
SMALL = (144, 176, 3)
CODINGS = pytest.mark.parametrize(
    "encoder", [Raw(), Jpeg(), H264(400_000)], ids=["raw", "jpeg", "h264"]
)


def test_leases_are_released_whatever_becomes_of_the_frames(
    node, inbox, open_sender, message, small
):
    class Lease:
        released = 0

        def release(self) -> None:
            Lease.released += 1

    with open_sender(node, inbox, depth=2) as sender:
        for seq, encoder in enumerate([Raw(), Jpeg()]):
            sender.edge.encoder = encoder
            assert sender.edge.offer(message(SMALL, seq), small[seq], Lease())
            assert sender.edge.drain(TIMEOUT_S)
    with Edge(NOBODY, inbox=inbox, depth=2) as edge:
        for seq in range(3):
            assert edge.offer(message(SMALL, seq), small[seq], Lease())
    assert Lease.released == 5


def test_a_frame_that_cannot_be_encoded_is_dropped_and_the_next_one_goes_on(
    node, inbox, open_sender, message, small
):
    with open_sender(node, inbox) as sender:
        sender.send(message((4, 5), 0, payload_nbytes=20), np.zeros((4, 5), np.complex64))
        sender.send(message(SMALL, 1), small[1])
        drop = sender.dropped.get(timeout=TIMEOUT_S)
        assert (drop.head.header.seq, drop.reason) == (0, "encoder")
        assert node.take()[0].header.seq == 1


def test_an_arena_without_room_drops_frames_with_a_reason(
    inbox, open_node, open_sender, message, small
):
    node = open_node(slots=1)
    held: queue.Queue[Any] = queue.Queue()

    def hold(part: bytes) -> bool:
        header = decode([part]).header
        held.put(node.arena.acquire(header.slot, header.generation))
        return True

    node.take_over = hold
    with open_sender(node, inbox) as sender:
        for seq in range(3):
            sender.send(message(SMALL, seq), small[seq])
        assert sender.edge.drain(TIMEOUT_S)
        dropped = [node.dropped.get(timeout=TIMEOUT_S) for _ in range(2)]
    assert dropped == [(1, "arena_full"), (2, "arena_full")]
    held.get(timeout=TIMEOUT_S).release()
    node.close()


def test_what_the_exchange_refuses_is_dropped_there_and_gives_its_slot_back(
    node, inbox, open_sender, message, small
):
    node.take_over = lambda part: False
    with open_sender(node, inbox) as sender:
        sender.send(message(SMALL, 0), small[0])
        assert node.dropped.get(timeout=TIMEOUT_S) == (0, "refused")


@CODINGS
@pytest.mark.parametrize("policy", ["latest", "block"])
def test_a_landing_that_comes_back_gets_frames_again_and_all_are_accounted_for(
    inbox, open_node, open_sender, message, small, psnr, encoder, policy
):
    node = open_node()
    options = {"encoder": encoder, "policy": policy, "confirm_timeout_s": 1.0}
    with open_sender(node, inbox, **options) as sender:
        for seq in range(20):
            sender.send(message(SMALL, seq), small[seq])
        first, _ = node.take()
        node.close()
        other = open_node(node.landing.bound)
        seq = 20
        while other.frames.empty():  # the edge finds it by itself
            sender.send(message(SMALL, seq), small[seq % len(small)])
            seq += 1
            sender.edge.drain(0.01)
        descriptor, pixels = other.take()
        assert sender.edge.drain(TIMEOUT_S)
        stats = sender.edge.stats()
        other.close()
    assert first.header.seq < descriptor.header.seq
    assert psnr(pixels, small[descriptor.header.seq % len(small)]) > 30
    assert (stats.balance, stats.waiting, stats.travelling, stats.accepted) == (0, 0, 0, seq)
    assert stats.arrived + sum(stats.dropped.values()) == stats.accepted
    assert sender.dropped.qsize() == sum(stats.dropped.values())
    # What the first landing took in without being able to say so is lost as far as anybody knows.
    came = node.landing.stats().received + other.landing.stats().received
    assert stats.arrived <= came <= stats.accepted


def test_a_frame_without_a_receipt_is_given_up_and_counted_as_late_when_it_comes_after_all(
    node, inbox, open_sender, message, small
):
    with open_sender(node, inbox, confirm_timeout_s=0.2) as sender:
        edge = sender.edge
        sender.send(message(SMALL, 0), small[0])
        assert edge.drain(TIMEOUT_S)
        inbox.forget(edge._line.edge)  # its answers come no more
        sender.send(message(SMALL, 1), small[1])
        assert sender.dropped.get(timeout=TIMEOUT_S).reason == "link"
        assert [node.take()[0].header.seq for _ in range(2)] == [0, 1]
        inbox.register(edge._line.edge, edge._hear)
        sender.send(message(SMALL, 2), small[2])
        assert node.take()[0].header.seq == 2
        assert edge.drain(TIMEOUT_S)
        stats = edge.stats()
    assert (stats.arrived, stats.dropped, stats.late, stats.balance) == (2, {"link": 1}, 1, 0)


def test_nothing_is_sent_before_the_other_side_has_answered(node, message, small):
    class Nowhere:
        address = NOBODY

        def register(self, edge: int, hear: Callable[..., None]) -> None: ...

        def forget(self, edge: int) -> None: ...

    with Edge(node.landing.address, inbox=Nowhere()) as edge:
        assert edge.offer(message(SMALL, 0), small[0])
        assert not edge.drain(1.0)
        stats = edge.stats()
    assert (stats.waiting, stats.travelling) == (1, 0)
    assert node.landing.stats().received == 0


def test_a_gap_in_h264_is_bridged_by_a_key_frame_that_the_landing_asks_for(
    node, inbox, open_sender, message, small, psnr
):
    with open_sender(node, inbox, encoder=H264(400_000)) as sender:
        edge = sender.edge
        sender.send(message(SMALL, 0), small[0])
        assert node.take()[0].header.seq == 0
        edge._encoders._streams["job", 7].picture += 1  # as if one had been lost
        seq = 1
        while node.frames.empty():
            sender.send(message(SMALL, seq), small[seq % len(small)])
            assert edge.drain(TIMEOUT_S)
            seq += 1
        descriptor, pixels = node.take()
        assert psnr(pixels, small[descriptor.header.seq % len(small)]) > 30
        assert edge.drain(TIMEOUT_S)
        arrived = edge.stats().arrived
    stats = node.landing.stats()
    assert stats.dropped == {"gap": descriptor.header.seq - 1}
    assert (stats.received, stats.delivered) == (arrived, arrived - stats.dropped["gap"])


class Relay:
    """Passes bytes on to another port, or keeps silent: the connections stay as they are."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.connections = 0
        self._flowing = threading.Event()
        self._flowing.set()
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def freeze(self) -> None:
        self._flowing.clear()

    def thaw(self) -> None:
        self._flowing.set()

    def close(self) -> None:
        self._flowing.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            far = socket.create_connection(("127.0.0.1", self._target))
            self._open += [near, far]
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                assert self._flowing.wait(TIMEOUT_S)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)
        except OSError:
            return


@contextmanager
def relay_to(address: str) -> Iterator[Relay]:
    relay = Relay(int(address.rpartition(":")[2]))
    yield relay
    relay.close()


@pytest.mark.slow
@CODINGS
def test_a_link_that_falls_silent_is_made_anew_and_all_frames_are_accounted_for(
    node, inbox, message, small, encoder
):
    drops: queue.Queue[Any] = queue.Queue()
    with relay_to(node.landing.address) as relay:
        address = f"tcp://127.0.0.1:{relay.port}"
        with Edge(address, inbox=inbox, encoder=encoder, dropped=drops.put) as edge:
            assert edge.offer(message(SMALL, 0), small[0])
            assert edge.drain(TIMEOUT_S)
            relay.freeze()
            seq = 1
            while relay.connections == 1:  # until the silence is noticed
                assert edge.offer(message(SMALL, seq), small[seq % len(small)])
                seq += 1
                edge.drain(0.02)
            relay.thaw()
            assert edge.offer(message(SMALL, seq), small[seq % len(small)])
            assert edge.drain(TIMEOUT_S)
            stats = edge.stats()
    assert (stats.balance, stats.accepted) == (0, seq + 1)
    assert stats.arrived + sum(stats.dropped.values()) == stats.accepted
    assert drops.qsize() == sum(stats.dropped.values())
    newest = 0
    while not node.frames.empty():
        newest = node.frames.get()[0].header.seq
    assert newest == seq
