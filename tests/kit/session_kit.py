"""`vdag coordinator` and its nodes, on hosts of their own."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hosts_kit import Hosts, Loopback
from node_kit import ROOT
from system_kit import CHANNEL, LANDING, TOKEN, Asker, Document, Node, make_keys, until

PORT = 5002
#: Within which a session is placed anew, on a machine that has much to do.
PLACING_S = 60.0
#: Under this name nodes trust whoever they join.
COORDINATOR = "cloud"


class Theatre:
    """A coordinator on the first host, and a node on each; all trust each other.

    Args:
        hosts: as many as there are nodes.
        folder: for what they write.
        names: of the nodes, numbered from 1.
        modules: file with a task of the nodes' own.
        videos: by the name of the node.
        services: documents of the service files.
        kinds: by the name of the node, the handler types it may get; others may get all.

    Attributes:
        nodes: by name.
        log: what the coordinator has logged.
    """

    def __init__(
        self,
        hosts: Hosts | Loopback,
        folder: Path,
        names: Sequence[str],
        *,
        modules: Path,
        videos: Mapping[str, Mapping[str, Document]],
        services: Sequence[Document],
        kinds: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self._hosts, self._folder = hosts, folder
        self.log: list[str] = []
        token = folder / "token"
        token.write_text(TOKEN)
        token.chmod(0o600)
        keys = make_keys(folder, [COORDINATOR, *names])
        channel = f"tcp://{hosts.addresses[0]}:{CHANNEL}"
        self.nodes: dict[str, Node] = {}
        for side, name in enumerate(names):
            host = hosts.addresses[side]
            door = {"host": host, "token_file": str(token)}
            settings: dict[str, Document] = {
                "node": {
                    "roles": ["service", "edge"] if name in videos else ["service"],
                    "role": "edge" if name in videos else "cloud",
                    "keys": str(keys[name]),
                    "landing": f"tcp://{host}:{LANDING}",
                    "limits": "rlimit",
                    "controller": channel,
                },
                "service": {
                    **door,
                    "modules": [str(modules)],
                    "tasks": {"levels": {}},
                    "slots": [[640, 480, 32]],
                },
            }
            if name in videos:
                settings["edge"] = {**door, "videos": dict(videos[name])}
            self.nodes[name] = Node(hosts, side, name, folder / name, settings)
            document = {
                "node_id": side + 1,
                "node_name": name,
                "node_type": "client" if name in videos else "server",
                "node_addr": host,
                "node_port": 9000,
                "speaks": "vdag",
                **({"handlers": list(kinds[name])} if kinds and name in kinds else {}),
            }
            _write(folder / "nodes", f"{name}.json", document)
        for document in services:
            _write(folder / "services", f"{document['service_id']}.json", document)
        (folder / "handlers").mkdir()
        self._conf = folder / "coordinator.conf"
        self._conf.write_text(
            f"[coordinator]\nnode_path = {folder / 'nodes'}\n"
            f"handler_type_path = {folder / 'handlers'}\n"
            f"service_type_path = {folder / 'services'}\n"
            f"coordinator_addr = {hosts.addresses[0]}\ncoordinator_port = {PORT}\n"
            f"token_file = {token}\nchannel = {channel}\nkeys_path = {keys[COORDINATOR]}\n"
            f"[database]\ndb_url = {self.database}\n"
        )

    @property
    def database(self) -> Path:
        return self._folder / "records.db"

    def __enter__(self) -> Theatre:
        with ExitStack() as stack:
            for node in self.nodes.values():
                stack.callback(node.close)
            self._processes = stack.enter_context(ExitStack())
            self.start()
            with ThreadPoolExecutor(len(self.nodes)) as pool:
                list(pool.map(Node.start, self.nodes.values()))
            self.asker = Asker(self._hosts, 0, PORT)
            stack.callback(self.asker.close)
            until(lambda: all(each["is_there"] for each in self.asker.get("/node")["nodes"]))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        for process in (self.process, *(node.process for node in self.nodes.values())):
            process.kill()  # whoever wants to see a good end has stopped it before
        self._stack.close()

    def start(self) -> None:
        """Start the coordinator, and wait until it listens."""
        command = (sys.executable, "-m", "vdag", "-v", "coordinator", str(self._conf))
        self.process = self._processes.enter_context(
            self._hosts.process(0, *command, cwd=ROOT, stderr=subprocess.PIPE)
        )
        listening = threading.Event()
        reader = threading.Thread(target=self._read, args=(self.process, listening))
        reader.start()
        self._processes.callback(reader.join, 60.0)
        assert listening.wait(60.0), "".join(self.log)
        assert self.process.poll() is None, "".join(self.log)

    def stop(self) -> int:
        """End the coordinator in good order."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60.0)

    def kill(self) -> None:
        """Kill the coordinator."""
        self.process.kill()
        self.process.wait(60.0)

    def session(self, session: int) -> Document:
        found: Document = self.asker.get(f"/session/{session}")
        return found

    def placement(self, session: int) -> Document:
        found: Document = self.asker.get(f"/session/{session}/placement")
        return found

    def wait_placed(self, session: int, wanted: Callable[[Document], Any]) -> Document:
        """Wait until a session is placed as wanted, and return how it is."""
        deadline_s, pause = time.monotonic() + PLACING_S, threading.Event()
        while not wanted(found := self.placement(session)):
            late = time.monotonic() >= deadline_s
            assert not late, f"{self.session(session)} {found['cause']}\n{''.join(self.log[-60:])}"
            pause.wait(0.02)
        return found

    def wait(self, session: int, wanted: Callable[[Document], Any]) -> Document:
        """Wait until a session stands as wanted, and return how it does."""

        def look() -> Document | None:
            found = self.session(session)
            assert found["state"] != "failed" or wanted(found), (found, self.log[-40:])
            return found if wanted(found) else None

        return until(look)

    def _read(self, process: subprocess.Popen[str], listening: threading.Event) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            self.log.append(line)
            if re.search(r"coordinator at http://", line):
                listening.set()
        process.stderr.close()
        listening.set()


def _write(folder: Path, name: str, document: Document) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(document))
