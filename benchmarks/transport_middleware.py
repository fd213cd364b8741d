"""The ways for frames that have shared memory of their own: iceoryx2, zenoh, dora."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transport_course import DEPTH, ROTATION, TIMEOUT_S, Contender, Place, stamp
from transport_peers import FrameSender


class IceoryxService:
    """A service of iceoryx2 for frames, and one for the events that announce them."""

    def __init__(self, place: Place) -> None:
        import iceoryx2 as iox2

        iox2.set_log_level(iox2.LogLevel.Error)
        name = Path(place.folder).name
        self.node = iox2.NodeBuilder.new().create(iox2.ServiceType.Ipc)
        self.frames = (
            self.node.service_builder(iox2.ServiceName.new(f"{name}/frames"))
            .publish_subscribe(iox2.Slice[ctypes.c_uint8])
            .subscriber_max_buffer_size(DEPTH)
            .enable_safe_overflow(False)
            .open_or_create()
        )
        self.events = (
            self.node.service_builder(iox2.ServiceName.new(f"{name}/events"))
            .event()
            .open_or_create()
        )


class IceoryxLoanSender:
    """Writes into a loaned sample, publishes it, and notifies."""

    def __init__(self, place: Place) -> None:
        import iceoryx2 as iox2

        self._place = place
        self._service = IceoryxService(place)
        self._publisher = (
            self._service.frames.publisher_builder()
            .initial_max_slice_len(place.nbytes)
            .backpressure_strategy(iox2.BackpressureStrategy.RetryUntilDelivered)
            .create()
        )
        self._notifier = self._service.events.notifier_builder().create()
        self._pixels = ctypes.c_uint8 * place.nbytes

    def send(self, seq: int, now_ns: int) -> None:
        sample = self._publisher.loan_slice_uninit(self._place.nbytes)
        stamp(self._pixels.from_address(sample.payload_ptr), self._place.nbytes, seq, now_ns)
        sample.assume_init().send()
        self._notifier.notify()

    def close(self) -> None:
        self._notifier.delete()
        self._publisher.delete()
        del self._service  # a node that is not given up leaves files


class IceoryxCopySender(IceoryxLoanSender):
    """Copies frames into loaned samples."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._source = FrameSender(place)

    def send(self, seq: int, now_ns: int) -> None:
        frame = self._source.stamped(seq, now_ns)
        sample = self._publisher.loan_slice_uninit(frame.nbytes)
        ctypes.memmove(sample.payload_ptr, frame.ctypes.data, frame.nbytes)
        sample.assume_init().send()
        self._notifier.notify()


class IceoryxReceiver:
    """Takes samples until there is none, then waits for an event."""

    def __init__(self, place: Place, number: int) -> None:
        import iceoryx2 as iox2

        self._service = IceoryxService(place)
        self._subscriber = self._service.frames.subscriber_builder().create()
        self._listener = self._service.events.listener_builder().create()
        self._pixels = ctypes.c_uint8 * place.nbytes
        self._timeout = iox2.Duration.from_secs(int(TIMEOUT_S))

    def receive(self, look: Callable[[Any], None]) -> None:
        while (sample := self._subscriber.receive()) is None:
            self._listener.timed_wait(self._timeout)
        look(self._pixels.from_address(sample.payload_ptr))
        sample.delete()

    def close(self) -> None:
        self._listener.delete()
        self._subscriber.delete()
        del self._service


def zenoh_session(place: Place, *, is_listening: bool) -> Any:
    """Open a session of zenoh with shared memory, and no discovery."""
    import zenoh

    config = zenoh.Config()
    endpoint = f"tcp/127.0.0.1:{place.port}"
    options = {
        "mode": "peer",
        "scouting/multicast/enabled": False,
        "listen/endpoints": [endpoint] if is_listening else [],
        "connect/endpoints": [] if is_listening else [endpoint],
        "transport/shared_memory/enabled": True,
    }
    for key, value in options.items():
        config.insert_json5(key, json.dumps(value))
    return zenoh.open(config)


