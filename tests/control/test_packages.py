"""Packages in their store: what is kept, what is refused, and what may be loaded."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from package_kit import CODE, ZIP, task_json, zip_of

from vdag.config import PackagesConfig
from vdag.control.service import packages
from vdag.control.service.packages import PackageStore
from vdag.errors import (
    ConfigError,
    GraphError,
    PackagesUnavailable,
    PayloadTooLarge,
    Saturated,
    VdagError,
)

pytestmark = pytest.mark.slow  # as a whole


def upload(**changes: bytes | list[bytes]) -> dict[str, list[bytes]]:
    """A good form, but for the changes; an empty list leaves a field out."""
    fields = {"task_json": task_json(), "density": ZIP, **changes}
    listed = {
        name: [value] if isinstance(value, bytes) else value for name, value in fields.items()
    }
    return {name: value for name, value in listed.items() if value}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "packages"


@pytest.fixture
def store(folder: Path) -> Iterator[PackageStore]:
    with PackageStore(PackagesConfig(folder)) as store:
        yield store


def test_a_package_is_stored_under_the_hash_of_its_content(store, folder):
    package = store.install(upload())
    assert re.fullmatch(r"crowd@[0-9a-f]{64}", package.identity)
    assert (folder / package.identity / "density" / "density.py").read_text() == CODE
    assert package.modules == {"density": folder / package.identity / "density" / "density.py"}
    assert package.task.stages["density"].outputs == ("density",)
    assert store.packages() == [package]
    assert package.nbytes == sum(
        path.stat().st_size for path in package.folder.rglob("*") if path.is_file()
    )
    package.verify()


def test_the_same_content_is_the_same_package(store):
    first = store.install(upload())
    spaced = json.dumps(json.loads(task_json()), indent=7).encode()
    zipped = zip_of({"density.py": CODE}, method=0)
    assert store.install(upload(task_json=spaced, density=zipped)) == first
    assert len(store.packages()) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"density": zip_of({"density.py": CODE + "\n"})},
        {"density": zip_of({"density.py": CODE, "more.py": ""})},
        {"task_json": task_json(description="other")},
    ],
)
def test_other_content_is_another_package_and_leaves_the_first_alone(store, change):
    first = store.install(upload())
    second = store.install(upload(**change))
    assert second.identity != first.identity
    assert store.packages() == sorted([first, second], key=lambda package: package.identity)
    first.verify()


def task(**stage: object) -> bytes:
    """A `task_json` whose stage has these fields."""
    return task_json(stages={"density": {"inputs": ["image"], "outputs": ["density"], **stage}})


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"task_json": []}, ConfigError, "field task_json is missing"),
        ({"task_json": [b"{}", b"{}"]}, ConfigError, "field 'task_json' is there 2 times"),
        ({"density": [ZIP, ZIP]}, ConfigError, "field 'density' is there 2 times"),
        ({"density": []}, ConfigError, "field density is missing, the zip of that stage"),
        ({"../x": ZIP}, ConfigError, "field '../x' is no stage of task_json"),
        ({"n" * 200: ZIP}, ConfigError, f"field '{'n' * 79}... is no stage of task_json"),
        ({"task_json": b"{"}, ConfigError, "field task_json: input data was truncated"),
        ({"task_json": b"[]"}, ConfigError, "field task_json: expected object, got array"),
        ({"task_json": b"\xff"}, ConfigError,
         "field task_json: JSON is malformed: invalid character (byte 0)"),
        ({"task_json": b"[" * 60_000}, ConfigError, None),
        ({"task_json": b'{"name": "a"}'}, ConfigError,
         "field task_json: object missing required field stages"),
        ({"task_json": task_json(other=1)}, ConfigError,
         "field task_json: object contains unknown field other"),
        ({"task_json": task_json("../up")}, ConfigError, None),
        ({"task_json": task_json("a\n")}, ConfigError, None),
        ({"task_json": task_json(stages={})}, ConfigError,
         "field task_json: stages: expected object of length >= 1"),
        ({"task_json": task_json(stages={"../up": {"outputs": ["a"]}})}, ConfigError, None),
        ({"task_json": task(outputs=[])}, ConfigError, None),
        ({"task_json": task(inputs=["a b"])}, ConfigError, None),
        ({"task_json": task(module="../density.py")}, ConfigError,
         "field task_json: module '../density.py' is no .py file"),
        ({"task_json": task(module="/density.py")}, ConfigError,
         "field task_json: module '/density.py' is no .py file"),
        ({"task_json": task(module="density.so")}, ConfigError,
         "field task_json: module 'density.so' is no .py file"),
        ({"task_json": task(module="main.py")}, ConfigError,
         "field density: zip has no file main.py"),
        ({"task_json": task_json(stages={"face_detection": {"outputs": ["a"]}})}, ConfigError,
         "field task_json: stage face_detection has the name of something else"),
        ({"task_json": task_json(stages={"task_json": {"outputs": ["a"]}})}, ConfigError,
         "field task_json: stage task_json has the name of something else"),
        ({"task_json": b" " * 65_537}, PayloadTooLarge,
         "field task_json of 65537 bytes exceeds 65536"),
        ({"task_json": task_json(dag={"flow": ["density", "nobody"]})}, GraphError, None),
        ({"task_json": task_json(dag={"flow": ["density"], "input": {"other": {}}})},
         GraphError, None),
        ({"density": b"x"}, ConfigError,
         "field density: zip is broken: BadZipFile: 'File is not a zip file'"),
        ({"density": zip_of({"../../density.py": CODE})}, ConfigError, None),
        ({"density": zip_of({"density.py": bytes(1 << 20)})}, PayloadTooLarge, None),
        ({"density": zip_of({f"f{number}": "" for number in range(512)})}, PayloadTooLarge,
         "field density: zip of 512 entries exceeds limit 511"),
    ],
)  # fmt: skip
def test_what_is_no_package_is_refused_and_leaves_nothing(store, folder, change, kind, message):
    with pytest.raises(VdagError) as caught:
        store.install(upload(**change))
    assert type(caught.value) is kind
    assert re.match(r"field ['\w]", str(caught.value))
    assert message is None or str(caught.value) == message
    assert os.listdir(folder) == [".lock"]


def test_the_stages_of_a_package_share_its_limits(tmp_path):
    stages = {name: {"outputs": ["a"], "module": "a.py"} for name in ("one", "two")}
    half = zip_of({"a.py": "", "b.bin": os.urandom(600)})
    fields = {"task_json": [task_json(stages=stages)], "one": [half], "two": [half]}
    message = r"^field two: zip unpacks to 600 bytes, limit \d+$"
    with (
        PackageStore(PackagesConfig(tmp_path / "a", max_nbytes=1300)) as store,
        pytest.raises(PayloadTooLarge, match=message),
    ):
        store.install(fields)
    with PackageStore(PackagesConfig(tmp_path / "b")) as store:
        assert sorted(store.install(fields).modules) == ["one", "two"]


def test_a_dag_may_join_stages_with_tasks_that_are_known(store):
    dag = {"flow": ["face_detection", "density"]}
    package = store.install(upload(task_json=task_json(dag=dag)))
    assert package.task.dag["flow"] == ["face_detection", "density"]


def test_number_and_size_of_what_is_stored_are_bounded(folder):
    other = upload(task_json=task_json("other"))
    with PackageStore(PackagesConfig(folder, max_packages=1)) as store:
        store.install(upload())
        with pytest.raises(
            PackagesUnavailable, match=r"^1 packages are stored, limit 1: an operator"
        ):
            store.install(other)
        store.install(upload())  # which is there already
    with PackageStore(PackagesConfig(folder, total_nbytes=1024, max_packages=64)) as store:
        big = zip_of({"density.py": CODE, "b.bin": os.urandom(1000)})
        with pytest.raises(
            PackagesUnavailable, match=r"^packages would take \d+ bytes, limit 1024:"
        ):
            store.install(upload(density=big))
    assert len(os.listdir(folder)) == 2


def test_what_a_crash_left_is_swept_and_what_was_stored_stays(folder):
    with PackageStore(PackagesConfig(folder)) as store:
        package = store.install(upload())
    left = folder / ".incoming-abc" / "density"
    left.mkdir(parents=True)
    (left / "density.py").write_text("half")
    with PackageStore(PackagesConfig(folder)) as store:
        assert store.packages() == [package]
        assert sorted(os.listdir(folder)) == [".lock", package.identity]


def test_a_disk_that_is_full_is_said_and_leaves_nothing(store, folder, monkeypatch):
    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    message = r"^package cannot be stored: No space left on device$"
    with pytest.raises(PackagesUnavailable, match=message):
        store.install(upload())
    assert os.listdir(folder) == [".lock"]


def test_packages_are_stored_one_by_one(store, monkeypatch):
    begun, may_end = threading.Event(), threading.Event()
    settle = packages._settle

    def slow(folder: Path, place: Path) -> None:
        begun.set()
        assert may_end.wait(30)
        settle(folder, place)

    monkeypatch.setattr(packages, "_settle", slow)
    thread = threading.Thread(target=store.install, args=(upload(),))
    thread.start()
    assert begun.wait(30)
    with pytest.raises(Saturated, match=r"^another package is being stored$"):
        store.install(upload())
    may_end.set()
    thread.join(30)
    assert len(store.packages()) == 1


def test_a_folder_is_one_nodes_at_a_time(store, folder):
    with pytest.raises(ConfigError, match=f"^packages {folder} are another node's$"):
        PackageStore(PackagesConfig(folder))
    with PackageStore(PackagesConfig(folder), is_reader=True) as reader:
        assert reader.packages() == []


def test_a_folder_that_others_can_write_to_is_refused(tmp_path):
    tmp_path.chmod(0o777)
    with pytest.raises(ConfigError, match=r"^packages .* is writable for others$"):
        PackageStore(PackagesConfig(tmp_path))


def enable(folder: Path, *identities: str) -> PackageStore:
    return PackageStore(PackagesConfig(folder, enabled=identities))


def test_an_enabled_package_that_is_missing_or_changed_is_not_loaded(folder):
    with PackageStore(PackagesConfig(folder)) as store:
        package = store.install(upload())
        assert store.enabled() == []
    missing = f"other@{'0' * 64}"
    message = rf"^package '{missing}' is not in {folder}$"
    with enable(folder, missing) as store, pytest.raises(ConfigError, match=message):
        store.enabled()
    with enable(folder, package.identity) as store:
        (enabled,) = store.enabled()
        assert enabled.is_enabled
        for change in (
            lambda: package.modules["density"].write_text("import os"),
            lambda: (package.folder / "density" / "more.py").write_text(""),
            lambda: (package.folder / "density" / "link").symlink_to("/etc/passwd"),
        ):
            change()
            with pytest.raises(ConfigError, match=r"was changed since|is no file$"):
                store.enabled()


def test_what_python_has_cached_is_not_run(folder):
    with PackageStore(PackagesConfig(folder)) as store:
        package = store.install(upload())
    cache = package.folder / "density" / "__pycache__"
    cache.mkdir()
    (cache / "density.cpython-311.pyc").write_bytes(b"anything")
    with enable(folder, package.identity) as store:
        store.enabled()
    assert not cache.exists()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1\n", "registers no task strange_stage"),
        ("raise RuntimeError('no')\n", "failed: RuntimeError: no"),
        ("raise SystemExit(0)\n", "failed: SystemExit: 0"),
    ],
)
def test_a_package_that_is_not_what_it_says_is_not_served(folder, code, message):
    stages = {"strange_stage": {"outputs": ["a"], "module": "a.py"}}
    fields = {"task_json": [task_json(stages=stages)], "strange_stage": [zip_of({"a.py": code})]}
    with PackageStore(PackagesConfig(folder)) as store:
        package = store.install(fields)
    with (
        enable(folder, package.identity) as store,
        pytest.raises(ConfigError, match=f"{message}$"),
    ):
        packages.load_enabled(store)
