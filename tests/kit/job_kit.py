"""An exchange that does what a test says, to the letter and in any order, and sources for jobs."""

from __future__ import annotations

import contextlib
import threading

import numpy as np
import zmq

from vdag._native import header
from vdag.graph import Edge, Graph
from vdag.job import Job
from vdag.sources import SingleFrameGenerator
from vdag.transport import codec, messages
from vdag.transport.messages import TIMES, CreditWanted, Dropped, Grant, Join, Leave

WAIT_S = 20.0
WIDTH, HEIGHT = 8, 4
SLOTS = 8
IMAGE = (Edge("image", "SingleFrameGenerator", "image"),)
ONE = Graph("SingleFrameGenerator", ("faces",), {"faces": IMAGE})
TWO = Graph("SingleFrameGenerator", ("faces", "cars"), {"faces": IMAGE, "cars": IMAGE})


def pictures(count):
    return [np.full((HEIGHT, WIDTH, 3), n, np.uint8) for n in range(count)]


class Post:
    """An exchange without queues or workers; every wait has an end."""

    def __init__(self, folder, arena):
        self.address = f"ipc://{folder}/exchange"
        self.arena = arena
        self.context = zmq.Context()
        self.inbox = self.context.socket(zmq.PULL)
        self.inbox.linger = 0
        self.inbox.rcvtimeo = int(WAIT_S * 1e3)
        self.inbox.bind(self.address)
        self.home = None
        self.join = None
        self.asked = []
        self.grants = True
        self.fault = None

    def receive(self):
        """Return the next message: a descriptor, whose lease is used up, or a control message."""
        part = self.inbox.recv()
        if not messages.is_control(part):
            descriptor = codec.decode([part])
            self.look_at(descriptor.header)
            return descriptor
        message = messages.decode(part)
        if isinstance(message, Join):
            self.join = message
            self.home = self.context.socket(zmq.PUSH)
            self.home.connect(message.home)
        if isinstance(message, CreditWanted):
            self.asked.append(message)
            if self.grants:
                self.say(Grant(message.task, message.count))
        return message

    def look_at(self, fixed):
        with self.arena.acquire(fixed.slot, fixed.generation) as view:
            assert bytes(view) == bytes([fixed.seq]) * (WIDTH * HEIGHT * 3)

    def take(self, count=1):
        """Return the next descriptors."""
        taken = []
        while len(taken) < count:
            message = self.receive()
            if isinstance(message, codec.Descriptor):
                taken.append(message)
        return taken

    def say(self, message):
        self.home.send(messages.encode(message))

    def bring(self, descriptor, times=None, **outputs):
        """Send a frame home, as if every task of its route had found `outputs`."""
        fixed = descriptor.header
        context = {hop.task: dict(outputs, seq=fixed.seq) for hop in descriptor.route[:-1]}
        if times is not None:
            context[TIMES] = times
        self.home.send(
            codec.encode(
                codec.Descriptor(
                    header.Header(
                        hop=len(descriptor.route) - 1,
                        plan=fixed.plan,
                        stream=fixed.stream,
                        seq=fixed.seq,
                    ),
                    descriptor.job,
                    descriptor.name,
                    descriptor.route,
                    context,
                )
            )[0]
        )

    def lose(self, descriptor, reason, detail=""):
        fixed = descriptor.header
        self.say(
            Dropped(
                descriptor.job,
                fixed.stream,
                fixed.seq,
                fixed.plan,
                descriptor.here.task,
                reason,
                self.address,
                detail,
            )
        )

    def until_leave(self):
        while not isinstance(self.receive(), Leave):
            pass

    @contextlib.contextmanager
    def playing(self, script):
        """Run `script(post)` beside the test; its errors are the test's."""

        def play():
            try:
                script(self)
            except BaseException as err:
                self.fault = err

        thread = threading.Thread(target=play)
        thread.start()
        try:
            yield
        finally:
            thread.join(WAIT_S)
            assert not thread.is_alive()
            if self.fault is not None:
                raise self.fault

    def close(self):
        self.context.destroy(linger=0)


class Paced:
    """A source of which the test says when the next frame may be read."""

    def __init__(self, frames):
        self.frames = SingleFrameGenerator(frames)
        self.steps = threading.Semaphore(1)
        self.read = 0
        self.told = []

    def go_on(self):
        self.steps.release()

    def __iter__(self):
        for frame in self.frames:
            assert self.steps.acquire(timeout=WAIT_S)
            self.read += 1
            yield frame


class Watched:
    """A source that can be waited for until it was read so far."""

    def __init__(self, frames):
        self.frames = SingleFrameGenerator(frames)
        self.read = threading.Semaphore(0)

    def until_read(self, count):
        for _ in range(count):
            assert self.read.acquire(timeout=WAIT_S)

    def __iter__(self):
        for frame in self.frames:
            self.read.release()
            yield frame


def job_of(post, source, graph=ONE, **options):
    if isinstance(source, list):
        source = SingleFrameGenerator(source)
    return Job(graph, source, post.address, post.arena, **{"frame_timeout_s": WAIT_S, **options})


def balanced(stats):
    frames = stats.frames
    return frames.read == frames.delivered + sum(frames.dropped.values()) + frames.in_flight


def answer_all(count, branches=1):
    def script(post):
        for descriptor in post.take(count * branches):
            post.bring(descriptor)

    return script
