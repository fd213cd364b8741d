"""One hop of a frame to a task in another process, and the answer: vdag's, and the reference's.

The reference sends a frame as JPEG of quality 95, whose bytes go as the text of a Python literal in
JSON by HTTP to Flask's own server, which evaluates the text and decodes the picture. Here its
`eval` is `ast.literal_eval`, which takes as long. vdag's hop is copied into a slot, goes through
the exchange to a worker that has credit, which looks at it, and its answer comes home.
"""

from __future__ import annotations

import ast
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import Any

import cv2
import numpy as np
from transport_course import ROTATION, TIMEOUT_S, Window, child_pids, process_cpu_ns, spawned
from transport_tasks import bench_look

import vdag

JPEG_QUALITY = 95


def pictures(height: int, width: int) -> list[np.ndarray]:
    """Smooth patches with the noise of a sensor, each shifted a little further."""
    random = np.random.default_rng(7)
    patches = random.integers(0, 256, (height // 40, width // 40, 3), np.uint8)
    scene = cv2.resize(patches, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    scene = (scene + random.normal(0, 4, scene.shape)).clip(0, 255).astype(np.uint8)
    return [np.ascontiguousarray(np.roll(scene, 8 * i, axis=1)) for i in range(ROTATION)]


class VdagHop:
    """A pipeline of one worker that gets a frame when `hop` is called."""

    def __init__(self, scenes: list[np.ndarray], stack: ExitStack) -> None:
        self._scenes = scenes
        self._due = threading.Semaphore(1)  # the first frame tells the pipeline its size
        before = child_pids()
        pipeline = vdag.Pipeline(["bench_look"], self._source(), workers=1)
        stack.enter_context(pipeline)
        stack.callback(self._end)
        self._results = iter(pipeline)
        self.processes = list(child_pids() - before)
        next(self._results)

    def hop(self) -> int:
        """Send a frame, and wait for the answer."""
        self._due.release()
        result = next(self._results)
        result.drop_frame()
        return int(result["bench_look"]["seen"])

    def _source(self) -> Iterator[np.ndarray]:
        number = 0
        while self._due.acquire(timeout=TIMEOUT_S) and self._scenes:
            yield self._scenes[number % len(self._scenes)]
            number += 1

    def _end(self) -> None:
        self._scenes = []
        self._due.release()


class ReferenceHop:
    """A client of a process with a Flask server."""

    def __init__(self, scenes: list[np.ndarray], stack: ExitStack) -> None:
        import requests

        self._scenes = scenes
        self._number = 0
        self._post = requests.post
        connection, pid = stack.enter_context(spawned(serve_reference))
        self._url = f"http://127.0.0.1:{connection.recv()}/frame"
        self.processes = [pid]
        self.hop()

    def hop(self) -> int:
        """Send a frame, and wait for the answer."""
        scene = self._scenes[self._number % len(self._scenes)]
        self._number += 1
        picture = cv2.imencode(".jpg", scene, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
        answer = self._post(self._url, json={"frame": str(picture.tobytes())}, timeout=TIMEOUT_S)
        return int(answer.json()["seen"])


def serve_reference(connection: Connection) -> None:
    """Be the server; tells its port."""
    import flask
    from werkzeug.serving import make_server

    application = flask.Flask("reference")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)

    @application.post("/frame")
    def frame() -> dict[str, int]:
        data = np.frombuffer(ast.literal_eval(flask.request.get_json()["frame"]), np.uint8)
        return bench_look(cv2.imdecode(data, cv2.IMREAD_COLOR))

    # What `application.run` makes, whose port can be asked for.
    server = make_server("127.0.0.1", 0, application, threaded=True)
    connection.send(server.server_port)
    server.serve_forever()


def hops(side: VdagHop | ReferenceHop, count: int) -> Window:
    """Make so many hops, one after the other."""
    processes = [os.getpid(), *side.processes]
    cpu_ns = sum(map(process_cpu_ns, processes))
    latencies_s = []
    start_s = time.monotonic()
    for _ in range(count):
        sent_s = time.monotonic()
        assert side.hop() > 0
        latencies_s.append(time.monotonic() - sent_s)
    seconds = time.monotonic() - start_s
    cpu_s = (sum(map(process_cpu_ns, processes)) - cpu_ns) / 1e9
    return Window(count, seconds, cpu_s, latencies_s)


@contextmanager
def open_hops(height: int, width: int) -> Iterator[tuple[VdagHop, ReferenceHop]]:
    """Both hops, ready."""
    scenes: list[Any] = pictures(height, width)
    with ExitStack() as stack:
        yield VdagHop(scenes, stack), ReferenceHop(scenes, stack)
