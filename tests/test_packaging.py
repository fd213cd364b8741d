"""What is built from a checkout: an sdist, a wheel from that sdist, and an installation of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path, PurePosixPath

import pytest

from vdag import __version__

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
#: What git ignores, and what only a checkout has.
LEFT_OUT = (".*", "__pycache__", "build", "dist", "out", "*.egg-info", "*.so", "results.json")
#: Compiling every kernel on a busy machine.
BUILD_TIMEOUT_S = 600
C_SOURCES = {".c", ".h", ".pxd", ".pxi", ".pyx"}
#: What a report is made of.
PAGES = {".css", ".html", ".js"}


def run(*arguments: str | Path, cwd: Path, **variables: str) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("VDAG_")}
    process = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
    )
    assert process.returncode == 0, f"{process.stdout[-4000:]}\n{process.stderr[-4000:]}"
    return process.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean checkout: the sources without anything that was built from them."""
    target = tmp_path_factory.mktemp("checkout") / "vdag"
    shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(*LEFT_OUT))
    return target


@pytest.fixture(scope="module")
def sdist(tree: Path) -> Path:
    hook = "from setuptools import build_meta; print(build_meta.build_sdist('dist'))"
    run("-c", hook, cwd=tree)
    (path,) = (tree / "dist").glob("*.tar.gz")
    return path


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sdist, as an installer without a wheel for its machine does it."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    run("-m", "pip", "wheel", sdist, *options, "--wheel-dir", folder, cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with this wheel installed and nothing else."""
    folder = tmp_path_factory.mktemp("installed") / "site"
    options = ("--no-deps", "--no-index", "--disable-pip-version-check", "--target", folder)
    run("-m", "pip", "install", wheel, *options, cwd=folder.parent)
    return folder


@pytest.fixture(scope="module")
def wheel_names(wheel: Path) -> set[PurePosixPath]:
    with zipfile.ZipFile(wheel) as archive:
        return {PurePosixPath(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def metadata(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"vdag-{__version__}.dist-info/METADATA").decode()
    return Parser().parsestr(text)


def files_of(tree: Path, folder: str, *suffixes: str) -> set[PurePosixPath]:
    found = (path for path in (tree / folder).rglob("*") if path.suffix in suffixes)
    return {PurePosixPath(path.relative_to(tree).as_posix()) for path in found}


def test_the_sdist_has_everything_that_the_kernels_are_built_from(tree: Path, sdist: Path):
    with tarfile.open(sdist) as archive:
        names = {PurePosixPath(*PurePosixPath(name).parts[1:]) for name in archive.getnames()}
    wanted = files_of(tree, "vdag", *C_SOURCES, ".py", ".pyi", ".onnx", ".toml", *PAGES)
    wanted |= files_of(tree, "tests", ".py") | files_of(tree, "examples", ".py", ".json")
    wanted |= {
        PurePosixPath(name)
        for name in ("LICENSE", "NOTICE", "README.md", "pyproject.toml", "setup.py")
    }
    assert wanted - names == set()
    assert [name for name in names if name.suffix in (".so", ".pyc")] == []


def test_the_wheel_has_every_module_and_every_kernel_compiled(
    tree: Path, wheel_names: set[PurePosixPath]
):
    assert files_of(tree, "vdag", ".py") - wheel_names == set()
    kernels = {path.stem for path in files_of(tree, "vdag/_native", ".pyx")}
    compiled = {name.name.partition(".")[0] for name in wheel_names if name.suffix == ".so"}
    assert compiled == kernels


def test_the_wheel_has_types_models_and_licences(tree: Path, wheel_names: set[PurePosixPath]):
    wanted = files_of(tree, "vdag", ".pyi", ".onnx", ".toml", *PAGES)
    wanted.add(PurePosixPath("vdag/py.typed"))
    info = PurePosixPath(f"vdag-{__version__}.dist-info")
    wanted |= {info / "licenses" / name for name in ("LICENSE", "NOTICE")}
    assert wanted - wheel_names == set()


def test_the_wheel_has_no_sources_of_the_kernels_and_nothing_beside_the_package(
    wheel_names: set[PurePosixPath],
):
    assert [name for name in wheel_names if name.suffix in C_SOURCES] == []
    assert {name.parts[0] for name in wheel_names} == {"vdag", f"vdag-{__version__}.dist-info"}


def test_the_metadata_says_version_licence_and_extras(metadata):
    assert (metadata["Name"], metadata["Version"]) == ("vdag", __version__)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10"
    extras = {"video", "onnx", "turbojpeg", "gpu", "tensorrt"}
    assert extras <= set(metadata.get_all("Provides-Extra"))
    assert metadata.get_payload().startswith("#")  # the README


PIPELINE = """
import json
from pathlib import Path
import vdag

source = "synthetic:64x48@30?frames=3"
with vdag.Pipeline(["face_detection"], source) as pipeline:
    seqs = [result.seq for result in pipeline if "bbox" in result["face_detection"]]
print(json.dumps([str(Path(vdag.__file__).parent), seqs]))
"""


def test_an_installed_wheel_runs_a_pipeline_outside_the_checkout(site: Path, tmp_path: Path):
    printed = run("-c", PIPELINE, cwd=tmp_path, PYTHONPATH=str(site))
    assert json.loads(printed) == [str(site / "vdag"), [0, 1, 2]]


def test_an_installed_wheel_has_its_command(site: Path, tmp_path: Path):
    command = site / "bin" / "vdag"
    assert os.access(command, os.X_OK)
    assert run(command, "--version", cwd=tmp_path, PYTHONPATH=str(site)) == f"{__version__}\n"
