"""One process of `test_two_hosts`, in a network namespace of its own; not a test.

    relay LISTEN_HOST LISTEN_PORT TARGET_PORT    delays all bytes by `DELAY_S`, both ways
    land KEYS PORT                               the node that takes frames
    send KEYS PORT CLIP ENCODER POLICY           the node that sends them, until its input ends

Each says a line when it is ready. At the end of their input, the nodes write what they know.
"""

from __future__ import annotations

import json
import queue
import socket
import sys
import threading
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from vdag._native import header as native_header
from vdag._native import ring
from vdag.transport.codec import Descriptor, Hop, decode_head, encode
from vdag.transport.edge import Edge
from vdag.transport.encoders import H264, Encoder, Jpeg, Raw
from vdag.transport.keys import KeyFolder
from vdag.transport.landing import Landing

DELAY_S = 0.05
FPS = 25
CHUNK_NBYTES = 1 << 14
ENCODERS: dict[str, Encoder] = {"raw": Raw(), "jpeg": Jpeg(80), "h264": H264(2_000_000)}
SENDER_HOST, RECEIVER_HOST = "10.77.0.1", "10.77.0.2"
SENDER_PORT, RECEIVER_PORT = 7101, 7102


def relay(host: str, port: str, target: str) -> None:
    """Pass bytes on, each `DELAY_S` after it came."""
    listener = socket.create_server((host, int(port)))
    print("ready", flush=True)
    while True:
        near, _ = listener.accept()
        far = socket.create_connection(("127.0.0.1", int(target)))
        for pair in ((near, far), (far, near)):
            # As much as 20 Mbit/s bring in the time, and a little more.
            chunks: queue.Queue[tuple[float, bytes]] = queue.Queue(16)
            threading.Thread(target=fill, args=(pair[0], chunks), daemon=True).start()
            threading.Thread(target=empty, args=(chunks, pair[1]), daemon=True).start()


def fill(source: socket.socket, chunks: queue.Queue[tuple[float, bytes]]) -> None:
    data = b"x"
    while data:
        try:
            data = source.recv(CHUNK_NBYTES)
        except OSError:
            data = b""
        chunks.put((time.monotonic() + DELAY_S, data))


def empty(chunks: queue.Queue[tuple[float, bytes]], sink: socket.socket) -> None:
    is_open = True
    while True:
        due_s, data = chunks.get()
        time.sleep(max(due_s - time.monotonic(), 0.0))  # the delay itself
        try:
            if not data:
                sink.shutdown(socket.SHUT_RDWR)
                return
            if is_open:
                sink.sendall(data)
        except OSError:
            is_open = False


def land(keys: str, port: str) -> None:
    """Take frames, and note when each came."""
    came: list[tuple[int, float, float]] = []
    dropped: list[tuple[int, str]] = []
    with ring.Arena.create("hosts", [(1 << 20, 16)]) as arena:

        def deliver(part: bytes) -> bool:
            header, now_ns = decode_head([part]).header, time.monotonic_ns()
            arena.adopt(header.slot, header.generation).drop()
            came.append((header.seq, now_ns / 1e9, (now_ns - header.capture_ns) / 1e9))
            return True

        with Landing(
            f"tcp://127.0.0.1:{port}",
            arena=arena,
            deliver=deliver,
            dropped=lambda head, reason: dropped.append((head.header.seq, reason)),
            keys=KeyFolder(Path(keys)),
            advertised=f"tcp://{RECEIVER_HOST}:{RECEIVER_PORT}",
        ) as landing:
            print("ready", flush=True)
            sys.stdin.read()
            stats = landing.stats()
        usage = arena.stats()
    assert (stats.balance, usage.leases) == (0, 0)
    print(json.dumps({"came": came, "dropped": dropped, "hostile": stats.hostile}), flush=True)


def send(keys: str, port: str, clip: str, encoder: str, policy: Any) -> None:
    """Send a clip at `FPS`, over and over, until the input ends; then wait for the last frame."""
    import av

    with av.open(clip) as container:
        pictures = [f.to_ndarray(format="bgr24") for f in islice(container.decode(video=0), 100)]
    folder = KeyFolder(Path(keys))
    drops: list[tuple[int, str]] = []
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    with (
        ring.Arena.create("hosts", [(4096, 1)]) as arena,
        Landing(
            f"tcp://127.0.0.1:{port}",
            arena=arena,
            deliver=lambda part: False,
            keys=folder,
            advertised=f"tcp://{SENDER_HOST}:{SENDER_PORT}",
        ) as inbox,
        Edge(
            f"tcp://{RECEIVER_HOST}:{RECEIVER_PORT}",
            inbox=inbox,
            policy=policy,
            encoder=ENCODERS[encoder],
            curve=folder.to_connect("receiver"),
            dropped=lambda drop: drops.append((drop.head.header.seq, drop.reason)),
        ) as edge,
    ):
        offered, refused, seq, arrived = [], 0, 0, 0
        due_s = time.monotonic()
        while not ended.wait(max(due_s - time.monotonic(), 0.0)):
            due_s += 1 / FPS
            picture = pictures[seq % len(pictures)]
            if edge.offer(descriptor(seq, picture), picture):
                offered.append((seq, time.monotonic()))
            else:
                refused += 1
            seq += 1
            if (now_arrived := edge.stats().arrived) > arrived:
                arrived = now_arrived
                print(json.dumps({"arrived": arrived, "at_s": time.monotonic()}), flush=True)
        assert edge.drain(30.0)
        stats = edge.stats()
    books = {
        "accepted": stats.accepted,
        "arrived": stats.arrived,
        "late": stats.late,
        "balance": stats.balance,
        "nbytes": stats.nbytes,
    }
    print(json.dumps({"offered": offered, "drops": drops, "refused": refused, **books}), flush=True)


def descriptor(seq: int, picture: np.ndarray) -> bytes:
    header = native_header.Header(
        kind=native_header.KIND_SLOT,
        dtype=native_header.DTYPES.index("uint8"),
        shape=picture.shape,
        payload_nbytes=picture.nbytes,
        seq=seq,
        capture_ns=time.monotonic_ns(),
    )
    route = (Hop("face_detection", f"tcp://{RECEIVER_HOST}:{RECEIVER_PORT}"),)
    return bytes(encode(Descriptor(header, "job", "cam", route))[0])


if __name__ == "__main__":
    {"relay": relay, "land": land, "send": send}[sys.argv[1]](*sys.argv[2:])
