"""Settings of a node: defaults, then a TOML file, then the environment, then flags.

    [node]                      VDAG_NODE_NAME=...         --set node.name=...
    name = "gate-3"
    role = "edge"

    [service]                   VDAG_SERVICE_PORT=5500     --set service.port=5500
    port = 5500

    [service.tasks.face_detection]
    workers = 2

A value from the environment or a flag is TOML; what is not TOML is taken as text. Nobody else's
variables are touched: those that begin with `VDAG_NODE_` or `VDAG_SERVICE_` must be settings.
"""

from __future__ import annotations

import ipaddress
import os
import re
import stat
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from vdag.errors import ConfigError
from vdag.tasks import TaskOptions
from vdag.transport.flow import Policy

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "Config",
    "NodeConfig",
    "ServiceConfig",
    "TaskConfig",
    "is_loopback",
    "load_config",
]

MAX_FILE_NBYTES = 1 << 20
PREFIX = "VDAG_"
MAX_TOKEN_NBYTES = 256
#: What a header can carry: visible characters.
TOKEN = re.compile(rb"[!-~]{16,256}")
#: The documents' tasks, in their order.
TASKS = ("face_detection", "face_alignment", "car_detection", "helmet_detection")


@dataclass(frozen=True, slots=True)
class TaskConfig:
    """One task that a node offers.

    Attributes:
        workers: processes to start with.
        model_id: 0 large, 1 medium, 2 small.
        device: `auto`, `cpu`, `cuda` or `cuda:<n>`.
        engine: what runs the model.
        threads: of the engine, for one call.
        card: a model card of the operator's own.
        max_batch: most frames at once.
        queue: most frames that wait.
        policy: what happens to frames that wait, see `Flow.open_task`.
    """

    workers: int = 1
    model_id: int = 0
    device: str = "auto"
    engine: str = "onnx"
    threads: int = 1
    card: Path | None = None
    max_batch: int = 32
    queue: int = 64
    policy: Policy = "fifo"

    @property
    def options(self) -> TaskOptions:
        """How its workers load it."""
        return TaskOptions(self.model_id, self.device, self.engine, self.threads, self.card)


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """The compute service.

    Attributes:
        host: address to listen on; beyond loopback only with a token.
        port: 0 for any free one.
        token: callers must show it as `Authorization: Bearer <token>`; empty for none.
        token_file: holds the token in its first line; only its owner may read it.
        tasks: by name, in the order they are listed.
        modules: Python files that register tasks of the operator's own.
        models: folder of model cards that `add_work_process` may name as `weights`.
        slots: width, height and number of the pictures that shared memory holds.
        max_body_nbytes: of one request.
        max_bodies_nbytes: of all requests together.
        max_pixels: of one picture.
        max_pictures: of one request.
        max_in_flight: pieces of work under way.
        deadline_s: for the answer to a request; callers may ask for less.
        cors: answer browsers of any origin, as the documents do.
    """

    host: str = "127.0.0.1"
    port: int = 5500
    token: str = field(default="", repr=False)
    token_file: Path | None = None
    tasks: Mapping[str, TaskConfig] = field(
        default_factory=lambda: {task: TaskConfig() for task in TASKS}
    )
    modules: tuple[Path, ...] = ()
    models: Path | None = None
    slots: tuple[tuple[int, int, int], ...] = ((1280, 720, 32), (1920, 1080, 16), (3840, 2160, 2))
    max_body_nbytes: int = 32 << 20
    max_bodies_nbytes: int = 256 << 20
    max_pixels: int = 3840 * 2160
    max_pictures: int = 256
    max_in_flight: int = 256
    deadline_s: float = 10.0
    cors: bool = True


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """The node.

    Attributes:
        name: of the node, also in that of its shared memory.
        roles: what it does: so far `service`.
        role: what it is to schedulers.
        address: under which others reach it; empty for that of the interface it listens on.
        folder: of its sockets, private; None for one under `XDG_RUNTIME_DIR` or the temporary one.
        limits: how workers are limited: by control groups, or by the weaker means.
        sample_interval_s: between looks at the machine's state.
        start_timeout_s: for workers to load their models.
    """

    name: str = "node"
    roles: tuple[str, ...] = ("service",)
    role: Literal["cloud", "edge", "host"] = "cloud"
    address: str = ""
    folder: Path | None = None
    limits: Literal["cgroup", "rlimit"] = "cgroup"
    sample_interval_s: float = 1.0
    start_timeout_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Config:
    """All settings; a section each."""

    node: NodeConfig = NodeConfig()
    service: ServiceConfig = ServiceConfig()


