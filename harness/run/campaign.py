"""Submitting runs and finding them again. The ledger is on disk: nobody has to stay logged in."""

from __future__ import annotations

import getpass
import json
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.catalog.builder import git_revision
from harness.catalog.catalog import Catalog
from harness.catalog.manifest import Manifest
from harness.definition.tutorial_image import definition_key, tutorial_definition
from harness.errors import HarnessError, SchedulerUnavailableError, UserError
from harness.files import write_json
from harness.job.render import job_file
from harness.project import PresetName, Project, Variant, image_name, parse_variant
from harness.run.evidence import Evidence, ExpectedImage, SchedulerWord, gather_evidence
from harness.run.paths import RunPaths
from harness.scheduler.base import JobRequest, JobStatus, Scheduler
from harness.scheduler.detect import detect_scheduler
from harness.scheduler.local import LocalScheduler
from harness.scheduler.slurm import SlurmScheduler
from harness.scheduler.wait import Outcome, Waiter
from harness.site import load_site
from harness.tutorial import Tutorial, load_tutorial

# A job that pends this long is given up (not cancelled): its partition may be down or its request impossible.
PENDING_LIMIT_S = 24 * 3600.0

# What the jobs of a private cluster need to be asked about later, from another shell.
SLURM_CONF = "SLURM_CONF"


def submit_run(
    project: Project,
    tutorial: Tutorial,
    variant: Variant,
    preset: PresetName,
    site: str,
    *,
    options: Sequence[str] = (),
) -> RunPaths:
    """Write the ledger, submit the job, return. The run goes on without us.

    Raises:
        UserError: unknown preset, site or variant, no image, or an image older than the checkout.
        SchedulerError: the scheduler refused it. SchedulerUnavailableError: it does not answer.
    """
    profile = load_site(project, site)
    script = job_file(project, tutorial, variant, profile)
    if not script.is_file():
        raise UserError("no such job script", where=str(script), fix="make jobs")
    image = current_image(project, tutorial, variant, site)
    kind = "local" if profile.scheduler == "local" else detect_scheduler(os.environ).name
    name = f"{tutorial.stem}-{variant}-{preset}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(2)}"
    run = RunPaths(project.runs / name)
    run.folder.mkdir(parents=True)
    ledger: dict[str, Any] = {
        "schema_version": 1,
        "run_id": run.run_id,
        "tutorial": tutorial.id,
        "variant": variant,
        "preset": preset,
        "site": site,
        "scheduler": kind,
        "slurm_conf": os.environ.get(SLURM_CONF) if kind == "slurm" else None,
        "job_id": None,
        "image_sha256": image.sha256,
        "definition_sha256": image.definition_sha256,
        "git_revision": git_revision(project.root),
        "user": getpass.getuser(),
        "submitted_at": time.time(),
    }
    # Before the scheduler is asked: were we killed in between, the job is found again by its name.
    write_json(run.ledger, ledger)
    request = JobRequest(
        script=script,
        workdir=project.root,
        output=run.scheduler_log,
        name=run.run_id,
        environment={
            "RUN_ID": run.run_id,
            "PRESET": preset,
            "CATALOG": str(project_catalog(project, site).root),  # whose keys the job trusts
            "IMAGE": str(project_catalog(project, site).files(image).main),
            "HARNESS_SUBMITTED_AT": repr(ledger["submitted_at"]),
        },
        options=tuple(options),
    )
    try:
        ledger["job_id"] = scheduler_of(project, ledger).submit(request)
    except SchedulerUnavailableError:
        raise  # it may have taken the job: the ledger stays
    except HarnessError as error:
        write_json(run.ledger, {**ledger, "rejected": str(error)})
        raise
    write_json(run.ledger, ledger)
    return run


