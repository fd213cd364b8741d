"""A query from its submission to its end: a cloud, an edge and a service in one daemon.

    python tools/demo.py CLIP OUT.mp4

Starts `vdag-node --role all` with the clip as its video, submits a query with a constraint, follows
the results, asks for another plan on the way, which the policy takes back at its next look at the
query, stops it, and leaves what the query saw, with what was found drawn in, as OUT.mp4.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vdag.cli.cloud import Cloud
from vdag.cli.view import record
from vdag.errors import TransportError, VdagError

TASKS = ("face_detection", "face_alignment")
#: `vdag-node`, wherever it is installed.
MAIN = "from vdag.cli import node_main; node_main()"
START_TIMEOUT_S = 120.0
#: Of the results, one in so many is printed.
EVERY = 25
#: After so many results another plan is asked for, and after so many the query is stopped.
REPLAN_AT, STOP_AT = 60, 200


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@contextmanager
def daemon(clip: Path, folder: Path) -> Iterator[tuple[Cloud, Cloud, str]]:
    """Run a node with all roles; yield its query manager, its side channel and its name."""
    names = ("cloud.port", "cloud.live_port", "edge.port", "edge.live_port", "service.port")
    *ports, channel = free_ports(len(names) + 1)
    settings = {
        **dict(zip(names, map(str, ports), strict=True)),
        "cloud.channel": f"tcp://127.0.0.1:{channel}",
        "cloud.node_live_port": str(ports[3]),
        "node.state": str(folder),
        "service.tasks": "{" + ", ".join(f"{task} = {{}}" for task in TASKS) + "}",
        "edge.videos.0.path": str(clip),
        "edge.videos.0.type": "a talk in a car",
        "edge.videos.0.loop": "true",
    }
    flags = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    process = subprocess.Popen([sys.executable, "-c", MAIN, "--role", "all", *flags])
    try:
        cloud = Cloud(f"http://127.0.0.1:{ports[0]}")
        name = f"127.0.0.1:{ports[2]}"
        wait_for(cloud, name, process)
        yield cloud, Cloud(f"http://127.0.0.1:{ports[1]}"), name
    finally:
        process.terminate()
        process.wait(START_TIMEOUT_S)


def wait_for(cloud: Cloud, name: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until the node has joined its own cloud."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline_s:
        try:
            if name in cloud.get("/node/get_video_info"):
                return
        except TransportError:
            pass  # it is still loading its models
        time.sleep(0.1)
    raise TransportError("the daemon did not start")


def follow(cloud: Cloud, query: str) -> int:
    """Print results and plans as they come; return how many results there were."""
    count, plan = 0, 0
    for name, frame in cloud.events(f"/query/stream/{query}", after=0):
        if name != "result":
            print(f"  {frame.get('state_name', name)}: {frame.get('reason', frame)}")
            continue
        count += 1
        if frame["plan"] != plan:
            plan = frame["plan"]
            show_plan(cloud, query, plan)
        if count % EVERY == 1:
            delay_ms, found = frame["delay"] * 1e3, frame["count_result"]
            print(f"  frame {frame['frame_id']:4.0f}  delay {delay_ms:4.0f} ms  {found}")
        if count == REPLAN_AT:
            conf = {"resolution": "480p", "fps": 10, "encoder": "JPEG"}
            cloud.post("/query/update_prev_plan", {"job_uid": query, "video_conf": conf})
        elif count == STOP_AT:
            cloud.post("/query/stop", {"query_id": query})
    return count


def show_plan(cloud: Cloud, query: str, number: int) -> None:
    """Print a plan with its cause."""
    plans = cloud.get(f"/query/get_plan/{query}", history=10).get("history", [])
    for plan in plans:
        if plan["number"] == number:
            conf = plan["video_conf"]
            print(
                f"  plan {number} ({plan['cause']}): "
                f"{conf['resolution']}, {conf['fps']:g} fps, {conf['encoder']}"
            )


def main(clip: str, output: str) -> int:
    """Run the demo."""
    with tempfile.TemporaryDirectory(prefix="vdag-demo-") as folder:
        print("starting vdag-node --role all ...", flush=True)
        with daemon(Path(clip).absolute(), Path(folder)) as (cloud, side, node):
            query = cloud.post(
                "/query/submit_query",
                {
                    "node_addr": node,
                    "video_id": 0,
                    "pipeline": list(TASKS),
                    "user_constraint": {"delay": 0.3, "accuracy": 0.9},
                },
            )["query_id"]
            print(f"submitted {query}: {', '.join(TASKS)} within 0.3 s")
            taken: list[int | VdagError] = []
            recorder = threading.Thread(target=keep, args=(side, query, output, taken))
            recorder.start()
            count = follow(cloud, query)
            recorder.join(START_TIMEOUT_S)
            drops = cloud.get(f"/query/get_drops/{query}")["drops"]
    print(f"{count} results; frames not processed: {drops or 'none'}")
    if not taken or isinstance(taken[0], VdagError):
        print(f"no pictures: {taken}", file=sys.stderr)
        return 1
    print(f"{taken[0]} pictures in {output}")
    return 0 if count else 1


def keep(side: Cloud, query: str, output: str, taken: list[int | VdagError]) -> None:
    """Record what the query sees, from when there is something to see."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            taken.append(record(side, query, output))
            return
        except TransportError as err:
            if time.monotonic() > deadline_s:
                taken.append(err)
                return
            time.sleep(0.05)
        except VdagError as err:
            taken.append(err)
            return


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
