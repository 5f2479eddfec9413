"""The run folder. The only owner of its file names on the harness's side.

The job script (``jobs/lib/job.sh``) writes ``job.json``, ``log.txt`` and ``exit_code``; the program's runtime library
(``harness.runtime``) writes ``result.json`` and the files below ``outputs/``, an interactive session ``session.json``;
the judge writes ``verdict.json``.

A job that the scheduler starts again writes to ``attempt-1``, ``attempt-2`` ... below the run's folder: on a node that
was only cut off, the first attempt may still run to its end, and neither may touch the other's files.
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
    def attempt_folder(self) -> Path:
        """Folder of the newest attempt."""
        newest, number = self.folder, 1
        while (following := self.folder / f"attempt-{number}").is_dir():
            newest, number = following, number + 1
        return newest

    @property
    def ledger(self) -> Path:
        """What was asked for, written by ``harness submit`` before the scheduler is called."""
        return self.folder / "ledger.json"

    @property
    def job(self) -> Path:
        """What the job script found: node, job id, image, GPUs asked for."""
        return self.attempt_folder / "job.json"

    @property
    def log(self) -> Path:
        return self.attempt_folder / "log.txt"

    @property
    def scheduler_log(self) -> Path:
        """What the job script and the scheduler say beside the program's own output."""
        return self.folder / "scheduler.log"

    @property
    def exit_code(self) -> Path:
        """Exit status of the job script, one decimal number; absent while it runs or when it was killed."""
        return self.attempt_folder / "exit_code"

    @property
    def result(self) -> Path:
        return self.attempt_folder / "result.json"

    @property
    def session(self) -> Path:
        """Where an interactive session's server is found, and its token; there while it answers, its owner's alone."""
        return self.attempt_folder / "session.json"

    @property
    def verdict(self) -> Path:
        return self.attempt_folder / "verdict.json"

    def outputs(self, step: str) -> Path:
        """Folder the step of that name leaves its files in."""
        return self.attempt_folder / "outputs" / step