def current_image(project: Project, tutorial: Tutorial, variant: Variant, site: str) -> Manifest:
    """The published image of a tutorial, if it is the checkout's.

    Raises:
        UserError: none, or one built from another definition. HarnessError: a broken manifest.
    """
    name = image_name(tutorial.stem, variant)
    fix = f"make build-sif TUT={tutorial.id} VARIANT={variant}"
    image = project_catalog(project, site).current(name)
    if image is None:
        raise UserError(f"there is no image '{name}'", where=str(project_catalog(project, site).folder(name)), fix=fix)
    if image.definition_sha256 != definition_key(project, tutorial_definition(project, tutorial, variant)):
        raise UserError(f"the image '{name}' was built from another definition than the checkout's", fix=fix)
    return image


def project_catalog(project: Project, site: str) -> Catalog:
    """The catalog of a site."""
    return Catalog(project.catalog(load_site(project, site).storage.catalog))


def scheduler_of(project: Project, ledger: Mapping[str, Any]) -> Scheduler:
    """The scheduler a run was given to, reached as it was reached then."""
    if ledger.get("scheduler") == "local":
        return LocalScheduler(project.runs / ".local-scheduler")
    environment = dict(os.environ)
    if ledger.get("slurm_conf"):
        environment[SLURM_CONF] = str(ledger["slurm_conf"])
    return SlurmScheduler(environment)


@dataclass(frozen=True)
class RunRecord:
    """A run and what it says of itself: ledger.json, completed by job.json for runs somebody started by hand."""

    paths: RunPaths
    facts: Mapping[str, Any]

    @property
    def ordering(self) -> float:
        """Seconds since the epoch by which runs are ordered."""
        value = self.facts.get("submitted_at") or self.facts.get("job_started_at") or 0
        return float(value)


def read_record(run: RunPaths) -> RunRecord:
    """What a run says of itself. A broken record says nothing: the judge fails what nobody vouches for."""
    facts: dict[str, Any] = {}
    for path in (run.job, run.ledger):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            continue
        if not isinstance(data, dict):
            continue
        facts.update({key: value for key, value in data.items() if value not in (None, "")})
    return RunRecord(run, facts)


def list_runs(project: Project) -> list[RunRecord]:
    """All runs of the checkout, newest first. A folder without ledger and job record is none."""
    folders = (
        [p for p in project.runs.iterdir() if p.is_dir() and not p.name.startswith(".")]
        if project.runs.is_dir()
        else []
    )
    records = [read_record(RunPaths(folder)) for folder in folders]
    return sorted((r for r in records if r.facts.get("tutorial")), key=lambda r: r.ordering, reverse=True)


def latest_run(
    project: Project, tutorial: Tutorial, variant: str | None = None, preset: str | None = None
) -> RunPaths | None:
    """The newest run of a tutorial, submitted by us or started by hand; None where there is none."""
    for record in list_runs(project):
        wanted = {"tutorial": tutorial.id, "variant": variant, "preset": preset}
        if all(value is None or record.facts.get(key) == value for key, value in wanted.items()):
            return record.paths
    return None


def wait_for_runs(
    project: Project,
    runs: Sequence[RunPaths],
    done: Callable[[RunPaths], None] | None = None,
    timeout_s: float | None = None,
    on_status: Callable[[JobStatus], None] | None = None,
) -> None:
    """Block until each run has ended, by its own record or by the scheduler's word.

    Args:
        done: called once for each run as it ends.
        timeout_s: give up after this long.

    Raises:
        HarnessError: a run still waits or runs after ``timeout_s``, with the scheduler's reason.
        SchedulerUnavailableError: the scheduler was silent for too long.
    """
    reported: set[str] = set()

    def report(run: RunPaths) -> None:
        if done is not None and run.run_id not in reported:
            reported.add(run.run_id)
            done(run)

    for (_, _), records in _by_scheduler([read_record(run) for run in runs]).items():
        by_job = {_job_id(project, record): record.paths for record in records}
        waiter = Waiter(scheduler_of(project, records[0].facts), check_s=0.2, on_status=on_status)

        def ended(job_id: str, by_job: dict[str, RunPaths] = by_job) -> bool:
            if not by_job[job_id].exit_code.exists():
                return False
            report(by_job[job_id])
            return True

        results = waiter.wait(by_job, done=ended, pending_timeout_s=PENDING_LIMIT_S, timeout_s=timeout_s)
        for job_id, result in results.items():
            if result.outcome in (Outcome.TIMEOUT, Outcome.PENDING_TIMEOUT):
                raise HarnessError(
                    f"run {by_job[job_id].run_id} has not ended: {result}", fix="harness status, or harness cancel"
                )
            report(by_job[job_id])


