"""`Affiliation`: how a node belongs to others: as the controller, as a member, both, or alone.

    role cloud                 the records and the controller are here; the node is its own member
    node.controller is set     the node is a member of that controller's
    neither                    it knows only itself

It is opened before the node's jobs, which write into its notebook, and joins after them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vdag.config import Config, RetentionConfig
from vdag.control import wire
from vdag.control.agent import Agent, Profile
from vdag.control.agent.courier import Courier, Glimpse
from vdag.control.agent.framebook import FrameBook
from vdag.control.agent.notebook import Notebook
from vdag.control.cluster import Alone, Cluster, Fleet, Hearsay, NodeView
from vdag.control.controller import Controller, ControllerSettings
from vdag.control.controller.membership import draw_session
from vdag.control.records import Retention, Store
from vdag.control.rest.dispatch import Dispatch
from vdag.control.scheduling.scheduler import SchedulerSettings
from vdag.transport.address import Address
from vdag.transport.folder import private_folder
from vdag.transport.keys import KeyFolder, default_folder

if TYPE_CHECKING:
    from typing_extensions import Self

    from vdag.control.controller.delivery import Dispatching
    from vdag.control.jobs import Jobs
    from vdag.control.service.openings import Openings
    from vdag.control.service.plan_limits import PlanLimits
    from vdag.transport.sockets import Curve

__all__ = ["Affiliation", "retention_of", "state_folder"]


def state_folder(config: Config) -> Path:
    """Return the folder of what outlives the node, which is made for its user alone.

    Raises:
        ConfigError: it cannot be made, or others may enter.
    """
    if config.node.state is not None:
        return private_folder(config.node.state)
    if given := os.environ.get("STATE_DIRECTORY"):  # of systemd.exec(5), perhaps of several
        return private_folder(Path(given.partition(":")[0]) / config.node.name)
    home = os.environ.get("XDG_STATE_HOME")
    folder = Path(home) if home else Path.home() / ".local" / "state"
    return private_folder(folder / "vdag" / config.node.name)


def retention_of(ages: RetentionConfig) -> Retention:
    """Return what is kept by these settings."""
    return Retention(packets_s=ages.packets_s, samples_s=ages.samples_s, rollups_s=ages.rollups_s)


class Affiliation:
    """See above; closed by `close` or a `with` block.

    Args:
        config: of the node.
        view: says how the node is now; not called before `join`.

    Attributes:
        store: the records; None without role `cloud`.
        controller: likewise.
        notebook: that the node's jobs report to; None if nobody would read it.
        frames: that they note every frame in; likewise.
        cluster: which nodes there are.
        agent: after `join`; None for a node that is alone.
        courier: likewise; None also for a node with nothing to tell the records.

    Raises:
        ConfigError: a setting has no meaning, or keys are missing.
        TransportError: the address of the plan channel cannot be bound.
        Saturated: the records cannot be read.
    """

    def __init__(
        self,
        config: Config,
        *,
        view: Callable[[], NodeView],
    ) -> None:
        self._config, self._view = config, view
        self.store: Store | None = None
        self.controller: Controller | None = None
        self.notebook: Notebook | None = None
        self.frames: FrameBook | None = None
        self.agent: Agent | None = None
        self.courier: Courier | None = None
        with ExitStack() as stack:
            if "cloud" in config.node.all_roles:
                self.store = stack.enter_context(_open_store(config))
                dispatch = Dispatch(poll_s=config.cloud.period_s)
                self.controller = stack.enter_context(
                    _open_controller(config, self.store, dispatch)
                )
                stack.enter_context(dispatch).open(self.controller)
            self._address = config.node.controller or _own(self.controller)
            if self._address:
                self.notebook = Notebook(draw_session())
                stack.callback(self.notebook.close)
                self.frames = FrameBook(self.notebook.run)
                stack.callback(self.frames.close)
            self.cluster = self._choose_cluster()
            self._stack = stack.pop_all()

    def join(
        self,
        node_addr: str,
        *,
        landing: str = "",
        videos: Mapping[int, wire.Video] | None = None,
        jobs: Jobs | None = None,
        limits: PlanLimits | None = None,
        openings: Openings | None = None,
        bandwidth: Callable[[], Mapping[str, float]] = dict,
        look: Callable[[], Glimpse | None] | None = None,
    ) -> None:
        """Tell the controller, if there is one, of this node, from now on until `close`.

        Args:
            node_addr: `ip:port`, which names it.
            landing: address that frames for it are sent to, empty for none.
            videos: that it owns, by number.
            jobs: that it runs; None if it runs none.
            limits: of its tasks; None if it does none.
            openings: tasks that it is ordered to do; likewise.
            bandwidth: bytes per second to other nodes, by `node_addr`; returns at once.
            look: says how the node is, for the records, at once; None if nobody knows.

        Raises:
            ConfigError: the controller's address has no meaning, or its key is not trusted.
        """
        if self.notebook is None:
            return
        node = self._config.node
        self.agent = Agent(
            self._address,
            profile=Profile(node_addr, node.name, landing, videos or {}),
            view=self._view,
            notebook=self.notebook,
            jobs=jobs,
            limits=limits,
            openings=openings,
            spool=None if jobs is None else private_folder(state_folder(self._config) / "spool"),
            curve=self._curve(),
            bandwidth=bandwidth,
            cluster=self.cluster if isinstance(self.cluster, Hearsay) else None,
        )
        self._stack.callback(self.agent.close)
        if self.frames is None or (jobs is None and look is None):
            return
        self.courier = Courier(
            self._address,
            node_addr=node_addr,
            book=self.frames,
            look=look,
            spool=None if jobs is None else private_folder(state_folder(self._config) / "frames"),
            curve=self._curve(),
        )
        self._stack.callback(self.courier.close)

    @property
    def fault(self) -> str:
        """Why the controller or the agent has ended by itself; empty if none has."""
        faults = [each.fault for each in (self.controller, self.agent) if each is not None]
        return next(filter(None, faults), "")

    def close(self) -> None:
        """Leave, and write down what has not been told."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _choose_cluster(self) -> Cluster:
        if self.controller is not None and not self._config.node.controller:
            return Fleet(self._view, self.controller.members)
        if self._address:
            return Hearsay(self._view)
        return Alone(self._view)

    def _curve(self) -> Curve | None:
        node = self._config.node
        keys = _keys(self._config, node.controller or self._config.cloud.channel)
        if keys is None:
            return None
        return keys.to_connect(node.controller_name if node.controller else keys.own().name)


