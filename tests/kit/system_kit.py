"""A whole system on hosts of its own: `vdag-node`s in network namespaces, and somebody who asks."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import psutil
from hosts_kit import Hosts, Loopback
from node_kit import MAIN, ROOT, Reply, is_over
from waiting_kit import until as look_until

from vdag.transport.keys import KeyFolder

T = TypeVar("T")

TOKEN = "correct-horse-battery"
TIMEOUT_S = 120.0
CHANNEL, LANDING = 5010, 5020
Document = dict[str, Any]


def until(found: Callable[[], T | None], timeout_s: float = TIMEOUT_S) -> T:
    """See `waiting_kit`; what a whole system does takes longer, and each look is a request."""
    return look_until(found, timeout_s, pause_s=0.02)


class _Connection(http.client.HTTPConnection):
    """From one of the hosts."""

    def __init__(self, hosts: Hosts | Loopback, side: int, host: str, port: int) -> None:
        super().__init__(host, port, timeout=TIMEOUT_S)
        self._dial = lambda: hosts.connect(side, host, port, TIMEOUT_S)

    def connect(self) -> None:
        self.sock = self._dial()
        # As the class does: a body must not wait for the receipt of its head.
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Asker:
    """Asks an app of a node, from the node's own host; anew if the connection has ended."""

    def __init__(self, hosts: Hosts | Loopback, side: int, port: int) -> None:
        self._open = lambda: _Connection(hosts, side, hosts.addresses[side], port)
        self._connection = self._open()

    def ask(self, method: str, path: str, content: Any = None) -> Reply:
        try:
            return self._ask(method, path, content)
        except (OSError, http.client.HTTPException):
            self.close()
            self._connection = self._open()
            if method != "GET":
                raise
            return self._ask(method, path, content)  # the node was started anew

    def _ask(self, method: str, path: str, content: Any) -> Reply:
        body = None if content is None else json.dumps(content).encode()
        headers = {"content-type": "application/json", "authorization": f"Bearer {TOKEN}"}
        if is_over(self._connection):
            self._connection.close()
        self._connection.request(method, path, body, headers)
        response = self._connection.getresponse()
        return Reply(response.status, {}, response.read())

    def get(self, path: str) -> Any:
        reply = self.ask("GET", path)
        assert reply.status == 200, reply.body
        return reply.json()

    def post(self, path: str, content: Document) -> Any:
        reply = self.ask("POST", path, content)
        assert reply.status == 200, reply.body
        return reply.json()

    def close(self) -> None:
        self._connection.close()


