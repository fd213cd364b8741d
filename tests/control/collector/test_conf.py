"""What stands in `collector.conf` and in node files, and what is said when it does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from vdag.config.conf import Conf, DatabaseConf
from vdag.control.collector.conf import read_conf, read_nodes
from vdag.control.records import NodeRecord, database_url
from vdag.errors import ConfigError

#: As documented.
CONF = """
[collector]
collector_addr = 0.0.0.0
collector_port = 9001
node_path = {nodes}

[database]
db_addr = localhost
db_port = 3306
db_user = me
db_passwd = 50%#;@/: 100%%
db_schema = reports
"""
NODE = {
    "node_id": 1,
    "node_name": "edge_server",
    "node_type": "server",
    "node_addr": "10.21.20.10",
    "node_port": 9000,
}


@pytest.fixture
def nodes(tmp_path: Path) -> Path:
    folder = tmp_path / "nodes"
    folder.mkdir()
    (folder / "node-1.json").write_text(json.dumps(NODE))
    return folder


def conf_of(nodes: Path, text: str = CONF) -> Path:
    path = nodes.parent / "collector.conf"
    path.write_text(text.format(nodes=nodes))
    return path


def test_the_documented_conf_is_read(nodes):
    (nodes / "zero").write_text(json.dumps({**NODE, "node_id": 0, "node_addr": "localhost"}))
    conf = read_conf(conf_of(nodes))
    assert (conf.addr, conf.port) == ("0.0.0.0", 9001)
    assert conf.nodes == (
        NodeRecord(0, "edge_server", "server", "localhost", 9000),
        NodeRecord(1, "edge_server", "server", "10.21.20.10", 9000),
    )
    assert conf.database == DatabaseConf(
        "mysql", "localhost", 3306, "me", "50%#;@/: 100%%", "reports"
    )
    assert "50%" not in repr(conf)


def test_a_section_becomes_a_url_that_says_the_same():
    conf = DatabaseConf("mysql", "192.0.2.1", 3306, "me@home", "50%#;@/:", "reports")
    url = make_url(database_url(conf))
    assert (url.username, url.password, url.host, url.port, url.database) == (
        "me@home", "50%#;@/:", "192.0.2.1", 3306, "reports",
    )  # fmt: skip
    assert url.get_backend_name() == "mysql"


@pytest.mark.parametrize(
    ("section", "conf"),
    [
        ("db_url = /var/lib/vdag/records.db", DatabaseConf(url="/var/lib/vdag/records.db")),
        (
            "db_type = postgresql\ndb_addr = h\ndb_port = 5432\ndb_user = u\ndb_passwd = p\n"
            "db_schema = s",
            DatabaseConf("postgresql", "h", 5432, "u", "p", "s"),
        ),
    ],
)
def test_other_databases_are_named_by_url_or_type(nodes, section, conf):
    head = CONF.partition("[database]")[0]
    assert read_conf(conf_of(nodes, f"{head}[database]\n{section}\n")).database == conf


@pytest.mark.parametrize(
    "key",
    ["collector_addr", "collector_port", "node_path", "db_addr", "db_port", "db_user", "db_passwd",
     "db_schema"],
)  # fmt: skip
def test_each_missing_key_is_named(nodes, key):
    text = "\n".join(line for line in CONF.splitlines() if not line.startswith(key))
    section = "database" if key.startswith("db_") else "collector"
    path = conf_of(nodes, text)
    with pytest.raises(ConfigError) as caught:
        read_conf(path)
    assert str(caught.value) == f"conf {path}: [{section}] has no {key}"


@pytest.mark.parametrize(
    ("before", "after", "error"),
    [
        ("[database]", "[other]", "conf {path} has no section [database]"),
        ("9001", "http", "conf {path}: [collector] collector_port is 'http', expected 0 to 65535"),
        ("9001", "65536", "conf {path}: [collector] collector_port is '65536', expected 0 to"
         " 65535"),
        ("9001", "٣", "conf {path}: [collector] collector_port is '٣', expected 0 to 65535"),
        ("3306", "0", "conf {path}: [database] db_port is '0', expected 1 to 65535"),
        ("{nodes}", "/nowhere", "conf {path}: [collector] node_path /nowhere is no folder"),
        ("db_addr", "db_type = oracle\ndb_addr", "conf {path}: [database] db_type is 'oracle',"
         " expected mysql, mariadb, postgresql"),
    ],
)  # fmt: skip
def test_what_has_no_meaning_is_named(nodes, before, after, error):
    path = conf_of(nodes, CONF.replace(before, after))
    with pytest.raises(ConfigError) as caught:
        read_conf(path)
    assert str(caught.value) == error.format(path=path)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"key = 1\n", r"has no sections of names and values: File contains no section headers"),
        (b"[a]\nx=1\nx=2\n", r"has no sections of names and values: .*already exists"),
        (b"\xff\xfe[a]", r"is not UTF-8$"),
        (b"#" * (1 << 20) + b"\n", r"exceeds 1048576 bytes$"),
    ],
)
def test_a_file_that_is_no_conf_is_refused(tmp_path, content, error):
    path = tmp_path / "x.conf"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"^conf \S+ {error}"):
        Conf(path)


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(ConfigError) as caught:
        Conf(Path("/nowhere.conf"))
    assert str(caught.value) == "conf /nowhere.conf cannot be read: No such file or directory"


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("", "is not JSON: Input data was truncated"),
        ("{'node_id': 1}", "is not JSON: JSON is malformed: object keys must be strings (byte 1)"),
        ("[]", ": expected `object`, got `array`"),
        ({**NODE, "node_id": "1"}, ": expected `int`, got `str` - at `$.node_id`"),
        ({**NODE, "node_id": -1}, ": expected `int` >= 0 - at `$.node_id`"),
        ({**NODE, "node_port": 70000}, ": expected `int` <= 65535 - at `$.node_port`"),
        ({**NODE, "colour": 1}, ": object contains unknown field `colour`"),
        ({"node_id": 1}, ": object missing required field `node_name`"),
    ],
)
def test_a_bad_node_file_is_named(nodes, content, error):
    path = nodes / "node-2.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ConfigError) as caught:
        read_nodes(nodes)
    space = "" if error.startswith(":") else " "
    assert str(caught.value) == f"node file {path}{space}{error}"


def test_two_nodes_of_one_number_are_refused(nodes):
    other = nodes / "other.json"
    other.write_text(json.dumps({**NODE, "node_addr": "192.0.2.9"}))
    with pytest.raises(ConfigError) as caught:
        read_nodes(nodes)
    assert str(caught.value) == (f"node file {other} has node_id 1, as {nodes / 'node-1.json'} has")


def test_a_folder_without_node_files_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"^folder \S+ has no node files$"):
        read_nodes(tmp_path)
