"""Names of tasks that carry their parameters, so that whoever gets the name can load the task.

    resize__<letters and digits>

Behind the last two underscores stands the base32hex (RFC 4648, section 7) of the parameters' JSON,
in lower case and without padding. The JSON is in one form only: an object, its keys sorted, no
spaces. So a task with the same parameters always has the same name, the name is an identifier, and
it tells the parameters without a table that would have to travel. Without parameters it is the
task's own.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping

from vdag.errors import ConfigError
from vdag.tasks.params import Params, Value

__all__ = ["MAX_NBYTES", "MAX_PARAMS", "base_of", "label", "name_of", "parse"]

#: Names of workers, with a number behind the task's, have 255 bytes in messages; so have paths.
MAX_NBYTES = 200
MAX_PARAMS = 16
#: Integers that JSON of any make holds exactly.
MAX_INT = 1 << 53
_MARK = "__"


def name_of(task: str, params: Params) -> str:
    """Return the name of a task with parameters.

    Args:
        task: its own name.
        params: name to value; order makes no difference, the type of a value does.

    Raises:
        ConfigError: the task's name carries parameters already or is no identifier, a parameter is
            none, or the name exceeds `MAX_NBYTES`.
    """
    if not task.isidentifier() or parse(task)[1]:
        raise ConfigError(f"task name {task!r:.80} is not an identifier without parameters")
    if not params:
        return task
    if len(params) > MAX_PARAMS:
        raise ConfigError(f"{task}: {len(params)} parameters exceed {MAX_PARAMS}")
    for name, value in params.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise ConfigError(f"{task}: parameter name {name!r:.80} is not an identifier")
        if not _is_value(value):
            raise ConfigError(
                f"{task}: parameter {name} is {value!r:.80}, expected true, false, a number or text"
            )
    try:
        name = f"{task}{_MARK}{_encode(params)}"
        nbytes = len(name.encode())
    except UnicodeEncodeError as err:
        raise ConfigError(f"{task}: a parameter holds no valid text") from err
    if nbytes > MAX_NBYTES:
        raise ConfigError(f"{task}: name with parameters of {nbytes} bytes exceeds {MAX_NBYTES}")
    return name


def parse(name: str) -> tuple[str, dict[str, Value]]:
    """Return a task's own name and its parameters.

    Whatever `name_of` has not made is the name of a task without parameters.
    """
    task, mark, code = name.rpartition(_MARK)
    if not mark or not task.isidentifier() or len(name) > MAX_NBYTES:
        return name, {}
    try:
        params = json.loads(base64.b32hexdecode(code.upper() + "=" * (-len(code) % 8)))
        is_ours = _is_params(params) and _encode(params) == code
    except (binascii.Error, ValueError, RecursionError):
        return name, {}
    return (task, params) if is_ours and len(name.encode()) <= MAX_NBYTES else (name, {})


def base_of(name: str) -> str:
    """Return a task's own name."""
    return parse(name)[0]


def label(name: str) -> str:
    """Return a name as people read it: `resize(height=240, width=320)`."""
    task, params = parse(name)
    if not params:
        return task
    return f"{task}({', '.join(f'{key}={_text(value)}' for key, value in params.items())})"


def _encode(params: Mapping[str, Value]) -> str:
    text = json.dumps(
        params, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return base64.b32hexencode(text.encode()).decode().rstrip("=").lower()


def _is_params(value: object) -> bool:
    return (
        isinstance(value, dict)
        and 0 < len(value) <= MAX_PARAMS
        and all(key.isidentifier() and _is_value(item) for key, item in value.items())
    )


def _is_value(value: object) -> bool:
    if isinstance(value, bool) or type(value) is str:
        return True
    if type(value) is int:
        return abs(value) <= MAX_INT
    return type(value) is float and math.isfinite(value)


def _text(value: Value) -> str:
    """Return a value as JSON in which nothing commands a terminal."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)
