"""Accounts: what became of a session, as one page that needs no network.

Account      the numbers of the page; `gather` makes them from records, of any length
render       the page: HTML with its pictures inside
"""

from __future__ import annotations

from vdag.control.accounts.account import Account, Change, Histogram, Load, Stack
from vdag.control.accounts.gathering import MAX_FRAMES, gather
from vdag.control.accounts.page import render

__all__ = ["MAX_FRAMES", "Account", "Change", "Histogram", "Load", "Stack", "gather", "render"]
