"""status: how the newest runs stand. Imports little: it is typed often."""

from __future__ import annotations

import time
from itertools import islice
from typing import Annotated

import typer

from harness.cli.columns import in_columns
from harness.cli.language import LanguageOption, chosen_language
from harness.project import Project
from harness.run.records import newest_runs
from harness.run.standing import Standing, standings

HEADS = {
    "en": ("run", "job", "state", "node", "age"),
    "zh": ("运行", "作业号", "状态", "节点", "时间"),
}
WORDS = {
    "en": {"ended": "ended", "failed": "failed ({code})", "no word": "no word"},
    "zh": {"ended": "已结束", "failed": "失败（{code}）", "no word": "无消息"},
}


def register(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command()(status)


def status(
    limit: Annotated[int, typer.Option("--limit", "-n", help="Show this many of the newest runs.")] = 20,
    language: LanguageOption = None,
) -> None:
    """Show the newest runs. The scheduler is asked only about runs that are silent.

    Example: harness status
    """
    project = Project.find()
    spoken = chosen_language(language)
    rows = [HEADS[spoken]]
    for run in standings(project, list(islice(newest_runs(project), limit))):
        age = _age(time.time() - run.record.ordering)
        job = str(run.record.facts.get("job_id", ""))
        rows.append((run.record.paths.run_id, job, _state(run, WORDS[spoken]), run.node, age))
    typer.echo(in_columns(rows))


def _state(run: Standing, words: dict[str, str]) -> str:
    if run.scheduler_state is not None:
        return run.scheduler_state
    if run.exit_code is None:
        return words["no word"]
    return words["ended" if run.exit_code == 0 else "failed"].format(code=run.exit_code)


def _age(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
