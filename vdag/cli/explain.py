"""`vdag explain`: why a query has the plan it has, what else there was, and what became of it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from vdag.cli.cloud import Cloud, Token, Url
from vdag.cli.queries import DEFAULT_URL, Query, console, shortfall
from vdag.tasks.naming import label

__all__ = ["explain"]

Document = Mapping[str, Any]


def explain(
    query: Query,
    plans: Annotated[int, typer.Option(min=1, max=1000, help="The newest so many.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="All that is recorded.")] = False,
    url: Url = DEFAULT_URL,
    token_file: Token = None,
) -> None:
    """Say why a query has its plans: what was known, what was weighed, what was measured then."""
    found = Cloud(url, token_file).get(f"/query/explain/{query}", limit=plans)
    if as_json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return
    if not found["decisions"]:
        print(f"{query} has no plan yet")
        return
    wanted = ", ".join(f"{k} {v}" for k, v in found["user_constraint"].items() if v is not None)
    print(f"{query}: {wanted or 'no constraint'}; policy {found['policy']}")
    for decision in found["decisions"]:
        _print_decision(decision)


def _print_decision(decision: Document) -> None:
    """Print one plan: its cause, its reason, its alternatives, foretold and measured."""
    told = decision.get("explanation") or {}
    clock = time.strftime("%H:%M:%S", time.localtime(decision["at"]))
    policy = decision.get("policy")
    print(f"\nplan {decision['number']} at {clock}, {decision['cause']}" + _by(policy))
    print(f"  {_conf(decision['plan']['video_conf'])}")
    for task, place in decision["plan"]["flow_mapping"].items():
        node = place.get("node_addr") or place["node_ip"]
        print(f"  {label(task)}: {place['node_role']} {node}, model {place['model_id']}")
    if told.get("why"):
        print(f"  {told['why']}")
    if isinstance(bound := told.get("bound"), Mapping):
        print(f"  {shortfall(bound)}")
    _print_table(told, decision.get("measured") or {})


def _print_table(told: Document, measured: Document) -> None:
    """Print what was foretold beside what was measured, and the alternatives below."""
    table = Table(box=None, padding=(0, 1, 0, 2))
    for title in ("", "delay", "p95", "fps", "accuracy", ""):
        table.add_column(title, overflow="fold")
    if isinstance(predicted := told.get("predicted"), Mapping):
        table.add_row("foretold", *_figures(predicted), "")
    if reports := measured.get("reports"):
        text = f"{measured['within'] / reports:.0%} of {reports} reports in time"
        table.add_row("measured", *_figures(measured), text)
    for each in _alternatives(told):
        place = ", ".join(sorted({str(node) for node in (each.get("flow_mapping") or {}).values()}))
        what = f"{_conf(each.get('video_conf') or {})} on {place}: {each.get('verdict', '')}"
        table.add_row("or", *_figures(each.get("predicted") or {}), Text(what))
    if table.row_count:
        console().print(table)


def _alternatives(told: Document) -> Sequence[Document]:
    found = told.get("alternatives")
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


def _figures(document: Document) -> list[str]:
    return [
        _seconds(document.get("delay")),
        _seconds(document.get("delay_p95")),
        _figure(document.get("fps")),
        _figure(document.get("accuracy")),
    ]


def _seconds(value: Any) -> str:
    return f"{value * 1e3:.0f} ms" if isinstance(value, (int, float)) else ""


def _figure(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, (int, float)) else ""


def _conf(conf: Document) -> str:
    size = conf.get("resolution") or conf.get("reso") or "?"
    return f"{size}, {conf.get('fps', '?')} fps, {conf.get('encoder', '?')}"


def _by(policy: Any) -> str:
    return f", by {policy}" if policy else ""
