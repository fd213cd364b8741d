"""What stands in `coordinator.conf`, and what is said when it does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vdag.config.conf import DatabaseConf
from vdag.control.collector.conf import read_conf as read_collector_conf
from vdag.control.coordinator.conf import read_conf
from vdag.errors import ConfigError

#: As documented.
CONF = """
[coordinator]
node_path = {folder}/nodes
handler_type_path = {folder}/handlers
service_type_path = {folder}/services

[database]
db_addr = localhost
db_port = 3306
db_user = me
db_passwd = 50%#;@/
db_schema = reports
"""
NODE = {
    "node_id": 0,
    "node_name": "client",
    "node_type": "client",
    "node_addr": "192.0.2.20",
    "node_port": 9000,
}
SERVICE = {
    "service_id": 0,
    "service_name": "local_render",
    "handlers": [
        {"handler_id": 0, "handler_name": "capture", "handler_type": 2, "params": {}},
        {"handler_id": 1, "handler_name": "render", "handler_type": 3, "params": {}},
    ],
    "links": [{"source_handler": 0, "target_handler": 1}],
}
EXAMPLES = Path(__file__).parents[3] / "config"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("nodes", "handlers", "services"):
        (tmp_path / name).mkdir()
    (tmp_path / "nodes/node-0.json").write_text(json.dumps(NODE))
    (tmp_path / "handlers/handler-0.json").write_text("")  # as the documents have it
    (tmp_path / "services/service-0.json").write_text(json.dumps(SERVICE))
    return tmp_path


def conf_of(folder: Path, text: str = CONF) -> Path:
    path = folder / "coordinator.conf"
    path.write_text(text.format(folder=folder))
    return path


def with_keys(**keys: object) -> str:
    lines = "".join(f"{name} = {value}\n" for name, value in keys.items())
    return CONF.replace("\n[database]", f"{lines}\n[database]")


def test_the_documented_conf_is_read_and_the_rest_is_as_usual(folder):
    conf = read_conf(conf_of(folder))
    assert [node.name for node in conf.nodes] == ["client"]
    assert set(conf.types) == set(range(18))
    assert [service.algorithm for service in conf.services] == ["min_delay"]
    assert conf.database == DatabaseConf("mysql", "localhost", 3306, "me", "50%#;@/", "reports")
    assert (conf.host, conf.port, conf.token) == ("127.0.0.1", 5002, "")
    assert (conf.channel, conf.keys) == ("tcp://127.0.0.1:5010", None)


def test_what_is_ours_may_be_set(folder):
    token = folder / "token"
    token.write_text("0123456789abcdef\n")
    token.chmod(0o600)
    text = with_keys(
        algorithm="greedy", coordinator_addr="0.0.0.0", coordinator_port=0, token_file=token,
        channel="tcp://192.0.2.1:5010", keys_path=folder,
    )  # fmt: skip
    conf = read_conf(conf_of(folder, text))
    assert conf.algorithm == "greedy"
    assert [service.algorithm for service in conf.services] == ["greedy"]
    assert (conf.host, conf.port, conf.token) == ("0.0.0.0", 0, "0123456789abcdef")
    assert (conf.channel, conf.keys) == ("tcp://192.0.2.1:5010", folder)
    assert "0123456789abcdef" not in repr(conf)


@pytest.mark.parametrize(
    "key",
    ["node_path", "handler_type_path", "service_type_path", "db_addr", "db_port", "db_user",
     "db_passwd", "db_schema"],
)  # fmt: skip
def test_each_missing_key_is_named(folder, key):
    text = "\n".join(line for line in CONF.splitlines() if not line.startswith(key))
    section = "database" if key.startswith("db_") else "coordinator"
    path = conf_of(folder, text)
    with pytest.raises(ConfigError) as caught:
        read_conf(path)
    assert str(caught.value) == f"conf {path}: [{section}] has no {key}"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (CONF.replace("[coordinator]", "[other]"), "conf {path} has no section [coordinator]"),
        (
            CONF.replace("{folder}/services", "/nowhere"),
            "conf {path}: [coordinator] service_type_path /nowhere is no folder",
        ),
        (
            with_keys(algorithm="best"),
            "conf {path}: [coordinator] algorithm is 'best', "
            "expected static, greedy, min_delay, policy or policy:NAME",
        ),
        (
            with_keys(coordinator_port="http"),
            "conf {path}: [coordinator] coordinator_port is 'http', expected 0 to 65535",
        ),
        (
            with_keys(coordinator_addr="0.0.0.0"),
            "conf {path}: [coordinator] coordinator_addr 0.0.0.0 is beyond loopback: "
            "set token_file, so that callers have to show a token",
        ),
        (
            with_keys(token_file="/nowhere"),
            "token file /nowhere cannot be read: No such file or directory",
        ),
        (
            with_keys(channel="192.0.2.1:5010"),
            "conf {path}: [coordinator] channel is '192.0.2.1:5010', expected tcp://HOST:PORT",
        ),
        (
            with_keys(keys_path="/nowhere"),
            "conf {path}: [coordinator] keys_path /nowhere is no folder",
        ),
    ],
)
def test_what_has_no_meaning_is_named(folder, text, error):
    path = conf_of(folder, text)
    with pytest.raises(ConfigError) as caught:
        read_conf(path)
    assert str(caught.value) == error.format(path=path)


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("nodes/node-0.json", "{", "node file {path} is not JSON: Input data was truncated"),
        ("handlers/x.json", "[]", "handler file {path}: expected `object`, got `array`"),
        (
            "services/x.json",
            json.dumps({**SERVICE, "service_id": 1, "links": []}),
            "service file {path}: handler 1 render: input 0 has no links, expected 1",
        ),
    ],
)
def test_a_file_without_meaning_is_named(folder, name, content, error):
    path = folder / name
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        read_conf(conf_of(folder))
    assert str(caught.value) == error.format(path=path)


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the examples are in the checkout")
def test_the_examples_are_read_by_both_programs(monkeypatch):
    monkeypatch.chdir(EXAMPLES.parent)
    conf = read_conf(EXAMPLES / "coordinator.conf")
    collector = read_collector_conf(EXAMPLES / "collector.conf")
    assert [node.node_id for node in conf.nodes] == [node.node_id for node in collector.nodes]
    assert conf.database == collector.database
