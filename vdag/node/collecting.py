"""`open_collector`: the role `collector` of a node: reports of nodes of other makes, over HTTP."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from vdag.config import Config
from vdag.control.affiliation import retention_of, state_folder
from vdag.control.collector.app import create_app
from vdag.control.collector.conf import read_nodes
from vdag.control.collector.senders import Senders
from vdag.control.records import Store
from vdag.errors import ConfigError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

__all__ = ["open_collector"]


def open_collector(config: Config, store: Store | None, stack: ExitStack) -> ASGIApp:
    """Return the app of :9001.

    Args:
        config: of the node.
        store: the records of its role `cloud`, which it shares unless it has a database of its own;
            None without that role.
        stack: closes what is opened here.

    Raises:
        ConfigError: the folder of nodes or a file in it has no meaning, or the database cannot be
            opened.
        DependencyMissing: the database's driver is not installed.
    """
    settings = config.collector
    assert settings.nodes is not None, "settings are checked"
    if not settings.nodes.is_dir():
        raise ConfigError(f"collector.nodes {settings.nodes} is no folder")
    nodes = read_nodes(settings.nodes)
    senders = Senders(nodes)
    if store is None or settings.database:
        place = settings.database or state_folder(config) / "records.db"
        store = stack.enter_context(Store(place, retention=retention_of(settings.retention)))
    store.log.set_nodes(nodes)
    return create_app(store.log, senders)
