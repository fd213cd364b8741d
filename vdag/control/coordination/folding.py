"""Folding: pairs of tx and rx become links again.

The documents have no links between nodes: a tx sends to an address and port, an rx somewhere else
takes what comes to that port. Which belongs to which is not written down. A pair is a tx and an rx
of one port and protocol, in different parts of the template, of which

1. the tx names the address of the rx, or of its node; or, for what is then left,
2. neither could be of another pair: data may have addresses that no node file has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from vdag.control.coordination.types import HANDLER_TYPES, RX, TX, with_defaults
from vdag.control.coordination.values import Cut, HandlerSpec, Link
from vdag.errors import ConfigError

__all__ = ["fold"]

Groups = Mapping[int, "int | None"]


def fold(
    handlers: Sequence[HandlerSpec],
    links: Sequence[Link],
    groups: Groups,
    addresses: Mapping[int, str],
) -> tuple[tuple[HandlerSpec, ...], tuple[Link, ...], tuple[Cut, ...]]:
    """Return handlers without tx and rx, all their links, and what the pairs were.

    Args:
        handlers: of a service, tx and rx among them.
        links: between them, each input linked once.
        groups: handler to the part of the template it is from; None for none.
        addresses: of nodes, by their numbers.

    Raises:
        ConfigError: a tx or an rx has no other, or more than one; or hands on to one.
    """
    kinds = {each.handler_id: each.kind for each in handlers}
    for link in links:
        if kinds[link.source_handler] == RX and kinds[link.target_handler] == TX:
            raise ConfigError(
                f"handler {link.target_handler} sends on what handler {link.source_handler} "
                "receives, with none between them"
            )
    for each in handlers:
        if each.kind in (TX, RX) and not _where(each)[1]:
            raise ConfigError(f"{each}: port is 0, expected 1 to 65535")
    cuts = tuple(
        Cut(tx, rx, _folded(tx, rx, links)) for tx, rx in _pairs(handlers, groups, addresses)
    )
    return (
        tuple(each for each in handlers if each.kind not in (TX, RX)),
        tuple(_all_links(links, kinds, cuts)),
        cuts,
    )


def _folded(tx: HandlerSpec, rx: HandlerSpec, links: Sequence[Link]) -> tuple[Link, ...]:
    taken = next(link for link in links if link.target_handler == tx.handler_id)
    given = [link for link in links if link.source_handler == rx.handler_id]
    if not given:
        raise ConfigError(f"{rx}: output 0 has no link")
    return tuple(
        replace(link, source_handler=taken.source_handler, source_output=taken.source_output)
        for link in given
    )


def _all_links(links: Sequence[Link], kinds: Mapping[int, int], cuts: Sequence[Cut]) -> list[Link]:
    """Return the links in their order, those out of an rx as what they stand for."""
    of_target = {
        (link.target_handler, link.target_input): link for cut in cuts for link in cut.links
    }
    return [
        of_target.get((link.target_handler, link.target_input), link)
        for link in links
        if kinds[link.target_handler] != TX
    ]


def _pairs(
    handlers: Sequence[HandlerSpec], groups: Groups, addresses: Mapping[int, str]
) -> list[tuple[HandlerSpec, HandlerSpec]]:
    senders = [each for each in handlers if each.kind == TX]
    receivers = [each for each in handlers if each.kind == RX]
    fitting = {
        tx.handler_id: [rx for rx in receivers if _may_pair(tx, rx, groups)] for tx in senders
    }
    found: dict[int, HandlerSpec] = {}
    for tx in senders:
        _take(tx, [rx for rx in fitting[tx.handler_id] if _is_named(tx, rx, addresses)], found)
    _take_what_is_left(senders, fitting, found)
    for rx in receivers:
        if rx not in found.values():
            raise ConfigError(f"{rx}: no tx sends to port {_where(rx)[1]}")
    return [(tx, found[tx.handler_id]) for tx in senders]


def _take(tx: HandlerSpec, choice: Sequence[HandlerSpec], found: dict[int, HandlerSpec]) -> None:
    """Pair a tx with the only rx that it names.

    Raises:
        ConfigError: another tx names it too.
    """
    if len(choice) != 1:
        return
    for other, rx in found.items():
        if rx == choice[0]:
            raise ConfigError(f"handlers {other} and {tx.handler_id} both send to {rx}")
    found[tx.handler_id] = choice[0]


def _take_what_is_left(
    senders: Sequence[HandlerSpec],
    fitting: Mapping[int, Sequence[HandlerSpec]],
    found: dict[int, HandlerSpec],
) -> None:
    """Pair the others, those first that have one choice: it is then no choice of the rest.

    Raises:
        ConfigError: one has no choice, or all that are left have several.
    """
    while left := [tx for tx in senders if tx.handler_id not in found]:
        taken = list(found.values())
        choices = [[rx for rx in fitting[tx.handler_id] if rx not in taken] for tx in left]
        tx, choice = min(zip(left, choices, strict=True), key=lambda each: len(each[1]))
        if len(choice) != 1:
            addr, port, protocol = _where(tx)
            some = " and ".join(str(each.handler_id) for each in choice)
            what = f"could be handlers {some}" if some else "is no rx"
            raise ConfigError(f"{tx}: {protocol} {addr}:{port} {what}")
        found[tx.handler_id] = choice[0]


def _may_pair(tx: HandlerSpec, rx: HandlerSpec, groups: Groups) -> bool:
    here, there = groups[tx.handler_id], groups[rx.handler_id]
    apart = here is None or here != there
    elsewhere = tx.node_id is None or tx.node_id != rx.node_id
    return apart and elsewhere and _where(tx)[1:] == _where(rx)[1:]


def _is_named(tx: HandlerSpec, rx: HandlerSpec, addresses: Mapping[int, str]) -> bool:
    addr = _where(tx)[0]
    node_addr = addresses.get(-1 if rx.node_id is None else rx.node_id)
    return bool(addr) and addr in (_where(rx)[0], node_addr)


def _where(spec: HandlerSpec) -> tuple[str, int, str]:
    params = with_defaults(HANDLER_TYPES[spec.kind], spec.params)
    return params["addr"], params["port"], params["protocol"]
