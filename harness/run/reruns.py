"""Making a run again because its throughput could not decide. The ledgers name one another."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from harness.errors import UserError
from harness.files import write_json
from harness.job.size import Size
from harness.lease import Progress, lease
from harness.project import Environment, Project, parse_preset, parse_variant
from harness.run.campaign import RunRequest, current_image, submit_runs
from harness.run.families import RERUNS, family, rerun_ids
from harness.run.paths import RunPaths
from harness.tutorial import load_tutorial

# Below runs/: who is submitting re-runs of which run.
LEASES = ".reruns"


def resubmit(
    project: Project, first: RunPaths, count: int, *, known: Collection[str], progress: Progress
) -> list[RunPaths]:
    """Submit a run ``count`` times more, as it was submitted, and link the ledgers.

    Two harnesses that judge one run at a time submit its re-runs once: the second gets those of the first.

    Args:
        known: ids of the re-runs the caller knows.
        progress: is told whom this waits for.

    Raises:
        UserError: it was not submitted from this checkout, or its image is no longer the published one.
        SchedulerError, SchedulerUnavailableError: as for any submission.
    """
    if not first.ledger.is_file() or first.folder.parent != project.runs:
        raise UserError("it was not submitted with harness submit", where=first.run_id, fix="submit it again by hand")
    ledger = json.loads(first.ledger.read_text(encoding="utf-8"))
    with lease(project.runs / LEASES, first.run_id, progress):
        unknown = [member for member in family(first) if member.run_id not in {first.run_id, *known}]
        return unknown or _submit(project, first, ledger, count)


def _submit(project: Project, first: RunPaths, ledger: dict[str, Any], count: int) -> list[RunPaths]:
    tutorial = load_tutorial(project, str(ledger["tutorial"]))
    variant, preset, site = parse_variant(ledger["variant"]), parse_preset(ledger["preset"]), str(ledger["site"])
    environment: Environment = "conda" if ledger.get("environment") == "conda" else "apptainer"
    if environment == "apptainer" and current_image(project, tutorial, variant, site).sha256 != ledger["image_sha256"]:
        raise UserError("its image was built again since", where=first.run_id, fix="submit it again: harness submit")
    given = ledger.get("parameters") or {}
    size = Size(ledger.get("nodes"), ledger.get("processes"))
    request = RunRequest(tutorial, variant, preset, given, rerun_of=first.run_id, environment=environment, size=size)
    runs = submit_runs(project, [request] * count, site, options=ledger.get("options") or ())
    # Read again: `harness cancel` writes to it as well.
    ledger = json.loads(first.ledger.read_text(encoding="utf-8"))
    write_json(first.ledger, {**ledger, RERUNS: [*rerun_ids(ledger), *(run.run_id for run in runs)]})
    return runs
