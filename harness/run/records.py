"""Finding runs on disk and reading what they say of themselves. Nobody else is asked."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.project import Project
from harness.run.paths import RunPaths

if TYPE_CHECKING:  # what it takes to read tutorials is no part of listing runs
    from harness.tutorial import Tutorial

# Both `harness submit` and the job script put the time into the run's name: runs can be put in order unopened.
_TIME_IN_NAME = re.compile(r"-(\d{4}(?:0[1-9]|1[0-2])[0-3]\dT[0-2]\d[0-5]\d[0-6]\d)Z(?:-|$)")
_TIME_FORMAT = "%Y%m%dT%H%M%S"


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


def read_exit_code(path: Path) -> tuple[int | None, str | None]:
    """The recorded exit status of a job script, or why it cannot be read; neither where there is none."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None, None
    except (OSError, UnicodeDecodeError) as error:
        return None, f"the file exit_code cannot be read ({type(error).__name__})"
    if not (text.isdecimal() and len(text) <= 3):
        return None, f"the file exit_code holds {text[:20]!r}, not an exit status"
    return int(text), None


def newest_runs(project: Project) -> Iterator[RunRecord]:
    """All runs of the checkout, newest first. A folder without ledger and job record is none.

    Nothing is remembered between two calls, so nothing can be stale: names are enough to put runs in order.

    Cost: one listing of ``runs/`` (15 ms for 10,000 runs); a run's files are read only when the iterator gets to it,
    except those of runs whose names hold no time (``RUN_ID`` set by hand), which are read at once to find their place,
    and those of one second, which are read together: names state no fraction of it, their records do.
    """
    try:
        with os.scandir(project.runs) as entries:
            names = [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    except FileNotFoundError:
        return
    placed: list[tuple[str, str]] = []
    opened: dict[str, RunRecord] = {}
    for name in names:
        found = _TIME_IN_NAME.search(name)
        if found is None:
            opened[name] = read_record(RunPaths(project.runs / name))
        placed.append((found[1] if found else _stamp(opened[name].ordering), name))
    for _, same_second in groupby(sorted(placed, reverse=True), key=itemgetter(0)):
        records = [opened.get(name) or read_record(RunPaths(project.runs / name)) for _, name in same_second]
        for record in sorted(records, key=lambda record: record.ordering, reverse=True):
            if record.facts.get("tutorial"):
                yield record


def latest_runs(
    project: Project, tutorials: Iterable[str], variant: str | None = None, *, sessions: bool = False
) -> dict[str, RunPaths]:
    """The newest run of each tutorial that has one, by the tutorial's id, in one pass over the runs.

    Args:
        sessions: interactive sessions count too.
    """
    wanted = set(tutorials)
    found: dict[str, RunPaths] = {}
    for record in newest_runs(project) if wanted else ():
        name = record.facts["tutorial"]
        if record.is_session and not sessions:
            continue
        if name in wanted and variant in (None, record.facts.get("variant")):
            found[name] = record.paths
            wanted.remove(name)
            if not wanted:
                break
    return found


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


def _stamp(seconds: float) -> str:
    """Seconds since the epoch as names state it."""
    try:
        return time.strftime(_TIME_FORMAT, time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):  # no moment that a calendar knows
        return ""
