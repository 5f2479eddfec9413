"""Run by Alembic: applies the changes over the connection, and inside the transaction, that the caller brings."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
