"""What Alembic runs scripts in: the connection, and the transaction, of `records.schema`."""

from __future__ import annotations

from alembic import context

from vdag.control.records import event_tables

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=event_tables.metadata,
    version_table=context.config.attributes["version_table"],
)
with context.begin_transaction():
    context.run_migrations()
