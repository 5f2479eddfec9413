"""Finding runs on disk and reading what they say of themselves. Nobody else is asked."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from harness.project import Project
from harness.run.paths import RunPaths
from harness.tutorial import Tutorial

# Both `harness submit` and the job script put the time into the run's name: runs can be put in order unopened.
_TIME_IN_NAME = re.compile(r"-(\d{8}T\d{6})Z(?:-|$)")


@dataclass(frozen=True)
class RunRecord:
    """A run and what it says of itself: ledger.json, completed by job.json for runs somebody started by hand."""

    paths: RunPaths
    facts: Mapping[str, Any]

    @property
    def is_session(self) -> bool:
        """An interactive session: it has no steps and nothing to be judged."""
        return bool(self.facts.get("open"))

    @property
    def ordering(self) -> float:
        """Seconds since the epoch by which runs are ordered; 0 where nothing says when it was."""
        value = self.facts.get("submitted_at") or self.facts.get("job_started_at") or 0
        try:
            return float(value)
        except (TypeError, ValueError):
            return 0.0


def read_record(run: RunPaths) -> RunRecord:
    """What a run says of itself. A broken record says nothing: the judge fails what nobody vouches for."""
    facts: dict[str, Any] = {}
    for path in (run.job, run.ledger):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if not isinstance(data, dict):
            continue
        facts.update({key: value for key, value in data.items() if value not in (None, "")})
    return RunRecord(run, facts)


def newest_runs(project: Project) -> Iterator[RunRecord]:
    """All runs of the checkout, newest first. A folder without ledger and job record is none.

    Cost: one listing of ``runs/``; a run's files are read only when the iterator gets to it, except those of runs
    whose names hold no time (``RUN_ID`` set by hand), which are read at once to find their place.
    """
    try:
        entries = [e for e in os.scandir(project.runs) if not e.name.startswith(".") and e.is_dir()]
    except FileNotFoundError:
        return
    placed: list[tuple[float, RunPaths, RunRecord | None]] = []
    for entry in entries:
        paths = RunPaths(project.runs / entry.name)
        time = _time_in_name(entry.name)
        record = None if time is not None else read_record(paths)
        placed.append((time if time is not None else record.ordering if record else 0.0, paths, record))
    placed.sort(key=lambda item: (item[0], item[1].run_id), reverse=True)
    for _, paths, known in placed:
        record = known or read_record(paths)
        if record.facts.get("tutorial"):
            yield record


def latest_run(
    project: Project,
    tutorial: Tutorial,
    variant: str | None = None,
    preset: str | None = None,
    *,
    environment: str | None = None,
    sessions: bool = False,
) -> RunPaths | None:
    """The newest run of a tutorial, submitted by us or started by hand; None where there is none.

    Args:
        environment: apptainer or conda; None: whichever it ran in.
        sessions: interactive sessions count too.
    """
    wanted = {"tutorial": tutorial.id, "variant": variant, "preset": preset}
    for record in newest_runs(project):
        if record.is_session and not sessions:
            continue
        if environment not in (None, record.facts.get("environment", "apptainer")):
            continue
        if all(value is None or record.facts.get(key) == value for key, value in wanted.items()):
            return record.paths
    return None


def _time_in_name(name: str) -> float | None:
    match = _TIME_IN_NAME.search(name)
    if match is None:
        return None
    try:
        return datetime.strptime(match[1], "%Y%m%dT%H%M%S").replace(tzinfo=timezone.utc).timestamp()
    except ValueError:
        return None
