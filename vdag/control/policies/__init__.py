"""Policies: who makes a query's plans.

A policy is a function with the documents' signature, of either generation, that returns
`video_conf, flow_mapping`. It is chosen per query by name: one of `BUILT_IN`, or
`module:function`, or `/path/file.py:function`. `load` finds it and `Policy.answer` calls it; of
functions that are not built in, only `vdag.control.advisers` should do so, in a process of theirs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

from vdag.control.policies.calling import Answer, Policy
from vdag.control.policies.cold_start import cold_start
from vdag.control.policies.demo import demo
from vdag.control.policies.golden import golden
from vdag.control.policies.kept import kept
from vdag.control.policies.loading import MAX_NAME, find_function
from vdag.control.policies.pid import pid
from vdag.control.policies.predictive import predictive
from vdag.control.policies.reference import (
    reference,
    reference_auto_pid,
    reference_mogai,
    reference_pid,
)
from vdag.control.policies.static import static
from vdag.errors import ConfigError

__all__ = ["BUILT_IN", "Answer", "Policy", "expect_allowed", "load"]

#: Ours: quick, without state, and called where they are asked. The last ones are baselines.
BUILT_IN: Mapping[str, Policy] = MappingProxyType(
    {
        function.__name__: Policy(function.__name__, function, is_built_in=True)
        for function in (
            golden,
            static,
            kept,
            predictive,
            pid,
            cold_start,
            demo,
            reference,
            reference_pid,
            reference_mogai,
            reference_auto_pid,
        )
    }
)


def expect_allowed(name: str, allowed: Collection[str]) -> None:
    """Check a policy's name that came over the network, without looking for the policy.

    To load a policy is to run somebody's code, so beside those built in only the operator's count.

    Args:
        name: what a user asks for.
        allowed: names that the operator has listed.

    Raises:
        ConfigError: it is neither built in nor listed.
    """
    if name not in BUILT_IN and name not in allowed:
        known = ", ".join([*BUILT_IN, *allowed])
        raise ConfigError(f"policy {name[:MAX_NAME]!r} is unknown, expected one of {known}")


def load(name: str) -> Policy:
    """Find a policy; a module or file is run to the end for it.

    Args:
        name: a name of `BUILT_IN`, `module:function`, or an absolute `/path/file.py:function`.

    Raises:
        ConfigError: the name is none of these; there is no such module, file or function, or it
            raised; or the function does not have the documents' signature.
    """
    return BUILT_IN[name] if name in BUILT_IN else Policy(name, find_function(name, (*BUILT_IN,)))
