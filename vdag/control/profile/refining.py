"""`Refinement`: what running queries measure makes the knowledge base better, and it is kept.

The profile is the scheduler's and is read by policies; only the scheduler's thread touches it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vdag.control.profile import Profile
from vdag.errors import ConfigError
from vdag.plan import Plan

if TYPE_CHECKING:
    from vdag.control.scheduling.events import NodeInfo

__all__ = ["Refinement", "load_profile"]

logger = logging.getLogger(__name__)

#: Between two times that the file is written.
SAVE_NS = 60_000_000_000
#: Frames that a report without a number of them counts for.
FEW = 1.0


class Fleet(Protocol):
    """Who knows the live nodes."""

    def node(self, node_addr: str) -> NodeInfo | None:
        """Return a live node, None if it is not."""


class Refinement:
    """See above.

    Args:
        profile: that is made better.
        fleet: the live nodes.
        path: where it is kept; None for nowhere.
    """

    def __init__(self, profile: Profile, fleet: Fleet, path: Path | None = None) -> None:
        self._profile, self._fleet, self._path = profile, fleet, path
        self._save_ns = 0
        self._is_changed = False

    def learn(self, plan: Plan, runtime: Mapping[str, Any]) -> None:
        """Take in what a job has measured under a plan; what makes no sense is passed over."""
        result = runtime.get("plan_result")
        result = result if isinstance(result, Mapping) else {}
        means, p95s = _part(result, "process_delay"), _part(result, "process_delay_p95")
        batches = _part(result, "batch")
        frames, objects = runtime.get("frames", FEW), runtime.get("obj_n")
        resolution = plan.video_conf.resolution
        for task, placement in plan.flow_mapping.items():
            node, mean_s = self._fleet.node(placement.node_addr), means.get(task)
            if node is None or mean_s is None:
                continue
            self._is_changed |= self._profile.observe(
                task,
                placement.model_id,
                resolution,
                node,
                mean_s,
                p95s.get(task, mean_s),
                frames,
                obj_n=objects,
                batch=batches.get(task, 1.0),
            )
        for nbytes in _part(runtime, "data_trans_size").values():
            self._is_changed |= self._profile.observe_frame(
                resolution, plan.video_conf.encoder, nbytes
            )
            break  # the first that leaves the host is a whole frame

    def save(self, now_ns: int, *, at_once: bool = False) -> None:
        """Write the file if it is time to; one that cannot be written is told of, and that is all.

        Args:
            now_ns: the time.
            at_once: whether it is time or not.
        """
        is_due = at_once or now_ns >= self._save_ns
        if self._path is None or not self._is_changed or not is_due:
            return
        self._save_ns, self._is_changed = now_ns + SAVE_NS, False
        try:
            self._profile.save(self._path)
        except ConfigError as err:
            logger.warning("what was learned is not kept: %s", err)


def load_profile(base: Path | None, kept: Path | None) -> Profile:
    """Return what is known: what was kept, else what was measured before.

    Args:
        base: a profile of the user's own; None for the one that comes with the package.
        kept: what was learned in earlier runs, from `base` on; None for nothing. One that is older
            than `base` counts no more.

    Raises:
        ConfigError: `base` is no profile.
    """
    start = Profile.default() if base is None else Profile.load(base)
    if kept is None or not kept.exists():
        return start
    try:
        if base is not None and base.stat().st_mtime_ns > kept.stat().st_mtime_ns:
            return start
        return Profile.load(kept)
    except (ConfigError, OSError) as err:
        logger.warning("what was learned is lost: %s", err)
        return start


def _part(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = document.get(name)
    return found if isinstance(found, Mapping) else {}
