from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from vdag.config import Config, TaskConfig, is_loopback, load_config
from vdag.errors import ConfigError

TOKEN = "correct-horse-battery"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "node.toml"
    path.write_text(text)
    return path


def test_without_any_source_the_four_tasks_are_served_on_loopback():
    config = load_config()
    assert config == Config()
    assert (config.service.host, config.service.port) == ("127.0.0.1", 5500)
    assert list(config.service.tasks) == [
        "face_detection", "face_alignment", "car_detection", "helmet_detection",
    ]  # fmt: skip


def test_the_later_source_comes_before_the_earlier(tmp_path):
    path = write(tmp_path, '[service]\nport = 1\nhost = "::1"\ndeadline_s = 3\n[node]\nname = "a"')
    environment = {"VDAG_SERVICE_PORT": "2", "VDAG_NODE_NAME": "b", "VDAG_NATIVE": "reference"}
    config = load_config(path, environment, {"service.port": "3"})
    assert (config.service.port, config.node.name, config.service.host) == (3, "b", "::1")
    assert config.service.deadline_s == 3.0


def test_tasks_are_tables_in_the_order_they_are_listed(tmp_path):
    text = "[service.tasks.yolo]\nworkers = 2\ncard = 'mine.toml'\n[service.tasks.car_detection]"
    config = load_config(write(tmp_path, text), {}, {"service.tasks.yolo.model_id": "2"})
    assert config.service.tasks == {
        "yolo": TaskConfig(workers=2, model_id=2, card=Path("mine.toml")),
        "car_detection": TaskConfig(),
    }
    options = config.service.tasks["yolo"].options
    assert (options.model_id, options.card) == (2, Path("mine.toml"))


def test_a_task_names_the_models_that_plans_may_choose_among(tmp_path):
    text = "[service.tasks.face_detection]\nmodel_id = 2\nmodels = [0, 2]"
    task = load_config(write(tmp_path, text)).service.tasks["face_detection"]
    assert (task.models, task.options.model_id) == ((0, 2), 2)


def test_what_looks_like_a_number_stays_text_where_text_is_wanted():
    config = load_config(None, {"VDAG_SERVICE_TOKEN": "1234567890123456", "VDAG_NODE_NAME": "7"})
    assert (config.service.token, config.node.name) == ("1234567890123456", "7")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"service.prt": "1"}, "unknown setting service.prt"),
        ({"sevice.port": "1"}, "unknown setting sevice"),
        ({"service.tasks.a.b": "1"}, "unknown setting service.tasks.a.b"),
        ({"service.port": "x"}, "setting service.port: expected int, got str"),
        ({"node": "3"}, "setting node: expected object, got int"),
        ({"node.role": "king"}, "setting node.role: invalid enum value 'king'"),
        ({"service.port": "70000"}, "service.port is 70000, expected 0 to 65535"),
        ({"service.deadline_s": "0"}, "service.deadline_s is 0.0, expected 0.001 to 3600"),
        ({"service.tasks.a.workers": "99"}, "service.tasks.a.workers is 99, expected 0 to 48"),
        ({"service.tasks.a.models": "[1, 100]"},
         "service.tasks.a.models is [1, 100], expected 0 to 99"),
        ({"service.tasks.a.models": "[1, 2]"},
         "service.tasks.a.models is [1, 2], which lacks model_id 0"),
        ({"service.tasks.a": "{models = [1], model_id = 1, card = 'x'}"},
         "service.tasks.a.models is [1], which lacks model_id 0"),
        ({"service.tasks": "{}"}, "service.tasks is empty"),
        ({"service.slots": "[[0, 1, 1]]"},
         "service.slots is not a list of widths, heights and numbers above 0"),
        ({"node.roles": "['router']"},
             "node.roles has 'router', expected all, cloud, collector, edge, service"),
            ({"node.roles": "['collector']"}, "the role collector needs collector.nodes"),
            ({"collector.port": "-1"}, "collector.port is -1, expected 0 to 65535"),
            ({"cloud.retention.packets_s": "1"},
             "cloud.retention.packets_s is 1.0, expected 60 to inf"),
            ({"collector.retention.rollups_s": "1"},
             "collector.retention.rollups_s is 1.0, expected 60 to inf"),
            ({"node.roles": "[]"}, "node.roles is empty"),
            ({"edge.videos.one.path": "a.mp4"},
             "edge.videos has 'one', expected numbers of videos"),
            ({"edge.videos.1.path": ""}, "edge.videos.1.path is empty"),
            ({"edge.max_jobs": "0"}, "edge.max_jobs is 0, expected 1 to 1024"),
        ({"cloud.results_kept": "1"}, "cloud.results_kept is 1, expected 11 to 1e+06"),
        ({"cloud.host": "0.0.0.0"}, "cloud.host 0.0.0.0 is beyond loopback: set "
         "cloud.token_file, so that callers have to show a token"),
            ({"edge.host": "0.0.0.0"}, "edge.host 0.0.0.0 is beyond loopback: set "
             "edge.token_file, so that callers have to show a token"),
        ({"service.packages.fodler": "x"}, "unknown setting service.packages.fodler"),
        ({"service.packages.max_packages": "0"},
         "service.packages.max_packages is 0, expected 1 to 4096"),
        ({"service.packages.enabled": "['crowd']"},
         "service.packages.enabled has 'crowd', expected a name, @, and 64 digits"),
        ({"service.packages.enabled": f"['crowd@{'0' * 64}']"},
         "service.packages.enabled needs service.packages.folder"),
        ({"service.token": "short"}, "service.token is not 16 to 256 visible characters"),
        ({"service.host": "0.0.0.0"}, "service.host 0.0.0.0 is beyond loopback: set "
         "service.token_file, so that callers have to show a token"),
    ],
)  # fmt: skip
def test_settings_without_meaning_are_named(flags, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        load_config(None, {}, flags)


def test_variables_with_our_prefix_must_be_settings():
    with pytest.raises(ConfigError, match=r"^unknown setting service\.prot$"):
        load_config(None, {"VDAG_SERVICE_PROT": "1"})


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "none.toml"
    with pytest.raises(ConfigError, match=f"^config {path} cannot be read: No such file"):
        load_config(path)
    with pytest.raises(ConfigError, match=r"^config .* is not TOML: "):
        load_config(write(tmp_path, "port ="))


def test_a_token_is_read_from_a_file_that_nobody_else_reads(tmp_path):
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\nthe rest\n")
    path.chmod(0o644)
    flags = {"service.token_file": str(path), "service.host": "0.0.0.0"}
    with pytest.raises(ConfigError, match=rf"^token file {path} has mode 0644, not 0600$"):
        load_config(None, {}, flags)
    path.chmod(0o600)
    config = load_config(None, {}, flags)
    assert config.service.token == TOKEN
    assert TOKEN not in repr(config)


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("a", False)],
)
def test_a_name_counts_as_beyond_loopback(host, expected):
    assert is_loopback(host) is expected


