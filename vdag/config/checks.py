"""What a setting may be, beyond its type."""

from __future__ import annotations

import ipaddress
import math
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from vdag.config.sections import (
    Config,
    DoorConfig,
    EdgeConfig,
    PackagesConfig,
    ServiceConfig,
    TaskConfig,
)
from vdag.errors import ConfigError

__all__ = ["PACKAGE", "checked", "is_loopback", "read_token"]

_Door = TypeVar("_Door", bound=DoorConfig)

MAX_TOKEN_NBYTES = 256
#: What a header can carry: visible characters.
TOKEN = re.compile(rb"[!-~]{16,256}")
#: Where a program of the first system listens.
PLACE = re.compile(r"[A-Za-z0-9.:_\[\]-]{1,255}:[0-9]{1,5}")
#: What a node may do; `all` is the others together, but for `collector`.
ROLES = frozenset({"all", "cloud", "collector", "edge", "service"})
#: How a package is named in the settings: what it is called, and the hash of what is in it.
PACKAGE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}@[0-9a-f]{64}")
#: Dotted name of a number to its least and largest value.
RANGES: Mapping[str, tuple[float, float]] = {
    "port": (0, 65535),
    "max_body_nbytes": (1024, 1 << 30),
    "max_bodies_nbytes": (1024, 1 << 36),
    "max_pixels": (1, 1 << 26),
    "max_pictures": (1, 4096),
    "max_in_flight": (1, 4096),
    "deadline_s": (0.001, 3600.0),
}
TASK_RANGES: Mapping[str, tuple[float, float]] = {
    "workers": (0, 48),
    "model_id": (0, 99),
    "threads": (1, 256),
    "max_batch": (1, 256),
    "queue": (1, 4096),
}
EDGE_RANGES: Mapping[str, tuple[float, float]] = {
    "port": (0, 65535),
    "live_port": (0, 65535),
    "max_jobs": (1, 1024),
    "max_in_flight": (1, 64),
    "frame_timeout_s": (0.1, 3600.0),
    "pull_s": (0.02, 3600.0),
    "service_port": (1, 65535),
    "probe_s": (0.0, 3600.0),
}
CLOUD_RANGES: Mapping[str, tuple[float, float]] = {
    "port": (0, 65535),
    "live_port": (0, 65535),
    "node_live_port": (1, 65535),
    "results_kept": (11, 1_000_000),
    "results_age_s": (60.0, 1e10),
    "max_body_nbytes": (1024, 1 << 30),
    "max_bodies_nbytes": (1024, 1 << 36),
    "max_streams": (1, 4096),
    "period_s": (0.05, 3600.0),
    "node_timeout_s": (0.5, 3600.0),
    "report_s": (0.02, 60.0),
    "hold_s": (0.02, 60.0),
    "service_port": (1, 65535),
}
COLLECTOR_RANGES: Mapping[str, tuple[float, float]] = {"port": (0, 65535)}
RETENTION_RANGES: Mapping[str, tuple[float, float]] = {
    "packets_s": (60.0, math.inf),
    "samples_s": (60.0, math.inf),
    "rollups_s": (60.0, math.inf),
}
VIDEO_RANGES: Mapping[str, tuple[float, float]] = {"fps": (0.0, 1000.0)}
PACKAGES_RANGES: Mapping[str, tuple[float, float]] = {
    "max_packages": (1, 4096),
    "max_nbytes": (1024, 1 << 30),
    "total_nbytes": (1024, 1 << 36),
}


def checked(config: Config) -> Config:
    """Return the settings, with tokens read from their files.

    Raises:
        ConfigError: a setting has no meaning; the text names it.
    """
    _check_service(config.service)
    _check_edge(config.edge)
    _check_ranges(config.cloud, CLOUD_RANGES, "cloud.")
    _check_ranges(config.cloud.retention, RETENTION_RANGES, "cloud.retention.")
    _check_ranges(config.collector, COLLECTOR_RANGES, "collector.")
    _check_ranges(config.collector.retention, RETENTION_RANGES, "collector.retention.")
    if unknown := set(config.node.roles) - ROLES:
        raise ConfigError(f"node.roles has {min(unknown)!r}, expected {', '.join(sorted(ROLES))}")
    if not config.node.roles:
        raise ConfigError("node.roles is empty")
    if "collector" in config.node.all_roles and config.collector.nodes is None:
        raise ConfigError("the role collector needs collector.nodes")
    if config.edge.query_addr and (config.node.controller or "cloud" in config.node.all_roles):
        other = "node.controller" if config.node.controller else "the role cloud"
        raise ConfigError(f"edge.query_addr does not go with {other}: a node has one cloud")
    return replace(
        config,
        service=_with_token(config.service, "service."),
        edge=_with_token(config.edge, "edge."),
        cloud=_with_token(config.cloud, "cloud."),
    )


