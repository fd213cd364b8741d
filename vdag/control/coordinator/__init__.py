"""The coordinator: sessions of services, placed on nodes by an algorithm.

    conf       its settings, and the files of nodes, handler types and services
    book       how sessions stand: a pure rule; `steps` and `states` are its values
    sessions   the thread that keeps the book
    office     what it has done: `placer`, `ours`, `foreign`, `watching`, the records
    app        REST
    serving    `Coordinator`: all of it, until a signal comes

It is a controller, which nodes join as their cloud, with sessions on top. On our nodes a session is
one job of the node that captures: each other handler is a task of the job's graph, placed by a
plan. On nodes that speak only the documented messages it is an init, start, stop and delete.
"""

from __future__ import annotations

from vdag.control.coordinator.conf import CoordinatorConf, read_conf
from vdag.control.coordinator.serving import Coordinator

__all__ = ["Coordinator", "CoordinatorConf", "read_conf"]