def load_config(
    path: Path | None = None,
    environment: Mapping[str, str] = types.MappingProxyType({}),
    flags: Mapping[str, str] = types.MappingProxyType({}),
) -> Config:
    """Read the settings, the later source before the earlier one, and check them.

    Args:
        path: a TOML file; None for none.
        environment: variables, of which those with our prefix are read.
        flags: dotted name to value, such as `service.port` to `5501`.

    Raises:
        ConfigError: the file cannot be read, or a setting is unknown, of another type or without
            meaning. The message names it.
    """
    tree: dict[str, Any] = {} if path is None else _read(path)
    for name, text in _variables(environment).items():
        _put(tree, name, text)
    for name, text in flags.items():
        _put(tree, name, text)
    _check_known(tree, Config, "")
    try:
        config = msgspec.convert(tree, Config, strict=False, dec_hook=_convert)
    except msgspec.ValidationError as err:
        raise ConfigError(_rephrase(str(err))) from err
    return _checked(config)


def is_loopback(host: str) -> bool:
    """Say whether nobody beyond this machine reaches an address to listen on."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_NBYTES + 1)
    except OSError as err:
        raise ConfigError(f"config {path} cannot be read: {err.strerror}") from err
    if len(text) > MAX_FILE_NBYTES:
        raise ConfigError(f"config {path} exceeds {MAX_FILE_NBYTES} bytes")
    try:
        document: dict[str, Any] = tomllib.loads(text.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as err:
        raise ConfigError(f"config {path} is not TOML: {err}") from err
    return document


def _variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return our variables by the dotted names of their settings."""
    found = {}
    for section in fields(Config):
        prefix = f"{PREFIX}{section.name.upper()}_"
        for name, text in environment.items():
            if name.startswith(prefix):
                found[f"{section.name}.{name.removeprefix(prefix).lower()}"] = text
    return found


def _put(tree: dict[str, Any], name: str, text: str) -> None:
    """Set the value of a dotted name."""
    *sections, last = name.split(".")
    for section in sections:
        inner = tree.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"setting {name}: {section} is no section")
        tree = inner
    tree[last] = _value(text, _kind(name))


def _kind(name: str) -> Any:
    """Return the type of a setting by its dotted name, None if there is none."""
    kind: Any = Config
    for part in name.split("."):
        if is_dataclass(kind):
            kind = _hints(cast(type, kind)).get(part)
        elif _is_mapping(kind):
            kind = typing.get_args(kind)[1]
        else:
            return None
    return kind


def _is_mapping(kind: Any) -> bool:
    return typing.get_origin(kind) is Mapping


def _value(text: str, kind: Any) -> Any:
    if kind in (str, Path | None):
        return text
    try:
        found = tomllib.loads(f"value = {text}\n")
    except tomllib.TOMLDecodeError:
        return text
    return found["value"] if found.keys() == {"value"} else text


def _convert(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise TypeError(f"expected {kind.__name__}, got {type(value).__name__}")


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _check_known(tree: Any, kind: Any, place: str) -> None:
    """Refuse names that are no settings: a typing error must not go unnoticed."""
    if not isinstance(tree, Mapping):
        return  # of another type, which is found later
    if _is_mapping(kind):
        for name, value in tree.items():
            _check_known(value, typing.get_args(kind)[1], f"{place}{name}.")
    elif is_dataclass(kind):
        hints = _hints(cast(type, kind))
        for name, value in tree.items():
            if name not in hints:
                raise ConfigError(f"unknown setting {place}{name}")
            _check_known(value, hints[name], f"{place}{name}.")


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


def _checked(config: Config) -> Config:
    service = config.service
    _check_ranges(service, RANGES, "service.")
    if not service.tasks:
        raise ConfigError("service.tasks is empty")
    for name, task in service.tasks.items():
        _check_ranges(task, TASK_RANGES, f"service.tasks.{name}.")
    if not service.slots or any(value < 1 for slot in service.slots for value in slot):
        raise ConfigError("service.slots is not a list of widths, heights and numbers above 0")
    if unknown := set(config.node.roles) - {"service"}:
        raise ConfigError(f"node.roles has {min(unknown)!r}, expected service")
    if service.token_file is not None:
        service = replace(service, token=_read_token(service.token_file))
    if service.token and not TOKEN.fullmatch(service.token.encode()):
        raise ConfigError("service.token is not 16 to 256 visible characters")
    if not is_loopback(service.host) and not service.token:
        raise ConfigError(
            f"service.host {service.host} is beyond loopback: set service.token_file, so that "
            "callers have to show a token"
        )
    return Config(config.node, service)


def _read_token(path: Path) -> str:
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


def _rephrase(message: str) -> str:
    """Turn msgspec's "Expected `int`, got `str` - at `$.node.name`" into this package's words."""
    text, _, place = message.partition(" - at ")
    text = (text[:1].lower() + text[1:]).replace("`", "")
    place = place.strip("`").removeprefix("$").removeprefix(".")
    return f"setting {place}: {text}" if place else text
