"""Nodes that speak only the documented REST."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the table, unless a migration that was broken off has."""
    op.create_table(
        "foreigner",
        sa.Column("node_addr", sa.String(255), primary_key=True),
        sa.Column("dialect", sa.String(16), nullable=False),
        sa.Column("videos", sa.JSON, nullable=False),
        sa.Column("given", sa.JSON, nullable=False),
        if_not_exists=True,
        # Of MySQL, whose databases may be of a narrower one.
        mysql_charset="utf8mb4",
        mariadb_charset="utf8mb4",
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("foreigner", if_exists=True)
