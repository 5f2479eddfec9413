"""Slurm, by its own commands. All of the package's Slurm subprocesses start here; :mod:`slurm_parse` reads them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from harness.errors import MissingToolError, SchedulerError, SchedulerUnavailableError
from harness.scheduler import slurm_parse
from harness.scheduler.base import JobGroup, JobRequest, JobState, JobStatus
from harness.scheduler.together import array_script, pack_script

# The kernel takes 128 KiB in one argument: some ten thousand ids.
_ARGUMENT_BYTES = 120_000
_KEPT_FOR_SUBMISSION = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")


class SlurmScheduler:
    """Driver for a Slurm cluster.

    ``poll`` costs one ``squeue`` for all jobs (per 120 kB of their ids; an array counts once), plus one ``sacct`` only
    for jobs that squeue no longer knows, plus one ``sacct -c`` the first time where the cluster has no accounting
    database. ``commands_run`` counts them.

    Args:
        environment: the environment of Slurm's commands; default: this process's.
        command_timeout_s: seconds after which a command that hangs is given up.
    """

    name = "slurm"

    def __init__(self, environment: Mapping[str, str] | None = None, *, command_timeout_s: float = 60.0) -> None:
        self._environment = dict(os.environ if environment is None else environment)
        self._timeout_s = command_timeout_s
        self._completion_log_only = False
        self.commands_run = 0

    def submit(self, request: JobRequest) -> str:
        """Submit with ``sbatch``; see :meth:`harness.scheduler.base.Scheduler.submit`."""
        command = [
            "sbatch",
            "--parsable",
            f"--job-name={request.name}",
            f"--chdir={request.workdir}",
            f"--output={str(request.output).replace('%', '%%')}",
            *request.options,
            str(request.script),
            *request.args,
        ]
        return self._sbatch(command, request.workdir, request.environment)

    def submit_together(self, requests: Sequence[JobRequest], group: JobGroup) -> list[str]:
        """One ``sbatch`` for all; see :meth:`harness.scheduler.base.Scheduler.submit_together`."""
        script = array_script(requests) if group.how == "array" else pack_script(requests)
        pattern = "%a.log" if group.how == "array" else "pack.log"
        first = requests[0]
        command = [
            "sbatch",
            "--parsable",
            f"--job-name={group.name}",
            f"--chdir={first.workdir}",
            f"--output={str(group.logs).replace('%', '%%')}/{pattern}",
            *first.options,
        ]
        job_id = self._sbatch(command, first.workdir, {}, script)
        if group.how == "array":
            return [f"{job_id}_{index}" for index in range(len(requests))]
        return [job_id] * len(requests)

    def _sbatch(
        self, command: list[str], workdir: Path, environment: Mapping[str, str], script: str | None = None
    ) -> str:
        # Job scripts start in the folder sbatch was called from, unless the site says otherwise.
        done = self._run(command, extra=environment, for_submission=True, cwd=workdir, stdin=script)
        if done.returncode != 0:
            raise self._failure("sbatch", done, fix=slurm_parse.hint_for(done.stderr))
        return slurm_parse.parse_sbatch(done.stdout)

    def poll(self, job_ids: Sequence[str]) -> dict[str, JobStatus]:
        """One squeue for all, one sacct for those it no longer knows. Array elements go by their own ids: ``12_3``."""
        known: dict[str, JobStatus] = {}
        # squeue refuses to answer about any job where one id of a broken record is none.
        sound = [job_id for job_id in job_ids if slurm_parse.is_job_id(job_id)]
        for batch in _batches(_whole_arrays(sound)):
            known.update(self._squeue(batch))
        silent = [job_id for job_id in sound if job_id not in known]
        for batch in _batches(_whole_arrays(silent)):
            known |= self._accounting(batch) | known
        return {job_id: known.get(job_id) or _vanished(job_id) for job_id in job_ids}

    def cancel(self, job_ids: Sequence[str]) -> None:
        """One ``scancel`` for all; jobs that have ended or are unknown are no error, as for scancel itself."""
        for batch in _batches(job_ids):
            done = self._run(["scancel", *batch])
            if done.returncode != 0 and not slurm_parse.is_unknown_job(done.stderr):
                raise self._failure("scancel", done)

    def find(self, name: str) -> list[str]:
        """This user's jobs of that name which squeue still lists: active ones, and ended ones for MinJobAge (300 s)."""
        done = self._run(["squeue", "-h", "--me", "--states=all", "--sort=i", f"--name={name}", "-o", "%F"])
        if done.returncode != 0:
            raise self._failure("squeue", done)
        return list(dict.fromkeys(done.stdout.split()))

    def answers(self) -> bool:
        """Whether a controller is up (``scontrol ping``, milliseconds when it is, MessageTimeout when it hangs)."""
        done = self._run(["scontrol", "ping"])
        return slurm_parse.parse_ping(done.stdout)

    def _squeue(self, job_ids: Sequence[str]) -> dict[str, JobStatus]:
        done = self._run(
            ["squeue", "-h", "-r", "--states=all", f"--jobs={','.join(job_ids)}", "-O", slurm_parse.SQUEUE_FORMAT]
        )
        if done.returncode == 0:
            return slurm_parse.parse_squeue(done.stdout)
        if slurm_parse.is_unknown_job(done.stderr):  # said only when it was asked for a single job
            return {}
        raise self._failure("squeue", done)

    def _accounting(self, job_ids: Sequence[str]) -> dict[str, JobStatus]:
        if not self._completion_log_only:
            done = self._sacct(job_ids, slurm_parse.SACCT_FIELDS, "-X", "-D")
            if done.returncode == 0:
                return slurm_parse.parse_sacct(done.stdout)
            if not slurm_parse.is_accounting_disabled(done.stderr):
                raise self._failure("sacct", done)
            self._completion_log_only = True
        done = self._sacct(job_ids, slurm_parse.SACCT_COMPLETION_FIELDS, "-c", "-D")
        if done.returncode == 0:
            return slurm_parse.parse_sacct(done.stdout, slurm_parse.SACCT_COMPLETION_FIELDS)
        if slurm_parse.is_no_answer(done.stderr):
            raise self._failure("sacct", done)
        return {}  # neither a database nor a completion log: such jobs are UNKNOWN

    def _sacct(
        self, job_ids: Sequence[str], fields: tuple[str, ...], *options: str
    ) -> subprocess.CompletedProcess[str]:
        # Without a start time sacct looks no further back than today's midnight.
        since = () if "-c" in options else ("--starttime=1970-01-02",)
        return self._run(["sacct", "-n", "-P", *options, *since, f"--jobs={','.join(job_ids)}", "-o", ",".join(fields)])

    def _run(
        self,
        command: list[str],
        *,
        extra: Mapping[str, str] | None = None,
        for_submission: bool = False,
        cwd: Path | None = None,
        stdin: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        environment = self._environment
        if for_submission:
            # A job submitted from within a job must not inherit that job's size (SLURM_MEM_PER_NODE, SLURM_NTASKS ...).
            environment = {
                key: value
                for key, value in environment.items()
                if not key.startswith("SLURM_") or key in _KEPT_FOR_SUBMISSION
            } | dict(extra or {})
        else:
            # Epoch seconds: local time without a zone is wrong for an hour twice a year.
            environment = environment | {"SLURM_TIME_FORMAT": "%s"}
        self.commands_run += 1
        try:
            return subprocess.run(
                command,
                env=environment,
                cwd=cwd,
                stdin=subprocess.DEVNULL if stdin is None else None,
                input=stdin,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=self._timeout_s,
                check=False,
            )
        except FileNotFoundError as error:
            raise MissingToolError(
                "there is no such command on this machine",
                where=command[0],
                fix="log in to a submit host, or use the local scheduler",
            ) from error
        except subprocess.TimeoutExpired as error:
            raise SchedulerUnavailableError(
                f"no answer within {self._timeout_s:g} s", where=command[0], fix="try again later"
            ) from error

    def _failure(
        self, program: str, done: subprocess.CompletedProcess[str], *, fix: str | None = None
    ) -> SchedulerError:
        message = slurm_parse.one_line(done.stderr)
        if slurm_parse.is_no_answer(done.stderr):
            return SchedulerUnavailableError(message, where=program, fix="try again later, or see `scontrol ping`")
        return SchedulerError(message, where=program, fix=fix)


def _whole_arrays(job_ids: Sequence[str]) -> list[str]:
    """The jobs, arrays instead of their elements: whoever asks for ``12`` is told of ``12_0``, ``12_1`` ..."""
    return list(dict.fromkeys(job_id.partition("_")[0] for job_id in job_ids))


def _batches(job_ids: Sequence[str]) -> Iterator[list[str]]:
    """The ids, so many at a time as one argument holds."""
    batch: list[str] = []
    size = 0
    for job_id in job_ids:
        size += len(job_id) + 1
        if size > _ARGUMENT_BYTES:
            yield batch
            batch, size = [], len(job_id) + 1
        batch.append(job_id)
    if batch:
        yield batch


def _vanished(job_id: str) -> JobStatus:
    return JobStatus(job_id, JobState.UNKNOWN, reason="neither squeue nor accounting knows this job any more")