def _check_service(service: ServiceConfig) -> None:
    _check_ranges(service, RANGES, "service.")
    _check_packages(service.packages)
    if not service.tasks:
        raise ConfigError("service.tasks is empty")
    for name, task in service.tasks.items():
        _check_ranges(task, TASK_RANGES, f"service.tasks.{name}.")
        _check_models(task, f"service.tasks.{name}.")
    if not service.slots or any(value < 1 for slot in service.slots for value in slot):
        raise ConfigError("service.slots is not a list of widths, heights and numbers above 0")


def _check_models(task: TaskConfig, place: str) -> None:
    if not task.models:
        return
    low, high = TASK_RANGES["model_id"]
    if not all(low <= model <= high for model in task.models):
        raise ConfigError(f"{place}models is {list(task.models)}, expected {low:g} to {high:g}")
    own = 0 if task.card is not None else task.model_id
    if own not in task.models:
        raise ConfigError(f"{place}models is {list(task.models)}, which lacks model_id {own}")


def _check_edge(edge: EdgeConfig) -> None:
    _check_ranges(edge, EDGE_RANGES, "edge.")
    if edge.query_addr and not PLACE.fullmatch(edge.query_addr):
        raise ConfigError(f"edge.query_addr {edge.query_addr[:300]!r} is not HOST:PORT")
    if edge.pull and not edge.query_addr:
        raise ConfigError("edge.pull needs edge.query_addr")
    for name, video in edge.videos.items():
        if not name.isdecimal() or len(name) > 9:
            raise ConfigError(f"edge.videos has {name[:80]!r}, expected numbers of videos")
        if not video.path:
            raise ConfigError(f"edge.videos.{name}.path is empty")
        _check_ranges(video, VIDEO_RANGES, f"edge.videos.{name}.")


def _with_token(section: _Door, place: str) -> _Door:
    """Return a section that listens, with its token; the text of errors names `place`."""
    if section.token_file is not None:
        section = replace(section, token=read_token(section.token_file))
    if section.token and not TOKEN.fullmatch(section.token.encode()):
        raise ConfigError(f"{place}token is not 16 to 256 visible characters")
    for caller in section.callers:
        try:
            ipaddress.ip_network(caller, strict=False)
        except ValueError as err:
            raise ConfigError(
                f"{place}callers has {caller[:80]!r}, expected an address or a network"
            ) from err
    if not is_loopback(section.host) and not section.token:
        raise ConfigError(
            f"{place}host {section.host} is beyond loopback: set {place}token_file, so that "
            "callers have to show a token"
        )
    return section


def _check_packages(packages: PackagesConfig) -> None:
    _check_ranges(packages, PACKAGES_RANGES, "service.packages.")
    for identity in packages.enabled:
        if not PACKAGE.fullmatch(identity):
            raise ConfigError(
                f"service.packages.enabled has {identity[:80]!r}, expected a name, @, and 64 digits"
            )
    if packages.enabled and packages.folder is None:
        raise ConfigError("service.packages.enabled needs service.packages.folder")


def read_token(path: Path) -> str:
    """Return the token in the first line of a file that only its owner may read.

    Raises:
        ConfigError: it cannot be read, is open to others, or holds no token.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            line = file.readline(MAX_TOKEN_NBYTES + 2).strip()
    except OSError as err:
        raise ConfigError(f"token file {path} cannot be read: {err.strerror}") from err
    if mode & 0o077:
        raise ConfigError(f"token file {path} has mode {mode:04o}, not 0600")
    if not TOKEN.fullmatch(line):
        raise ConfigError(f"token file {path} does not begin with a line of 16 to 256 characters")
    return line.decode()


def _check_ranges(section: Any, ranges: Mapping[str, tuple[float, float]], place: str) -> None:
    for name, (low, high) in ranges.items():
        value = getattr(section, name)
        if not low <= value <= high:
            raise ConfigError(f"{place}{name} is {value}, expected {low:g} to {high:g}")


def is_loopback(host: str) -> bool:
    """Say whether nobody beyond this machine reaches an address to listen on."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
