"""status: how the newest runs stand. Imports little: it is typed often."""

from __future__ import annotations

import time
from itertools import islice
from typing import Annotated

import typer

from harness.cli.columns import in_columns
from harness.project import Project
from harness.run.records import newest_runs
from harness.run.standing import standings


def register(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command()(status)


def status(
    limit: Annotated[int, typer.Option("--limit", "-n", help="Show this many of the newest runs.")] = 20,
) -> None:
    """Show the newest runs. The scheduler is asked only about runs that are silent.

    Example: harness status
    """
    project = Project.find()
    rows = [("run", "job", "state", "node", "age")]
    for run in standings(project, list(islice(newest_runs(project), limit))):
        age = _age(time.time() - run.record.ordering)
        job = str(run.record.facts.get("job_id", ""))
        rows.append((run.record.paths.run_id, job, run.state, run.node, age))
    typer.echo(in_columns(rows))


def _age(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
