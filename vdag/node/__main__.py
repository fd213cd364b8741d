"""`python -m vdag.node` is the command `vdag-node`."""

from __future__ import annotations

from vdag.cli import node_main

if __name__ == "__main__":
    node_main()
