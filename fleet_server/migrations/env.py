"""Alembic's entry: runs migrations on the connection that :mod:`fleet_server.db.migrate` opened."""

from __future__ import annotations

from alembic import context

from fleet_server.db.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite alters a table by copying it
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
