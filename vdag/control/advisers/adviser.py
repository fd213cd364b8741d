"""`python -m vdag.control.advisers.adviser`: a process that a user's policy runs in.

It is told what to load, then one question at a time, and answers each; `advice` has the words. It
trusts its parent, with which it dies, and is not trusted by it: it may hang, crash, print, or say
anything at all. Its exit status is 0 when its parent has closed the pipe, 3 when the policy cannot
be loaded or informed, 4 when its parent is gone.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import traceback
from dataclasses import replace
from typing import BinaryIO

from vdag.control.advisers.advice import (
    MAX_ANSWER_NBYTES,
    MAX_QUESTION_NBYTES,
    MAX_REASON,
    PREFIX,
    Advised,
    Asked,
    Informed,
    Instructed,
    Loaded,
    NoAdvice,
    Refused,
    Reply,
    decode_order,
    frame,
)
from vdag.control.advisers.knowledge import Knowledge
from vdag.control.policies import Policy, load
from vdag.control.scheduling.surroundings import Snapshot
from vdag.errors import ConfigError, FrameFormatError, PlanError
from vdag.kinship import die_with

__all__ = ["main"]

STOPPED, UNABLE, LOST = 0, 3, 4


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
        return UNABLE
    _say(said, Loaded(policy.takes_profile))
    return _serve(policy, told, said)


def _serve(policy: Policy, told: BinaryIO, said: BinaryIO) -> int:
    known = Knowledge()
    while (order := _next(told)) is not None:
        if isinstance(order, Asked):
            _say(said, _advise(policy, order, known))
        elif isinstance(order, Informed):
            try:
                known = Knowledge.read(order.document)
            except ConfigError as err:
                _say(said, Refused(_clip(str(err))))
                return UNABLE
            _say(said, Loaded(policy.takes_profile))
        else:
            return LOST
    return STOPPED


def _advise(policy: Policy, order: Asked, known: Knowledge) -> Advised | NoAdvice:
    around = order.question.around
    assert isinstance(around, Snapshot), "nothing else travels"
    try:
        if order.lessons:
            known.revise(order.lessons)
        question = replace(order.question, around=replace(around, knowledge=known))
        return Advised(order.number, *policy.answer(question))
    except PlanError as err:
        return NoAdvice(order.number, _clip(str(err)))
    except BaseException as err:  # SystemExit and KeyboardInterrupt too: it is not its process
        traceback.print_exc()
        return NoAdvice(order.number, _clip(f"{type(err).__name__}: {err}"))


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


def _next(told: BinaryIO) -> Instructed | Informed | Asked | None:
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
