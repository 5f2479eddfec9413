"""The run folder. The only owner of its file names on the harness's side.

The job script (``jobs/lib/job.sh``) writes ``job.json``, ``log.txt`` and ``exit_code``; the program's runtime library
(``harness.runtime``) writes ``result.json`` and the files below ``outputs/``; the judge writes ``verdict.json``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunPaths:
    """File names of one run. Attributes:
    folder: ``runs/<run-id>``.
    """

    folder: Path

    @property
    def run_id(self) -> str:
        return self.folder.name

    @property
    def ledger(self) -> Path:
        """What was asked for, written by ``harness submit`` before the scheduler is called."""
        return self.folder / "ledger.json"

    @property
    def job(self) -> Path:
        """What the job script found: node, job id, image, GPUs asked for."""
        return self.folder / "job.json"

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    @property
    def scheduler_log(self) -> Path:
        """What the job script and the scheduler say beside the program's own output."""
        return self.folder / "scheduler.log"

    @property
    def exit_code(self) -> Path:
        """Exit status of the job script, one decimal number; absent while it runs or when it was killed."""
        return self.folder / "exit_code"

    @property
    def result(self) -> Path:
        return self.folder / "result.json"

    @property
    def verdict(self) -> Path:
        return self.folder / "verdict.json"

    def outputs(self, step: str) -> Path:
        """Folder the step of that name leaves its files in."""
        return self.folder / "outputs" / step
