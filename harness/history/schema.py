"""The tables, as the newest migration leaves them (a test compares the two)."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Float, ForeignKey, Index, Integer, MetaData, String, Table, Text

METADATA = MetaData()

# The last of migrations/versions/ (a test compares).
NEWEST_REVISION = "0002"

# A program may say what it likes; a server refuses what is longer than its column.
MODEL_SOURCE_LENGTH = 100

RUNS = Table(
    "runs",
    METADATA,
    Column("run_id", String(200), primary_key=True),
    Column("attempt", String(20)),
    Column("tutorial", String(100), nullable=False),
    Column("variant", String(20)),
    Column("preset", String(20)),
    Column("site", String(100)),
    Column("host", String(255)),
    Column("job_id", String(100)),
    Column("device", String(200)),
    Column("device_count", Integer),
    Column("driver", String(50)),
    Column("image_sha256", String(64)),
    Column("definition_sha256", String(64)),
    Column("git_revision", String(100)),
    Column("ended_at", Float),  # seconds since the epoch
    Column("overall", String(10), nullable=False),
    Column("judged_at", Float, nullable=False),
    Column("judged_by", String(100), nullable=False),
    Column("model_source", String(MODEL_SOURCE_LENGTH), nullable=False, server_default=""),  # "": no model, or unknown
    Index("runs_by_tutorial", "tutorial", "variant", "preset", "ended_at"),
)

# The throughput of a run, its headline metric.
MEASUREMENTS = Table(
    "measurements",
    METADATA,
    Column("run_id", String(200), ForeignKey("runs.run_id", ondelete="CASCADE"), primary_key=True),
    Column("step", String(100), primary_key=True),
    Column("name", String(200), primary_key=True),
    Column("unit", String(50), nullable=False),
    Column("value", Float, nullable=False),
    Column("samples", Text, nullable=False),  # JSON list of numbers in `unit`
    Column("shared", Boolean, nullable=False),  # on a GPU that other jobs used too
    Index("measurements_by_name", "name", "step"),
)

ACCEPTED = Table(
    "accepted",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("run_id", String(200), nullable=False),
    Column("tutorial", String(100), nullable=False),
    Column("variant", String(20), nullable=False),
    Column("preset", String(20), nullable=False),
    Column("step", String(100), nullable=False),
    Column("name", String(200), nullable=False),
    Column("unit", String(50), nullable=False),
    Column("device", String(200), nullable=False),
    Column("device_count", Integer, nullable=False),
    Column("value", Float, nullable=False),
    Column("accepted_at", Float, nullable=False),
    Column("accepted_by", String(100), nullable=False),
    Column("why", Text, nullable=False),
    Column("model_source", String(MODEL_SOURCE_LENGTH), nullable=False, server_default=""),
)
