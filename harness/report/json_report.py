"""All verdicts as one JSON document, for programs; its schema is docs/schema/report.json."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from harness.files import write_whole
from harness.judge.verdict import Overall, Status, Verdict
from harness.report.entry import ReportEntry, count_checks, overall
from harness.specfile import LocalizedText


class ReportedRun(BaseModel):
    """One run. ``verdict`` is as in verdict.json; ``log_tail`` holds the last lines of its log, oldest first."""

    model_config = ConfigDict(frozen=True)

    title: LocalizedText
    run_id: str
    verdict: Verdict
    log_tail: list[str]


class ReportDocument(BaseModel):
    """report.json. ``overall`` is the worst verdict; ``counts`` are checks by status, over all runs."""

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1] = 1
    generated_at: datetime = Field(description="with its offset from UTC")
    overall: Overall
    counts: dict[Status, int]
    runs: list[ReportedRun]


def render_json(entries: Sequence[ReportEntry], *, generated_at: datetime) -> str:
    """JSON text of a :class:`ReportDocument`."""
    document = ReportDocument(
        generated_at=generated_at.replace(microsecond=0),
        overall=overall(entries),
        counts=count_checks(entries),
        runs=[
            ReportedRun(
                title=entry.title,
                run_id=entry.evidence.paths.run_id,
                verdict=entry.verdict,
                log_tail=list(entry.evidence.log_tail),
            )
            for entry in entries
        ],
    )
    return document.model_dump_json(indent=2) + "\n"


def write_json(path: Path, entries: Sequence[ReportEntry]) -> Path:
    """Write :func:`render_json`, dated now.

    Raises:
        OSError: it cannot be written.
    """
    return write_whole(path, render_json(entries, generated_at=datetime.now(tz=timezone.utc)))
