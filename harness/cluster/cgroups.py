"""Memory cgroups, by which a cluster holds its jobs to the memory they asked for. They need root."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def why_no_memory_limits(root: Path = ROOT) -> str | None:
    """Why jobs cannot be held to their memory on this machine; None where they can.

    Only cgroup v1 is used: Slurm before 23.02 wants systemd to hand it a part of the v2 tree, which a container and a
    machine without systemd cannot do.
    """
    memory = root / "memory"
    if not (memory / "memory.limit_in_bytes").exists():
        return f"there is no cgroup v1 memory controller at {memory}"
    if os.getuid() != 0:
        return "only root may make memory cgroups"
    probe = memory / f"probe-{secrets.token_hex(4)}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        return f"{memory} cannot be written ({error.strerror})"
    return None


def cgroup_conf(version: tuple[int, int], *, enforce_memory: bool) -> str:
    """Text of cgroup.conf for a Slurm of that version.

    Without limits the cluster uses no cgroups, which would need root. slurmd loads a cgroup plug-in all the same. The
    one it picks by itself on a machine with cgroup v2 wants systemd and root; Slurm before 23.02 cannot do without any,
    but its v1 plug-in touches nothing until something is asked of it.
    """
    if enforce_memory:
        words = ("CgroupPlugin=cgroup/v1", f"CgroupMountpoint={ROOT}", "ConstrainRAMSpace=yes", "AllowedRAMSpace=100")
        return "\n".join(words) + "\n"
    return "CgroupPlugin=disabled\n" if version >= (23, 2) else "CgroupPlugin=cgroup/v1\n"


def remove_leftovers(nodes: Iterable[str], root: Path = ROOT) -> None:
    """Remove the memory cgroups that killed slurmd of these nodes left; one that is in use stays."""
    for node in nodes:
        top = root / "memory" / f"slurm_{node}"
        for folder, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):  # busy: of another cluster with a node of that name
                Path(folder).rmdir()
