"""The commands that speak to a query manager: submit, queries, results, plan, stop."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vdag.cli.cloud import Cloud, Token, Url
from vdag.errors import ConfigError
from vdag.graph import Graph
from vdag.tasks.naming import label

__all__ = ["console", "outcome", "plan", "queries", "results", "shortfall", "stop", "submit"]

DEFAULT_URL = "http://127.0.0.1:5000"
#: Columns of a table that nobody looks at.
WIDE = 240
#: Ends a stream of results.
END = "end"

Query = Annotated[str, typer.Argument(metavar="QUERY", help="Its id, such as GLOBAL_ID_1.")]


def submit(
    graph: Annotated[
        str, typer.Argument(help="A JSON file with a dag, or task names with commas between.")
    ],
    node: Annotated[str, typer.Option(help="The node that has the video, IP:PORT.")],
    video: Annotated[int, typer.Option(help="Which of its videos.")] = 0,
    delay: Annotated[
        float | None, typer.Option(help="Seconds from a frame to its result, at most.")
    ] = None,
    accuracy: Annotated[float | None, typer.Option(help="0 to 1, at least.")] = None,
    policy: Annotated[
        str, typer.Option(help="Who plans: a name, module:function or FILE.py:function.")
    ] = "",
    plan: Annotated[
        Path | None, typer.Option(help="JSON with video_conf and flow_mapping, kept to.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Print the results.")] = False,
    url: Url = DEFAULT_URL,
    token_file: Token = None,
) -> None:
    """Submit a query, and print its id."""
    cloud = Cloud(url, token_file)
    dag = Graph.load(graph) if graph.endswith(".json") else Graph.chain(*graph.split(","))
    constraint = {"delay": delay, "accuracy": accuracy}
    reply = cloud.post(
        "/query/submit_query",
        {
            "node_addr": node,
            "video_id": video,
            "pipeline": list(dag.tasks),
            "dag": dag.to_dag(),
            "user_constraint": {k: v for k, v in constraint.items() if v is not None},
            "policy": policy or ("static" if plan is not None else ""),
            **({} if plan is None else {"plan": _read_plan(plan)}),
        },
    )
    if reply.get("status"):
        raise ConfigError(str(reply.get("error", reply)))
    print(reply["query_id"], flush=True)
    if follow:
        _follow(cloud, reply["query_id"], after=0, as_json=False)


def queries(
    live: Annotated[bool, typer.Option("--live", help="Only those that are not over.")] = False,
    limit: Annotated[int, typer.Option(help="At most so many, the newest.")] = 100,
    url: Url = DEFAULT_URL,
    token_file: Token = None,
) -> None:
    """List the queries."""
    state = "live" if live else "all"
    found = Cloud(url, token_file).get("/query/list", limit=limit, state=state)["queries"]
    table = Table(box=None)
    for title in ("query", "state", "video", "tasks", "constraint", "policy", "plan"):
        table.add_column(title, overflow="fold")
    for each in found:
        table.add_row(
            *map(
                Text,
                (
                    each["query_id"],
                    outcome(each),
                    f"{each['node_addr']}/{each['video_id']}",
                    ",".join(map(label, each["pipeline"])),
                    _wanted(each["user_constraint"]),
                    each["policy"],
                    str(each["plan_number"] or ""),
                ),
            )
        )
    console().print(table)


def results(
    query: Query,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until it is over.")] = False,
    after: Annotated[
        int | None, typer.Option(help="Those that follow this n_loop; 0 for all.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON per frame.")] = False,
    url: Url = DEFAULT_URL,
    token_file: Token = None,
) -> None:
    """Print what was found, a line per frame."""
    cloud = Cloud(url, token_file)
    if follow:
        _follow(cloud, query, after=after, as_json=as_json)
        return
    for frame in _stored(cloud, query, after):
        _print(frame, as_json=as_json)


def plan(
    query: Query,
    history: Annotated[int, typer.Option(help="Plans before it, with their causes.")] = 0,
    url: Url = DEFAULT_URL,
    token_file: Token = None,
) -> None:
    """Print the present plan of a query."""
    found = Cloud(url, token_file).get(f"/query/get_plan/{query}", history=history or None)
    if found["video_conf"] is None:
        print(f"{query} has no plan yet")
        return
    for each in found.pop("history", None) or [found]:
        cause = f"  {each['cause']}" if "cause" in each else ""
        print(f"plan {each['number']}: {_conf(each['video_conf'])}{cause}")
        if isinstance(bound := each.get("bound"), Mapping):
            print(f"  {shortfall(bound)}")
        for task, place in each["flow_mapping"].items():
            node = place.get("node_addr") or place["node_ip"]
            print(f"  {label(task)}: {place['node_role']} {node}, model {place['model_id']}")


def stop(
    query: Query,
    delete: Annotated[bool, typer.Option("--delete", help="Forget its results too.")] = False,
    url: Url = DEFAULT_URL,
    token_file: Token = None,
) -> None:
    """End a query; its results stay."""
    cloud = Cloud(url, token_file)
    if delete:
        reply = cloud.delete(f"/query/{query}")
    else:
        reply = cloud.post("/query/stop", {"query_id": query})
    print(reply["msg"])


def console() -> Console:
    """Return a console for tables, which are not folded where a program reads them."""
    found = Console()
    return found if found.is_terminal or "COLUMNS" in os.environ else Console(width=WIDE)


def shortfall(bound: Mapping[str, Any]) -> str:
    """Say which bound of a query cannot be kept, and what is the best there is."""
    limit, best = (
        f"{value:.3g}" if isinstance(value := bound.get(name), (int, float)) else "?"
        for name in ("limit", "best")
    )
    return f"{bound.get('what')} of {limit} cannot be kept: the best there is is {best}"


def outcome(listed: Mapping[str, Any]) -> str:
    """Return the state of a listed query in words."""
    state = str(listed["state_name"])
    if listed["suspended"]:
        state = f"{state}, node away"
    # A fault that is long past is recorded too: it tells something where there is no plan yet.
    reason = listed["reason"] or (listed["fault"] if listed["plan_number"] is None else "")
    return f"{state}: {reason}" if reason else state


def _stored(cloud: Cloud, query: str, after: int | None) -> Iterator[Mapping[str, Any]]:
    """Yield the results there are, from a frame on, or the newest."""
    while True:
        found = cloud.get(f"/query/get_result/{query}", after=after)
        frames: Sequence[Mapping[str, Any]] = (found or {}).get("appended_result", ())
        yield from frames
        if after is None or not frames:
            return
        after = int(frames[-1]["n_loop"])


def _follow(cloud: Cloud, query: str, *, after: int | None, as_json: bool) -> None:
    for name, data in cloud.events(f"/query/stream/{query}", after=after):
        if name == END:
            print(f"{query} has ended: {data.get('reason', '')}", file=sys.stderr)
            return
        if name == "gap":
            print(f"frames before {data.get('n_loop', '?')} are kept no more", file=sys.stderr)
        else:
            _print(data, as_json=as_json)


def _print(frame: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(frame, ensure_ascii=False), flush=True)
        return
    # Nodes of other makes leave out whatever they do not know.
    frame_id, delay = frame.get("frame_id"), frame.get("delay")
    counts = " ".join(f"{name}={n}" for name, n in (frame.get("count_result") or {}).items())
    delays = ", ".join(f"{label(task)} {s * 1e3:.0f}" for task, s in _task_delays(frame).items())
    print(
        f"frame {'?' if frame_id is None else f'{frame_id:.0f}'}  plan {frame.get('plan', '?')}  "
        f"delay {'?' if delay is None else f'{delay * 1e3:.0f}'} ms ({delays})  {counts}",
        flush=True,
    )


def _task_delays(frame: Mapping[str, Any]) -> dict[str, float]:
    """Return the seconds that each task took for this frame, waiting and travel included."""
    infos = (frame.get("ext_runtime") or {}).get("proc_resource_info")
    if not isinstance(infos, Mapping):
        return {}
    seconds = {
        task: info.get("all_latency") for task, info in infos.items() if isinstance(info, Mapping)
    }
    return {task: found for task, found in seconds.items() if isinstance(found, (int, float))}


def _read_plan(path: Path) -> Any:
    try:
        found = json.loads(path.read_text())
    except OSError as err:
        raise ConfigError(f"plan {path} cannot be read: {err.strerror}") from err
    except ValueError as err:
        raise ConfigError(f"plan {path} is not JSON: {err}") from err
    if not isinstance(found, dict):
        raise ConfigError(f"plan {path} is not an object with video_conf and flow_mapping")
    return found


def _conf(conf: Mapping[str, Any]) -> str:
    return f"{conf['resolution']}, {conf['fps']} fps, {conf['encoder']}"


def _wanted(constraint: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in constraint.items() if v is not None)
