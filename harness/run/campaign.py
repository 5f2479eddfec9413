"""Submitting runs. The ledger is on disk: nobody has to stay logged in."""

from __future__ import annotations

import getpass
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from harness.catalog.manifest import Manifest
from harness.catalog.revision import git_revision
from harness.errors import HarnessError, SchedulerUnavailableError, UserError
from harness.files import json_text, write_together
from harness.job.place import Server, job_file
from harness.job.size import Size
from harness.project import Environment, PresetName, Project, Variant
from harness.run.following import SLURM_CONF, cancel_runs, has_ended, scheduler_of, wait_for_runs
from harness.run.gathering import gather, gather_all
from harness.run.images import current_image, expected_image, project_catalog
from harness.run.needs import require
from harness.run.paths import RunPaths
from harness.run.records import latest_run, newest_runs
from harness.scheduler.base import JobGroup, JobRequest, Scheduler
from harness.scheduler.detect import detect_scheduler
from harness.scheduler.together import group_requests
from harness.scheduler.wait import poll_delays
from harness.site import load_site
from harness.tutorial import Scalar, Tutorial, option_words

__all__ = [  # one name for all that can be done with runs, whichever module does it
    "RunRequest",
    "cancel_runs",
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

# What Slurm takes unless its administrator says otherwise (MaxArraySize is 1001, one more than the highest index).
MAX_ARRAY_SIZE = 1000

# Below runs/: what the scheduler said about arrays and packs before a run's own script started.
GROUPS = ".groups"


@dataclass(frozen=True)
class RunRequest:
    """One run to be submitted.

    Attributes:
        given: parameters of every step, over the preset's.
        rerun_of: the run it repeats, to decide about that one's throughput.
        server: an interactive session with that server, instead of the steps.
        environment: in the tutorial's image, or in a conda environment of its stack.
        size: nodes and processes other than the tutorial's.
    """

    tutorial: Tutorial
    variant: Variant
    preset: PresetName
    given: Mapping[str, Scalar] = field(default_factory=dict)
    rerun_of: str | None = None
    server: Server | None = None
    environment: Environment = "apptainer"
    size: Size = field(default_factory=Size)


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
    campaign = _Campaign(project, site, options)
    prepared = [campaign.prepare(request) for request in requests]
    if how == "single":
        for one in prepared:
            _hand_in(project, [one], None)
        return [one.run for one in prepared]
    by_name = {one.job.name: one for one in prepared}
    for group in group_requests([one.job for one in prepared], same_time=how == "array"):
        size = MAX_ARRAY_SIZE if how == "array" else len(group)
        for start in range(0, len(group), size):
            together = group[start : start + size]
            _hand_in(project, [by_name[job.name] for job in together], how if len(together) > 1 else None)
    return [one.run for one in prepared]


@dataclass(frozen=True)
class _Prepared:
    run: RunPaths
    ledger: dict[str, Any]
    job: JobRequest


class _Campaign:
    """What runs that are submitted together share, looked up once for all of them.

    Raises:
        UserError: unknown site.
    """

    def __init__(self, project: Project, site: str, options: Sequence[str]) -> None:
        self._project, self._site, self._options = project, site, options
        self._profile = load_site(project, site)
        self._catalog = project_catalog(project, site)
        self._kind = "local" if self._profile.scheduler == "local" else detect_scheduler(os.environ).name
        self._git_revision = git_revision(project.root)
        self._user = getpass.getuser()
        self._ready: dict[tuple[str, ...], Manifest | None] = {}

    def prepare(self, wanted: RunRequest) -> _Prepared:
        """The ledger and the job of a run, and its folder; nothing is in it yet."""
        tutorial, variant, preset = wanted.tutorial, wanted.variant, wanted.preset
        options = (*self._sized(wanted), *self._options)  # those that a person gave win
        kind = (tutorial.id, variant, wanted.environment, wanted.server or preset, *option_words(wanted.given))
        if kind not in self._ready:
            self._ready[kind] = self._checked(wanted)
        image = self._ready[kind]
        what = wanted.server or (preset if image else f"{preset}-conda")
        run = _new_run(self._project, f"{tutorial.stem}-{variant}-{what}")
        ledger: dict[str, Any] = {
            "schema_version": 1,
            "run_id": run.run_id,
            "tutorial": tutorial.id,
            "variant": variant,
            "preset": preset,
            "open": wanted.server,
            "site": self._site,
            "scheduler": self._kind,
            "slurm_conf": os.environ.get(SLURM_CONF) if self._kind == "slurm" else None,
            "job_id": None,
            "environment": wanted.environment,
            "image_sha256": image.sha256 if image else None,
            "definition_sha256": image.definition_sha256 if image else None,
            "git_revision": self._git_revision,
            "parameters": dict(wanted.given),
            "steps": {s.name: {**tutorial.parameters(s.name, preset), **wanted.given} for s in tutorial.steps},
            "nodes": wanted.size.nodes,
            "processes": wanted.size.processes,
            "options": list(self._options),
            "user": self._user,
            "submitted_at": time.time(),
            **({"rerun_of": wanted.rerun_of} if wanted.rerun_of else {}),
        }
        job = JobRequest(
            script=job_file(self._project, tutorial, variant, self._profile, wanted.environment),
            workdir=self._project.root,
            output=run.scheduler_log,
            name=run.run_id,
            environment={
                "RUN_ID": run.run_id,
                "PRESET": preset,
                "OPEN": wanted.server or "",  # a caller's own OPEN is not meant
                "CATALOG": str(self._catalog.root),  # whose keys the job trusts
                **({"IMAGE": str(self._catalog.files(image).main)} if image else {}),
                **wanted.size.environment(),
                "HARNESS_SUBMITTED_AT": repr(ledger["submitted_at"]),
            },
            options=options,
            args=tuple(option_words(wanted.given)),
        )
        return _Prepared(run, ledger, job)

    def _sized(self, wanted: RunRequest) -> tuple[str, ...]:
        """Options that ask for the nodes and processes of a run.

        Raises:
            UserError: the tutorial's work cannot be shared so, or there is one node only.
        """
        options = wanted.size.options(wanted.tutorial, wanted.variant, self._profile.gres)
        if self._kind == "local" and (wanted.size.nodes or 1) > 1:
            raise UserError(
                "several nodes need a scheduler, and there is none here", where=wanted.tutorial.id, fix="make cluster"
            )
        return options

    def _checked(self, wanted: RunRequest) -> Manifest | None:
        """The image of a run for which everything is there; None for a run without one.

        Raises:
            UserError: no job script, no image of the checkout's definition, or no data or model that it needs.
        """
        script = job_file(self._project, wanted.tutorial, wanted.variant, self._profile, wanted.environment)
        if not script.is_file():
            raise UserError("no such job script", where=str(script), fix="make jobs")
        if wanted.server is None:
            require(self._project, wanted.tutorial, wanted.preset, self._profile, os.environ, wanted.given)
        if wanted.environment != "apptainer":
            return None
        return current_image(self._project, wanted.tutorial, wanted.variant, self._site)


def _new_run(project: Project, name: str) -> RunPaths:
    """A new run folder; its name holds the time, and chance tells apart what is submitted in the same second."""
    while True:
        run = RunPaths(project.runs / f"{name}-{_stamp()}")
        try:
            run.folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return run


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
    _write_ledgers(runs, {})
    try:
        ids = _submit_surely(scheduler, [one.job for one in runs], group)
    except SchedulerUnavailableError:
        raise  # it may have taken the job: the ledgers stay
    except HarnessError as error:
        _write_ledgers(runs, {one.run.run_id: {"rejected": str(error)} for one in runs})
        raise
    _write_ledgers(runs, {one.run.run_id: {"job_id": job_id} for one, job_id in zip(runs, ids, strict=True)})


def _write_ledgers(runs: Sequence[_Prepared], news: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the runs' ledgers, each with what is new by its run id."""
    write_together({one.run.ledger: json_text({**one.ledger, **news.get(one.run.run_id, {})}) for one in runs})


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


def images_in_use(project: Project) -> set[str]:
    """Digests of the images that runs of this checkout name which have not ended."""
    runs = [record for record in newest_runs(project) if not has_ended(record.paths)]
    return {str(record.facts["image_sha256"]) for record in runs if "image_sha256" in record.facts}
