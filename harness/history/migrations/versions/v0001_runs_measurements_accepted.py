"""Judged runs, their numbers, and the references that people accepted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the three tables."""
    op.create_table(
        "runs",
        sa.Column("run_id", sa.String(200), primary_key=True),
        sa.Column("attempt", sa.String(20)),
        sa.Column("tutorial", sa.String(100), nullable=False),
        sa.Column("variant", sa.String(20)),
        sa.Column("preset", sa.String(20)),
        sa.Column("site", sa.String(100)),
        sa.Column("host", sa.String(255)),
        sa.Column("job_id", sa.String(100)),
        sa.Column("device", sa.String(200)),
        sa.Column("device_count", sa.Integer),
        sa.Column("driver", sa.String(50)),
        sa.Column("image_sha256", sa.String(64)),
        sa.Column("definition_sha256", sa.String(64)),
        sa.Column("git_revision", sa.String(100)),
        sa.Column("ended_at", sa.Float),
        sa.Column("overall", sa.String(10), nullable=False),
        sa.Column("judged_at", sa.Float, nullable=False),
        sa.Column("judged_by", sa.String(100), nullable=False),
    )
    op.create_table(
        "measurements",
        sa.Column("run_id", sa.String(200), sa.ForeignKey("runs.run_id", ondelete="CASCADE"), primary_key=True),
        sa.Column("step", sa.String(100), primary_key=True),
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("unit", sa.String(50), nullable=False),
        sa.Column("value", sa.Float, nullable=False),
        sa.Column("samples", sa.Text, nullable=False),
        sa.Column("shared", sa.Boolean, nullable=False),
    )
    op.create_index("measurements_by_name", "measurements", ["name", "step"])
    op.create_index("runs_by_tutorial", "runs", ["tutorial", "variant", "preset", "ended_at"])
    op.create_table(
        "accepted",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("run_id", sa.String(200), nullable=False),
        sa.Column("tutorial", sa.String(100), nullable=False),
        sa.Column("variant", sa.String(20), nullable=False),
        sa.Column("preset", sa.String(20), nullable=False),
        sa.Column("step", sa.String(100), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("unit", sa.String(50), nullable=False),
        sa.Column("device", sa.String(200), nullable=False),
        sa.Column("device_count", sa.Integer, nullable=False),
        sa.Column("value", sa.Float, nullable=False),
        sa.Column("accepted_at", sa.Float, nullable=False),
        sa.Column("accepted_by", sa.String(100), nullable=False),
        sa.Column("why", sa.Text, nullable=False),
    )


def downgrade() -> None:
    """Drop them."""
    for table in ("accepted", "measurements", "runs"):
        op.drop_table(table)
