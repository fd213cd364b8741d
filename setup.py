"""Extension modules. Everything else is declared in pyproject.toml."""

from __future__ import annotations

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("VDAG_DEBUG") == "1"
CFLAGS = ["-O0", "-g3", "-UNDEBUG"] if DEBUG else ["-O3", "-g0"]
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": DEBUG,  # kernels check shapes once, at the door
    "wraparound": False,
    "initializedcheck": DEBUG,
    "cdivision": True,
    "embedsignature": False,
    "auto_pickle": False,  # native objects cross processes as bytes, not pickles
    "autotestdict": False,  # keeps stubtest quiet
}
NATIVE = Path("vdag/_native")


def extension(path: Path) -> Extension:
    """One `.pyx`, with the C file of the same noun beside it if there is one."""
    kernel = path.with_name(f"{path.stem}_kernel.c")
    return Extension(
        f"vdag._native.{path.stem}",
        [path.as_posix(), *([kernel.as_posix()] if kernel.exists() else [])],
        depends=[p.as_posix() for p in NATIVE.glob("*.h")],
        include_dirs=[NATIVE.as_posix()],
        libraries=["pthread", "dl", "m"],
        extra_compile_args=[*CFLAGS, "-std=gnu11", "-fvisibility=hidden"],
    )


only = os.environ.get("VDAG_ONLY", "*")  # rebuild one noun while working on it

setup(
    ext_modules=cythonize(
        [extension(path) for path in sorted(NATIVE.glob(f"{only}.pyx"))],
        build_dir="build/cython",  # no generated .c beside the sources
        compiler_directives=DIRECTIVES,
        annotate=DEBUG,
        # cythonize() compares the times of files, and so does not notice other directives
        force=os.environ.get("VDAG_FORCE") == "1",
    ),
)
