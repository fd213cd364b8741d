"""The compiled arena's file, its mappings, its buffers and its waiting."""

from __future__ import annotations

import ctypes
import gc
import os
import re
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vdag._native import ring, ring_layout
from vdag.errors import ChannelClosed, ConfigError, FrameFormatError, TransportError

SHM = Path("/dev/shm")
CLASSES = [(4096, 4), (100000, 2)]


@pytest.fixture
def arena() -> Iterator[ring.Arena]:
    with ring.Arena.create("test", CLASSES) as arena:
        yield arena


def commit(arena: ring.Arena, nbytes: int = 4096) -> ring.SlotRef:
    loan = arena.loan(nbytes)
    assert loan is not None
    return loan.commit()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0)


def mappings() -> list[str]:
    return [
        line for line in Path("/proc/self/maps").read_text().splitlines() if " /dev/shm/" in line
    ]


# ---- the file ----


def test_the_file_is_private_taken_in_full_and_gone_after_close() -> None:
    fds = len(os.listdir("/proc/self/fd"))
    with ring.Arena.create("test", CLASSES) as arena:
        file = (SHM / arena.name).stat()
        assert re.fullmatch(r"vdag-test-[0-9a-f]{16}", arena.name)
        assert file.st_mode & 0o777 == 0o600
        assert file.st_size == arena.nbytes
        assert file.st_blocks * 512 == arena.nbytes
        assert len(os.listdir("/proc/self/fd")) == fds
    assert not (SHM / arena.name).exists()
    assert not mappings()


def test_the_mode_does_not_depend_on_the_umask() -> None:
    old = os.umask(0o777)
    try:
        with ring.Arena.create("test", CLASSES) as arena:
            assert (SHM / arena.name).stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(old)


def test_an_arena_that_is_lost_removes_its_file() -> None:
    arena = ring.Arena.create("test", CLASSES)
    name = arena.name
    del arena
    gc.collect()
    assert not (SHM / name).exists()
    assert not mappings()


def test_an_arena_larger_than_the_memory_says_so_and_leaves_nothing() -> None:
    before = os.statvfs(SHM).f_bavail
    with pytest.raises(
        TransportError,
        match=r"^arena of \d{13,} bytes exceeds the \d+ bytes free in /dev/shm$",
    ):
        ring.Arena.create("test", [(1 << 36, 64)])
    assert os.statvfs(SHM).f_bavail == before


@pytest.mark.parametrize("node", ["", "a/b", "..\0", "x" * 65, "ü"])
def test_node_names_that_are_no_file_names_are_refused(node: str) -> None:
    with pytest.raises(ConfigError, match=r"^node name .* is not 1 to 64 of A-Z a-z 0-9 \. _ -$"):
        ring.Arena.create(node, CLASSES)


def test_the_layout_is_the_documented_one(arena: ring.Arena) -> None:
    records, slots_at, nbytes = ring_layout.lay_out(CLASSES, os.sysconf("SC_PAGESIZE"))
    data = (SHM / arena.name).read_bytes()
    magic, version, page, *rest = struct.unpack_from("<8s2I6Q2I", data)
    assert (magic, version, page) == (b"VDGRING1", 1, os.sysconf("SC_PAGESIZE"))
    assert rest[:4] == [nbytes, arena.control_nbytes, slots_at, arena.arena_id]
    assert rest[4] & (1 << 22) - 1 == os.getpid()
    assert rest[6:] == [2, 6]
    assert [struct.unpack_from("<4Q2I", data, 72 + 40 * k) for k in (0, 1)] == records
    assert nbytes == arena.nbytes == len(data)


def test_two_attachments_see_each_other_and_the_data_is_mapped_read_only(
    arena: ring.Arena,
) -> None:
    with ring.Arena.attach(arena.name) as guest:
        assert (guest.arena_id, guest.nbytes) == (arena.arena_id, arena.nbytes)
        modes = [line.split()[1] for line in mappings() if arena.name in line]
        assert sorted(modes) == ["r--s", "rw-s"]


# ---- files that are not to be trusted ----


@pytest.fixture
def impostor() -> Iterator[Path]:
    path = SHM / f"vdag-impostor-{os.getpid()}"
    yield path
    path.unlink(missing_ok=True)


def attach_error(path: Path) -> str:
    with pytest.raises(TransportError) as caught:
        ring.Arena.attach(path.name)
    assert str(caught.value).startswith(f"arena {path.name}")
    return str(caught.value).removeprefix(f"arena {path.name}").lstrip(": ")


