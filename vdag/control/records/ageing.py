"""`Ageing`: what becomes of rows of nodes, handlers and packets when they are old.

They are rolled up by the minute, then deleted; what is left of them is deleted later. This is done
in steps, at most one to a transaction that brings new rows, of about as many rows as such a
transaction may bring: so it keeps up, and nobody waits long.

A step takes the oldest rows of a table, which end with a minute unless they are too many, and moves
the table's *horizon* beyond them. Rows that come for a time before the horizon are late: they were
counted, or would be twice. They are passed over.

What a minute leaves is one row, or several where it was taken in parts: readers add them up. Time
of processing is kept with the packet's start, for its end may be in the next minute.

Several processes may do this to one database: the row of a table's horizon is locked for a step,
and who comes second finds nothing left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, Table, case, delete, func, insert, select, update

from vdag.control.records import event_tables as tables

__all__ = ["Ageing", "Retention"]

MINUTE_S = 60.0
#: Rows of a step, about.
STEP_ROWS = 20_000
#: Between steps when nothing is old.
REST_S = 10.0
#: A packet that takes longer has no end.
LONGEST_S = 600.0


@dataclass(frozen=True, slots=True)
class Retention:
    """What is kept, for how long; ages are in seconds, those of rows may be `math.inf`.

    Attributes:
        results: of each query, newest first; up to a tenth more until they are trimmed.
        age_s: results older than this go, but for the newest 11 of each query.
        packets_s: events of packets older than this are rolled up by the minute.
        samples_s: likewise samples of nodes and handlers.
        rollups_s: what is left of them goes at this age.
    """

    results: int = 1000
    age_s: float = 30 * 86400.0
    packets_s: float = 7 * 86400.0
    samples_s: float = 7 * 86400.0
    rollups_s: float = 365 * 86400.0


class Ageing:
    """See above; for one thread, within its transactions.

    Each transaction has to `begin`.

    Args:
        retention: what is kept.

    Attributes:
        rolled_up: rows that steps have taken; counted by who commits them.
    """

    def __init__(self, retention: Retention) -> None:
        ages = {
            tables.packet_info: retention.packets_s,
            tables.sys_info: retention.samples_s,
            tables.proc_info: retention.samples_s,
            tables.gpu_info: retention.samples_s,
            tables.proc_gpu_info: retention.samples_s,
            tables.packet_rollup: retention.rollups_s,
            tables.sys_rollup: retention.rollups_s,
            tables.proc_rollup: retention.rollups_s,
        }
        self._ages = {table: age_s for table, age_s in ages.items() if math.isfinite(age_s)}
        self._horizons: dict[str, float] | None = None
        self._next_s = 0.0
        self.rolled_up = 0

    def begin(self) -> None:
        """Forget what is known of the database: others may have changed it."""
        self._horizons = None

    def horizon_s(self, connection: Connection, table: Table) -> float:
        """Return up to where rows of a table have been rolled up; newer ones are welcome."""
        if self._horizons is None:
            rows = connection.execute(select(tables.horizon)).all()
            self._horizons = {row.table_name: row.until_s for row in rows}
        return self._horizons.get(table.name, 0.0)

    def step(self, connection: Connection, *, at_s: float) -> int:
        """Take the oldest rows of one table, if they are old; return how many went."""
        if at_s < self._next_s:
            return 0
        for table, age_s in self._ages.items():
            before_s = math.floor((at_s - age_s) / MINUTE_S) * MINUTE_S
            until_s = _end_of_step(connection, table, before_s)
            if until_s is not None:
                return _take(connection, table, until_s)
        self._next_s = at_s + REST_S
        return 0


def _end_of_step(connection: Connection, table: Table, before_s: float) -> float | None:
    """Return before when the rows of a step were, None if no row is older than `before_s`."""
    oldest_s = connection.execute(select(func.min(table.c.timestamp))).scalar()
    if oldest_s is None or oldest_s >= before_s:
        return None
    end_s = min(before_s, math.floor(oldest_s / MINUTE_S) * MINUTE_S + MINUTE_S)
    beyond = (
        select(table.c.timestamp)
        .where(table.c.timestamp < end_s)
        .order_by(table.c.timestamp)
        .offset(STEP_ROWS)
        .limit(1)
    )
    last_s = connection.execute(beyond).scalar()
    # Rows of one moment go together: what is left of them has that moment in its key.
    return end_s if last_s is None else math.nextafter(last_s, math.inf)


def _take(connection: Connection, table: Table, until_s: float) -> int:
    """Roll up and delete the rows of a table that were before a time; return how many."""
    mine = tables.horizon.c.table_name == table.name
    known = select(tables.horizon.c.until_s).where(mine).with_for_update()
    known_s = connection.execute(known).scalar()
    if known_s is None:
        known_s = 0.0
        connection.execute(insert(tables.horizon).values(table_name=table.name, until_s=known_s))
    old = table.c.timestamp < until_s
    if table in _ROLLUPS:
        target, chosen = _ROLLUPS[table]
        names = list(chosen.selected_columns.keys())
        connection.execute(insert(target).from_select(names, chosen.where(old)))
    count = connection.execute(delete(table).where(old)).rowcount
    reached = update(tables.horizon).where(mine).values(until_s=max(until_s, known_s))
    connection.execute(reached)
    return count


def _of_packets() -> Select[Any]:
    packet, end = tables.packet_info, tables.packet_info.alias("ending")
    ends_s = (
        select(func.min(end.c.timestamp))
        .where(
            end.c.session_id == packet.c.session_id,
            end.c.sequence == packet.c.sequence,
            end.c.handler_id == packet.c.handler_id,
            end.c.event == "end",
            end.c.timestamp >= packet.c.timestamp,
            end.c.timestamp < packet.c.timestamp + LONGEST_S,
        )
        .correlate(packet)
        .scalar_subquery()
    )
    busy_s = case((packet.c.event == "start", ends_s - packet.c.timestamp))
    return select(
        func.min(packet.c.timestamp).label("timestamp"),
        packet.c.session_id.label("session_id"),
        packet.c.handler_id.label("handler_id"),
        packet.c.event.label("event"),
        func.max(packet.c.timestamp).label("until_s"),
        func.count().label("packets"),
        func.sum(packet.c.size).label("nbytes"),
        func.count(busy_s).label("ended"),
        func.sum(busy_s).label("busy_s"),
        func.max(busy_s).label("busy_max_s"),
    ).group_by(packet.c.session_id, packet.c.handler_id, packet.c.event)


def _of_samples(table: Table, *keys: str) -> Select[Any]:
    loads = [
        column
        for name in ("cpu_util", "mem_util", "gpu_util")
        for column in (
            func.avg(table.c[name]).label(name),
            func.max(table.c[name]).label(f"{name}_max"),
        )
    ]
    if "gpu_power" in table.c:
        loads.append(func.avg(table.c.gpu_power).label("gpu_power"))
    return select(
        func.min(table.c.timestamp).label("timestamp"),
        *(table.c[key].label(key) for key in keys),
        func.max(table.c.timestamp).label("until_s"),
        func.count().label("samples"),
        *loads,
    ).group_by(*(table.c[key] for key in keys))


#: Where a table's old rows go, and as what.
_ROLLUPS: Mapping[Table, tuple[Table, Select[Any]]] = {
    tables.packet_info: (tables.packet_rollup, _of_packets()),
    tables.sys_info: (tables.sys_rollup, _of_samples(tables.sys_info, "node_id")),
    tables.proc_info: (
        tables.proc_rollup,
        _of_samples(tables.proc_info, "session_id", "handler_id"),
    ),
}
