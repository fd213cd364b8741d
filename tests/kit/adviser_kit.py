"""A policy of a user's that does whatever it is asked about, and who asks it."""

from __future__ import annotations

import select
import time

from scheduler_kit import HOST, TASKS, mapping, node

from vdag.control.advisers import Advisers
from vdag.control.scheduling.events import PlanProposed, PolicyFailed
from vdag.control.scheduling.instructions import AskPolicy, Question
from vdag.control.scheduling.surroundings import Snapshot

#: Longer than anything here takes, even on a machine that has other things to do.
PATIENCE_S = 60.0
PLAN = mapping(face_detection=HOST, face_alignment=HOST)

POLICY = """
import ctypes, os, signal, subprocess, sys, time

PLAN = {plan!r}
CONF = {conf!r}


def plan(job_uid, dag, resource_info, runtime_info, user_constraint, nodes):
    what, _, _ = job_uid.partition("-")
    if what == "hang":
        time.sleep(3600)
    elif what == "wait":
        while not os.path.exists(os.path.join(os.path.dirname(__file__), "gate")):
            time.sleep(0.01)
    elif what == "spin":
        while True:
            pass
    elif what == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        subprocess.Popen(["sleep", "3600"])
        time.sleep(3600)
    elif what == "exit":
        os._exit(7)
    elif what == "crash":
        print("about to crash", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    elif what == "raise":
        raise ValueError("no idea")
    elif what == "sysexit":
        sys.exit("bye")
    elif what == "interrupt":
        raise KeyboardInterrupt
    elif what == "number":
        return 42
    elif what == "object":
        return CONF, {{"face_detection": object()}}
    elif what == "cycle":
        ring = []
        ring.append(ring)
        return CONF, ring
    elif what == "huge":
        return CONF, "x" * (2 << 20)
    elif what == "print":
        print("y" * 300_000, flush=True)
        os.write(1, b"z" * 300_000)
    elif what == "input":
        return CONF, sys.stdin.read()
    elif what == "forge":
        for fd in range(3, 64):
            try:
                os.write(fd, b"\\xff" * 64)
            except OSError:
                pass
    elif what == "numpy":
        import numpy as np
        return {{**CONF, "fps": np.float32(12.5)}}, PLAN
    elif what == "host":
        return CONF, [nodes[0].node_addr, list(resource_info["host"])]
    return CONF, PLAN
"""


class Desk:
    """Asks, and waits for the answers."""

    def __init__(self, policy: str, **settings) -> None:
        self.advisers = Advisers(**{"timeout_s": 5.0, "start_timeout_s": PATIENCE_S, **settings})
        self.policy = policy
        self.rounds = 0

    def order(self, uid: str) -> AskPolicy:
        self.rounds += 1
        dag = {"generator": "SingleFrameGenerator", "flow": list(TASKS), "input": {}}
        info = {"host": {"10.0.0.1": {}}, "cloud": {}, "edge": {}}
        question = Question(uid, dag, Snapshot((node(HOST),), info))
        return AskPolicy(uid, self.rounds, self.policy, question)

    def load(self) -> None:
        """Wait until the policy's process is ready: questions do not wait for that long."""
        self.advisers.prepare(self.policy, time.monotonic_ns())
        found = self.wait_for(lambda events: self.is_loaded() or events)
        assert found == []

    def is_loaded(self) -> bool:
        """Whether a process waits for questions: then its idle time is what falls due next."""
        due_ns = self.advisers.next_due_ns()
        assert due_ns is not None
        return due_ns > time.monotonic_ns() + round(PATIENCE_S * 1.5e9)

    def ask(self, uid: str) -> PlanProposed | PolicyFailed:
        """Ask one question and return its answer, the only one."""
        found = self.advisers.ask(self.order(uid), time.monotonic_ns())
        found += self.wait_for(lambda events: found or events)
        (event,) = found
        assert (event.query_id, event.round) == (uid, self.rounds)
        return event

    def wait_for(self, is_enough):
        found: list[PlanProposed | PolicyFailed] = []
        deadline = time.monotonic() + PATIENCE_S
        while not is_enough(found):
            assert time.monotonic() < deadline, "no answer at all"
            poll = select.poll()
            for fd, events in self.advisers.fds():
                poll.register(fd, events)
            due_ns = self.advisers.next_due_ns()
            wait_ms = 100 if due_ns is None else (due_ns - time.monotonic_ns()) / 1e6
            poll.poll(min(100, max(0, wait_ms)))
            found += self.advisers.serve(time.monotonic_ns())
        return found
