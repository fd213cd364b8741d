"""Messages between a node and the processes of users' policies."""

from __future__ import annotations

import pytest

from vdag.control.advisers.advice import Advised, FrameReader, decode_reply, frame
from vdag.errors import FrameFormatError


def test_frames_are_cut_wherever_they_were_split():
    data = frame(Advised(1, "c", "m", None)) + frame(Advised(2, "c", "m", None))
    reader = FrameReader(100)
    bodies = [body for at in range(len(data)) for body in reader.feed(data[at : at + 1])]
    assert [decode_reply(body).number for body in bodies] == [1, 2]


def test_a_frame_that_is_too_long_is_refused_before_it_is_taken_in():
    with pytest.raises(FrameFormatError, match=r"^frame of 101 bytes exceeds 100$"):
        FrameReader(100).feed((101).to_bytes(4, "little"))


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x80", b"\x81\xa4type\xa5Other", b"\x91" * 5000])
def test_what_is_no_message_is_refused(body):
    with pytest.raises(FrameFormatError, match=r"^no message: "):
        decode_reply(body)