def write(path: Path, data: bytes, mode: int = 0o600) -> None:
    path.write_bytes(data)
    path.chmod(mode)


def test_a_name_that_is_nobodys_or_is_no_name_is_refused(impostor: Path) -> None:
    assert attach_error(impostor) == "no such file or directory"
    for name in ("../etc/passwd", "vdag-a/b", "other", "vdag-"):
        with pytest.raises(ConfigError, match=r"^arena name .* is not vdag- and up to 128"):
            ring.Arena.attach(name)


def test_what_is_no_regular_file_is_not_followed(arena: ring.Arena, impostor: Path) -> None:
    impostor.symlink_to(SHM / arena.name)
    assert attach_error(impostor) == "too many levels of symbolic links"
    impostor.unlink()
    os.mkfifo(impostor, 0o600)
    assert attach_error(impostor) == "is not an arena"


@pytest.mark.parametrize("mode", [0o640, 0o602, 0o666])
def test_a_file_open_to_others_is_not_attached_to(
    arena: ring.Arena, impostor: Path, mode: int
) -> None:
    write(impostor, (SHM / arena.name).read_bytes(), mode)
    assert attach_error(impostor) == "belongs to another user or is open to others"


@pytest.mark.parametrize(
    ("nbytes", "message"),
    [
        (0, "is not an arena"),
        (7, "is not an arena"),
        (8, "is shorter than it claims"),
        (711, "is shorter than it claims"),
        (712, "is shorter than it claims"),
        (-1, "is shorter than it claims"),
    ],
)
def test_a_truncated_arena_is_malformed(
    arena: ring.Arena, impostor: Path, nbytes: int, message: str
) -> None:
    write(impostor, (SHM / arena.name).read_bytes()[:nbytes])
    assert attach_error(impostor) == message
    with pytest.raises(FrameFormatError):
        ring.Arena.attach(impostor.name)


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (0, "is not an arena"),
        (8, "is of another version"),
        *((at, "has a layout that contradicts itself") for at in (12, 16, 24, 32, 64, 68)),
        *((at, "has a layout that contradicts itself") for at in (72, 80, 88, 96, 104, 108)),
        (56, "belongs to another pid namespace"),
        (48, "has lost its owner"),
    ],
)
def test_no_field_of_a_header_is_believed(
    arena: ring.Arena, impostor: Path, at: int, message: str
) -> None:
    data = bytearray((SHM / arena.name).read_bytes())
    data[at + 3] ^= 0x40
    write(impostor, bytes(data))
    assert attach_error(impostor) == message


@settings(max_examples=300, deadline=None)
@given(garbage=st.binary(max_size=704), honest=st.integers(0, 8))
def test_garbage_is_refused_whatever_it_is(garbage: bytes, honest: int) -> None:
    path = SHM / f"vdag-garbage-{os.getpid()}"
    write(path, b"VDGRING1" + struct.pack("<II", 1, 4096)[:honest] + garbage + bytes(8192))
    try:
        with pytest.raises(TransportError):
            ring.Arena.attach(path.name)
        assert ring.sweep(path.name) in ([], [path.name])
    finally:
        path.unlink(missing_ok=True)
    assert not mappings()


def test_a_payload_longer_than_its_slot_is_not_mapped(arena: ring.Arena) -> None:
    ref = commit(arena)
    slots_at = ring_layout.lay_out(CLASSES, os.sysconf("SC_PAGESIZE"))[1]
    with open(SHM / arena.name, "r+b") as file:
        file.seek(slots_at + 512 * ref.slot + 8)
        file.write(struct.pack("<Q", 1 << 63))
    with pytest.raises(FrameFormatError, match=r"^payload of .* bytes exceeds slot 0$"):
        arena.acquire(ref.slot, ref.generation)
    assert arena.stats().free == 6


def test_the_process_table_is_bounded(arena: ring.Arena) -> None:
    guests = [ring.Arena.attach(arena.name) for _ in range(63)]
    assert attach_error(SHM / arena.name) == "has no entry left for another process"
    guests.pop().close()
    ring.Arena.attach(arena.name).close()
    for guest in guests:
        guest.close()
    assert arena.stats().processes == 1


# ---- buffers ----


def test_a_view_is_read_only_down_to_the_page_tables(arena: ring.Arena) -> None:
    ref = commit(arena)
    view = arena.acquire(ref.slot, ref.generation)
    pixels = np.frombuffer(view, np.uint8)
    with pytest.raises(ValueError, match="read-only"):
        pixels[0] = 1
    with pytest.raises(ValueError, match="cannot set WRITEABLE flag"):
        pixels.flags.writeable = True
    with pytest.raises(TypeError, match=r"not writable"):
        (ctypes.c_char * 1).from_buffer(view)
    assert memoryview(view).readonly


