"""Keeping verdicts in the history of the site their runs belong to."""

from __future__ import annotations

from collections.abc import Sequence

from harness.errors import HarnessError
from harness.history.location import history_of
from harness.history.store import History
from harness.judge.verdict import Verdict
from harness.project import Project


def record_verdicts(project: Project, verdicts: Sequence[Verdict]) -> list[str]:
    """Record verdicts. A history that cannot be written costs no verdict: what went wrong is returned, a line each.

    ``harness history --collect`` makes up for it later, from the run folders.
    """
    by_url: dict[str, list[Verdict]] = {}
    problems = []
    for verdict in verdicts:
        try:
            url = history_of(project, verdict.run.site)
        except HarnessError as error:
            problems.append(f"{verdict.run.run_id}: {error}")
        else:
            by_url.setdefault(url, []).append(verdict)
    for url, group in by_url.items():
        try:
            History.open(url).record(group)
        except HarnessError as error:
            problems.append(str(error))
    return [f"not recorded: {problem}; later: harness history --collect" for problem in problems]