def gather(project: Project, run: RunPaths) -> Evidence:
    """All that is known of a run; the scheduler is asked only where the run itself is silent."""
    record = read_record(run)
    word = None
    job_id = record.facts.get("job_id")
    if not run.exit_code.exists() and job_id:
        try:
            status = scheduler_of(project, record.facts).poll([str(job_id)])[str(job_id)]
            word = SchedulerWord(status.state.value, status.reason, status.exit_code, status.signal, status.node)
        except SchedulerUnavailableError:
            word = None  # says nothing about the job; the judge sees a run without an end
    return gather_evidence(run, scheduler=word)


def expected_image(project: Project, run: RunPaths) -> ExpectedImage | None:
    """The image the run must have used: the one it was submitted with, else the published one it names.

    A published image has two digests: that of its layer, which names the stack, and that of the self-contained file
    that `harness export` makes of both. A run in either used the image.

    A run that somebody started by hand is held against the checkout's definition: an edited program in an image that
    was not built again is the classic false pass. None where the catalog knows no such image.
    """
    facts = read_record(run).facts
    if run.ledger.is_file() and "image_sha256" in facts and "definition_sha256" in facts:
        return ExpectedImage(str(facts["image_sha256"]), str(facts["definition_sha256"]))
    if "tutorial" not in facts:
        return None
    tutorial = load_tutorial(project, str(facts["tutorial"]))
    variant = parse_variant(str(facts.get("variant")))
    catalog = project_catalog(project, str(facts.get("site") or "default"))
    name = image_name(tutorial.stem, variant)
    sha256 = str(facts.get("image_sha256") or "")
    named = catalog.find(name, sha256)
    known = named or catalog.current(name)
    if known is None:
        return None
    return ExpectedImage(
        sha256 if named else known.sha256, definition_key(project, tutorial_definition(project, tutorial, variant))
    )


def images_in_use(project: Project) -> set[str]:
    """Digests of the images that runs of this checkout name which have not ended."""
    runs = [record for record in list_runs(project) if not record.paths.exit_code.exists()]
    return {str(record.facts["image_sha256"]) for record in runs if "image_sha256" in record.facts}


def cancel_run(project: Project, run: RunPaths) -> None:
    """Cancel a run's job.

    Raises:
        UserError: the run has no job. SchedulerError: refused.
    """
    record = read_record(run)
    job_id = record.facts.get("job_id")
    if not job_id:
        raise UserError("this run has no job to cancel", where=str(run.folder))
    scheduler_of(project, record.facts).cancel([str(job_id)])


def _by_scheduler(records: Sequence[RunRecord]) -> dict[tuple[str, str], list[RunRecord]]:
    groups: dict[tuple[str, str], list[RunRecord]] = {}
    for record in records:
        key = (str(record.facts.get("scheduler")), str(record.facts.get("slurm_conf")))
        groups.setdefault(key, []).append(record)
    return groups


def _job_id(project: Project, record: RunRecord) -> str:
    """The run's job, looked up by its name where a kill came between submission and ledger."""
    job_id = record.facts.get("job_id")
    if job_id:
        return str(job_id)
    found = scheduler_of(project, record.facts).find(record.paths.run_id) if record.facts.get("scheduler") else []
    if not found:
        raise HarnessError(
            f"run {record.paths.run_id} has no job", where=str(record.paths.folder), fix="submit it again: make submit"
        )
    return found[-1]
