"""What the benchmarks of the harness alone share: a project whose one job prints two lines, and measured commands.

No image is started: what a start costs is measured elsewhere (docs/benchmarks/images.md), and here only what comes on
top of the jobs is of interest. The published image is a placeholder that the job names as the one it used.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "tests"))  # the project is the tests' one

from trivial_project import BODY as BODY  # noqa: E402
from trivial_project import make_trivial_project as make_trivial_project  # noqa: E402

TOOLS = ("sbatch", "squeue", "sacct", "scontrol", "scancel", "sinfo", "srun")


@dataclass(frozen=True)
class Cost:
    """What commands took: seconds of wall and CPU time, MB of resident memory, calls of Slurm's commands by name.

    CPU time is that of the command and all it started and waited for, Slurm's own commands included.
    """

    wall_s: float
    cpu_s: float
    memory_mb: float
    calls: Mapping[str, int]
    output: str

    def __add__(self, other: Cost) -> Cost:
        calls = {name: self.calls.get(name, 0) + other.calls.get(name, 0) for name in {**self.calls, **other.calls}}
        memory = max(self.memory_mb, other.memory_mb)
        return Cost(self.wall_s + other.wall_s, self.cpu_s + other.cpu_s, memory, calls, self.output + other.output)

    @property
    def commands(self) -> int:
        """How often Slurm was asked for anything."""
        return sum(self.calls.values())


class Meter:
    """Runs commands and says what they cost. Slurm's commands are counted by wrappers that come first on PATH."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._record, self._errors = folder / "calls", folder / "errors"
        tools = folder / "counted"
        tools.mkdir(parents=True)
        for name in TOOLS:
            if (real := shutil.which(name)) is not None:
                (tools / name).write_text(f'#!/bin/sh\necho {name} >>{self._record}\nexec {real} "$@"\n')
                (tools / name).chmod(0o755)
        self._environment = {**environment, "PATH": f"{tools}:{environment['PATH']}"}

    def run(self, command: Sequence[str | Path], folder: Path, *, may_fail: bool = False) -> Cost:
        """Run a command in a folder.

        Raises:
            SystemExit: it failed, with what it said.
        """
        self._record.write_text("")
        begun = time.perf_counter()
        words = [str(word) for word in command]
        with self._errors.open("w") as errors:
            process = subprocess.Popen(
                words, cwd=folder, env=self._environment, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0 and not may_fail:
            said = output[-2000:] + self._errors.read_text()[-2000:]
            raise SystemExit(f"{' '.join(words)[:200]}: exit {process.returncode}\n{said}")
        names = self._record.read_text().split()
        calls = {name: names.count(name) for name in TOOLS if name in names}
        return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, calls, output)


def harness_command() -> Path:
    """This checkout's `harness`."""
    return Path(sys.executable).parent / "harness"
