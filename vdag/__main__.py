"""`python -m vdag` is the command `vdag`."""

from __future__ import annotations

from vdag.cli import main

if __name__ == "__main__":
    main()