class Node:
    """A `vdag-node` on one of the hosts, which can be killed and started again.

    Args:
        hosts: that it is on one of.
        side: which.
        name: of the node and its keys.
        folder: of its state and its keys.
        settings: its sections.
    """

    def __init__(
        self,
        hosts: Hosts | Loopback,
        side: int,
        name: str,
        folder: Path,
        settings: Mapping[str, Document],
    ) -> None:
        self.hosts, self.side, self.name = hosts, side, name
        self.address = hosts.addresses[side]
        self.log: list[str] = []
        self._heard = threading.Condition()
        self._stamps: list[int] = []
        self._run = Path(tempfile.mkdtemp(prefix="vy-"))  # short: paths of sockets are
        self._port = 5001 if "edge" in settings["node"]["roles"] else 5500
        self._config = folder / "node.toml"
        own = {"name": name, "folder": str(self._run / "n"), "state": str(folder / "state")}
        self._config.write_text(_toml({**settings, "node": {**own, **settings["node"]}}))
        self._stack = ExitStack()

    @property
    def node_addr(self) -> str:
        """What names it to others."""
        return f"{self.address}:{self._port}"

    def start(self) -> None:
        """Start it, and wait until it serves."""
        mark = len(self.log)
        command = (sys.executable, "-c", MAIN, "-v", "--config", str(self._config))
        self.process = self._stack.enter_context(
            self.hosts.process(self.side, *command, cwd=ROOT, stderr=subprocess.PIPE)
        )
        reader = threading.Thread(target=self._read, args=(self.process,))
        reader.start()
        self._stack.callback(reader.join, TIMEOUT_S)
        self._stack.callback(self.process.kill)  # its output ends with it
        self.wait_for(r" at http://", mark)

    def wait_for(
        self, pattern: str, mark: int = 0, timeout_s: float = TIMEOUT_S
    ) -> tuple[int, str]:
        """Wait for a line of its log, from the line `mark` on; return when it came, and the line.

        The moment is `time.monotonic_ns()` when it was read here, and so never too early.
        """
        deadline_s, at = time.monotonic() + timeout_s, mark
        with self._heard:
            while True:
                for number in range(at, len(self.log)):
                    if re.search(pattern, self.log[number]):
                        return self._stamps[number], self.log[number]
                at = len(self.log)
                left_s = deadline_s - time.monotonic()
                assert self._heard.wait_for(lambda at=at: len(self.log) > at, max(left_s, 0)), (
                    f"{self.name} has not logged {pattern!r}:\n{''.join(self.log[-40:])}"
                )

    def workers(self) -> set[int]:
        """Return the ids of its worker processes."""
        return {child.pid for child in psutil.Process(self.process.pid).children(recursive=True)}

    def asker(self, port: int) -> Asker:
        asker = Asker(self.hosts, self.side, port)
        self._stack.callback(asker.close)
        return asker

    def kill(self) -> float:
        """Kill it, as the loss of its power would, and its workers with it; return when."""
        workers = psutil.Process(self.process.pid).children(recursive=True)
        killed_s = time.monotonic()
        self.process.kill()
        self.process.wait(TIMEOUT_S)
        psutil.wait_procs(workers, TIMEOUT_S)
        return killed_s

    def stop(self) -> int:
        """End it in good order."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(TIMEOUT_S)

    def close(self) -> None:
        self._stack.close()
        shutil.rmtree(self._run, ignore_errors=True)

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            with self._heard:
                self._stamps.append(time.monotonic_ns())
                self.log.append(line)
                self._heard.notify_all()
        process.stderr.close()


class System:
    """A cloud and edges, each on its own host; all trust each other, all want the token.

    Args:
        hosts: as many as there are edges, and one.
        folder: for what they write.
        modules: file with the tasks.
        tasks: by the name of the node, those that it does; the others have all roles but `cloud`.
        videos: by the name of the node; nodes without videos are of role `service` alone.
        cloud: more settings of the cloud, `edge`: of the nodes with videos.

    Attributes:
        nodes: by name; the cloud is `cloud`.
    """

    def __init__(
        self,
        hosts: Hosts | Loopback,
        folder: Path,
        *,
        modules: Path,
        tasks: Mapping[str, Sequence[str]],
        videos: Mapping[str, Mapping[str, Document]],
        slots: str = "[[640, 480, 32]]",
        cloud: Document | None = None,
        edge: Document | None = None,
    ) -> None:
        names = list(tasks)
        token = folder / "token"
        token.write_text(TOKEN)
        token.chmod(0o600)
        keys = make_keys(folder, names)
        where = {name: hosts.addresses[side] for side, name in enumerate(names)}
        self.nodes: dict[str, Node] = {}
        for side, name in enumerate(names):
            door = {"host": where[name], "token_file": str(token)}
            is_cloud, has_videos = name == "cloud", name in videos
            roles = ["service", *["cloud"] * is_cloud, *["edge"] * has_videos]
            settings: dict[str, Document] = {
                "node": {
                    "roles": roles,
                    "role": "cloud" if is_cloud else "edge",
                    "keys": str(keys[name]),
                    "landing": f"tcp://{where[name]}:{LANDING}",
                    "limits": "rlimit",
                },
                "service": {
                    **door,
                    "modules": [str(modules)],
                    "tasks": {task: {} for task in tasks[name]},
                    "slots": json.loads(slots),
                },
            }
            if is_cloud:
                channel = f"tcp://{where[name]}:{CHANNEL}"
                settings["cloud"] = {**door, "channel": channel, **(cloud or {})}
            else:
                settings["node"]["controller"] = f"tcp://{where['cloud']}:{CHANNEL}"
            if has_videos:
                settings["edge"] = {**door, **(edge or {}), "videos": dict(videos[name])}
            self.nodes[name] = Node(hosts, side, name, folder / name, settings)

    def __enter__(self) -> System:
        with ExitStack() as stack:
            for name in sorted(self.nodes, key=lambda name: name != "cloud"):
                stack.callback(self.nodes[name].close)
            with ThreadPoolExecutor(len(self.nodes)) as pool:
                list(pool.map(Node.start, self.nodes.values()))
            self.cloud = self.nodes["cloud"].asker(5000)
            self._service = self.nodes["cloud"].asker(5500)
            until(lambda: self.alive() == set(self.nodes))
            self._stack = stack.pop_all()
        return self

    def end_well(self) -> None:
        """Stop every node; each ends as it should, and has not stumbled before."""
        for name, node in self.nodes.items():
            assert node.stop() == 0, "".join(node.log)
            assert "Traceback" not in "".join(node.log), name

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def alive(self) -> set[str]:
        """Return the names of the nodes that the cloud says are there."""
        found = self._service.get("/get_cluster_info")
        return {name for name, node in self.nodes.items() if node.address in found}

    # Queries, as their users see them.

    def place(self, **tasks: str) -> dict[str, Document]:
        """Return a `flow_mapping`: task to the name of a node."""
        return {
            task: {
                "model_id": 0,
                "node_role": "cloud" if name == "cloud" else "edge",
                "node_ip": self.nodes[name].address,
            }
            for task, name in tasks.items()
        }

    def submit(self, node: str, video: int, tasks: Sequence[str], **more: Any) -> str:
        """Submit a query about a video of a node, and return its id."""
        order = {
            "node_addr": self.nodes[node].node_addr,
            "video_id": video,
            "pipeline": list(tasks),
            "user_constraint": {"delay": 1.0},
            **more,
        }
        reply = self.cloud.post("/query/submit_query", order)
        assert reply["status"] == 0, reply
        return str(reply["query_id"])

    def query(self, query_id: str) -> Document:
        """Return how a query stands."""
        listed = self.cloud.get("/query/list?limit=1000")["queries"]
        return next(each for each in listed if each["query_id"] == query_id)

    def wait_state(self, query_id: str, state: str) -> Document:
        """Wait until a query is in a state, and return how it stands."""

        def look() -> Document | None:
            found = self.query(query_id)
            assert found["state_name"] != "failed" or state == "failed", found
            return found if found["state_name"] == state else None

        return until(look)

    def results(self, query_id: str, after: int = 0) -> Iterator[Document]:
        """Yield the results there are that follow an `n_loop`, in the order of their numbers."""
        while True:
            found = self.cloud.get(f"/query/get_result/{query_id}?after={after}")
            frames = (found or {}).get("appended_result", ())
            yield from frames
            if not frames:
                return
            after = frames[-1]["n_loop"]

    def newest(self, query_id: str) -> Document | None:
        """Return the newest result, None before the first."""
        found = self.cloud.get(f"/query/get_result/{query_id}?limit=1")
        return found["appended_result"][-1] if found else None

    def wait_results(self, query_id: str, count: int, after: int = 0) -> Document:
        """Wait for so many results after an `n_loop`; return the newest."""

        def look() -> Document | None:
            found = self.newest(query_id)
            return found if found is not None and found["n_loop"] >= after + count else None

        return until(look)

    def wait_newest(self, query_id: str, wanted: Callable[[Document], bool]) -> Document:
        """Wait until the newest result is as wanted, and return it."""

        def look() -> Document | None:
            found = self.newest(query_id)
            return found if found is not None and wanted(found) else None

        return until(look)

    def history(self, query_id: str) -> list[Document]:
        """Return all plans of a query, oldest first."""
        return list(self.cloud.get(f"/query/get_plan/{query_id}?history=1000")["history"])

    def drops(self, query_id: str) -> dict[str, int]:
        """Return the frames lost, by reason."""
        found: dict[str, int] = self.cloud.get(f"/query/get_drops/{query_id}")["drops"]
        return found


def make_keys(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """Make the nodes' folders, with keys in them, and have all trust each other."""
    found = {}
    for name in names:
        (folder / name).mkdir(mode=0o700)
        found[name] = KeyFolder(folder / name / "keys")
    public = {name: keys.new(name).public for name, keys in found.items()}
    for name, keys in found.items():
        for other in names:
            if other != name:
                keys.trust(other, public[other])
    return {name: folder / name / "keys" for name in names}


def _toml(document: Mapping[str, Any], path: str = "") -> str:
    """Write tables of tables, with values that TOML writes as JSON does."""
    lines = [f"{key} = {json.dumps(v)}" for key, v in document.items() if not isinstance(v, dict)]
    text = (f"[{path}]\n" if path else "") + "\n".join(lines) + "\n"
    for key, value in document.items():
        if isinstance(value, dict):
            text += _toml(value, f"{path}.{key}" if path else key)
    return text