def test_packages_are_a_section_of_the_service(tmp_path):
    identity = f"crowd@{'0' * 64}"
    text = f"[service.packages]\nfolder = 'here'\nenabled = ['{identity}']"
    found = load_config(write(tmp_path, text)).service.packages
    assert (found.folder, found.enabled, found.max_packages) == (Path("here"), (identity,), 64)


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        ({"edge.query_addr": "cloud"}, "edge.query_addr 'cloud' is not HOST:PORT"),
        ({"edge.pull": "true"}, "edge.pull needs edge.query_addr"),
        (
            {"edge.query_addr": "10.0.0.1:5000", "node.controller": "tcp://10.0.0.1:5010"},
            "edge.query_addr does not go with node.controller: a node has one cloud",
        ),
        (
            {"edge.query_addr": "10.0.0.1:5000", "node.roles": "['all']"},
            "edge.query_addr does not go with the role cloud: a node has one cloud",
        ),
        (
            {"cloud.callers": "['10.0.0.1', 'gate']"},
            "cloud.callers has 'gate', expected an address or a network",
        ),
        ({"edge.service_port": "0"}, "edge.service_port is 0, expected 1 to 65535"),
    ],
)
def test_a_cloud_of_another_make_is_named_in_full_and_is_the_only_one(flags, error):
    with pytest.raises(ConfigError, match=f"^{re.escape(error)}$"):
        load_config(None, {}, flags)


def test_a_collector_is_a_role_beside_all():
    flags = {"node.roles": "['all', 'collector']", "collector.nodes": "nodes"}
    config = load_config(None, {"VDAG_COLLECTOR_PORT": "0"}, flags)
    assert config.node.all_roles == {"cloud", "collector", "edge", "service"}
    assert (config.collector.port, config.collector.nodes) == (0, Path("nodes"))


def test_records_are_kept_as_long_as_is_said():
    flags = {"cloud.retention.packets_s": "3600", "cloud.retention.rollups_s": "inf"}
    ages = load_config(None, {}, flags).cloud.retention
    assert (ages.packets_s, ages.samples_s, ages.rollups_s) == (3600.0, 7 * 86400.0, math.inf)
