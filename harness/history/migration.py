"""Bringing a history's schema up to date, with Alembic."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from harness.history.failure import HistoryError

# PostgreSQL's advisory lock of whoever changes the schema; any number that nobody else uses.
SCHEMA_LOCK = 7_305_811


def migrate(connection: Connection, where: str) -> None:
    """Bring the schema up to date, within the connection's transaction.

    Args:
        where: the database, as it may be shown.

    Raises:
        HistoryError: it is newer than this harness.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": SCHEMA_LOCK})
    scripts = ScriptDirectory.from_config(config)
    current, newest = MigrationContext.configure(connection).get_current_revision(), scripts.get_current_head()
    if current == newest:
        return
    if current is not None and current not in {script.revision for script in scripts.walk_revisions()}:
        raise HistoryError(
            f"its schema is version {current}, this harness knows versions up to {newest}",
            where=where,
            fix="update the harness",
        )
    command.upgrade(config, "head")
