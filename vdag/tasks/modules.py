"""Python files that the user names on the command line."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from vdag.errors import ConfigError, VdagError

__all__ = ["load_module"]


def load_module(path: Path) -> None:
    """Run a Python file of the user's, so that it registers its tasks.

    An `__init__.py` is run as the package that it is, so that it can import the files beside it
    relatively.

    Raises:
        ConfigError: there is no such file, or it raised; the text names it.
    """
    if not path.is_file():
        reason = "not a file" if path.exists() else "no such file"
        raise ConfigError(f"cannot read tasks from {path}: {reason}")
    stem = path.absolute().parent.name if path.stem == "__init__" else path.stem
    name = f"vdag_user_{stem}"  # a file called json.py must not stand in for the module json
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"cannot read tasks from {path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except VdagError as err:
        raise ConfigError(f"{path} failed: {err}") from err
    except (Exception, SystemExit) as err:
        raise ConfigError(f"{path} failed: {type(err).__name__}: {err}") from err
