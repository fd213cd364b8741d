"""The other ways for frames, each as its documentation shows it, or better where that was easy."""

from __future__ import annotations

import itertools
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import zmq
from transport_course import DEPTH, ROTATION, TIMEOUT_MS, TIMEOUT_S, Contender, Place, frames, stamp


class FrameSender:
    """Has frames in memory of its own; the next one is stamped where it lies."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._frames = itertools.cycle(frames(place.shape))

    def stamped(self, seq: int, now_ns: int) -> np.ndarray:
        """The next frame, which nobody may be reading any more."""
        frame = next(self._frames)
        stamp(frame.data.cast("B"), frame.nbytes, seq, now_ns)
        return frame

    def close(self) -> None:
        """Let go of nothing: the process ends."""


class ZmqSender(FrameSender):
    """pyzmq: a header and the pixels, in two parts; each receiver has a socket."""

    copy = True

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets = []
        for number in range(place.receivers):
            socket = self._context.socket(zmq.PUSH)
            socket.sndhwm, socket.sndtimeo = DEPTH, TIMEOUT_MS
            socket.connect(place.address(number))
            self._sockets.append(socket)
        self._trackers: deque[list[zmq.MessageTracker]] = deque()

    def send(self, seq: int, now_ns: int) -> None:
        # ZeroMQ reads the pixels later: they must not be stamped before it has.
        if len(self._trackers) == ROTATION - 1:
            for tracker in self._trackers.popleft():
                tracker.wait(TIMEOUT_S)
        frame = self.stamped(seq, now_ns)
        header = repr((frame.shape, str(frame.dtype))).encode()
        trackers = []
        for socket in self._sockets:
            socket.send(header, zmq.SNDMORE)
            if self.copy:
                socket.send(frame)
            else:
                trackers.append(socket.send(frame, copy=False, track=True))
        if trackers:
            self._trackers.append(trackers)


class ZmqViewSender(ZmqSender):
    """The same without copying the pixels inside the process."""

    copy = False


class ZmqReceiver:
    """A PULL, which copies or does not."""

    copy = True

    def __init__(self, place: Place, number: int) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.PULL)
        self._socket.rcvhwm, self._socket.rcvtimeo = DEPTH, TIMEOUT_MS
        self._socket.bind(place.address(number))

    def receive(self, look: Callable[[Any], None]) -> None:
        self._socket.recv()
        if self.copy:
            look(self._socket.recv())
        else:
            look(self._socket.recv(copy=False).buffer)

    def close(self) -> None:
        self._context.destroy(linger=0)


class ZmqViewReceiver(ZmqReceiver):
    """The same with the pixels where ZeroMQ has put them."""

    copy = False


class ImageZmqSender(FrameSender):
    """imagezmq, in its standard mode REQ and REP."""

    def __init__(self, place: Place) -> None:
        from imagezmq import ImageSender

        super().__init__(place)
        self._sender = ImageSender(f"tcp://127.0.0.1:{place.port}")

    def send(self, seq: int, now_ns: int) -> None:
        self._sender.send_image("camera", self.stamped(seq, now_ns))


class ImageZmqReceiver:
    """An ImageHub, which answers before the frame is looked at."""

    def __init__(self, place: Place, number: int) -> None:
        from imagezmq import ImageHub

        self._hub = ImageHub(f"tcp://127.0.0.1:{place.port}")

    def receive(self, look: Callable[[Any], None]) -> None:
        image = self._hub.recv_image()[1]
        self._hub.send_reply(b"OK")
        look(image.data.cast("B"))

    def close(self) -> None:
        self._hub.close()


#: Pixels as they are: its default, JPEG, is twenty times slower. It gives up a peer that says
#: nothing for three times the time-out, and here others have their turns.
NETGEAR = {"jpeg_compression": False, "request_timeout": 300}


class NetGearSender(FrameSender):
    """NetGear of vidgear, in its standard pattern PAIR."""

    def __init__(self, place: Place) -> None:
        from vidgear.gears import NetGear

        super().__init__(place)
        port = str(place.port)
        self._gear = NetGear(address="127.0.0.1", port=port, **NETGEAR)

    def send(self, seq: int, now_ns: int) -> None:
        self._gear.send(self.stamped(seq, now_ns))


class NetGearReceiver:
    """The other end, which has a thread that receives."""

    def __init__(self, place: Place, number: int) -> None:
        from vidgear.gears import NetGear

        port = str(place.port)
        self._gear = NetGear(address="127.0.0.1", port=port, receive_mode=True, **NETGEAR)

    def receive(self, look: Callable[[Any], None]) -> None:
        look(self._gear.recv().data.cast("B"))

    def close(self) -> None:
        """Leave it to the end of the process: its thread may be waiting."""


@contextmanager
def share_queue(place: Place) -> Iterator[Any]:
    """Make a queue, which processes inherit."""
    queue = multiprocessing.get_context("spawn").Queue(DEPTH)
    yield queue
    queue.close()
    queue.cancel_join_thread()


class QueueSender(FrameSender):
    """Puts arrays into a `multiprocessing.Queue`."""

    def send(self, seq: int, now_ns: int) -> None:
        # Pickled by another thread, at the latest when it is taken out: long before its next turn.
        self.place.shared.put(self.stamped(seq, now_ns), timeout=TIMEOUT_S)


class QueueReceiver:
    """Gets arrays out of it."""

    def __init__(self, place: Place, number: int) -> None:
        self._queue = place.shared

    def receive(self, look: Callable[[Any], None]) -> None:
        look(self._queue.get(timeout=TIMEOUT_S).data.cast("B"))

    def close(self) -> None:
        """Let go of nothing: the process ends."""


PYZMQ_COPY = Contender("pyzmq_copy", "pyzmq ipc, copy=True", ZmqSender, ZmqReceiver)
PYZMQ = Contender("pyzmq", "pyzmq ipc, copy=False", ZmqViewSender, ZmqViewReceiver)
IMAGEZMQ = Contender(
    "imagezmq", "imagezmq, REQ and REP", ImageZmqSender, ImageZmqReceiver, ("imagezmq",)
)
NETGEAR_RAW = Contender(
    "netgear",
    "vidgear.NetGear, PAIR without JPEG",
    NetGearSender,
    NetGearReceiver,
    ("vidgear", "cv2", "colorlog", "requests", "tqdm"),
)
QUEUE = Contender("queue", "multiprocessing.Queue", QueueSender, QueueReceiver, share=share_queue)
PEERS = [PYZMQ_COPY, PYZMQ, IMAGEZMQ, NETGEAR_RAW, QUEUE]
