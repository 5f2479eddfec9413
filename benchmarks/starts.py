"""How long an image takes to start: ours, the one that plain `apptainer build` makes, and no image at all.

Part of `benchmarks/images.py`, which has all three at hand. Each command is run in turn by each of them, so that what
else the machine does meets all alike. *Cold*: the files of the image (of the environment) were put out of the page
cache before; *warm*: they were read just now.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

COLD_RUNS = 5
WARM_RUNS = 9
COMMANDS = {"true": ["true"], "import torch": ["python", "-c", "import torch"]}


@dataclass(frozen=True)
class Place:
    """Where a command can run.

    Attributes:
        prefix: what goes before the command.
        roots: files, or folders of files, that hold what the command reads.
        path: the folder with its programs, where that is not on PATH.
    """

    name: str
    prefix: tuple[str, ...]
    roots: tuple[Path, ...]
    path: Path | None = None

    def files(self) -> Iterator[Path]:
        """All files that a cold start reads from the disk."""
        for root in self.roots:
            yield from (f for f in root.rglob("*") if f.is_file()) if root.is_dir() else [root]

    def run(self, command: Sequence[str]) -> float:
        """Seconds that a command takes, which must succeed."""
        environment = dict(os.environ)
        if self.path is not None:
            environment["PATH"] = f"{self.path}:{environment['PATH']}"
        started = monotonic()
        subprocess.run([*self.prefix, *command], env=environment, check=True, stdout=subprocess.DEVNULL)
        return monotonic() - started


def native_environment(lock: Path, folder: Path, python: str) -> Place:
    """A virtual environment with the packages of a stack's lock, byte code compiled."""
    uv = str(Path(sys.executable).parent / "uv")
    subprocess.run([uv, "venv", "--quiet", "--seed", "--python", python, str(folder)], check=True)
    # pip knows this machine's package folders, uv does not.
    install = [str(folder / "bin/python"), "-m", "pip", "install", "-qq", "--no-deps", "--require-hashes"]
    subprocess.run([*install, "-r", str(lock)], check=True)
    return Place("no image, a virtual environment", (), (folder,), folder / "bin")


def forget(files: Iterator[Path]) -> None:
    """Put the pages of files out of the cache; written ones go to the disk first, else they would stay."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def measure_starts(places: Sequence[Place]) -> list[str]:
    """Rows of a table: what, and the median seconds of each place."""
    rows = ["| start | " + " | ".join(f"{place.name}, s" for place in places) + " |", "|---" * (len(places) + 1) + "|"]
    for what, command in COMMANDS.items():
        cold: dict[str, list[float]] = {place.name: [] for place in places}
        warm: dict[str, list[float]] = {place.name: [] for place in places}
        for _ in range(COLD_RUNS):
            for place in places:
                forget(place.files())
                cold[place.name].append(place.run(command))
        for _ in range(WARM_RUNS):
            for place in places:
                warm[place.name].append(place.run(command))
        for kind, seconds in (("cold", cold), ("warm", warm)):
            medians = " | ".join(f"{statistics.median(seconds[place.name]):.2f}" for place in places)
            rows.append(f"| `{what}`, {kind} | {medians} |")
    return rows
