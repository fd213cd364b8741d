"""Throw requests at the readers of :5500 until something other than a refusal comes out.

    pip install atheris
    python tests/fuzz/fuzz_images.py -max_total_time=600 -rss_limit_mb=1024 [folder of inputs]

The options are libFuzzer's. The first byte of an input says of which task and encoding it is, the
rest is the body. What is read is decoded too, and nested lists are held against numpy. An input
for which more than `INPUT_NBYTES` of memory is taken fails, whoever takes it.
"""

from __future__ import annotations

import logging
import resource
import sys
import tempfile
from pathlib import Path

import atheris

sys.path.append(str(Path(__file__).parents[1] / "kit"))

with atheris.instrument_imports(include=["vdag", "python_multipart"]):
    from request_kit import KINDS, TASKS, look, readers, requests

import psutil

#: Inputs are of some kilobytes, the largest picture that is allowed takes 48 KiB.
INPUT_NBYTES = 32 << 20
#: Address space beyond what the imports take; most of it is libFuzzer's own.
ROOM_NBYTES = 512 << 20
READERS = readers()


def one_input(data: bytes) -> None:
    """Read one request and decode its pictures."""
    if not data:
        return
    kind, rest = data[0] % len(KINDS), data[0] // len(KINDS)
    before_nbytes = _peak_nbytes()
    look(READERS[rest % len(TASKS)], data[1:], KINDS[kind], is_list=bool(rest & 8))
    taken_nbytes = _peak_nbytes() - before_nbytes
    assert taken_nbytes <= INPUT_NBYTES, f"{len(data)} bytes took {taken_nbytes}"


def _peak_nbytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Hand over to libFuzzer, with the seeds as a further folder of inputs."""
    logging.disable()  # of the multipart parser, which warns of every body that is none
    with tempfile.TemporaryDirectory() as folder:
        for number, (kind, body) in enumerate(requests()):
            for task in range(len(TASKS)):
                path = Path(folder, f"seed-{number}-{task}")
                path.write_bytes(bytes([kind + task * len(KINDS)]) + body)
        limit = psutil.Process().memory_info().vms + ROOM_NBYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        # libFuzzer writes what it finds into the first folder, and never returns.
        atheris.Setup([*sys.argv, folder], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
