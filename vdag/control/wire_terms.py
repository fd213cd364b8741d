"""The parts that messages of the plan channel are made of, with the limits of every field; no I/O.

See `wire` for what is said with them.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from vdag.plan import ResourceLimit

__all__ = [
    "MAX_DOCUMENT_NBYTES",
    "MAX_RESULTS",
    "Amount",
    "Card",
    "Document",
    "Drops",
    "Limits",
    "Name",
    "Number",
    "Offer",
    "Offers",
    "Opened",
    "Openings",
    "Pixels",
    "Place",
    "Port",
    "Positive",
    "Ratio",
    "Result",
    "Role",
    "Routes",
    "Run",
    "Runtime",
    "Session",
    "State",
    "Taken",
    "Text",
    "Video",
    "View",
    "Work",
    "Workers",
    "Works",
]

#: Most bytes of one `Document`: a face takes about 100, so that is ten thousand of them.
MAX_DOCUMENT_NBYTES = 1 << 20
#: Most results, jobs, nodes ... in one message.
MAX_RESULTS = 4_096

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
Place = Annotated[str, msgspec.Meta(max_length=300)]
Session = Annotated[str, msgspec.Meta(min_length=8, max_length=64)]
Text = Annotated[str, msgspec.Meta(max_length=4_096)]
Number = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]
Pixels = Annotated[int, msgspec.Meta(ge=0, le=1 << 20)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
Ratio = Annotated[float, msgspec.Meta(ge=0, le=1)]
Amount = Annotated[float, msgspec.Meta(ge=0, le=1e18)]
Role = Literal["cloud", "edge", "host"]
#: Name of a run of a job: its node has drawn it when the job began.
Run = Annotated[
    str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[0-9A-Za-z][0-9A-Za-z._-]*\Z")
]
#: Of a job: not scheduled, ready, running, ended, failed.
State = Annotated[int, msgspec.Meta(ge=0, le=4)]
#: JSON of an object; empty for none.
Document = Annotated[bytes, msgspec.Meta(max_length=MAX_DOCUMENT_NBYTES)]
Routes = Annotated[dict[Name, Place], msgspec.Meta(max_length=256)]
Limits = Annotated[dict[Name, ResourceLimit], msgspec.Meta(max_length=256)]
#: Processes of one task.
Workers = Annotated[int, msgspec.Meta(ge=0, le=64)]
Openings = Annotated[dict[Name, Workers], msgspec.Meta(max_length=1_024)]


class Video(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A video of a node; what is not known is 0."""

    type: Text = ""
    width: Pixels = 0
    height: Pixels = 0
    fps: Annotated[float, msgspec.Meta(ge=0, le=1_000)] = 0.0


class Offer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A task as a node offers it.

    Attributes:
        workers: processes.
        models: ids of the models it can load, empty for not said.
        cpu_util_limit: share of all cores that its workers may use together.
        mem_util_limit: share of the memory.
    """

    workers: Annotated[int, msgspec.Meta(ge=0, le=4_096)] = 1
    models: Annotated[
        list[Annotated[int, msgspec.Meta(ge=0, le=99)]], msgspec.Meta(max_length=100)
    ] = []
    cpu_util_limit: Ratio = 1.0
    mem_util_limit: Ratio = 1.0


class Opened(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What became of an `OpenTask`.

    Attributes:
        task: its name.
        order: number of the order.
        reason: why the task is not done; empty for that its workers serve.
        trial_s: what it took of a picture; 0 for it was not tried.
    """

    task: Name
    order: Positive
    reason: Text = ""
    trial_s: Amount = 0.0


class Work(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A job as its node has it.

    Attributes:
        job_uid: its id.
        state: see `State`.
        plan: number of the plan it follows, 0 for none.
        reason: why it has failed.
        routes: task to the landing of the node it runs on, for tasks that run elsewhere.
    """

    job_uid: Name
    state: State
    plan: Number = 0
    reason: Text = ""
    routes: Routes = {}


Offers = Annotated[dict[Name, Offer], msgspec.Meta(max_length=256)]
Works = Annotated[list[Work], msgspec.Meta(max_length=MAX_RESULTS)]


class Card(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A node, as the controller tells the others of it; fields as of `Join`.

    Attributes:
        session: empty for not said.
    """

    node_addr: Name
    role: Role
    port: Port = 0
    landing: Place = ""
    services: Offers = {}
    state: Document = b""
    name: Text = ""
    session: Annotated[str, msgspec.Meta(max_length=64)] = ""


class View(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Which nodes are alive.

    Attributes:
        version: rises with every change.
        alive: `node_addr` of all of them; who knows of others forgets them.
        cards: of those that have changed since the version that was named in the question.
    """

    version: Number
    alive: Annotated[list[Name], msgspec.Meta(max_length=MAX_RESULTS)]
    cards: Annotated[list[Card], msgspec.Meta(max_length=MAX_RESULTS)] = []


class Runtime(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a job has measured lately, under which plan."""

    job_uid: Name
    plan: Number
    runtime: Document


class Taken(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A job follows a plan from now on."""

    job_uid: Name
    plan: Number


class Drops(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Frames of a job that were not delivered, of one reason, since the run began."""

    job_uid: Name
    run: Run
    reason: Name
    count: Number


class Result(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One frame's result.

    Attributes:
        job_uid: of the job.
        run: of the job: it is another one after each start.
        seq: its number in that run; nothing else has the same.
        document: the documents' frame object.
    """

    job_uid: Name
    run: Run
    seq: Number
    document: Document
