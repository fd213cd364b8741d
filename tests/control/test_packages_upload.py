"""Packages from their upload to a task that is executed."""

from __future__ import annotations

import contextlib
import http.client
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from node_kit import Caller, Running
from package_kit import CODE, DENSITY, KIND, ZIP, form, task_json, zip_of

from vdag.config import PackagesConfig
from vdag.control.service.packages import Package, PackageStore

pytestmark = pytest.mark.slow  # as a whole

PATH = "/upload-json-and-codefiles-api"
OTHER = """
import vdag

@vdag.task(outputs=["brightness"])
def brightness(image):
    return {"brightness": 1.0}
"""
IMAGE = {"image": [[7, 7], [7, 7]]}


def package_of(caller: Caller, body: bytes) -> str:
    reply = caller.post(PATH, body, KIND)
    assert reply.status == 200, reply.body
    found = reply.json()
    assert (found["status"], found["stages"]) == (0, ["density"])
    return found["package"]


def settings(folder: Path, enabled: str, tasks: str) -> list[str]:
    return [
        "--set", f"service.packages={{folder='{folder}', enabled=[{enabled}]}}",
        "--set", f"service.tasks={tasks}",
        "--set", "service.slots=[[64, 64, 8]]",
        "--set", "service.max_body_nbytes=65536",
    ]  # fmt: skip


def test_a_package_is_executed_after_it_was_enabled_and_not_before(tmp_path):
    folder, marker = tmp_path / "packages", tmp_path / "marker"
    other = tmp_path / "other.py"
    other.write_text(OTHER)
    code = DENSITY.format(marker=str(marker))
    body = form([("task_json", task_json()), ("density", zip_of({"density.py": code}))])
    node = Running(
        *settings(folder, "", "{brightness={}}"), "--set", f"service.modules=['{other}']"
    )
    caller = Caller(node.url)
    identity = package_of(caller, body)
    assert caller.post(PATH, body, KIND).json()["msg"] == "stored; an operator has to enable it"
    reply = caller.post("/execute_task/density", IMAGE)
    assert reply.json() == {"error": "unregistered services", "status": 1}
    assert caller.post("/add_work_process", {"task_name": "density"}).status == 400
    assert caller.post("/add_work_process", {"task_name": "brightness"}).status == 200
    caller.close()
    assert node.stop() == 0
    assert not marker.exists(), "it has run before anybody has enabled it"

    node = Running(*settings(folder, f"'{identity}'", "{density={workers=2}}"))
    caller = Caller(node.url)
    assert caller.get("/get_service_list").json() == ["density"]
    assert caller.post("/execute_task/density", IMAGE).json()["density"] == 7.0
    assert marker.read_text() == "run\n" * 3, "the node and two workers run it"
    evil = code.replace("image.mean()", "666")
    swapped = form([("task_json", task_json()), ("density", zip_of({"density.py": evil}))])
    assert package_of(caller, swapped) != identity
    assert caller.post(PATH, body, KIND).json()["enabled"] is True
    assert caller.post("/add_work_process", {"task_name": "density"}).status == 200
    assert [caller.post("/execute_task/density", IMAGE).json()["density"] for _ in range(9)] == [
        7.0
    ] * 9
    caller.close()
    assert node.stop() == 0


def test_a_package_of_several_files_imports_them(tmp_path):
    folder = tmp_path / "packages"
    files = {
        "__init__.py": "from .inner import density\n",
        "inner.py": DENSITY.format(marker=str(tmp_path / "marker")),
    }
    stages = {"density": {"inputs": ["image"], "outputs": ["density"], "module": "__init__.py"}}
    with PackageStore(PackagesConfig(folder)) as store:
        package = store.install(
            {"task_json": [task_json(stages=stages)], "density": [zip_of(files)]}
        )
    for _ in range(2):  # the second time with what Python has cached at the first
        node = Running(*settings(folder, f"'{package.identity}'", "{density={}}"))
        caller = Caller(node.url)
        assert caller.post("/execute_task/density", IMAGE).json()["density"] == 7.0
        caller.close()
        assert node.stop() == 0


@pytest.fixture(scope="module")
def taker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    """Asks a node that takes packages."""
    folder = tmp_path_factory.mktemp("taker")
    other = folder / "other.py"
    other.write_text(OTHER)
    node = Running(
        *settings(folder / "packages", "", "{brightness={}}"),
        "--set", f"service.modules=['{other}']",
    )  # fmt: skip
    caller = Caller(node.url)
    yield caller
    caller.close()
    assert node.stop() == 0
    assert "Traceback" not in "".join(node.log)


@pytest.mark.parametrize(
    ("body", "kind", "status", "error"),
    [
        (b"{}", "application/json", 415,
         "content-type application/json is none of multipart/form-data"),
        (b"", KIND, 400, "multipart body is not complete"),
        (form([]), KIND, 400, None),
        (form([("density", ZIP)]), KIND, 400, "field task_json is missing"),
        (form([("task_json", b"x" * 65_536)]), KIND, 413,
         "body of 65681 bytes or more exceeds 65536"),
        (form([("task_json", task_json())] + [("density", b"")] * 17), KIND, 400,
         "multipart body has more than 17 parts"),
        (form([("task_json", task_json()), ("density", zip_of({"../a.py": ""}))]), KIND, 400, None),
        (form([("task_json", task_json()), ("density", zip_of({"a": bytes(40_000)}))]), KIND, 413,
         None),
        (form([("task_json", task_json(dag={"flow": []}))]), KIND, 422,
         "field task_json: dag: flow names no task"),
        (form([("", ZIP)]), KIND, 400, "part of a multipart body has no name"),
    ],
)  # fmt: skip
def test_refusals_are_json_and_say_why(taker, body, kind, status, error):
    reply = taker.post(PATH, body, kind)
    assert reply.status == status, reply.body
    assert reply.headers["content-type"] == "application/json"
    found = reply.json()
    assert found.keys() == {"status", "error"}
    assert error is None or found["error"] == error


def test_without_a_folder_no_package_is_taken(caller):
    body = form([("task_json", task_json()), ("density", ZIP)])
    reply = caller.post(PATH, body, KIND)
    assert (reply.status, reply.json()) == (
        409,
        {"status": 1, "error": "this node takes no packages: service.packages.folder is not set"},
    )


def test_a_node_that_is_killed_amid_an_upload_leaves_all_of_a_package_or_nothing(tmp_path):
    folder = tmp_path / "packages"
    big = zip_of({"density.py": CODE, **{f"b{n}": os.urandom(100) for n in range(300)}})
    body = form([("task_json", task_json()), ("density", big)])
    other = tmp_path / "other.py"
    other.write_text(OTHER)
    arguments = (
        *settings(folder, "", "{brightness={}}"), "--set", f"service.modules=['{other}']",
        "--set", "service.max_body_nbytes=1048576",
    )  # fmt: skip
    node = Running(*arguments)
    caller = Caller(node.url)
    thread = threading.Thread(target=_try, args=(caller, body))
    thread.start()
    deadline = time.monotonic() + 30
    while not [name for name in os.listdir(folder) if name != ".lock"]:
        assert time.monotonic() < deadline
    node.process.kill()
    node.wait()
    thread.join(30)
    with PackageStore(PackagesConfig(folder)) as store:
        assert not [name for name in os.listdir(folder) if name.startswith(".incoming")]
        found: list[Package] = store.packages()
        for package in found:
            package.verify()
        assert store.install({"task_json": [task_json()], "density": [big]}).task.name == "crowd"


def _try(caller: Caller, body: bytes) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(caller):
        caller.post(PATH, body, KIND)
