"""What the processes of one pytest session (``pytest -n 2``) tell each other: which run each target has.

The first worker that gets here submits for all of them; the others, and the process that started them, read what it
wrote. Every entry is written as soon as the run has its job; the runs' own ledgers are what nothing can lose.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HarnessError
from harness.files import write_json
from harness.run.paths import RunPaths
from harness.suite.target import Target

WORKER_INPUT = "harness_board"


@dataclass(frozen=True)
class Board:
    """A folder on this machine, for as long as the session lasts."""

    folder: Path

    @classmethod
    def make(cls) -> Board:
        """A new, empty one."""
        return cls(Path(tempfile.mkdtemp(prefix="harness-suite-")))

    def settle(self, targets: Sequence[Target], obtain: Callable[[Target], None]) -> None:
        """Give each target its run: by ``obtain``, in one process only; from the board in all others."""
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for target in targets:
                if not self.take(target):
                    obtain(target)
                    self._put(target)

    def take(self, target: Target) -> bool:
        """Give the target what the board says of it; whether it says anything."""
        try:
            known = json.loads(self._file(target).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return False
        target.run = RunPaths(Path(known["run"])) if known["run"] else None
        target.problem = HarnessError(known["problem"]) if known["problem"] else None
        return True

    def remove(self) -> None:
        """The session is over."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _put(self, target: Target) -> None:
        run = str(target.run.folder) if target.run else None
        write_json(self._file(target), {"run": run, "problem": str(target.problem) if target.problem else None})

    def _file(self, target: Target) -> Path:
        return self.folder / f"{target.name}.json"
