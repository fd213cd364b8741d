"""Finding the function that a policy's name stands for."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from vdag.errors import ConfigError

__all__ = ["MAX_NAME", "find_function"]

#: Of a name; it is written down with every query.
MAX_NAME = 512

_MODULE = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)", re.ASCII)
_FILE = re.compile(r"(/[^\0:]*\.py):([A-Za-z_]\w*)", re.ASCII)


def find_function(name: str, built_in: tuple[str, ...]) -> Callable[..., Any]:
    """Return the function of `module:function` or `/path/file.py:function`.

    Args:
        name: what to find.
        built_in: names that would also have done, for the error's text.

    Raises:
        ConfigError: it is neither, or there is nothing of that name, or its module raised.
    """
    match = (_FILE.fullmatch(name) or _MODULE.fullmatch(name)) if len(name) <= MAX_NAME else None
    if match is None:
        known = ", ".join((*built_in, "module:function", "/path/file.py:function"))
        raise ConfigError(f"policy {name[:MAX_NAME]!r} is unknown, expected one of {known}")
    where, attribute = match.groups()
    function = getattr(_run(name, where), attribute, None)
    if not callable(function):
        raise ConfigError(f"policy {name!r}: no function {attribute}")
    found: Callable[..., Any] = function
    return found


def _run(name: str, where: str) -> ModuleType:
    try:
        return _run_file(Path(where)) if where.startswith("/") else importlib.import_module(where)
    except (Exception, SystemExit) as err:  # it is somebody's code
        reason = str(err) if isinstance(err, ConfigError) else f"{type(err).__name__}: {err}"
        raise ConfigError(f"policy {name!r}: {reason}") from err


def _run_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError("not a file" if path.exists() else "no such file")
    name = f"vdag_policy_{path.stem}"  # a file called json.py must not stand in for the module json
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, "the name ends in .py"
    assert spec.loader is not None, "so there is a loader for it"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
