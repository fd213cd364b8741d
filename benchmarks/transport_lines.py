"""Pipelines over processes: a source in this one, preprocessing in a second, the sink in this one.

The source copies raw pictures out of a buffer that it does not own, as from a driver's: vdag's into
slots, where its fused kernel reads them; the plain one's into memory of its own, which is sent
without being copied inside a process, for `cv2.dnn.blobFromImage`. Both look at a pixel of every
tensor at the end.
"""

from __future__ import annotations

import itertools
import json
import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from multiprocessing.connection import Connection

import cv2
import numpy as np
import zmq
from transport_course import (
    DEPTH,
    ROTATION,
    TIMEOUT_MS,
    TIMEOUT_S,
    Window,
    child_pids,
    process_cpu_ns,
    spawned,
)
from transport_tasks import SIDE

import vdag

#: Frames before the clock starts, which find cold memory.
WARM_UP = 32


def vdag_line(scenes: list[np.ndarray], count: int) -> tuple[Window, np.ndarray]:
    """Run a `vdag.Pipeline` with one worker; what it took, and the last tensor's pixel."""
    source = (scenes[i % len(scenes)] for i in range(WARM_UP + count))
    before = child_pids()
    with vdag.Pipeline(["bench_preprocess"], source, workers=1) as results:
        return _measure(_pixels(results), list(child_pids() - before), count)


def _pixels(results: vdag.Pipeline) -> Iterator[np.ndarray]:
    for result in results:
        result.drop_frame()
        yield result["bench_preprocess"]["pixel"]


def plain_line(scenes: list[np.ndarray], count: int) -> tuple[Window, np.ndarray]:
    """Run the same by hand, with pyzmq and OpenCV."""
    with (
        tempfile.TemporaryDirectory(prefix="line-") as folder,
        zmq.Context() as context,
        context.socket(zmq.PULL) as answers,
        context.socket(zmq.PUSH) as frames,
        spawned(preprocess_plainly, folder) as (connection, pid),
    ):
        answers.rcvhwm, answers.rcvtimeo = DEPTH, TIMEOUT_MS
        frames.sndhwm, frames.sndtimeo, frames.linger = DEPTH, TIMEOUT_MS, 0
        answers.bind(f"ipc://{folder}/answers")
        frames.connect(f"ipc://{folder}/frames")
        assert connection.recv() == "ready"
        total = WARM_UP + count
        source = threading.Thread(target=_send_all, args=(frames, scenes, total), daemon=True)
        source.start()
        pixels = (np.frombuffer(answers.recv(), np.float32) for _ in range(total))
        measured = _measure(pixels, [pid], count)
        source.join()
        return measured


def _send_all(socket: zmq.Socket[bytes], scenes: list[np.ndarray], count: int) -> None:
    trackers: deque[zmq.MessageTracker] = deque()
    header = json.dumps(scenes[0].shape).encode()
    buffers = itertools.cycle([np.zeros_like(scenes[0]) for _ in range(ROTATION)])
    for scene in itertools.islice(itertools.cycle(scenes), count):
        buffer = next(buffers)
        if len(trackers) == ROTATION:  # ZeroMQ may still be reading what is overwritten now
            trackers.popleft().wait(TIMEOUT_S)
        np.copyto(buffer, scene)
        socket.send(header, zmq.SNDMORE)
        trackers.append(socket.send(buffer, copy=False, track=True))
    for tracker in trackers:
        tracker.wait(TIMEOUT_S)


def preprocess_plainly(connection: Connection, folder: str) -> None:
    """Be the process in the middle."""
    cv2.setNumThreads(1)  # there are as many processes as cores
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    frames, answers = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    frames.rcvhwm, answers.sndhwm = DEPTH, DEPTH
    frames.bind(f"ipc://{folder}/frames")
    answers.connect(f"ipc://{folder}/answers")
    connection.send("ready")
    while True:
        shape = json.loads(frames.recv())
        image = np.frombuffer(frames.recv(copy=False).buffer, np.uint8).reshape(shape)
        tensor = cv2.dnn.blobFromImage(image, 1 / 255, (SIDE, SIDE), swapRB=True)
        answers.send(tensor[0, :, SIDE // 2, SIDE // 2].tobytes())


def _measure(
    pixels: Iterator[np.ndarray], processes: list[int], count: int
) -> tuple[Window, np.ndarray]:
    for _ in range(WARM_UP):
        next(pixels)
    processes = [os.getpid(), *processes]
    cpu_ns, start_s = sum(map(process_cpu_ns, processes)), time.monotonic()
    last = deque(itertools.islice(pixels, count), 1).pop()
    seconds = time.monotonic() - start_s
    cpu_s = (sum(map(process_cpu_ns, processes)) - cpu_ns) / 1e9
    return Window(count, seconds, cpu_s, [seconds / count]), last
