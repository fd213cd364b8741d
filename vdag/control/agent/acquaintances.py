"""`Acquaintances`: which process each other node was, for as long as controllers come and go.

A controller notices a node that was started anew and tells those whose frames were there. One that
was itself started anew cannot: it does not know who was there before. The nodes do.
"""

from __future__ import annotations

from vdag.control import wire

__all__ = ["Acquaintances"]


class Acquaintances:
    """See above; for one thread."""

    def __init__(self) -> None:
        self._cloud = ""
        self._known: dict[str, wire.Card] = {}
        self._introduced: set[str] = set()

    def hear(self, cloud: str, view: wire.View | None) -> list[str]:
        """Take note of what a controller says of the nodes.

        Args:
            cloud: session of the controller.
            view: None for no news.

        Returns:
            Landings whose node was started anew since the controller before said something of it:
            frames that were there are lost. A landing that has moved is the controller's business.
        """
        if cloud != self._cloud:
            self._cloud = cloud
            self._introduced.clear()
        lost = []
        for card in () if view is None else view.cards:
            before = self._known.pop(card.node_addr, card)
            self._known[card.node_addr] = card
            is_first = card.node_addr not in self._introduced
            self._introduced.add(card.node_addr)
            is_same = before.landing == card.landing and before.session != card.session
            if is_first and is_same and card.landing:
                lost.append(card.landing)
        while len(self._known) > wire.MAX_RESULTS:
            self._introduced.discard(self._known.pop(next(iter(self._known))).node_addr)
        return lost
