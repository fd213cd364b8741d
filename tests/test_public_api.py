from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import vdag

#: Loaded by what needs them, never by an import of this package.
HEAVY = ("av", "cv2", "onnx", "onnxruntime", "tensorrt")
#: Of the command line and of other processes: a program that embeds the library has its own.
ELSEWHERE = ("psutil", "rich", "typer", "zmq")
LARGEST_API = 20


def loaded_by(statement: str) -> set[str]:
    """The packages that a fresh interpreter has loaded after `statement`."""
    code = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(vdag.__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(process.stdout.split())


def modules() -> list[str]:
    """Every module of the package that is Python's and not run as a program, or by Alembic."""
    found = (info.name for info in pkgutil.walk_packages(vdag.__path__, "vdag."))
    return sorted(n for n in found if not n.endswith("__main__") and ".migrations." not in n)


def test_the_public_names_are_these():
    assert vdag.__all__ == [
        "ClipGenerator",
        "Frame",
        "Graph",
        "Pipeline",
        "PixelFormat",
        "Result",
        "Signature",
        "SingleFrameGenerator",
        "Task",
        "TaskOptions",
        "VdagError",
        "__version__",
        "open_sink",
        "open_source",
        "register",
        "task",
    ]
    assert vdag.__all__ == sorted(vdag.__all__)
    assert len(vdag.__all__) <= LARGEST_API


def test_a_star_import_gives_them_all():
    namespace: dict[str, object] = {}
    exec("from vdag import *", namespace)
    assert set(vdag.__all__) <= set(namespace)


@pytest.mark.parametrize("name", [name for name in vdag.__all__ if name != "__version__"])
def test_a_public_name_is_documented(name: str):
    text = getattr(vdag, name).__doc__
    assert text
    assert text.split("\n")[0].endswith((".", ":"))
    assert not text.startswith(f"{name}(")  # what a dataclass gets that has none of its own


@pytest.mark.parametrize("name", modules())
def test_what_a_module_names_it_has(name: str):
    module = importlib.import_module(name)
    names = getattr(module, "__all__", [])
    assert len(set(names)) == len(names)
    assert [item for item in names if not hasattr(module, item)] == []


def test_importing_the_package_loads_nothing_heavy():
    loaded = loaded_by("import vdag")
    assert "vdag" in loaded
    assert loaded.isdisjoint(HEAVY)
    assert loaded.isdisjoint(ELSEWHERE)


def test_looking_at_graphs_and_signatures_loads_nothing_heavy():
    loaded = loaded_by(
        "import vdag\n"
        "vdag.Graph.chain('face_detection', 'face_alignment', 'car_detection')\n"
        "from vdag.tasks import signatures; signatures()"
    )
    assert loaded.isdisjoint(HEAVY)


def test_the_command_line_loads_nothing_heavy_before_it_runs_something():
    loaded = loaded_by("import vdag.cli")
    assert {"typer", "rich"} <= loaded
    assert loaded.isdisjoint(HEAVY)


def test_the_version_is_that_of_the_command(capfd: pytest.CaptureFixture[str]):
    subprocess.run(
        [sys.executable, "-m", "vdag", "--version"],
        cwd=Path(vdag.__file__).parents[1],
        check=True,
        timeout=60,
    )
    assert capfd.readouterr().out == f"{vdag.__version__}\n"
