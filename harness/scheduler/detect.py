"""Which scheduler this machine has, and why we think so."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass

from harness.errors import SchedulerUnavailableError
from harness.scheduler.slurm import SlurmScheduler

_PING_LIMIT_S = 15.0


@dataclass(frozen=True)
class Detection:
    """The scheduler's name, ``slurm`` or ``local``, and the reason in words for a person."""

    name: str
    reason: str


def detect_scheduler(environment: Mapping[str, str]) -> Detection:
    """Look for Slurm, else settle for the local scheduler.

    With SLURM_CONF set, Slurm is meant, whether it answers now or not: a controller that is down for a minute must not
    turn a cluster's job into a process of the login node. Costs one ``scontrol ping`` where SLURM_CONF is not set.
    """
    sbatch = shutil.which("sbatch", path=environment.get("PATH"))
    if sbatch is None:
        return Detection("local", "there is no sbatch on the PATH")
    if configuration := environment.get("SLURM_CONF"):
        return Detection("slurm", f"SLURM_CONF={configuration}")
    try:
        up = SlurmScheduler(environment, command_timeout_s=_PING_LIMIT_S).answers()
    except SchedulerUnavailableError:
        up = False
    if up:
        return Detection("slurm", f"{sbatch} and a controller that answers")
    return Detection("local", f"{sbatch} is there but no Slurm controller answers")
