"""Messages of the plan channel, any at all, for property tests."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from vdag.control import wire
from vdag.plan import Placement, Plan, ResourceLimit, VideoConf

NUMBER = st.integers(0, 2**63 - 1)
POSITIVE = st.integers(1, 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NAME = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
SESSION = st.text("0123456789abcdef", min_size=8, max_size=16)
ROLE = st.sampled_from(["cloud", "edge", "host"])
STATE = st.integers(0, 4)
RATIO = st.floats(0, 1)
DOCUMENT = st.dictionaries(NAME, st.one_of(TEXT, RATIO, st.booleans(), st.none()), max_size=3).map(
    wire.write_document
)


def lists(one: Any) -> Any:
    return st.lists(one, max_size=3)


VIDEO = st.builds(wire.Video, TEXT, st.integers(0, 9999), st.integers(0, 9999), st.floats(0, 1000))
OFFER = st.builds(wire.Offer, st.integers(0, 99), lists(st.integers(0, 99)), RATIO, RATIO)
OFFERS = st.dictionaries(NAME, OFFER, max_size=3)
WORK = st.builds(wire.Work, NAME, STATE, NUMBER, TEXT)
CARD = st.builds(wire.Card, NAME, ROLE, st.integers(0, 65535), TEXT, OFFERS, DOCUMENT)
VIEW = st.builds(wire.View, NUMBER, lists(NAME), lists(CARD))
RUNTIME = st.builds(wire.Runtime, NAME, NUMBER, DOCUMENT)
TAKEN = st.builds(wire.Taken, NAME, NUMBER)
DROPS = st.builds(wire.Drops, NAME, SESSION, NAME, NUMBER)
RESULT = st.builds(wire.Result, NAME, SESSION, NUMBER, DOCUMENT)
CONF = st.builds(
    VideoConf,
    st.sampled_from(["360p", "1080p", "native", "640x480"]),
    st.floats(0.001, 1000),
    st.sampled_from(["JPEG", "H264", "raw"]),
)
PLACEMENT = st.builds(
    Placement, NAME, st.sampled_from(["host", "edge", "cloud"]), st.integers(0, 99), TEXT
)

LIMITS = st.builds(ResourceLimit, st.floats(0.01, 1), st.floats(0.01, 1))


@st.composite
def plans(draw: Any) -> Plan:
    tasks = draw(st.lists(NAME, min_size=1, max_size=3, unique=True))
    some = st.sampled_from(tasks)
    return Plan(
        draw(NUMBER),
        draw(CONF),
        {task: draw(PLACEMENT) for task in tasks},
        draw(st.dictionaries(some, LIMITS, max_size=2)),
        draw(st.dictionaries(some, CONF, max_size=2)),
    )


PLAN = plans()
ROUTES = st.dictionaries(NAME, TEXT, max_size=3)
START = st.builds(
    wire.StartJob, POSITIVE, NAME, NUMBER, DOCUMENT, DOCUMENT, st.none() | PLAN, ROUTES, ROUTES
)
SEND = st.builds(wire.SendPlan, POSITIVE, NAME, PLAN, ROUTES, ROUTES)
STOP = st.builds(wire.StopJob, POSITIVE, NAME, TEXT)
LIMIT = st.builds(wire.LimitTask, POSITIVE, NAME, st.none() | LIMITS)
WORKERS = st.integers(0, 64)
OPEN = st.builds(wire.OpenTask, POSITIVE, NAME, WORKERS)
ORDER = START | SEND | STOP | LIMIT | OPEN
REPORT = st.builds(
    wire.Report,
    NAME, SESSION, SESSION, POSITIVE, NUMBER, NUMBER,
    offset_ns=st.integers(-(2**62), 2**62),
    round_trip_ns=NUMBER,
    state=DOCUMENT,
    services=st.none() | OFFERS,
    jobs=lists(WORK),
    taken=lists(TAKEN),
    runtimes=lists(RUNTIME),
    drops=lists(DROPS),
    bandwidth=st.dictionaries(NAME, st.floats(0, 1e18), max_size=3),
    results=lists(RESULT),
    refusals=st.dictionaries(NAME, TEXT, max_size=3),
    opened=lists(st.builds(wire.Opened, NAME, POSITIVE, TEXT)),
)  # fmt: skip
JOIN = st.builds(
    wire.Join,
    NAME, SESSION, TEXT, ROLE, st.integers(0, 65535), TEXT,
    st.dictionaries(NUMBER, VIDEO, max_size=3), OFFERS, lists(WORK), DOCUMENT,
    st.dictionaries(NAME, LIMITS, max_size=2), st.dictionaries(NAME, WORKERS, max_size=2),
)  # fmt: skip
FRAMES = st.builds(
    wire.Frames,
    NAME, SESSION, st.lists(st.lists(NAME, min_size=1, max_size=2), min_size=1, max_size=2),
    ROUTES, st.binary(max_size=64),
)  # fmt: skip
LOOK = st.builds(
    wire.Look, NUMBER, DOCUMENT, st.dictionaries(NAME, st.tuples(RATIO, RATIO), max_size=2)
)
MESSAGE = st.one_of(
    JOIN,
    st.builds(wire.Log, NAME, SESSION, POSITIVE, lists(FRAMES), lists(LOOK), NUMBER),
    st.builds(wire.Logged, POSITIVE, SESSION, st.booleans(), NUMBER, NUMBER, st.floats(0.01, 60)),
    REPORT,
    st.builds(wire.Await, NAME, SESSION, SESSION, NUMBER),
    st.builds(wire.Joined, SESSION, st.floats(0.01, 60), st.floats(0.01, 60), VIEW),
    st.builds(wire.Reported, POSITIVE, st.booleans(), NUMBER, NUMBER, st.none() | VIEW),
    st.builds(wire.Orders, lists(ORDER)),
    st.builds(wire.Refused, TEXT, st.booleans()),
)
