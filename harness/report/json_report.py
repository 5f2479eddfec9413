"""All verdicts as one JSON document, for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from harness.files import write_whole
from harness.report.entry import ReportEntry, count_checks, overall

SCHEMA_VERSION = 1


def render_json(entries: Sequence[ReportEntry], *, generated_at: datetime) -> str:
    """JSON text; each of ``runs`` holds ``title``, ``run_id``, ``verdict`` (as in verdict.json) and ``log_tail``."""
    document = {
        "schema_version": SCHEMA_VERSION,
        "generated_at": generated_at.isoformat(timespec="seconds"),
        "overall": overall(entries),
        "counts": count_checks(entries),
        "runs": [
            {
                "title": entry.title.model_dump(),
                "run_id": entry.evidence.paths.run_id,
                "verdict": entry.verdict.model_dump(mode="json"),
                "log_tail": list(entry.evidence.log_tail),
            }
            for entry in entries
        ],
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, entries: Sequence[ReportEntry]) -> Path:
    """Write :func:`render_json`, dated now.

    Raises:
        OSError: it cannot be written.
    """
    return write_whole(path, render_json(entries, generated_at=datetime.now(tz=timezone.utc)))
