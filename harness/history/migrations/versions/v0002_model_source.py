"""Which weights a run computed with: runs of random ones are no measure for runs of the real model."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLES = ("runs", "accepted")


def upgrade() -> None:
    """Add it. Of what was recorded before nobody knows it: that stays a series of its own."""
    for table in TABLES:
        op.add_column(table, sa.Column("model_source", sa.String(100), nullable=False, server_default=""))


def downgrade() -> None:
    """Forget it: series become one again."""
    for table in TABLES:
        op.drop_column(table, "model_source")
