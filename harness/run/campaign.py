"""Submitting runs. The ledger is on disk: nobody has to stay logged in."""

from __future__ import annotations

import getpass
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.catalog.builder import git_revision
from harness.catalog.catalog import Catalog
from harness.catalog.manifest import Manifest
from harness.definition.tutorial_image import definition_key, tutorial_definition
from harness.errors import HarnessError, SchedulerUnavailableError, UserError
from harness.files import write_json
from harness.job.render import Server, job_file
from harness.project import Environment, PresetName, Project, Variant, image_name, parse_variant
from harness.run.evidence import ExpectedImage
from harness.run.following import SLURM_CONF, cancel_run, gather, gather_all, has_ended, scheduler_of, wait_for_runs
from harness.run.needs import require
from harness.run.paths import RunPaths
from harness.run.records import latest_run, newest_runs, read_record
from harness.scheduler.base import JobGroup, JobRequest, Scheduler
from harness.scheduler.detect import detect_scheduler
from harness.scheduler.together import group_requests
from harness.scheduler.wait import poll_delays
from harness.site import load_site
from harness.tutorial import Tutorial, load_tutorial

__all__ = [  # one name for all that can be done with runs, whichever module does it
    "RunRequest",
    "cancel_run",
    "current_image",
    "expected_image",
    "gather",
    "gather_all",
    "images_in_use",
    "latest_run",
    "project_catalog",
    "submit_run",
    "submit_runs",
    "wait_for_runs",
]

# How long submission goes on asking a scheduler that does not answer: a controller's restart takes about a minute.
SUBMIT_PATIENCE_S = 180.0

# Below runs/: what the scheduler said about arrays and packs before a run's own script started.
GROUPS = ".groups"


@dataclass(frozen=True)
class RunRequest:
    """One run to be submitted.

    Attributes:
        server: an interactive session with that server, instead of the steps.
        environment: in the tutorial's image, or in a conda environment of its stack.
    """

    tutorial: Tutorial
    variant: Variant
    preset: PresetName
    server: Server | None = None
    environment: Environment = "apptainer"


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
        UserError: unknown preset, site or variant, no image, an image older than the checkout, or a data set or model
            that the preset needs is not in the site's storage.
        SchedulerError: the scheduler refused it. SchedulerUnavailableError: it does not answer.
    """
    return submit_runs(project, [RunRequest(tutorial, variant, preset)], site, options=options, how="single")[0]


def submit_runs(
    project: Project,
    requests: Sequence[RunRequest],
    site: str,
    *,
    options: Sequence[str] = (),
    how: Literal["single", "array", "pack"] = "array",
) -> list[RunPaths]:
    """Submit several runs; those that ask for the same resources are handed in together.

    Args:
        how: ``array``: one job array per kind of resources; ``pack``: one allocation per kind of resources, in which
            the runs take turns; ``single``: a job for each.

    Raises:
        As :func:`submit_run`, before anything is submitted where one of the runs is wrong. Where the scheduler refuses
        a group, the groups before it are submitted and their ledgers say so.
    """
    prepared = [_prepare(project, request, site, options) for request in requests]
    if how == "single":
        for one in prepared:
            _hand_in(project, [one], None)
        return [one.run for one in prepared]
    by_name = {one.job.name: one for one in prepared}
    for group in group_requests([one.job for one in prepared], same_time=how == "array"):
        _hand_in(project, [by_name[job.name] for job in group], how if len(group) > 1 else None)
    return [one.run for one in prepared]


@dataclass(frozen=True)
class _Prepared:
    run: RunPaths
    ledger: dict[str, Any]
    job: JobRequest


def _prepare(project: Project, wanted: RunRequest, site: str, options: Sequence[str]) -> _Prepared:
    """The ledger and the job of a run; nothing is written yet."""
    tutorial, variant, preset = wanted.tutorial, wanted.variant, wanted.preset
    profile = load_site(project, site)
    script = job_file(project, tutorial, variant, profile, wanted.environment)
    if not script.is_file():
        raise UserError("no such job script", where=str(script), fix="make jobs")
    if wanted.server is None:
        require(project, tutorial, preset, profile, os.environ)
    image = current_image(project, tutorial, variant, site) if wanted.environment == "apptainer" else None
    kind = "local" if profile.scheduler == "local" else detect_scheduler(os.environ).name
    what = wanted.server or (preset if image else f"{preset}-conda")
    run = RunPaths(project.runs / f"{tutorial.stem}-{variant}-{what}-{_stamp()}")
    run.folder.mkdir(parents=True)
    ledger: dict[str, Any] = {
        "schema_version": 1,
        "run_id": run.run_id,
        "tutorial": tutorial.id,
        "variant": variant,
        "preset": preset,
        "open": wanted.server,
        "site": site,
        "scheduler": kind,
        "slurm_conf": os.environ.get(SLURM_CONF) if kind == "slurm" else None,
        "job_id": None,
        "environment": wanted.environment,
        "image_sha256": image.sha256 if image else None,
        "definition_sha256": image.definition_sha256 if image else None,
        "git_revision": git_revision(project.root),
        "options": list(options),
        "user": getpass.getuser(),
        "submitted_at": time.time(),
    }
    job = JobRequest(
        script=script,
        workdir=project.root,
        output=run.scheduler_log,
        name=run.run_id,
        environment={
            "RUN_ID": run.run_id,
            "PRESET": preset,
            "OPEN": wanted.server or "",  # a caller's own OPEN is not meant
            "CATALOG": str(project_catalog(project, site).root),  # whose keys the job trusts
            **({"IMAGE": str(project_catalog(project, site).files(image).main)} if image else {}),
            "HARNESS_SUBMITTED_AT": repr(ledger["submitted_at"]),
        },
        options=tuple(options),
    )
    return _Prepared(run, ledger, job)


def _hand_in(project: Project, runs: Sequence[_Prepared], how: Literal["array", "pack"] | None) -> None:
    """Write the ledgers, submit, and write the job's id into them."""
    group = None
    scheduler = scheduler_of(project, runs[0].ledger)
    if how is not None and scheduler.name == "slurm":  # without a scheduler there is nothing to be saved
        name = f"{how}-{_stamp()}"
        group = JobGroup(name, how, project.runs / GROUPS / name)
        group.logs.mkdir(parents=True)
    for index, one in enumerate(runs):
        if group is not None:
            one.ledger["group"] = group.name
            if how == "array":
                one.ledger["array_index"] = index
        # Before the scheduler is asked: were we killed in between, the job is found again by its name.
        write_json(one.run.ledger, one.ledger)
    try:
        ids = _submit_surely(scheduler, [one.job for one in runs], group)
    except SchedulerUnavailableError:
        raise  # it may have taken the job: the ledgers stay
    except HarnessError as error:
        for one in runs:
            write_json(one.run.ledger, {**one.ledger, "rejected": str(error)})
        raise
    for one, job_id in zip(runs, ids, strict=True):
        write_json(one.run.ledger, {**one.ledger, "job_id": job_id})


