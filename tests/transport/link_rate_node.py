"""One process of `test_link_rate`, in a network namespace of its own; not a test.

    land KEYS HOST        a node that takes frames, until its input ends
    frames KEYS HOST TO   a node that sends `FPS` frames a second to it
    idle KEYS HOST TO     a node that sends nothing by itself, and has the link measured

The first says a line when it is ready; the others say every 0.1 s what they know of the link.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vdag._native import header as native_header
from vdag._native import ring
from vdag.control.cluster import NodeView, ServiceView
from vdag.node.surveyor import Surveyor
from vdag.transport.codec import Descriptor, Hop, encode
from vdag.transport.edge import Edge
from vdag.transport.exchange import Exchange
from vdag.transport.keys import KeyFolder
from vdag.transport.landing import Landing
from vdag.transport.meter import LinkStats, Meter
from vdag.transport.peers import Peers

PORT = 7000
FPS = 8
SHAPE = (200, 400, 3)
SAY_S = 0.1
#: As the settings have it.
PROBE_S = 10.0


def ended() -> threading.Event:
    """Return what is set when the input ends."""
    found = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), found.set()), daemon=True).start()
    return found


def say(look: Callable[[], LinkStats | None]) -> None:
    found = look()
    rate = None if found is None else found.rate
    trip_s = None if found is None else found.round_trip_s
    print(json.dumps({"at_s": time.monotonic(), "rate": rate, "trip_s": trip_s}), flush=True)


def land(keys: str, host: str) -> None:
    """Take frames, and forget them."""
    with (
        tempfile.TemporaryDirectory(prefix="vl-") as folder,
        Exchange(Path(folder, "x"), classes=[(1 << 18, 16)]) as exchange,
        Peers(exchange, f"tcp://{host}:{PORT}", keys=KeyFolder(Path(keys))),
    ):
        print("ready", flush=True)
        sys.stdin.read()


def frames(keys: str, host: str, to: str) -> None:
    """Send frames of noise."""
    folder = KeyFolder(Path(keys))
    pixels = np.random.default_rng(1).integers(0, 256, SHAPE, np.uint8)
    is_over, meter = ended(), Meter()
    with (
        ring.Arena.create("rates", [(4096, 1)]) as arena,
        Landing(
            f"tcp://{host}:{PORT}", arena=arena, deliver=lambda part: False, keys=folder
        ) as inbox,
        Edge(
            f"tcp://{to}:{PORT}", inbox=inbox, curve=folder.to_connect("there"), meter=meter
        ) as edge,
    ):
        seq, due_s, say_s = 0, time.monotonic(), 0.0
        while not is_over.wait(max(due_s - time.monotonic(), 0.0)):
            edge.offer(descriptor(seq, pixels, to), pixels)
            seq, due_s = seq + 1, due_s + 1 / FPS
            if time.monotonic() >= say_s:
                say_s = time.monotonic() + SAY_S
                say(lambda: meter.stats(time.monotonic_ns()))


def idle(keys: str, host: str, to: str) -> None:
    """Have a link measured that nothing else is sent over."""
    is_over, address = ended(), f"tcp://{to}:{PORT}"
    node = NodeView(to, 5500, services={"t": ServiceView()}, landing=address, name="there",
                    node_addr=f"{to}:5500")  # fmt: skip

    class Both:
        def nodes(self) -> list[NodeView]:
            return [NodeView(host, 5500), node]

    with (
        tempfile.TemporaryDirectory(prefix="vl-") as folder,
        Exchange(Path(folder, "x"), classes=[(4096, 1)]) as exchange,
        Peers(exchange, f"tcp://{host}:{PORT}", keys=KeyFolder(Path(keys))) as peers,
        Surveyor(peers, Both(), PROBE_S) as surveyor,
    ):
        while not is_over.wait(SAY_S):
            assert surveyor.bandwidth().keys() <= {node.node_addr}
            say(lambda: peers.links().get(address))


def descriptor(seq: int, pixels: np.ndarray, to: str) -> bytes:
    header = native_header.Header(
        kind=native_header.KIND_SLOT,
        dtype=native_header.DTYPES.index("uint8"),
        shape=pixels.shape,
        payload_nbytes=pixels.nbytes,
        seq=seq,
        capture_ns=time.monotonic_ns(),
    )
    route = (Hop("t", f"tcp://{to}:{PORT}"), Hop("home", f"tcp://{to}:{PORT}"))
    return bytes(encode(Descriptor(header, "job", "cam", route))[0])


if __name__ == "__main__":
    {"land": land, "frames": frames, "idle": idle}[sys.argv[1]](*sys.argv[2:])
