"""What may happen at every frame does not fill the log."""

from __future__ import annotations

import logging

from vdag.sparing import SparingLog


def test_a_warning_becomes_rare_and_says_how_often_it_was(caplog):
    caplog.set_level(logging.WARNING, "vdag")
    log = SparingLog(logging.getLogger("vdag.test"))
    for number in range(1, 101):
        log.warning("lost", "frame %d is lost", number)
    assert caplog.messages == [
        "frame 1 is lost",
        *(f"frame {number} is lost ({number} times)" for number in (2, 4, 8, 16, 32, 64)),
    ]


def test_every_kind_is_counted_by_itself(caplog):
    log = SparingLog(logging.getLogger("vdag.test"))
    for kind in ("faces", "faces", "faces", "cars"):
        log.warning(kind, "%s failed", kind)
    assert caplog.messages == ["faces failed", "faces failed (2 times)", "cars failed"]


def test_the_others_are_there_for_who_looks_for_them(caplog):
    caplog.set_level(logging.DEBUG, "vdag")
    log = SparingLog(logging.getLogger("vdag.test"))
    for _ in range(3):
        log.warning("kind", "again")
    assert [record.levelno for record in caplog.records] == [
        logging.WARNING,
        logging.WARNING,
        logging.DEBUG,
    ]
    assert {record.funcName for record in caplog.records} == {
        "test_the_others_are_there_for_who_looks_for_them"
    }
