"""Why a query was given a plan."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column, unless a migration that was broken off has."""
    names = {each["name"] for each in sa.inspect(op.get_bind()).get_columns("plan")}
    if "decision" not in names:
        op.add_column("plan", sa.Column("decision", sa.JSON))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("plan", "decision")
