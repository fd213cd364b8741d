"""`vdag top`: nodes, jobs and tasks at a glance, again and again."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeGuard

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from vdag.cli.cloud import Cloud, Token, Url
from vdag.cli.queries import DEFAULT_URL, console, outcome
from vdag.tasks.naming import label

__all__ = ["top"]

#: Queries that are looked into at a time, the newest.
MAX_SHOWN = 50


@dataclass(frozen=True, slots=True)
class _Seen:
    """How far a query was, and when."""

    n_loop: int
    at_s: float


class _Watch:
    """What was seen of the queries, to tell rates by."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._seen: dict[str, _Seen] = {}

    def look(self) -> Group:
        """Return the tables as they are now."""
        nodes = self._cloud.get("/node/get_all_status")["data"]
        queries = self._cloud.get("/query/list", state="live", limit=MAX_SHOWN)["queries"]
        live = {query["query_id"] for query in queries}
        return Group(_nodes(nodes, live), Text(), self._jobs(queries))

    def _jobs(self, queries: list[Mapping[str, Any]]) -> Table:
        table = _table("job", "state", "plan", "fps", "delay", "wanted", "objects", "dropped")
        for query in queries:
            uid = query["query_id"]
            runtime = self._cloud.get(f"/query/get_runtime/{uid}")
            drops = self._cloud.get(f"/query/get_drops/{uid}")["drops"]
            delay = runtime.get("delay")
            wanted = query["user_constraint"].get("delay")
            _row(
                table,
                uid,
                outcome(query),
                str(query["plan_number"] or ""),
                self._rate(uid),
                _delay(delay, wanted),
                "" if wanted is None else f"{wanted} s",
                f"{objects:.1f}" if _is_number(objects := runtime.get("obj_n")) else "",
                " ".join(f"{reason} {n}" for reason, n in drops.items()),
            )
            parts = runtime.get("plan_result") or {}
            for task in query["pipeline"]:
                _row(table, f"  {label(task)}", "", "", "", _parts(parts, task), "", "", "")
        return table

    def _rate(self, uid: str) -> str:
        """Return the frames per second since the last look."""
        found = self._cloud.get(f"/query/get_result/{uid}", limit=1)
        frames = (found or {}).get("appended_result")
        if not frames:
            return ""
        now, before = _Seen(frames[-1]["n_loop"], time.monotonic()), self._seen.get(uid)
        self._seen[uid] = now
        if before is None or now.at_s <= before.at_s:
            return ""
        return f"{(now.n_loop - before.n_loop) / (now.at_s - before.at_s):.1f}"


def top(
    interval: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.2)] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, and print it.")] = False,
    url: Url = DEFAULT_URL,
    token_file: Token = None,
) -> None:
    """Show nodes, jobs and tasks: rates, delays against constraints, frames dropped."""
    watch, screen = _Watch(Cloud(url, token_file)), console()
    if once:
        screen.print(watch.look())
        return
    with Live(watch.look(), console=screen, screen=screen.is_terminal) as live:
        while True:
            time.sleep(interval)
            live.update(watch.look())


def _nodes(nodes: Mapping[str, Mapping[str, Any]], live: Collection[str]) -> Table:
    table = _table("node", "videos", "jobs")
    for address, node in nodes.items():
        videos = ", ".join(f"{key} {video['type']}" for key, video in node["video"].items())
        jobs = (uid for uid in node.get("job_uid_list", ()) if uid in live)
        _row(table, address, videos, ", ".join(jobs))
    return table


def _delay(delay: Any, wanted: Any) -> str:
    if not _is_number(delay):
        return ""
    high = wanted[-1] if isinstance(wanted, list) and wanted else wanted
    late = _is_number(high) and 0 <= high < delay
    return f"{delay * 1e3:.0f} ms{' late' if late else ''}"


def _parts(parts: Mapping[str, Mapping[str, float]], task: str) -> str:
    """Return where the time of a task goes."""
    names = {"transfer": "transfer_delay", "queue": "queue_delay", "compute": "process_delay"}
    found = {short: parts.get(name, {}).get(task) for short, name in names.items()}
    return ", ".join(f"{k} {v * 1e3:.0f} ms" for k, v in found.items() if _is_number(v))


def _is_number(value: Any) -> TypeGuard[float]:
    """Say whether a node has measured it: those of other makes may say anything."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _table(*titles: str) -> Table:
    table = Table(box=None)
    for title in titles:
        table.add_column(title, overflow="fold")
    return table


def _row(table: Table, *cells: str) -> None:
    table.add_row(*map(Text, cells))
