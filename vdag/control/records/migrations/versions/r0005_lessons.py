"""What a coordinator has learned of handlers and nodes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.sql import quoted_name

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Make the table, unless a migration that was broken off has."""
    op.create_table(
        "lesson",
        sa.Column("what", sa.String(16), primary_key=True),
        sa.Column("subject", sa.String(255), primary_key=True),
        *(
            sa.Column(quoted_name(name, False), sa.Integer, primary_key=True, autoincrement=False)
            for name in ("node_ID", "other_ID")
        ),
        sa.Column("value", sa.Double, nullable=False),
        sa.Column("at_s", sa.Double, nullable=False),
        if_not_exists=True,
        # Of MySQL, whose databases may be of a narrower one.
        mysql_charset="utf8mb4",
        mariadb_charset="utf8mb4",
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("lesson", if_exists=True)
