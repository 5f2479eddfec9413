"""Runs that were submitted: how they stand, waiting for them, cancelling them. One query covers all silent runs."""

from __future__ import annotations

import getpass
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.errors import HarnessError, SchedulerUnavailableError, UserError
from harness.files import json_text, write_together
from harness.project import Project
from harness.run.paths import RunPaths
from harness.run.records import RunRecord, read_record
from harness.run.scheduler_word import SchedulerWord
from harness.scheduler.base import JobState, JobStatus, Scheduler
from harness.scheduler.local import LocalScheduler
from harness.scheduler.slurm import SlurmScheduler
from harness.scheduler.wait import Outcome, Waiter

# A job that pends this long is given up (not cancelled): its partition may be down or its request impossible.
PENDING_LIMIT_S = 24 * 3600.0

# A shell's exit status of a program that signal N ended is this plus N.
SIGNALLED = 128

# What the jobs of a private cluster need to be asked about later, from another shell.
SLURM_CONF = "SLURM_CONF"


def scheduler_of(project: Project, ledger: Mapping[str, Any]) -> Scheduler:
    """The scheduler a run was given to, reached as it was reached then."""
    if ledger.get("scheduler") == "local":
        return LocalScheduler(project.runs / ".local-scheduler")
    environment = dict(os.environ)
    if ledger.get("slurm_conf"):
        environment[SLURM_CONF] = str(ledger["slurm_conf"])
    return SlurmScheduler(environment)


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

    for records in _by_scheduler([read_record(run) for run in runs]):
        scheduler = scheduler_of(project, records[0].facts)
        by_job: dict[str, list[RunPaths]] = {}
        for record in records:
            job_id = job_of(scheduler, record)
            if job_id is None:
                raise HarnessError(
                    f"run {record.paths.run_id} has no job",
                    where=str(record.paths.folder),
                    fix="submit it again: make submit",
                )
            by_job.setdefault(job_id, []).append(record.paths)
        waiter = Waiter(scheduler, check_s=0.2, on_status=on_status)

        def ended(job_id: str, by_job: dict[str, list[RunPaths]] = by_job) -> bool:
            over = [run for run in by_job[job_id] if has_ended(run)]
            for run in over:
                report(run)
            return len(over) == len(by_job[job_id])

        results = waiter.wait(by_job, done=ended, pending_timeout_s=PENDING_LIMIT_S, timeout_s=timeout_s)
        for job_id, result in results.items():
            for run in by_job[job_id]:
                if result.outcome in (Outcome.TIMEOUT, Outcome.PENDING_TIMEOUT) and not has_ended(run):
                    raise HarnessError(
                        f"run {run.run_id} has not ended: {result}", fix="harness status, or harness cancel"
                    )
                report(run)


def scheduler_words(project: Project, records: Sequence[RunRecord]) -> dict[str, SchedulerWord]:
    """What the schedulers say of the runs that do not say themselves how they ended, by run id.

    Cost: one scheduler query for all silent runs together, and those that a signal ended: only the scheduler knows
    whether that was a time limit, a preemption or a person. None where every run says how it ended. A scheduler that
    does not answer says nothing about any run.
    """
    silent = [record for record in records if may_have_a_job(record) and not has_ended(record.paths)]
    words: dict[str, SchedulerWord] = {}
    for group in _by_scheduler(silent):
        scheduler = scheduler_of(project, group[0].facts)
        try:
            jobs = {record.paths.run_id: job for record in group if (job := job_of(scheduler, record))}
            statuses = scheduler.poll(list(dict.fromkeys(jobs.values()))) if jobs else {}
        except SchedulerUnavailableError:
            continue
        for record in group:
            job = jobs.get(record.paths.run_id)
            if job is not None:
                words[record.paths.run_id] = _word(statuses[job], record)
    return words


def has_ended(run: RunPaths) -> bool:
    """Whether the run itself says so. One that a signal ended does not: it may be started again."""
    try:
        return int(run.exit_code.read_text(encoding="ascii")) <= SIGNALLED
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True  # it says something; the judge says what is wrong with that


def may_have_a_job(record: RunRecord) -> bool:
    """Whether a scheduler was, or may have been, given this run; one that it rejected has nobody to wait for."""
    return bool(record.facts.get("job_id") or record.facts.get("scheduler")) and "rejected" not in record.facts


def job_of(scheduler: Scheduler, record: RunRecord) -> str | None:
    """The run's job, looked up by its name where a kill came between submission and ledger; None: there is none.

    Raises:
        SchedulerUnavailableError: the scheduler did not answer.
    """
    facts = record.facts
    if facts.get("job_id"):
        return str(facts["job_id"])
    if not facts.get("scheduler") or "rejected" in facts:
        return None
    found = scheduler.find(str(facts.get("group") or record.paths.run_id))
    if not found:
        return None
    return f"{found[-1]}_{facts['array_index']}" if "array_index" in facts else found[-1]


def cancel_runs(project: Project, runs: Sequence[RunPaths]) -> None:
    """Cancel the jobs of runs, with one request to their scheduler; a job that several runs share ends for all of them.

    Raises:
        UserError: a run has no job; nothing was cancelled. SchedulerError: refused.
    """
    for records in _by_scheduler([read_record(run) for run in runs]):
        scheduler = scheduler_of(project, records[0].facts)
        jobs = []
        for record in records:
            job_id = job_of(scheduler, record) if may_have_a_job(record) else None
            if job_id is None:
                raise UserError("this run has no job to cancel", where=str(record.paths.folder))
            jobs.append(job_id)
        scheduler.cancel(list(dict.fromkeys(jobs)))
        who = {"cancelled_by": getpass.getuser(), "cancelled_at": time.time()}
        ledgers = [record.paths.ledger for record in records if record.paths.ledger.is_file()]
        write_together({path: json_text({**json.loads(path.read_text(encoding="utf-8")), **who}) for path in ledgers})


def _word(status: JobStatus, record: RunRecord) -> SchedulerWord:
    cancelled_by = record.facts.get("cancelled_by")
    if status.state is JobState.UNKNOWN and cancelled_by:
        # Slurm keeps no record of an array's element that was cancelled before it started.
        return SchedulerWord(f"CANCELLED by {cancelled_by}", "harness cancel, before it started")
    return SchedulerWord(status.state.value, status.reason, status.exit_code, status.signal, status.node)


def _by_scheduler(records: Sequence[RunRecord]) -> list[list[RunRecord]]:
    groups: dict[tuple[str, str], list[RunRecord]] = {}
    for record in records:
        key = (str(record.facts.get("scheduler")), str(record.facts.get("slurm_conf")))
        groups.setdefault(key, []).append(record)
    return list(groups.values())
