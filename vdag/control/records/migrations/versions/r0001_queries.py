"""Queries, their plans, results and losses: what databases had before there were revisions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql, sqlite

revision = "0001"
down_revision = None

NUMBER = sa.BigInteger().with_variant(sqlite.INTEGER(), "sqlite")
#: Of MySQL, whose databases may be of a narrower one.
UTF8 = {"mysql_charset": "utf8mb4", "mariadb_charset": "utf8mb4"}
DOCUMENT = sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "schema_version", sa.Column("version", sa.Integer, nullable=False), if_not_exists=True
    )
    op.execute("DELETE FROM schema_version")
    op.execute("INSERT INTO schema_version (version) VALUES (1)")
    op.create_table(
        "query",
        sa.Column("id", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("node_addr", sa.String(255), nullable=False),
        sa.Column("video_id", sa.Integer, nullable=False),
        sa.Column("dag", sa.JSON, nullable=False),
        sa.Column("constraint_document", sa.JSON, nullable=False),
        sa.Column("policy", sa.String(255), nullable=False),
        sa.Column("form", sa.String(16), nullable=False),
        sa.Column("fixed_plan", sa.JSON),
        sa.Column("state", sa.Integer, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("suspended", sa.Boolean, nullable=False),
        sa.Column("fault", sa.Text, nullable=False),
        sa.Column("created_s", sa.Float(53), nullable=False),
        sa.Column("ended_s", sa.Float(53)),
        if_not_exists=True,
        sqlite_autoincrement=True,
        **UTF8,
    )
    op.create_table(
        "plan",
        sa.Column("query_id", NUMBER, primary_key=True, autoincrement=False),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("documents", sa.JSON, nullable=False),
        sa.Column("cause", sa.Text, nullable=False),
        sa.Column("at_s", sa.Float(53), nullable=False),
        if_not_exists=True,
        **UTF8,
    )
    op.create_table(
        "result",
        sa.Column("query_id", NUMBER, primary_key=True, autoincrement=False),
        sa.Column("n_loop", NUMBER, primary_key=True, autoincrement=False),
        sa.Column("run", sa.String(64), nullable=False),
        sa.Column("seq", NUMBER, nullable=False),
        sa.Column("frame_id", sa.Float(53)),
        sa.Column("document", DOCUMENT, nullable=False),
        sa.Column("at_s", sa.Float(53), nullable=False),
        sa.UniqueConstraint("query_id", "run", "seq"),
        if_not_exists=True,
        **UTF8,
    )
    op.create_table(
        "dropped",
        sa.Column("query_id", NUMBER, primary_key=True, autoincrement=False),
        sa.Column("run", sa.String(64), primary_key=True),
        sa.Column("reason", sa.String(64), primary_key=True),
        sa.Column("count", NUMBER, nullable=False),
        if_not_exists=True,
        **UTF8,
    )


def downgrade() -> None:
    """Drop them."""
    for name in ("dropped", "result", "plan", "query", "schema_version"):
        op.drop_table(name, if_exists=True)
