"""The container engine of this machine: apptainer or singularity, and how it must be called here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HarnessError, MissingToolError

MINIMUM_VERSIONS = {"apptainer": (1, 3), "singularity": (4, 1)}
PROBE_SECONDS = 20


@dataclass(frozen=True)
class Engine:
    """An engine that was found.

    Attributes:
        name: ``apptainer`` or ``singularity``.
        path: the program.
        version: as it prints it, such as ``1.4.5``.
    """

    name: str
    path: Path
    version: str

    @property
    def variable_prefix(self) -> str:
        """Prefix of its environment variables."""
        return self.name.upper()

    def run_flags(self) -> list[str]:
        """Flags for exec, run and test.

        Root in a machine without CAP_SYS_RESOURCE (containers, micro-VMs) cannot start images plainly; a user
        namespace works for root everywhere.
        """
        return ["--userns"] if os.geteuid() == 0 else []


def find_engine() -> Engine:
    """The engine on PATH.

    Raises:
        MissingToolError: none, or too old. HarnessError: it does not answer.
    """
    for name, minimum in MINIMUM_VERSIONS.items():
        found = shutil.which(name)
        if found is None:
            continue
        version = _version(found)
        if parse_version(version) < minimum:
            wanted = ".".join(map(str, minimum))
            raise MissingToolError(f"{name} {version} is too old; {wanted} or newer is needed", where=found)
        return Engine(name, Path(found), version)
    raise MissingToolError(
        "neither apptainer nor singularity is on PATH",
        fix="ask the administrator for it, or as root: scripts/install-apptainer",
    )


def parse_version(text: str) -> tuple[int, int]:
    """(major, minor) of what ``--version`` prints; (0, 0) where there is no number."""
    match = re.search(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _version(program: str) -> str:
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=PROBE_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise HarnessError(f"--version failed: {error}", where=program) from error
    return done.stdout.strip().split()[-1].split("-")[0]
