"""Traces: the rows of packets as frames, and where the time of each went.

All of it is pure, but for the modules that are no names here: `reading` and `sharing`.

Roster         what the numbers in rows stand for: handlers, their roles, nodes
Frame          a packet on its way, as visits of handlers that are made of spans; `frames_of`
Tally          adds frames up to a `Summary`: percentiles by part, the slowest, the unfinished
chrome_events  a trace that Perfetto and Chrome show; `write_chrome`
write_sheet    the same as CSV
"""

from __future__ import annotations

from vdag.control.tracing.chrome import chrome_events, write_chrome
from vdag.control.tracing.frames import PARTS, Arrow, Frame, Part, Span, Visit, frames_of
from vdag.control.tracing.roster import Role, Roster, links_of, roster_of
from vdag.control.tracing.sheet import COLUMNS, write_sheet
from vdag.control.tracing.summary import Figures, FrameKey, Summary, Tally, figures_of

__all__ = [
    "COLUMNS",
    "PARTS",
    "Arrow",
    "Figures",
    "Frame",
    "FrameKey",
    "Part",
    "Role",
    "Roster",
    "Span",
    "Summary",
    "Tally",
    "Visit",
    "chrome_events",
    "figures_of",
    "frames_of",
    "links_of",
    "roster_of",
    "write_chrome",
    "write_sheet",
]
