"""Processes that work on an arena until they are killed. Run as a script by the crash tests.

    python ring_worker.py crash NAME POINT SLOT GENERATION    die at a point, see `rehearse`
    python ring_worker.py create NODE POINT                   die while creating, or after it
    python ring_worker.py headless NAME                       end the main thread alone
    python ring_worker.py nursery DESCRIPTORS REPORTS         fork a worker per line of stdin

A nursery answers each line "ROLE NAME SEED" with the pid of a child that plays the role. Payloads
are one byte, repeated; a descriptor is (slot, generation, nbytes, byte) in 32 bytes, so that pipes
pass it whole. Consumers report "." for 20 payloads that were right and "X" for a wrong one.
"""

from __future__ import annotations

import ctypes
import os
import platform
import random
import signal
import struct
import sys
import threading
import time

from vdag._native import ring
from vdag.errors import StaleFrame, TransportError

DESCRIPTOR = struct.Struct("<4Q")
POINTS = ring.CRASH_POINTS


def rehearse(name: str, point: str, slot: int, generation: int) -> None:
    """Go past every point of the protocol once, and end at `point`.

    The lease in flight that (`slot`, `generation`) names is adopted on the way. On the way to most
    points the process has a loan, a lease in flight and a view; it must lose them all.
    """
    if point == "registered":
        ring._crash_at(POINTS[point])
    arena = ring.Arena.attach(name, writable=True)
    loan, ref, view = held = arena.loan(64), arena.put(b"sent", readers=2), None
    view = arena.acquire(ref.slot, ref.generation)
    if point in ("free_counted", "wait_marked"):
        others = [arena.loan(64) for _ in range(arena.stats().classes[0].slots)]
        others += [arena.loan(5000)]
        ring._crash_at(POINTS[point] if point == "wait_marked" else 0)
        threading.Thread(target=arena.loan, args=(64, 60.0)).start()
        while arena.stats().waits == 0:
            time.sleep(0)
    ring._crash_at(POINTS[point])
    if point in ("free_unlisted", "free_listed", "free_counted"):
        loan.abandon()
    adopted = arena.acquire(slot, generation)
    arena.loan(64).commit()
    view.share(3)
    adopted.release()
    view.release()
    loan.abandon()
    ref.drop()
    del held
    arena.close()
    raise AssertionError(f"{point} was not passed")


def create(node: str, point: str) -> None:
    """Own an arena; die at `point`, or say its name and wait to be killed."""
    ring._crash_at(POINTS.get(point, 0))
    arena = ring.Arena.create(node, [(64, 2)])
    ref = arena.put(b"pixels")
    print(arena.name, ref.slot, ref.generation, flush=True)
    sys.stdin.read()


def headless(name: str) -> None:
    """Let the main thread end: /proc calls that a zombie, though another thread holds a loan."""
    arena = ring.Arena.attach(name, writable=True)
    loan = arena.loan(64)
    threading.Thread(target=lambda: (sys.stdin.read(), loan.abandon())).start()
    print("ready", flush=True)
    number = {"x86_64": 60, "aarch64": 93}[platform.machine()]
    ctypes.CDLL(None).syscall(number, 0)


def produce(name: str, descriptors: int, dice: random.Random) -> None:
    """Loan, write and send for ever; sometimes think better of it, or leave and come back."""
    while True:
        with ring.Arena.attach(name, writable=True) as arena:
            for _ in range(dice.randrange(1, 200)):
                loan = arena.loan(dice.choice((500, 4096, 60000)), 0.01)
                if loan is None:
                    continue
                byte = dice.randrange(256)
                memoryview(loan)[:] = bytes([byte]) * len(loan)
                if dice.random() < 0.1:
                    continue  # the loan is lost, and abandoned with that
                ref = loan.commit(readers=2)
                if dice.random() < 0.2:
                    ref.share()
                    ref.drop()
                sent = DESCRIPTOR.pack(ref.slot, ref.generation, ref.nbytes, byte)
                os.write(descriptors, sent)
                os.write(descriptors, sent)
            time.sleep(0.002)  # leaving at once would take back all that was sent


def look(view: ring.View, byte: int, dice: random.Random) -> bool:
    """Whether the payload is right, and still is a while later."""
    expected = bytes([byte]) * len(view)
    for pause in range(dice.randrange(1, 4)):
        time.sleep(0.0001 * pause)
        if bytes(view) != expected:
            return False
    return True


def consume(name: str, inbox: int, outbox: int, reports: int, dice: random.Random) -> None:
    """Acquire, verify and release for ever; sometimes send it on to another consumer."""
    arena = ring.Arena.attach(name)
    seen = 0
    while True:
        slot, generation, nbytes, byte = DESCRIPTOR.unpack(os.read(inbox, DESCRIPTOR.size))
        try:
            if dice.random() < 0.2:
                ref = arena.adopt(slot, generation)
                os.write(outbox, DESCRIPTOR.pack(slot, ref.generation, nbytes, byte))
                continue
            view = arena.acquire(slot, generation)
        except StaleFrame:
            continue
        if dice.random() < 0.2:
            ref = view.share()
            os.write(outbox, DESCRIPTOR.pack(slot, ref.generation, nbytes, byte))
        right = len(view) == nbytes and look(view, byte, dice)
        del view
        seen += 1
        if not right:
            os.write(reports, b"X")
        elif seen % 20 == 0:
            os.write(reports, b".")


def nursery(inbox: int, outbox: int, reports: int) -> None:
    """Fork a worker per line; the dead are collected by the kernel."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in iter(sys.stdin.readline, ""):
        role, name, seed = line.split()
        pid = os.fork()
        if pid == 0:
            dice = random.Random(int(seed))
            try:
                if role == "producer":
                    produce(name, outbox, dice)
                consume(name, inbox, outbox, reports, dice)
            except TransportError as error:
                os.write(reports, f"[{error}]".encode())
            finally:
                os._exit(1)
        print(pid, flush=True)


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "crash":
        rehearse(arguments[0], arguments[1], int(arguments[2]), int(arguments[3]))
    elif command == "create":
        create(*arguments)
    elif command == "headless":
        headless(*arguments)
    elif command == "nursery":
        nursery(*map(int, arguments))
