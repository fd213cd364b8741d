"""The collector of :9001: takes in what nodes report over HTTP, and records it.

    conf       its settings, and the node files
    senders    which node a report is of
    app        the report protocol
    Collector  all of it with the records, until a signal comes

The protocol is the documented one: a node posts the JSON of a report, to any path, and is answered
`{"result": "Succeeded"}`, or `"Failed"` with a `reason`. It is known by the address it calls from.
"""

from __future__ import annotations

from vdag.control.collector.app import create_app
from vdag.control.collector.conf import CollectorConf, read_conf
from vdag.control.collector.senders import Senders
from vdag.control.collector.serving import Collector

__all__ = ["Collector", "CollectorConf", "Senders", "create_app", "read_conf"]
