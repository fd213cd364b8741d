"""How a node belongs to others, by its settings."""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from channel_kit import LOOPBACK, NotedJobs, request, until, view

from vdag.config import Config, load_config
from vdag.control import wire
from vdag.control.affiliation import Affiliation, state_folder
from vdag.control.cluster import Alone, Fleet, Hearsay
from vdag.control.records import Retention
from vdag.errors import ConfigError
from vdag.transport.keys import KeyFolder

MINE = view("cloud", address="10.0.0.1")
EDGE = view("edge", address="10.0.0.2")


def settings(folder: Path, **values: str) -> Config:
    flags = {"node.state": str(folder), "cloud.channel": LOOPBACK}
    return load_config(flags=flags | {name.replace("__", "."): v for name, v in values.items()})


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_a_node_by_itself_knows_itself_and_leaves_nothing_behind(tmp_path, opened):
    node = opened.enter_context(Affiliation(settings(tmp_path / "a"), view=lambda: MINE))
    node.join("10.0.0.1:5001")
    assert isinstance(node.cluster, Alone)
    assert (node.controller, node.store, node.notebook, node.agent) == (None,) * 4
    assert list(tmp_path.iterdir()) == []


def test_a_controller_is_its_own_member_and_others_join_it(tmp_path, opened):
    cloud = opened.enter_context(
        Affiliation(settings(tmp_path / "a", node__roles="['cloud']"), view=lambda: MINE)
    )
    cloud.join("10.0.0.1:5500")
    assert cloud.controller is not None
    config = settings(tmp_path / "b", node__controller=cloud.controller.channel)
    edge = opened.enter_context(Affiliation(config, view=lambda: EDGE))
    jobs = NotedJobs()
    edge.join("10.0.0.2:5001", landing="tcp://10.0.0.2:5020", videos={0: wire.Video()}, jobs=jobs)
    assert (type(cloud.cluster), type(edge.cluster)) == (Fleet, Hearsay)
    for node in (cloud, edge):
        until(
            lambda node=node: (
                {each.address for each in node.cluster.nodes()} == {"10.0.0.1", "10.0.0.2"}
            )
        )
    query_id = cloud.controller.submit(request("10.0.0.2:5001")).result(30.0)
    assert jobs.next("submit")[1] == query_id
    assert cloud.store is not None
    assert cloud.store.query(query_id) is not None
    assert stat.S_IMODE((tmp_path / "b" / "spool").stat().st_mode) == 0o700


def test_with_keys_a_controller_trusts_itself(tmp_path, opened):
    KeyFolder(tmp_path / "keys").new("gpu-1")
    config = settings(
        tmp_path / "a", node__roles="['all']", node__keys=str(tmp_path / "keys"),
        cloud__channel="tcp://0.0.0.0:0",
    )  # fmt: skip
    node = opened.enter_context(Affiliation(config, view=lambda: MINE))
    node.join("10.0.0.1:5500")
    until(lambda: node.agent.stats().is_joined)


def test_beyond_loopback_keys_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("VDAG_KEYS", str(tmp_path / "none"))
    roles = {"node__roles": "['cloud']", "cloud__channel": "tcp://0.0.0.0:0"}
    with pytest.raises(
        ConfigError, match=r"none has no keys: make some with `vdag keys new NAME`$"
    ):
        Affiliation(settings(tmp_path / "a", **roles), view=lambda: MINE)
    config = settings(tmp_path / "b", node__controller="tcp://10.0.0.1:5010")
    with (
        Affiliation(config, view=lambda: EDGE) as node,
        pytest.raises(ConfigError, match=r"none has no keys: make some with"),
    ):
        node.join("10.0.0.2:5001")


def test_the_state_is_where_systemd_or_the_user_has_it(tmp_path, monkeypatch):
    config = load_config(flags={"node.name": "gate-3"})
    monkeypatch.setenv("STATE_DIRECTORY", f"{tmp_path / 'systemd'}:{tmp_path / 'other'}")
    assert state_folder(config) == tmp_path / "systemd" / "gate-3"
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert state_folder(config) == tmp_path / "xdg" / "vdag" / "gate-3"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = state_folder(config)
    assert folder == tmp_path / "home" / ".local" / "state" / "vdag" / "gate-3"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o755)
    with pytest.raises(ConfigError, match=r"has mode 0755, not 0700$"):
        state_folder(config)


def test_records_are_kept_as_long_as_the_settings_say(tmp_path, opened):
    ages = "{packets_s = 60, samples_s = 120, rollups_s = inf}"
    values = {"node__roles": "['cloud']", "cloud__retention": ages, "cloud__results_kept": "11"}
    node = opened.enter_context(Affiliation(settings(tmp_path / "a", **values), view=lambda: MINE))
    assert node.store._ledger.retention == Retention(
        11, packets_s=60.0, samples_s=120.0, rollups_s=math.inf
    )


def test_a_node_says_how_it_is_and_keeps_frames_in_its_folder_if_it_has_jobs(tmp_path, opened):
    config = settings(tmp_path / "a", node__controller="tcp://127.0.0.1:1")
    node = opened.enter_context(Affiliation(config, view=lambda: EDGE))
    node.join("10.0.0.2:5001", look=lambda: None)
    assert node.courier is not None
    assert not (tmp_path / "a" / "frames").exists()
    other = opened.enter_context(Affiliation(config, view=lambda: EDGE))
    other.join("10.0.0.2:5002", jobs=NotedJobs())
    assert stat.S_IMODE((tmp_path / "a" / "frames").stat().st_mode) == 0o700
    idle = opened.enter_context(Affiliation(config, view=lambda: EDGE))
    idle.join("10.0.0.2:5003")
    assert (idle.agent is None, idle.courier) == (False, None)
