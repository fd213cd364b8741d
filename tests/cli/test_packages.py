from __future__ import annotations

from pathlib import Path

from package_kit import task_json, zip_of

from vdag.config import PackagesConfig
from vdag.control.service.packages import PackageStore


def store(folder: Path, name: str) -> str:
    fields = {"task_json": [task_json(name)], "density": [zip_of({"density.py": "x = 1\n"})]}
    with PackageStore(PackagesConfig(folder)) as store:
        return store.install(fields).identity


def test_packages_are_listed_by_the_names_that_enable_them(vdag_command, tmp_path):
    folder = tmp_path / "packages"
    first, second, third = (store(folder, name) for name in ("first", "second", "third"))
    (folder / third / "density" / "density.py").write_text("x = 2\n")
    config = tmp_path / "node.toml"
    config.write_text(f"[service.packages]\nfolder = '{folder}'\nenabled = ['{second}']\n")
    ended = vdag_command("packages", "--config", config)
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    assert lines[0::3] == [first, second, third]
    states = [line.split(",")[0].strip() for line in lines[1::3]]
    assert states == ["not enabled", "enabled", "changed since it was uploaded"]
    assert lines[2] == "    density: image -> density"


def test_a_folder_can_be_named_without_settings(vdag_command, tmp_path):
    identity = store(tmp_path / "packages", "crowd")
    ended = vdag_command("packages", tmp_path / "packages")
    assert (ended.returncode, ended.stdout.splitlines()[0]) == (0, identity)


def test_a_folder_that_is_missing_is_an_error_in_one_line(vdag_command, tmp_path):
    ended = vdag_command("packages", tmp_path / "none")
    assert ended.returncode == 2
    assert ended.stderr == (
        f"vdag: packages {tmp_path / 'none'} cannot be read: No such file or directory\n"
    )
    ended = vdag_command("packages")
    assert (ended.returncode, ended.stderr) == (
        2,
        "vdag: service.packages.folder is not set\n",
    )
