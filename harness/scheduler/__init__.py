"""Schedulers: submit, poll many in one call, cancel. ``slurm`` for a cluster, ``local`` where there is none."""

from harness.scheduler.base import JobGroup, JobRequest, JobState, JobStatus, Scheduler
from harness.scheduler.detect import Detection, detect_scheduler
from harness.scheduler.local import LocalScheduler
from harness.scheduler.slurm import SlurmScheduler
from harness.scheduler.wait import Outcome, Waiter, WaitResult

__all__ = [
    "Detection",
    "JobGroup",
    "JobRequest",
    "JobState",
    "JobStatus",
    "LocalScheduler",
    "Outcome",
    "Scheduler",
    "SlurmScheduler",
    "WaitResult",
    "Waiter",
    "detect_scheduler",
]