class _OwnKeys(KeyFolder):
    """Keys of a node that also trusts itself, for it is a member of its own controller."""

    def trusted(self) -> dict[str, str]:
        pair = self.own()
        return {**super().trusted(), pair.name: pair.public}


def _keys(config: Config, address: str) -> KeyFolder | None:
    """Return the keys for an address: on loopback only if they are asked for."""
    if config.node.keys is None and Address.parse(address).is_loopback:
        return None
    return _OwnKeys(config.node.keys or default_folder())


def _own(controller: Controller | None) -> str:
    """Return where a node reaches its own controller, empty for none."""
    if controller is None:
        return ""
    target = Address.parse(controller.channel)
    hosts = {"0.0.0.0": "127.0.0.1", "::": "::1", "*": "127.0.0.1"}
    return str(Address("tcp", hosts.get(target.place, target.place), target.port))


def _open_store(config: Config) -> Store:
    cloud = config.cloud
    retention = replace(
        retention_of(cloud.retention), results=cloud.results_kept, age_s=cloud.results_age_s
    )
    place = cloud.database or state_folder(config) / "records.db"
    return Store(place, retention=retention)


def _open_controller(config: Config, store: Store, dispatch: Dispatching) -> Controller:
    cloud = config.cloud
    settings = ControllerSettings(
        cloud.channel,
        cloud.policy,
        cloud.policies,
        SchedulerSettings(period_s=cloud.period_s, node_timeout_s=cloud.node_timeout_s),
        cloud.report_s,
        cloud.hold_s,
        cloud.service_port,
        cloud.profile,
        state_folder(config) / "profile.json",
    )
    return Controller(store, settings, keys=_keys(config, cloud.channel), dispatch=dispatch)
