"""What nodes tell the controller's records over the plan channel, and how it travels; no I/O.

    log         Log     -> Logged         what became of every frame, how nodes and workers are

A `Log` is asked beside the reports, on a line of its own, and answered when what it says is
recorded. `Logged` has the controller's clock, by which all times of a `Log` are.

Frames of a job that went the same way travel as columns: little-endian arrays, one after the other,
of as many items as there are frames.

    int32    sequence                     of the frame in its job
    int64    captured_ns                  since the epoch
    float32  whole_s                      from the capture to the end; NaN for a frame that was lost
    float32  lengths_s[tasks][3]          on its way, in the queue, in a worker; NaN: not known
    uint32   nbytes[tasks]                that travelled to the task; 0: none, or not known

Two tasks make 48 bytes a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from vdag.control.wire_terms import (
    MAX_RESULTS,
    Document,
    Name,
    Number,
    Positive,
    Ratio,
    Routes,
    Run,
    Session,
)
from vdag.errors import FrameFormatError

__all__ = [
    "MAX_FRAMES",
    "Columns",
    "Frames",
    "Log",
    "Logged",
    "Look",
    "frame_count",
    "frame_nbytes",
    "read_columns",
    "write_columns",
]

#: Of one `Frames`.
MAX_FRAMES = 4_096
#: Of the columns of one `Frames`.
MAX_COLUMNS_NBYTES = 2 << 20
MAX_TASKS = 64
#: No part of a frame's life is longer: ten days.
MAX_LENGTH_S = 1e6
MAX_FRAME_NBYTES = (1 << 32) - 1
#: What comes before the columns of the tasks, and these, of each frame.
HEAD_NBYTES, TASK_NBYTES = 16, 16

Tasks = Annotated[list[Name], msgspec.Meta(min_length=1, max_length=MAX_TASKS)]


class Frames(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Frames of a job that went the same way.

    Attributes:
        job_uid: of the job.
        run: of the job, see `Result`.
        branches: the tasks that are done one after the other; columns are in this order.
        routes: task to the landing of the node that did it, for tasks done elsewhere.
        columns: see above.
    """

    job_uid: Name
    run: Run
    branches: Annotated[list[Tasks], msgspec.Meta(min_length=1, max_length=MAX_TASKS)]
    routes: Routes
    columns: Annotated[bytes, msgspec.Meta(max_length=MAX_COLUMNS_NBYTES)]


class Look(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How a node is at a time.

    Attributes:
        at_ns: since the epoch.
        machine: JSON of a row of `sys_info`, with all GPUs, as documented; empty for not said.
        tasks: shares of CPU and memory that the workers of a task use together.
    """

    at_ns: Number
    machine: Document = b""
    tasks: Annotated[dict[Name, tuple[Ratio, Ratio]], msgspec.Meta(max_length=256)] = {}


class Log(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="log"):
    """What a node has for the records; nothing, to be told the time.

    Attributes:
        node_addr: who says so.
        session: of the node.
        number: from 1 on, in this session; sent again, it is the same.
        frames: oldest first.
        looks: likewise.
        lost: frames that there was no room for, since the node was started.
    """

    node_addr: Name
    session: Session
    number: Positive
    frames: Annotated[list[Frames], msgspec.Meta(max_length=MAX_RESULTS)] = []
    looks: Annotated[list[Look], msgspec.Meta(max_length=MAX_RESULTS)] = []
    lost: Number = 0


class Logged(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="logged"
):
    """The answer to `Log`.

    Attributes:
        number: of the `Log`.
        cloud: session of the controller.
        is_stored: it need not be sent again.
        heard_ns: the controller's time when it came, since the epoch.
        answered_ns: when this leaves.
        report_s: say something at least this often.
    """

    number: Positive
    cloud: Session
    is_stored: bool
    heard_ns: Number
    answered_ns: Number
    report_s: Annotated[float, msgspec.Meta(ge=0.01, le=60)]


class Columns(NamedTuple):
    """What happened to frames; rows are by frame.

    Attributes:
        sequences: int32 `(N,)`.
        captured_ns: int64 `(N,)`.
        wholes_s: float32 `(N,)`.
        lengths_s: float32 `(N, 3 * tasks)`.
        sizes: uint32 `(N, tasks)`.
    """

    sequences: NDArray[np.int32]
    captured_ns: NDArray[np.int64]
    wholes_s: NDArray[np.float32]
    lengths_s: NDArray[np.float32]
    sizes: NDArray[np.uint32]


def frame_nbytes(branches: Sequence[Sequence[str]]) -> int:
    """Return the bytes of one frame with these tasks in the columns."""
    return HEAD_NBYTES + TASK_NBYTES * sum(map(len, branches))


def frame_count(frames: Frames) -> int:
    """Return how many frames there are in columns."""
    return len(frames.columns) // frame_nbytes(frames.branches)


def write_columns(
    sequences: Sequence[int],
    captured_ns: Sequence[int],
    wholes_s: Sequence[float],
    lengths_s: Sequence[Sequence[float]],
    sizes: Sequence[Sequence[int]],
) -> bytes:
    """Return the columns of frames, which are as many in each argument; see `Columns`."""
    parts = (
        np.asarray(sequences, "<i4"),
        np.asarray(captured_ns, "<i8"),
        np.asarray(wholes_s, "<f4"),
        np.asarray(lengths_s, "<f4"),
        np.minimum(np.asarray(sizes, "<i8"), MAX_FRAME_NBYTES).astype("<u4"),
    )
    return b"".join(part.tobytes() for part in parts)


def read_columns(frames: Frames) -> Columns:
    """Read the columns of frames; the arrays are views of their bytes.

    Raises:
        FrameFormatError: they are not as many bytes as frames have, or a value has no meaning.
    """
    tasks = sum(map(len, frames.branches))
    count, rest = frame_count(frames), len(frames.columns) % frame_nbytes(frames.branches)
    if rest or not 0 < count <= MAX_FRAMES or tasks > MAX_TASKS:
        raise FrameFormatError(
            f"columns of {len(frames.columns)} bytes are not those of frames of {tasks} tasks"
        )
    at, found = 0, []
    for kind, width in (("<i4", 1), ("<i8", 1), ("<f4", 1), ("<f4", 3 * tasks), ("<u4", tasks)):
        column = np.frombuffer(frames.columns, kind, count * width, at)
        at += column.nbytes
        found.append(column)
    columns = Columns(
        found[0], found[1], found[2], found[3].reshape(count, -1), found[4].reshape(count, -1)
    )
    _check(columns)
    return columns


def _check(columns: Columns) -> None:
    if columns.sequences.min() < 0 or columns.captured_ns.min() < 0:
        raise FrameFormatError("columns have a number below 0")
    for lengths_s in (columns.wholes_s, columns.lengths_s):
        # What is not a number compares with nothing, and means that it is not known.
        if np.any(np.abs(lengths_s) > MAX_LENGTH_S):
            raise FrameFormatError(f"columns have a length beyond {MAX_LENGTH_S:g} s")
