"""Alembic's changes of the history's schema, oldest first in ``versions/``."""
