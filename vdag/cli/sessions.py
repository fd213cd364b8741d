"""The commands that speak to a coordinator: `vdag session create`, `list`, `show` and so on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from vdag.cli.cloud import Cloud
from vdag.cli.queries import console
from vdag.errors import ConfigError

__all__ = ["sessions"]

DEFAULT_URL = "http://127.0.0.1:5002"
#: The coordinator answers within that, also if it is not done.
WAIT_S = 8.0

sessions = typer.Typer(help="Sessions of services on nodes, by a coordinator.")

Session = Annotated[int, typer.Argument(metavar="SESSION", help="Its number.", min=0)]
Url = Annotated[str, typer.Option("--coordinator", envvar="VDAG_COORDINATOR", help="Its address.")]
Token = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        envvar="VDAG_COORDINATOR_TOKEN_FILE",
        help="Holds the token it wants, if any.",
    ),
]


@sessions.command()
def create(
    service: Annotated[str, typer.Argument(help="Its number or its name.")],
    name: Annotated[str, typer.Option(help="For people; else that of the service.")] = "",
    algorithm: Annotated[
        str, typer.Option(help="static, greedy, min_delay, policy or policy:NAME.")
    ] = "",
    pin: Annotated[
        list[str] | None, typer.Option(help="HANDLER=NODE: a handler has to be on a node.")
    ] = None,
    start: Annotated[bool, typer.Option("--start", help="Run it when it is ready.")] = False,
    url: Url = DEFAULT_URL,
    token_file: Token = None,
) -> None:
    """Create a session, and print its number and how it stands."""
    order: dict[str, Any] = {
        "service": int(service) if service.isascii() and service.isdecimal() else service,
        "name": name,
        "algorithm": algorithm,
        "placement": dict(_pin(each) for each in pin or ()),
        "start": start,
    }
    _tell(Cloud(url, token_file).post(f"/session?wait_s={WAIT_S:g}", order))


@sessions.command("list")
def list_sessions(url: Url = DEFAULT_URL, token_file: Token = None) -> None:
    """List the sessions."""
    found = Cloud(url, token_file).get("/session")["sessions"]
    table = Table(box=None)
    for title in ("session", "name", "service", "algorithm", "nodes", "state"):
        table.add_column(title, overflow="fold")
    for each in found:
        texts = (
            str(each["session_id"]),
            each["session_name"],
            each["service_name"],
            each["algorithm"],
            ",".join(map(str, each["nodes"])),
            _outcome(each),
        )
        table.add_row(*map(Text, texts))
    console().print(table)


@sessions.command()
def show(session: Session, url: Url = DEFAULT_URL, token_file: Token = None) -> None:
    """Print how a session stands."""
    _tell(Cloud(url, token_file).get(f"/session/{session}"))


@sessions.command()
def start(session: Session, url: Url = DEFAULT_URL, token_file: Token = None) -> None:
    """Start a session that is ready."""
    _tell(Cloud(url, token_file).post(f"/session/{session}/start?wait_s={WAIT_S:g}", {}))


@sessions.command()
def stop(session: Session, url: Url = DEFAULT_URL, token_file: Token = None) -> None:
    """Stop a session; it cannot be started again."""
    _tell(Cloud(url, token_file).post(f"/session/{session}/stop?wait_s={WAIT_S:g}", {}))


@sessions.command()
def delete(session: Session, url: Url = DEFAULT_URL, token_file: Token = None) -> None:
    """Have the nodes forget a session, stopped first if need be; what was recorded stays."""
    _tell(Cloud(url, token_file).delete(f"/session/{session}?wait_s={WAIT_S:g}"))


@sessions.command()
def placement(session: Session, url: Url = DEFAULT_URL, token_file: Token = None) -> None:
    """Print where the handlers of a session are, what that comes to, and why."""
    cloud = Cloud(url, token_file)
    found = cloud.get(f"/session/{session}/placement")
    names = {each["node_id"]: each["node_name"] for each in cloud.get("/node")["nodes"]}
    print(f"{found['algorithm']} ({found['cause']}): {found['why']}")
    print(f"delay {_ms(found['delay_s'])} predicted, {_ms(_measured(found))} measured")
    for number, node_id in found["nodes"].items():
        parts = [part for part in found["parts"] if str(part["handler_id"]) == number]
        print(f"  handler {number}: {_node(node_id, names)}{_parts(parts)}")
    for each in found["overloads"]:
        print(f"  overload: {each}")
    for each in found["alternatives"]:
        print(
            f"  else handler {each['handler_id']} on {_node(each['node_id'], names)}: "
            f"{_ms(each['delay_s'])}, {each['why']}"
        )


def _tell(found: Mapping[str, Any]) -> None:
    print(f"session {found['session_id']} {found['session_name']}: {_outcome(found)}")


def _outcome(found: Mapping[str, Any]) -> str:
    state = f"{found['state']}, moving" if found["is_moving"] else str(found["state"])
    return f"{state}: {found['reason']}" if found["reason"] else state


def _pin(text: str) -> tuple[str, int]:
    handler, _, node = text.partition("=")
    if not all(each.isascii() and each.isdecimal() for each in (handler, node)):
        raise ConfigError(f"pin {text[:80]!r} is not HANDLER=NODE, two numbers")
    return str(int(handler)), int(node)


def _node(node_id: int, names: Mapping[int, str]) -> str:
    return f"node {node_id} {names.get(node_id, '')}".rstrip()


def _parts(parts: Sequence[Mapping[str, Any]]) -> str:
    texts = [f"{part['what']} {_ms(part['seconds'])}" for part in parts if part["seconds"]]
    return f" ({', '.join(texts)})" if texts else ""


def _measured(found: Mapping[str, Any]) -> float | None:
    value = found["measured"].get("delay_s")
    return value if isinstance(value, (int, float)) else None


def _ms(seconds: float | None) -> str:
    return "none" if seconds is None else f"{seconds * 1e3:.1f} ms"
