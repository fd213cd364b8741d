"""Throw bytes at the plan channel's messages until something other than `FrameFormatError` comes.

    pip install atheris
    python tests/fuzz/fuzz_wire.py -max_total_time=600 -rss_limit_mb=512 [folder of inputs]

The options are libFuzzer's. An input is a message as it is received. What can be read must say the
same after it was written and read again, and so must every document in it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["vdag"]):
    from vdag.control import wire
    from vdag.errors import FrameFormatError
    from vdag.plan import Placement, Plan, ResourceLimit, VideoConf

SESSION = "0123456789abcdef"
DOCUMENT = b'{"device_state":{"cpu_ratio":[1.5,null]},"summary":{"n_cpu":4}}'
OFFERS = {"face_detection": wire.Offer(2, [0, 1], 0.5, 1.0)}
PLAN = Plan(
    3,
    VideoConf("480p", 10.0, "H264"),
    {"face_detection": Placement("10.0.0.1", "edge", 1, "10.0.0.1:5001")},
    {"face_detection": ResourceLimit(0.5, 0.5)},
    {},
    {"video_conf": {"reso": "480p"}},
)


def seeds() -> Iterator[wire.Message]:
    """Messages of every kind, to start from."""
    jobs = [wire.Work("GLOBAL_ID_1", 2, 3, "reason")]
    card = wire.Card("10.0.0.1:5001", "edge", 5500, "tcp://10.0.0.1:5020", OFFERS, DOCUMENT)
    view = wire.View(9, ["10.0.0.1:5001"], [card])
    videos = {0: wire.Video("traffic", 1920, 1080, 25.0)}
    landing, routes = "tcp://10.0.0.1:5020", {"face_detection": "tcp://10.0.0.1:5020"}
    yield wire.Join(
        "10.0.0.1:5001", SESSION, "gate-3", "edge", 5500, landing, videos, OFFERS, jobs, DOCUMENT
    )
    yield wire.Joined(SESSION, 0.5, 1.0, view)
    yield wire.Report(
        "10.0.0.1:5001",
        SESSION,
        SESSION,
        1,
        9,
        1 << 40,
        state=DOCUMENT,
        services=OFFERS,
        jobs=jobs,
        taken=[wire.Taken("GLOBAL_ID_1", 3)],
        runtimes=[wire.Runtime("GLOBAL_ID_1", 3, b'{"delay":0.1}')],
        drops=[wire.Drops("GLOBAL_ID_1", SESSION, "deadline", 4)],
        bandwidth={"10.0.0.2:5001": 1e6},
        results=[wire.Result("GLOBAL_ID_1", SESSION, 1, b'{"count_result":{"total":1}}')],
        refusals={"face_detection": "control groups are read only"},
    )
    yield wire.Reported(1, True, 1 << 40, 1 << 41, view)
    yield wire.Await("10.0.0.1:5001", SESSION, SESSION, 3)
    start = wire.StartJob(1, "GLOBAL_ID_1", 0, b'{"flow":["a"]}', DOCUMENT, PLAN, routes, {})
    plan = wire.SendPlan(2, "GLOBAL_ID_1", PLAN, routes, {landing: "gate-3"})
    limit = wire.LimitTask(4, "face_detection", ResourceLimit(0.5, 0.25))
    yield wire.Orders([start, plan, wire.StopJob(3, "GLOBAL_ID_2", "stopped"), limit])
    yield wire.Refused("the node has to join first", True)


def one_input(data: bytes) -> None:
    """Read one message, and write and read again what could be read."""
    try:
        message = wire.decode(data)
    except FrameFormatError:
        return
    assert wire.decode(wire.encode(message)) == message
    for field in ("state", "document", "runtime", "dag"):
        try:
            document = wire.read_document(getattr(message, field, b""))
        except FrameFormatError:
            continue
        assert wire.read_document(wire.write_document(document)) == document


def main() -> None:
    """Hand over to libFuzzer, with the seeds as a further folder of inputs."""
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(seeds()):
            Path(folder, f"seed-{number}").write_bytes(wire.encode(seed))
        # libFuzzer writes what it finds into the first folder, and never returns.
        atheris.Setup([*sys.argv, folder], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
