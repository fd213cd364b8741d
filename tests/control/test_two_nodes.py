"""Two `vdag-node`s on two hosts: each lists the other's tasks, until the way between is cut."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from channel_kit import until
from hosts_kit import TIMEOUT_S, Hosts, reason_to_skip
from node_kit import MAIN, ROOT

from vdag.transport.keys import KeyFolder

TOKEN = "correct-horse-battery"
GONE_S = 5.0
TASK = """
import vdag

@vdag.task(outputs=["brightness"])
def brightness(image):
    return {"brightness": float(image.mean())}
"""
#: Asks the service of its host whatever it is told, a line each.
ASK = """
import sys, urllib.request
for line in sys.stdin:
    request = urllib.request.Request(sys.argv[1] + line.strip())
    request.add_header("Authorization", "Bearer " + sys.argv[2])
    with urllib.request.urlopen(request, timeout=10) as reply:
        print(reply.read().decode().strip(), flush=True)
"""


class OnHost:
    """A node on one of the hosts, and somebody beside it who asks its service."""

    def __init__(
        self, stack: ExitStack, hosts: Hosts, side: int, folder: Path, *settings: str
    ) -> None:
        host = hosts.addresses[side]
        self.place = f"{host}:5500"
        values = {
            "node.state": folder / "state",
            "node.keys": folder / "keys",
            "node.folder": folder / "run",
            "service.modules": f"['{folder.parent / 'tasks.py'}']",
            "service.tasks": "{brightness = {}}",
            "service.slots": "[[64, 64, 8]]",
        }
        flags = [f"{name}={value}" for name, value in values.items()] + list(settings)
        command = [sys.executable, "-c", MAIN, "-v", "--host", host, "--port", "5500"]
        command += ["--token-file", str(folder.parent / "token")]
        command += [part for flag in flags for part in ("--set", flag)]
        self.process = stack.enter_context(
            hosts.process(side, *command, cwd=ROOT, stderr=subprocess.PIPE)
        )
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        stack.callback(self._reader.join, TIMEOUT_S)
        until(lambda: self._is_serving() or self.process.poll() is not None, TIMEOUT_S)
        assert self._is_serving(), "".join(self.log)
        self._asker = stack.enter_context(
            hosts.process(
                side, sys.executable, "-c", ASK, f"http://{self.place}", TOKEN,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )
        )  # fmt: skip

    def _is_serving(self) -> bool:
        return any(f"http://{self.place}" in line for line in self.log)

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.log.extend(self.process.stderr)

    def get(self, path: str) -> Any:
        assert self._asker.stdin is not None
        assert self._asker.stdout is not None
        self._asker.stdin.write(f"{path}\n")
        self._asker.stdin.flush()
        return json.loads(self._asker.stdout.readline())

    def places(self) -> set[str]:
        return set(self.get("/get_execute_url/brightness"))

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(TIMEOUT_S)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    if reason := reason_to_skip():
        pytest.skip(reason)
    hosts = Hosts(2)
    yield hosts
    hosts.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The task, the token, and the keys of two nodes that trust each other."""
    (tmp_path / "tasks.py").write_text(TASK)
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    keys = {}
    for name in ("cloud", "edge"):
        (tmp_path / name).mkdir(mode=0o700)
        keys[name] = KeyFolder(tmp_path / name / "keys")
    public = {name: folder.new(name).public for name, folder in keys.items()}
    keys["cloud"].trust("edge", public["edge"])
    keys["edge"].trust("cloud", public["cloud"])
    return tmp_path


@pytest.mark.slow
def test_two_nodes_list_each_other_until_one_is_cut_off(hosts: Hosts, folder: Path):
    channel = f"tcp://{hosts.addresses[0]}:5010"
    with ExitStack() as stack:
        cloud = OnHost(
            stack, hosts, 0, folder / "cloud",
            "node.roles=['cloud', 'service']", "node.role=cloud", f"cloud.channel={channel}",
        )  # fmt: skip
        edge = OnHost(
            stack, hosts, 1, folder / "edge",
            "node.role=edge", f"node.controller={channel}",
        )  # fmt: skip
        both = {cloud.place, edge.place}
        for node in (cloud, edge):
            until(lambda node=node: node.places() == both)
            info = node.get("/get_cluster_info")
            assert {host: info[host]["node_role"] for host in hosts.addresses} == {
                hosts.addresses[0]: "cloud",
                hosts.addresses[1]: "edge",
            }
            assert all(info[host]["device_state"]["cpu_ratio"] for host in hosts.addresses)
            status = node.get("/get_system_status")
            assert [list(status[role]) for role in ("cloud", "edge")] == [
                [host] for host in hosts.addresses
            ]

        hosts.cut(1)
        cut_s = time.monotonic()
        for node in (cloud, edge):
            until(lambda node=node: node.places() == {node.place})
        assert time.monotonic() - cut_s < GONE_S
        assert list(cloud.get("/get_cluster_info")) == [hosts.addresses[0]]

        hosts.mend(1)
        for node in (cloud, edge):
            until(lambda node=node: node.places() == both)
        edge.process.kill()
        killed_s = time.monotonic()
        until(lambda: cloud.places() == {cloud.place})
        assert time.monotonic() - killed_s < GONE_S
        assert cloud.stop() == 0, "".join(cloud.log)
