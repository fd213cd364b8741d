"""Parameters of a task: small plain values that its name may carry, declared by its class.

A class with parameters has `params`, name to `Param`; its `TaskOptions.params` then hold a checked
value for every one of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from vdag.errors import ConfigError

__all__ = ["MAX_TEXT", "RESERVED", "Param", "Params", "Value", "check"]

Value: TypeAlias = bool | int | float | str
Params: TypeAlias = Mapping[str, Value]

#: Most characters of a text, unless the parameter says.
MAX_TEXT = 120
_MAX_INT = 1 << 53


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter.

    Attributes:
        default: used where none is given; its type is that of the parameter. An int is taken for a
            float, nothing else for anything.
        least: smallest number.
        most: largest number; of a text, most characters.
        choices: the only values, if there are any here.
    """

    default: Value
    least: float | None = None
    most: float | None = None
    choices: tuple[Value, ...] = ()

    def read(self, value: object) -> Value | None:
        """Return a value as one of this parameter, None if it is none."""
        kind = type(self.default)
        if kind is float and type(value) is int and abs(value) <= _MAX_INT:
            value = float(value)
        if type(value) is not kind or (self.choices and value not in self.choices):
            return None
        if isinstance(value, str):
            return value if len(value) <= self._limits[1] else None
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            least, most = self._limits
            return value if least <= value <= most else None  # not a NaN either
        return value if isinstance(value, bool) else None

    def __str__(self) -> str:
        """Say what is expected."""
        if self.choices:
            return f"one of {', '.join(map(str, self.choices))}"
        if isinstance(self.default, bool):
            return "true or false"
        least, most = self._limits
        if isinstance(self.default, str):
            return f"a text of at most {most:g} characters"
        noun = "a number" if isinstance(self.default, float) else "a whole number"
        return f"{noun} of {_number(least)} to {_number(most)}"

    @property
    def _limits(self) -> tuple[float, float]:
        most: float = _MAX_INT
        if isinstance(self.default, str):
            most = MAX_TEXT
        elif isinstance(self.default, float):
            most = math.inf
        least = -most if self.least is None else self.least
        return least, min(most if self.most is None else self.most, 1.7e308)


#: Understood by every task, without effect on what it does: tell apart two of the same in one
#: graph, and those of two sessions that must not share a process.
RESERVED: Mapping[str, Param] = MappingProxyType(
    {"instance": Param(0, 0, 1 << 31), "session": Param(0, 0, 1 << 31)}
)


def check(
    task: str, declared: Mapping[str, Param], given: Mapping[str, object]
) -> dict[str, Value]:
    """Return a value for every declared parameter: the given one, else the default.

    Args:
        task: its name, for the text of an error.
        declared: its parameters.
        given: name to value; those of `RESERVED` are checked and left out of the result.

    Raises:
        ConfigError: one is not declared, or its value is of another type or out of range.
    """
    values = {name: param.default for name, param in declared.items()}
    for name, value in given.items():
        param = declared.get(name) or RESERVED.get(name)
        if param is None:
            known = ", ".join(sorted(declared)) or "none"
            raise ConfigError(f"{task} has no parameter {name!r:.40}, it takes {known}")
        read = param.read(value)
        if read is None:
            raise ConfigError(f"{task}: parameter {name} is {value!r:.80}, expected {param}")
        if name in declared:
            values[name] = read
    return values


def _number(value: float) -> str:
    return str(int(value)) if abs(value) < _MAX_INT and value == int(value) else f"{value:g}"
