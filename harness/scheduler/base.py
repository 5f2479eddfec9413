"""What every scheduler can do, and the values it speaks in."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from harness.errors import UserError

# Blanks break Slurm's text job-completion log (`sacct -c` then loses the state), so no scheduler gets them.
_JOB_NAME = re.compile(r"[A-Za-z0-9._+:@=-]{1,128}")


class JobState(enum.Enum):
    """Where a job stands. UNKNOWN means that nobody knows the job any more: never a success."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMEOUT = "TIMEOUT"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    NODE_FAIL = "NODE_FAIL"
    PREEMPTED = "PREEMPTED"
    UNKNOWN = "UNKNOWN"

    @property
    def is_active(self) -> bool:
        """Whether the job may still change by itself."""
        return self in (JobState.PENDING, JobState.RUNNING)


@dataclass(frozen=True)
class JobRequest:
    """One batch job to submit.

    Attributes:
        script: the batch script.
        args: its arguments.
        name: job name: letters, digits and ``._+:@=-``, at most 128.
        environment: variables added to the caller's environment. With Slurm they reach the job unless the script or
            the site says ``--export=NONE``.
        options: further options of the scheduler's submit command, e.g. ``("--gres=gpu:1",)``.
        workdir: directory the script starts in.
        output: file that takes stdout and stderr, literally (``%`` is no pattern); its directory must exist.
    """

    script: Path
    workdir: Path
    output: Path
    name: str
    args: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what every scheduler would trip over.

        Raises:
            UserError: a bad job name, a missing script, working directory or folder for the output.
        """
        if not _JOB_NAME.fullmatch(self.name):
            raise UserError(f"job name {self.name!r} is not 1 to 128 of: letters, digits and ._+:@=-", where="job")
        if not self.script.is_file():
            raise UserError("there is no such job script", where=str(self.script))
        # Slurm accepts these two and then fails the job as JobLaunchFailure with no output at all.
        if not self.workdir.is_dir():
            raise UserError("the job's working directory does not exist", where=str(self.workdir))
        if not self.output.parent.is_dir():
            raise UserError("the folder for the job's output does not exist", where=str(self.output.parent))


@dataclass(frozen=True)
class JobGroup:
    """How several jobs are handed in as one.

    Attributes:
        name: job name of the whole, as :attr:`JobRequest.name`.
        how: ``array``, one element per job, which the scheduler starts as it likes; ``pack``, one allocation in which
            the jobs run one after another.
        logs: folder for what the scheduler says before a job's own script starts.
    """

    name: str
    how: Literal["array", "pack"]
    logs: Path


@dataclass(frozen=True)
class JobStatus:
    """What a scheduler said about one job.

    Attributes:
        job_id: the scheduler's id, a string.
        state: see :class:`JobState`.
        reason: the scheduler's own words on why it waits or ended; empty when it has none.
        exit_code: the script's exit status, None while it is active, was killed by a signal, or when it is not known.
        signal: number of the signal that ended the script, None when none did.
        node: where it runs or ran; empty before it starts.
        submitted, started, ended: seconds since 1970, None when they have not happened or are not known.
        restarts: how often the scheduler has put the job back into the queue.
    """

    job_id: str
    state: JobState
    reason: str = ""
    exit_code: int | None = None
    signal: int | None = None
    node: str = ""
    submitted: float | None = None
    started: float | None = None
    ended: float | None = None
    restarts: int = 0


class Scheduler(Protocol):
    """Runs batch jobs. Implementations keep nothing in memory: any process may ask for any job, at any time later."""

    name: str

    def submit(self, request: JobRequest) -> str:
        """Hand in one job and return its id.

        Raises:
            SchedulerError: it was refused; nothing was submitted.
            SchedulerUnavailableError: no answer. The job may or may not have been accepted:
                ask :meth:`find` by its name before submitting again.
        """
        ...

    def submit_together(self, requests: Sequence[JobRequest], group: JobGroup) -> list[str]:
        """Hand in jobs that ask for the same resources (:func:`harness.scheduler.together.group_requests`) as one.

        Returns:
            Their ids, in their order; the same one for all of a pack.

        Raises:
            As :meth:`submit`; all of them are refused together.
        """
        ...

    def poll(self, job_ids: Sequence[str]) -> dict[str, JobStatus]:
        """Status of every given job, asked for all of them together. A job nobody knows is UNKNOWN.

        Raises:
            SchedulerUnavailableError: the scheduler did not answer; this says nothing about any job.
        """
        ...

    def cancel(self, job_ids: Sequence[str]) -> None:
        """End the given jobs; those that have ended already are no error.

        Raises:
            SchedulerError: it was refused.
            SchedulerUnavailableError: the scheduler did not answer.
        """
        ...

    def find(self, name: str) -> list[str]:
        """Ids of this user's jobs of that name which the scheduler still knows, oldest first.

        Raises:
            SchedulerUnavailableError: the scheduler did not answer.
        """
        ...
