from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vdag

PACKAGE = Path(vdag.__file__).parent
ROOT = PACKAGE.parent
NATIVE = PACKAGE / "_native"
SOURCES = (".py", ".pyi", ".pyx", ".pxd", ".pxi", ".c", ".h")
LONGEST_FILE = 400
#: Names for modules that nobody could name.
NAMELESS = {"common", "core", "helper", "helpers", "misc", "util", "utils"}
#: Turn bytes from elsewhere into code.
UNSAFE_MODULES = {"dill", "marshal", "pickle", "shelve"}
UNSAFE_CALLS = {"eval", "exec"}

#: `import a.b`, `from a.b import`, and the same with cimport, as Cython has them.
_IMPORT = re.compile(r"^\s*(?:from|import|cimport)\s+([\w.]+)", re.MULTILINE)


def sources(*suffixes: str) -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*") if path.suffix in suffixes)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def trees() -> Iterator[tuple[str, ast.AST]]:
    for path in sources(".py"):
        yield relative(path), ast.parse(path.read_text("utf-8"))


def run_by(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those that only a type checker looks at."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from run_by(node)


@pytest.mark.skipif(
    not (ROOT / "pyproject.toml").is_file(), reason="the contract is in the checkout"
)
def test_each_layer_imports_only_those_below_it():
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    process = subprocess.run(
        [sys.executable, "-c", command, "--no-cache", "--no-logo"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert "0 broken" in process.stdout


@pytest.mark.parametrize("path", sources(".pyx", ".pxd", ".pxi"), ids=lambda path: path.name)
def test_a_kernel_knows_the_errors_and_its_siblings_only(path: Path):
    imported = _IMPORT.findall(path.read_text("utf-8"))
    ours = [name for name in imported if name.split(".")[0] == "vdag" or name.startswith(".")]
    allowed = re.compile(r"vdag\.errors|vdag\._native(\.\w+)?")
    assert [name for name in ours if not allowed.fullmatch(name)] == []


@pytest.mark.parametrize("path", sources(".pyx", ".pxd", ".pxi"), ids=lambda path: path.name)
def test_a_kernel_is_built_without_numpy(path: Path):
    assert not re.search(
        r"^\s*(cimport numpy|from numpy\S* cimport)", path.read_text("utf-8"), re.M
    )


def test_every_kernel_has_a_stub_and_a_twin():
    kernels = {path.stem for path in NATIVE.glob("*.pyx")}
    assert kernels
    assert {path.stem for path in NATIVE.glob("*.pyi")} >= kernels
    twins = {path.stem.removeprefix("reference_") for path in NATIVE.glob("reference_*.py")}
    assert twins >= kernels


def test_nobody_imports_a_kernel_past_the_native_surface():
    found = [
        f"{name}: {node.module}"
        for name, tree in trees()
        if not name.startswith("vdag/_native/")
        for node in run_by(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vdag._native.")
    ]
    assert found == []


def test_no_file_is_too_long_to_read():
    lengths = {
        relative(path): len(path.read_text("utf-8").splitlines()) for path in sources(*SOURCES)
    }
    assert lengths
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FILE} == {}


def test_every_module_has_a_name():
    stems = {relative(path): path.stem.strip("_") for path in sources(*SOURCES)}
    assert [name for name, stem in stems.items() if stem in NAMELESS] == []
    folders = {relative(path): path.name.strip("_") for path in PACKAGE.rglob("*") if path.is_dir()}
    assert [name for name, stem in folders.items() if stem in NAMELESS] == []


def test_nothing_turns_bytes_into_code():
    found = []
    for name, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = {alias.name.split(".")[0] for alias in node.names} & UNSAFE_MODULES
            elif isinstance(node, ast.ImportFrom):
                names = {(node.module or "").split(".")[0]} & UNSAFE_MODULES
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                names = {node.func.id} & UNSAFE_CALLS
            else:
                continue
            found += [f"{name}:{node.lineno}: {item}" for item in names]
    assert found == []
