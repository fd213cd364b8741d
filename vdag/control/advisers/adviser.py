"""`python -m vdag.control.advisers.adviser`: a process that a user's policy runs in.

It is told what to load, then one question at a time, and answers each; `advice` has the words. It
trusts its parent, with which it dies, and is not trusted by it: it may hang, crash, print, or say
anything at all. Its exit status is 0 when its parent has closed the pipe, 3 when the policy cannot
be loaded, 4 when its parent is gone.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import traceback
from typing import BinaryIO

from vdag.control.advisers.advice import (
    MAX_ANSWER_NBYTES,
    MAX_QUESTION_NBYTES,
    MAX_REASON,
    PREFIX,
    Advised,
    Asked,
    Instructed,
    Loaded,
    NoAdvice,
    Refused,
    Reply,
    decode_order,
    frame,
)
from vdag.control.policies import Policy, load
from vdag.control.scheduling.instructions import Question
from vdag.errors import ConfigError, FrameFormatError, PlanError
from vdag.kinship import die_with

__all__ = ["main"]

STOPPED, NO_POLICY, LOST = 0, 3, 4


def main() -> int:
    """Be an adviser; return its exit status."""
    # What the policy prints goes to standard error, and what it reads is empty: the pipes are ours.
    said = os.fdopen(os.dup(1), "wb", buffering=0)
    told = os.fdopen(os.dup(0), "rb")
    os.dup2(2, 1)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    faulthandler.enable()
    order = _next(told)
    if not isinstance(order, Instructed) or not die_with(order.parent):
        return LOST
    try:
        policy = load(order.policy)
    except ConfigError as err:
        traceback.print_exc()
        _say(said, Refused(_clip(str(err))))
        return NO_POLICY
    _say(said, Loaded())
    while isinstance(order := _next(told), Asked):
        _say(said, _advise(policy, order.number, order.question))
    return STOPPED


def _advise(policy: Policy, number: int, question: Question) -> Advised | NoAdvice:
    try:
        return Advised(number, *policy.answer(question))
    except PlanError as err:
        return NoAdvice(number, _clip(str(err)))
    except BaseException as err:  # SystemExit and KeyboardInterrupt too: it is not its process
        traceback.print_exc()
        return NoAdvice(number, _clip(f"{type(err).__name__}: {err}"))


def _say(said: BinaryIO, reply: Reply) -> None:
    try:
        data = frame(reply)
        if len(data) > PREFIX + MAX_ANSWER_NBYTES:
            raise PlanError(f"answer of {len(data)} bytes exceeds {MAX_ANSWER_NBYTES}")
    except Exception as err:  # cycles, depths and classes that MessagePack does not know
        assert isinstance(reply, Advised), "only a policy's own words can be unspeakable"
        data = frame(NoAdvice(reply.number, _clip(str(err) or type(err).__name__)))
    while data:
        data = data[said.write(data) or 0 :]


def _next(told: BinaryIO) -> Instructed | Asked | None:
    """Return the next order, None at the end of the pipe."""
    nbytes = int.from_bytes(told.read(PREFIX), "little")
    if not nbytes:
        return None
    if nbytes > MAX_QUESTION_NBYTES:
        raise FrameFormatError(f"frame of {nbytes} bytes exceeds {MAX_QUESTION_NBYTES}")
    return decode_order(told.read(nbytes))


def _clip(text: str) -> str:
    return text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}..."


if __name__ == "__main__":
    sys.exit(main())
