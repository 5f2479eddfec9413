"""The programs of Slurm and munge: which are here, and how a cluster's daemons are started."""

from __future__ import annotations

import os
import shutil
import subprocess

from harness.cluster import config
from harness.cluster.config import BoxLayout
from harness.errors import MissingToolError

_TOOL_FOLDERS = ("/usr/sbin", "/sbin", "/usr/local/sbin")  # not on an ordinary user's PATH in Debian
_INSTALL = "install Slurm and munge: scripts/install-packages slurm"


def missing_tools() -> list[str]:
    """Programs a private cluster needs and this machine has not."""
    return [tool for tool in ("munged", "slurmctld", "slurmd", "sinfo", "sbatch") if find_tool(tool) is None]


def require_tools() -> None:
    """Stop where a private cluster cannot start.

    Raises:
        MissingToolError: a program is not on this machine; names it and what installs it.
    """
    if missing := missing_tools():
        raise MissingToolError(f"not on this machine: {', '.join(missing)}", where="cluster", fix=_INSTALL)


def slurm_version() -> tuple[int, int]:
    """Of the controller, such as (22, 5)."""
    done = subprocess.run([find_tool("slurmctld") or "slurmctld", "-V"], capture_output=True, text=True, check=False)
    return config.parse_version(done.stdout)


def search_path() -> str:
    """PATH with the folders of administrators' programs."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), *_TOOL_FOLDERS])


def find_tool(name: str) -> str | None:
    """Where a program is, also where Debian keeps those of administrators."""
    return shutil.which(name, path=search_path())


def daemon_command(name: str, layout: BoxLayout) -> list[str]:
    """How to start a daemon of a cluster in the foreground: ``munged``, ``slurmctld`` or ``slurmd.<node>``."""
    program = find_tool(name.partition(".")[0]) or name.partition(".")[0]
    if name == "munged":
        return [
            program,
            "--foreground",
            "--force",
            f"--key-file={layout.munge_key}",
            f"--socket={layout.munge_socket}",
            f"--pid-file={layout.run}/munged.pid",
            f"--log-file={layout.log}/munged.log",
            f"--seed-file={layout.run}/munged.seed",
        ]
    if name == "slurmctld":
        return [program, "-D"]
    return [program, "-D", "-N", name.partition(".")[2]]