def _submit_surely(
    scheduler: Scheduler, jobs: Sequence[JobRequest], group: JobGroup | None, patience_s: float = SUBMIT_PATIENCE_S
) -> list[str]:
    """Submit exactly once, also through a scheduler that does not answer for a while.

    Raises:
        SchedulerError: refused. SchedulerUnavailableError: silent for longer than ``patience_s``.
    """
    deadline = time.monotonic() + patience_s
    for delay in poll_delays(limit_s=10):
        try:
            return scheduler.submit_together(jobs, group) if group else [scheduler.submit(job) for job in jobs]
        except SchedulerUnavailableError:
            if time.monotonic() > deadline:
                raise
        time.sleep(delay)
        # The answer may have been lost, not the request: the scheduler is asked for the name before it is told again.
        name = group.name if group else jobs[0].name
        try:
            found = scheduler.find(name)
        except SchedulerUnavailableError:
            continue
        if found:
            element = len(jobs) > 1 and group is not None and group.how == "array"
            return [f"{found[-1]}_{index}" if element else found[-1] for index in range(len(jobs))]
    raise AssertionError("poll_delays never ends")


def _stamp() -> str:
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(2)}"


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


def expected_image(project: Project, run: RunPaths) -> ExpectedImage | None:
    """The image the run must have used: the one it was submitted with, else the published one it names.

    A published image has two digests: that of its layer, which names the stack, and that of the self-contained file
    that `harness export` makes of both. A run in either used the image.

    A run that somebody started by hand is held against the checkout's definition: an edited program in an image that
    was not built again is the classic false pass. None where the catalog knows no such image.
    """
    facts = read_record(run).facts
    if facts.get("environment") == "conda":
        return None
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
    runs = [record for record in newest_runs(project) if not has_ended(record.paths)]
    return {str(record.facts["image_sha256"]) for record in runs if "image_sha256" in record.facts}
