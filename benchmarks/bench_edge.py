"""A link between two nodes against what one would write with pyzmq, 1080p over loopback.

Measured: the time of a burst of `FRAMES` frames, from offering the first until the other process
has looked at one byte per page of the last and has said so. The edge does all that it is for:
numbers, receipts, and pixels in a slot of the other node's arena. The other sides have none of the
first two: a PUSH, a PULL, a header before the pixels, and an answer per burst.

    edge.raw_vs_copy_false    pixels sent from where they lie, by both. The other side has no copy
                              in user space at all: it looks at the message where ZeroMQ put it, so
                              that no other process can
    edge.raw_vs_into_slot     the same, into memory that is shared: what the edge does. The control
                              case: both have the same copies, and nobody can beat those
    edge.raw_vs_copy_true     what most code does
    edge.jpeg_vs_opencv       quality 90; the other side encodes and decodes with OpenCV

Outside: starting the processes, connecting, making the pictures.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.shared_memory import SharedMemory

import cv2
import numpy as np
import pytest
import zmq

from vdag import _native as native
from vdag._native import header as native_header
from vdag._native import ring
from vdag.transport.codec import Descriptor, Hop, decode_head, encode
from vdag.transport.edge import Edge
from vdag.transport.encoders import Encoder, Jpeg, Raw
from vdag.transport.landing import Landing
from vdag.transport.line import SNDBUF_NBYTES

HEIGHT, WIDTH = 1080, 1920
SHAPE = (HEIGHT, WIDTH, 3)
NBYTES = HEIGHT * WIDTH * 3
FRAMES = 24
#: Pictures and slots in rotation.
COUNT = 8
QUALITY = 90
TIMEOUT_S = 60.0
TIMEOUT_MS = int(TIMEOUT_S * 1e3)


def pictures() -> list[np.ndarray]:
    """Smooth patches with the noise of a sensor, each shifted a little further."""
    random = np.random.default_rng(7)
    patches = random.integers(0, 256, (HEIGHT // 40, WIDTH // 40, 3), np.uint8)
    scene = cv2.resize(patches, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    scene = (scene + random.normal(0, 4, SHAPE)).clip(0, 255).astype(np.uint8)
    return [np.ascontiguousarray(np.roll(scene, 8 * i, axis=1)) for i in range(COUNT)]


def look(pixels: np.ndarray) -> int:
    """Read a byte of every page."""
    return int(pixels.reshape(-1)[::4096].sum())


@contextmanager
def other_process(role: str, *arguments: str) -> Iterator[str]:
    """Run a role of this file in another process; the address it listens at."""
    command = [sys.executable, __file__, role, *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        yield process.stdout.readline().strip()
        process.stdin.close()  # it ends when its standard input does
        assert process.wait(TIMEOUT_S) == 0


def land() -> None:
    """The other node: a landing whose exchange looks at the frames."""
    with ring.Arena.create("bench", [(NBYTES, COUNT)]) as arena:

        def deliver(message: bytes) -> bool:
            header = decode_head([message]).header
            with arena.acquire(header.slot, header.generation) as view:
                look(np.asarray(view))
            return True

        with Landing("tcp://127.0.0.1:0", arena=arena, deliver=deliver) as landing:
            print(landing.address, flush=True)
            sys.stdin.read()


def pull(coding: str, answer: str) -> None:
    """The other side by hand: a PULL that looks at the frames, and answers every burst."""
    slots = SharedMemory(create=True, size=COUNT * NBYTES)
    try:
        with zmq.Context() as context, context.socket(zmq.PULL) as frames:
            frames.rcvhwm = COUNT
            port = frames.bind_to_random_port("tcp://127.0.0.1")
            with context.socket(zmq.PUSH) as answers:
                answers.connect(answer)
                print(f"tcp://127.0.0.1:{port}", flush=True)
                while take_burst(coding, frames, slots):
                    answers.send(b"")
    finally:
        slots.close()
        slots.unlink()


def take_burst(coding: str, frames: zmq.Socket[bytes], slots: SharedMemory) -> bool:
    """Look at `FRAMES` frames; False if the other side has ended."""
    for i in range(FRAMES):
        if not frames.recv(copy=False).more:
            return False
        if coding == "copy":
            look(np.frombuffer(frames.recv(), np.uint8))
            continue
        data = np.frombuffer(frames.recv(copy=False).buffer, np.uint8)
        if coding == "slot":
            slot = np.ndarray(NBYTES, np.uint8, slots.buf, i % COUNT * NBYTES)
            np.copyto(slot, data)
            look(slot)
            del slot
        else:
            look(data if coding == "view" else cv2.imdecode(data, cv2.IMREAD_COLOR))
    return True


@contextmanager
def edge_burst(encoder: Encoder) -> Iterator[Callable[[], None]]:
    """A function that sends a burst over an edge, and waits until it is confirmed."""
    frames = pictures()
    route = (Hop("look", "tcp://127.0.0.1:1"),)
    messages = []
    for picture in frames:
        header = native_header.Header(
            kind=native_header.KIND_SLOT, dtype=1, shape=SHAPE, payload_nbytes=picture.nbytes
        )
        messages.append(bytes(encode(Descriptor(header, "job", "cam", route))[0]))
    with ExitStack() as stack:
        arena = stack.enter_context(ring.Arena.create("bench", [(4096, 1)]))
        inbox = stack.enter_context(
            Landing("tcp://127.0.0.1:0", arena=arena, deliver=lambda message: False)
        )
        address = stack.enter_context(other_process("land"))
        room = threading.Event()
        edge = stack.enter_context(
            Edge(address, inbox=inbox, policy="block", encoder=encoder, has_room=room.set)
        )

        def burst() -> None:
            for i in range(FRAMES):
                while not edge.offer(messages[i % COUNT], frames[i % COUNT]):
                    assert room.wait(TIMEOUT_S)
                    room.clear()
            assert edge.drain(TIMEOUT_S)

        yield burst
        stats = edge.stats()
        assert stats.arrived == stats.accepted > 0


@contextmanager
def hand_written_burst(coding: str) -> Iterator[Callable[[], None]]:
    """The same by hand: `coding` is copy, view, slot or jpeg."""
    frames = pictures()
    options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    with ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        answers = stack.enter_context(context.socket(zmq.PULL))
        answers.rcvtimeo = TIMEOUT_MS
        port = answers.bind_to_random_port("tcp://127.0.0.1")
        address = stack.enter_context(other_process("pull", coding, f"tcp://127.0.0.1:{port}"))
        socket = stack.enter_context(context.socket(zmq.PUSH))
        socket.sndhwm, socket.sndtimeo = COUNT, TIMEOUT_MS
        if coding == "slot":
            socket.sndbuf = SNDBUF_NBYTES
        socket.connect(address)
        header = bytes(200)

        def burst() -> None:
            for i in range(FRAMES):
                picture = frames[i % COUNT]
                if coding == "jpeg":
                    picture = cv2.imencode(".jpg", picture, options)[1]
                socket.send(header, zmq.SNDMORE)
                socket.send(picture, copy=coding == "copy")
            answers.recv()

        yield burst
        socket.send(b"")


def compare_bursts(compare, name: str, encoder: Encoder, coding: str, against: str) -> None:
    with edge_burst(encoder) as ours, hand_written_burst(coding) as theirs:
        compare(name, subject=("Edge and Landing", ours), against=(against, theirs), runs=9)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(before)


def bench_raw_vs_copy_false(compare) -> None:
    compare_bursts(compare, "edge.raw_vs_copy_false", Raw(), "view", "pyzmq copy=False")


def bench_raw_vs_into_slot(compare) -> None:
    compare_bursts(compare, "edge.raw_vs_into_slot", Raw(), "slot", "pyzmq into shared memory")


def bench_raw_vs_copy_true(compare) -> None:
    compare_bursts(compare, "edge.raw_vs_copy_true", Raw(), "copy", "pyzmq copy=True")


def bench_jpeg_vs_opencv(compare) -> None:
    assert native.jpeg.available()
    compare_bursts(compare, "edge.jpeg_vs_opencv", Jpeg(QUALITY), "jpeg", "cv2 and pyzmq")


if __name__ == "__main__":
    cv2.setNumThreads(1)
    {"land": land, "pull": pull}[sys.argv[1]](*sys.argv[2:])