class ZenohSender:
    """Copies frames into shared memory of zenoh: its Python binding has no other way in."""

    def __init__(self, place: Place) -> None:
        import zenoh

        self._place = place
        self._session = zenoh_session(place, is_listening=False)
        self._publisher = self._session.declare_publisher(
            "frames", congestion_control=zenoh.CongestionControl.BLOCK
        )
        self._memory = zenoh.shm.ShmProvider.default_backend((ROTATION + 1) * place.nbytes)
        self._policy = zenoh.shm.BlockOn(zenoh.shm.GarbageCollect())
        self._frame = bytearray(place.nbytes)  # nothing else goes in without one more copy
        deadline_s = time.monotonic() + TIMEOUT_S
        while not self._publisher.matching_status.matching:
            if time.monotonic() > deadline_s:
                raise TimeoutError("no subscriber")
            time.sleep(0.01)

    def send(self, seq: int, now_ns: int) -> None:
        stamp(self._frame, self._place.nbytes, seq, now_ns)
        memory = self._memory.alloc(self._place.nbytes, policy=self._policy)
        memory[:] = self._frame
        self._publisher.put(memory)

    def close(self) -> None:
        self._session.close()


class ZenohReceiver:
    """Copies them out again: the same."""

    def __init__(self, place: Place, number: int) -> None:
        import zenoh

        self._session = zenoh_session(place, is_listening=True)
        handler = zenoh.handlers.FifoChannel(DEPTH)
        self._subscriber = self._session.declare_subscriber("frames", handler)

    def receive(self, look: Callable[[Any], None]) -> None:
        look(self._subscriber.recv().payload.to_bytes())

    def close(self) -> None:
        self._session.close()


@contextmanager
def share_daemon(place: Place) -> Iterator[None]:
    """Run dora's daemon with a dataflow of two nodes that are started by somebody else."""
    flow = Path(place.folder) / "flow.yml"
    source = {"source": "sender/frame", "queue_size": DEPTH}
    nodes = [
        {"id": "receiver", "path": "dynamic", "inputs": {"frame": source}},
        {"id": "sender", "path": "dynamic", "outputs": ["frame"]},
    ]
    flow.write_text(json.dumps({"nodes": nodes}))  # which is YAML too
    command = [str(Path(sys.executable).with_name("dora")), "run", str(flow)]
    with (
        open(os.devnull, "w") as nothing,
        subprocess.Popen(command, cwd=place.folder, stdout=nothing, stderr=nothing) as daemon,
    ):
        try:
            yield
        finally:
            daemon.terminate()
            try:
                daemon.wait(5.0)
            except subprocess.TimeoutExpired:
                daemon.kill()


def dora_node(name: str) -> Any:
    """Join the dataflow, which may not have begun yet."""
    # Read by the library: without a pool this large, bursts go through the daemon.
    os.environ["DORA_NODE_SHM_POOL_SIZE"] = str(1 << 29)
    import dora

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # it says much about every frame

    deadline_s = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return dora.Node(name)
        except RuntimeError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.2)


class DoraSender(FrameSender):
    """Sends arrays of pyarrow, which dora copies into its shared memory."""

    def __init__(self, place: Place) -> None:
        import pyarrow

        super().__init__(place)
        self._array = pyarrow.array
        self._node = dora_node("sender")

    def send(self, seq: int, now_ns: int) -> None:
        self._node.send_output("frame", self._array(self.stamped(seq, now_ns).reshape(-1)))


class DoraReceiver:
    """Looks at arrays of pyarrow, in its shared memory."""

    def __init__(self, place: Place, number: int) -> None:
        self._node = dora_node("receiver")

    def receive(self, look: Callable[[Any], None]) -> None:
        event = self._node.next(timeout=TIMEOUT_S)
        if event is None:
            raise TimeoutError("no frame")
        if event["type"] == "INPUT":
            look(event["value"].to_numpy().data)

    def close(self) -> None:
        """Leave it to the end of the process."""


# What iceoryx2 sends before the subscriber has seen the publisher is lost, and nothing later.
ICEORYX_LOAN = Contender(
    "iceoryx2_loan",
    "iceoryx2, loan and event",
    IceoryxLoanSender,
    IceoryxReceiver,
    ("iceoryx2",),
    lossy=True,
)
ICEORYX_COPY = Contender(
    "iceoryx2",
    "iceoryx2, copy and event",
    IceoryxCopySender,
    IceoryxReceiver,
    ("iceoryx2",),
    lossy=True,
)
ZENOH = Contender("zenoh", "zenoh, shared memory", ZenohSender, ZenohReceiver, ("zenoh",))
DORA = Contender(
    "dora",
    "dora, shared memory",
    DoraSender,
    DoraReceiver,
    ("dora", "dora_cli", "pyarrow"),
    share=share_daemon,
    lossy=True,
)
MIDDLEWARE = [ICEORYX_LOAN, ICEORYX_COPY, ZENOH, DORA]
