"""What nodes, handlers and packets did, who they are, and what is left of it with age."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.sql import quoted_name

revision = "0003"
down_revision = "0002"

NODE_ID, SESSION_ID, HANDLER_ID, GPU_ID, QUERY_ID = (
    quoted_name(name, False)
    for name in ("node_ID", "session_ID", "handler_ID", "gpu_ID", "query_ID")
)
NAMES = (
    "sys_info", "proc_info", "packet_info", "gpu_info", "proc_gpu_info",
    "node", "session", "handler", "placement",
    "sys_rollup", "proc_rollup", "packet_rollup", "horizon",
)  # fmt: skip


def _real(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Double, nullable=False)


def _whole(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Integer, nullable=False, autoincrement=False)


def _text(name: str, length: int = 45) -> sa.Column[Any]:
    return sa.Column(name, sa.String(length), nullable=False)


def _floats(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.Float) for name in names]


def _ints(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.Integer) for name in names]


def _make(name: str, *columns: Any, by: tuple[str, ...], clustered: bool = True) -> None:
    """Make a table with its primary key, in whose order its rows lie if it is `clustered`."""
    op.create_table(
        name,
        *columns,
        sa.PrimaryKeyConstraint(*by),
        if_not_exists=True,
        sqlite_with_rowid=not clustered,
        # Of MySQL, whose databases may be of a narrower one.
        mysql_charset="utf8mb4",
        mariadb_charset="utf8mb4",
    )


def upgrade() -> None:
    """Make the tables."""
    _make_documented()
    _make_gpus()
    _make_names()
    _make_rollups()


def _make_documented() -> None:
    _make(
        "sys_info",
        _real("timestamp"),
        _whole(NODE_ID),
        *_floats("cpu_util"),
        *_ints("mem_total"),
        *_floats("mem_util"),
        *_ints("gpu_util", "gpu_mem_util", "gpu_clock", "gpu_power"),
        by=("timestamp", NODE_ID),
    )
    _make(
        "proc_info",
        _real("timestamp"),
        _whole(SESSION_ID),
        _whole(HANDLER_ID),
        *_floats("cpu_util", "mem_util"),
        *_ints("gpu_util", "gpu_mem_util", NODE_ID),
        by=("timestamp", SESSION_ID, HANDLER_ID),
    )
    _make(
        "packet_info",
        _real("timestamp"),
        _whole(SESSION_ID),
        _whole(HANDLER_ID),
        _whole("sequence"),
        _text("event"),
        *_ints("size", NODE_ID),
        by=(SESSION_ID, "sequence", HANDLER_ID, "event", "timestamp"),
    )
    op.create_index("ix_packet_info_timestamp", "packet_info", ["timestamp"], if_not_exists=True)


def _make_gpus() -> None:
    _make(
        "gpu_info",
        _real("timestamp"),
        _whole(NODE_ID),
        _whole(GPU_ID),
        *_ints("gpu_util", "gpu_mem_util", "gpu_clock", "gpu_power"),
        by=("timestamp", NODE_ID, GPU_ID),
    )
    _make(
        "proc_gpu_info",
        _real("timestamp"),
        _whole(SESSION_ID),
        _whole(HANDLER_ID),
        _whole(GPU_ID),
        *_ints("gpu_util", "gpu_mem_util"),
        by=("timestamp", SESSION_ID, HANDLER_ID, GPU_ID),
    )


def _make_names() -> None:
    _make(
        "node",
        _whole(NODE_ID),
        _text("node_name", 255),
        _text("node_type"),
        _text("node_addr", 255),
        *_ints("node_port"),
        by=(NODE_ID,),
        clustered=False,
    )
    _make(
        "session",
        _whole(SESSION_ID),
        _text("session_name", 255),
        _text("service_name", 255),
        sa.Column(QUERY_ID, sa.BigInteger),
        _text("algorithm"),
        _text("state"),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("blueprint", sa.JSON),
        _real("created_s"),
        sa.Column("started_s", sa.Double),
        sa.Column("stopped_s", sa.Double),
        by=(SESSION_ID,),
        clustered=False,
    )
    _make(
        "handler",
        _whole(SESSION_ID),
        _whole(HANDLER_ID),
        _text("handler_name", 255),
        *_ints("handler_type"),
        sa.Column("params", sa.JSON),
        by=(SESSION_ID, HANDLER_ID),
        clustered=False,
    )
    _make(
        "placement",
        _whole(SESSION_ID),
        _whole(HANDLER_ID),
        _real("since_s"),
        sa.Column("until_s", sa.Double),
        _whole(NODE_ID),
        sa.Column("cause", sa.Text, nullable=False),
        by=(SESSION_ID, HANDLER_ID, "since_s"),
        clustered=False,
    )


def _make_rollups() -> None:
    loads = ("cpu_util", "cpu_util_max", "mem_util", "mem_util_max", "gpu_util")
    _make(
        "sys_rollup",
        _real("timestamp"),
        _whole(NODE_ID),
        _real("until_s"),
        _whole("samples"),
        *_floats(*loads),
        *_ints("gpu_util_max"),
        *_floats("gpu_power"),
        by=("timestamp", NODE_ID),
    )
    _make(
        "proc_rollup",
        _real("timestamp"),
        _whole(SESSION_ID),
        _whole(HANDLER_ID),
        _real("until_s"),
        _whole("samples"),
        *_floats(*loads),
        *_ints("gpu_util_max"),
        by=("timestamp", SESSION_ID, HANDLER_ID),
    )
    _make(
        "packet_rollup",
        _real("timestamp"),
        _whole(SESSION_ID),
        _whole(HANDLER_ID),
        _text("event"),
        _real("until_s"),
        _whole("packets"),
        sa.Column("nbytes", sa.BigInteger),
        _whole("ended"),
        sa.Column("busy_s", sa.Double),
        sa.Column("busy_max_s", sa.Double),
        by=("timestamp", SESSION_ID, HANDLER_ID, "event"),
    )
    _make("horizon", _text("table_name"), _real("until_s"), by=("table_name",), clustered=False)


def downgrade() -> None:
    """Drop them, with all that they have."""
    for name in reversed(NAMES):
        op.drop_table(name, if_exists=True)
