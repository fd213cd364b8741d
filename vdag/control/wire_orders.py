"""What the controller orders nodes to do over the plan channel; see `wire`.

Orders are numbered from 1 on, and repeated until their receipt comes.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from vdag.control.wire_terms import (
    Document,
    Name,
    Number,
    Pixels,
    Place,
    Positive,
    Routes,
    Text,
    Workers,
)
from vdag.plan import Plan, ResourceLimit

__all__ = ["LimitTask", "OpenTask", "Order", "SendPlan", "StartJob", "StopJob"]


class StartJob(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="start"
):
    """Run a job; one that runs already goes on, under this plan.

    Attributes:
        number: of the order.
        job_uid: of the job.
        video_id: of the node's videos.
        dag: JSON of `Graph.to_dag()`.
        constraint: the user's, in the documents' words.
        plan: to begin with; None to wait for one.
        routes: task to the landing of the node it runs on; this node's own tasks are not in it.
        names: landing to the name of its node, by which the keys know it.
    """

    number: Positive
    job_uid: Name
    video_id: Number
    dag: Document
    constraint: Document = b""
    plan: Plan | None = None
    routes: Routes = {}
    names: Routes = {}


class SendPlan(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="plan"
):
    """Follow another plan from the next frame on; fields as of `StartJob`.

    Attributes:
        lost: landings of nodes that frames went to before and that are gone.
        constraint: the user's, as of `StartJob`; empty for what it was.
    """

    number: Positive
    job_uid: Name
    plan: Plan
    routes: Routes = {}
    names: Routes = {}
    lost: Annotated[list[Place], msgspec.Meta(max_length=256)] = []
    constraint: Document = b""


class StopJob(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="stop"):
    """End a job; one that is not there has ended."""

    number: Positive
    job_uid: Name
    reason: Text = ""


class LimitTask(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="limit"
):
    """Limit the workers of a task, None for not any more."""

    number: Positive
    task: Name
    limit: ResourceLimit | None


class OpenTask(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="open"
):
    """Do a task that this node has no settings of, or no more; `Report.opened` says what of it.

    Attributes:
        number: of the order.
        task: whose name has all that has to be known of it.
        workers: processes; none for not any more.
        trial: width and height of a picture that they try it on first; None for none.
    """

    number: Positive
    task: Name
    workers: Workers
    trial: tuple[Pixels, Pixels] | None = None


Order = LimitTask | OpenTask | SendPlan | StartJob | StopJob
