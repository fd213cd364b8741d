"""Accounts: what became of a session, as one page that needs no network.

Account      the numbers of the page; `gather` makes them from records, of any length
render       the page: HTML with its pictures inside

What of the records is not packets comes as `circumstances`; `sharing` has them told over REST, and
`gather_from` makes an account of what is told.
"""

from __future__ import annotations

from vdag.control.accounts.account import Account, Change, Histogram, Load, Stack
from vdag.control.accounts.gathering import MAX_FRAMES, gather, gather_from
from vdag.control.accounts.page import render

__all__ = [
    "MAX_FRAMES",
    "Account",
    "Change",
    "Histogram",
    "Load",
    "Stack",
    "gather",
    "gather_from",
    "render",
]
