"""Runs that were made again because the first one's throughput could not decide. Their ledgers name one another."""

from __future__ import annotations

import json
from collections.abc import Sequence

from harness.errors import UserError
from harness.files import write_json
from harness.project import Project, parse_preset, parse_variant
from harness.run.campaign import RunRequest, current_image, submit_runs
from harness.run.paths import RunPaths
from harness.run.records import read_record
from harness.tutorial import load_tutorial

RERUN_OF, RERUNS = "rerun_of", "reruns"


def family(project: Project, run: RunPaths) -> list[RunPaths]:
    """The first run, then its re-runs in the order they were submitted; those whose folders are gone are left out."""
    first = RunPaths(run.folder.parent / str(read_record(run).facts.get(RERUN_OF) or run.run_id))
    if not first.folder.is_dir():
        return [run]
    named = read_record(first).facts.get(RERUNS)
    ids = [str(name) for name in named] if isinstance(named, list) else []
    members = dict.fromkeys([first.run_id, *ids, run.run_id])
    found = [RunPaths(run.folder.parent / name) for name in members]
    return [member for member in found if member.folder.is_dir()]


def with_families(project: Project, runs: Sequence[RunPaths]) -> list[RunPaths]:
    """Each run with its family, each once."""
    return list({member.run_id: member for run in runs for member in family(project, run)}.values())


def resubmit(project: Project, first: RunPaths, count: int) -> list[RunPaths]:
    """Submit a run ``count`` times more, as it was submitted, and link the ledgers.

    Raises:
        UserError: it was not submitted from this checkout, or its image is no longer the published one.
        SchedulerError, SchedulerUnavailableError: as for any submission.
    """
    if not first.ledger.is_file() or first.folder.parent != project.runs:
        raise UserError("it was not submitted with harness submit", where=first.run_id, fix="submit it again by hand")
    ledger = json.loads(first.ledger.read_text(encoding="utf-8"))
    tutorial = load_tutorial(project, str(ledger["tutorial"]))
    variant, preset, site = parse_variant(ledger["variant"]), parse_preset(ledger["preset"]), str(ledger["site"])
    if current_image(project, tutorial, variant, site).sha256 != ledger["image_sha256"]:
        raise UserError("its image was built again since", where=first.run_id, fix="submit it again: harness submit")
    request = RunRequest(tutorial, variant, preset, ledger.get("given") or {}, rerun_of=first.run_id)
    runs = submit_runs(project, [request] * count, site, options=ledger.get("options") or ())
    # Read again: a harness beside this one may have submitted some too.
    ledger = json.loads(first.ledger.read_text(encoding="utf-8"))
    write_json(first.ledger, {**ledger, RERUNS: [*ledger.get(RERUNS, ()), *(run.run_id for run in runs)]})
    return runs