def test_an_array_keeps_its_lease_after_release(arena: ring.Arena) -> None:
    ref = commit(arena)
    view = arena.acquire(ref.slot, ref.generation)
    pixels, again = np.frombuffer(view, np.uint8), memoryview(view)
    view.release()
    with pytest.raises(BufferError, match=r"^view of slot 0 has been released$"):
        memoryview(view)
    again.release()
    assert arena.stats().leases == 1
    assert pixels.sum() == 0
    del pixels
    assert arena.stats().leases == 0


def test_an_array_keeps_the_mapping_of_a_closed_arena() -> None:
    arena = ring.Arena.create("test", CLASSES)
    loan = arena.loan(100)
    assert loan is not None
    pixels = np.frombuffer(loan, np.uint8)
    pixels[:] = 3
    ref = loan.commit()
    view = np.frombuffer(arena.acquire(ref.slot, ref.generation), np.uint8)
    arena.close()
    del loan, arena
    gc.collect()
    assert view.sum() == 300
    assert mappings()
    del view
    assert pixels[0] == 3
    del pixels
    assert not mappings()


def test_a_loan_that_has_ended_gives_no_new_buffer(arena: ring.Arena) -> None:
    loan = arena.loan(100)
    assert loan is not None
    loan.commit()
    with pytest.raises(BufferError, match=r"^loan of slot 0 has ended$"):
        memoryview(loan)


def test_put_copies_without_the_gil_what_is_large(arena: ring.Arena) -> None:
    source = np.arange(100000, dtype=np.uint32).view(np.uint8)[:99999]
    for data in (source, source[::-1], source[:5000]):
        ref = arena.put(data)
        assert ref is not None
        with arena.acquire(ref.slot, ref.generation) as view:
            assert bytes(view) == data.tobytes()


# ---- waiting ----


def test_a_loan_waits_for_a_slot_and_gets_the_one_that_is_freed(arena: ring.Arena) -> None:
    refs = [commit(arena, 100000) for _ in range(2)]
    loans: list[ring.Loan | None] = []
    with ring.Arena.attach(arena.name, writable=True) as guest:
        waiter = threading.Thread(target=lambda: loans.append(guest.loan(100000, 60.0)))
        waiter.start()
        until(lambda: arena.stats().waits > 0)
        assert refs[1].drop()
        waiter.join(60)
        [loan] = loans
        assert loan is not None
        assert loan.slot == refs[1].slot
        loan.abandon()
        del loan
        loans.clear()


def test_a_wait_ends_in_time_without_a_slot(arena: ring.Arena) -> None:
    loans = [arena.loan(100000) for _ in range(2)]
    assert arena.loan(100000, 0.02) is None
    stats = arena.stats()
    assert (stats.waits, stats.misses, len(loans)) == (1, 1, 2)


def test_closing_wakes_who_waits(arena: ring.Arena) -> None:
    loans = [arena.loan(100000) for _ in range(2)]
    guest = ring.Arena.attach(arena.name, writable=True)
    errors: list[str] = []

    def wait() -> None:
        with pytest.raises(ChannelClosed) as caught:
            guest.loan(100000, 60.0)
        errors.append(str(caught.value))

    waiter = threading.Thread(target=wait)
    waiter.start()
    until(lambda: arena.stats().waits > 0)
    guest.close()
    waiter.join(60)
    assert errors == [f"arena {arena.name} is closed"]
    assert (arena.stats().processes, len(loans)) == (1, 2)


# ---- forks ----

FORKED = """
import os
from vdag._native import ring
from vdag.errors import TransportError

arena = ring.Arena.create("forked", [(64, 2)])
ref, loan = arena.loan(64).commit(readers=2), arena.loan(64)
view = arena.acquire(ref.slot, ref.generation)
child = os.fork()
if child == 0:
    try:
        arena.stats()
    except TransportError as error:
        assert str(error) == f"arena {arena.name} was opened before a fork: attach again", error
        view.release()
        loan.abandon()
        arena.close()
        with ring.Arena.attach(arena.name) as own:
            assert own.stats().processes == 2
        os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
stats = arena.stats()
assert (stats.leases, stats.loaned, stats.processes) == (2, 1, 1), stats
arena.close()
"""


def test_a_forked_child_touches_nothing_of_its_parent() -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", FORKED], check=True, timeout=60)
