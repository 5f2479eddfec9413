"""doctor: what is missing on this machine, and the line that fixes it, before a long build or a queue wait."""

from __future__ import annotations

import getpass
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import typer

from harness.cli.options import SiteOption
from harness.errors import HarnessError
from harness.image.engine import find_engine
from harness.image.keys import signing_key_path
from harness.mirrors import probe_mirrors
from harness.project import Project
from harness.scheduler.detect import detect_scheduler
from harness.site import DEFAULT_SITE, Mirrors, load_site

# Unpacked stack (1.4 GB), its image (0.4 GB) and the tutorial's image, twice over while building.
BUILD_BYTES = 6e9
# Network file systems: builds there are slow and break on their locks and owners.
NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "lustre", "gpfs", "beegfs", "cifs", "fuse.sshfs", "ceph"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. ``fix`` is empty where it is fine; ``needed`` False where one can do without."""

    name: str
    found: str
    fix: str = ""
    needed: bool = True


def register(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command()(doctor)


def doctor(site: SiteOption = DEFAULT_SITE) -> None:
    """Say what this machine lacks and the line that fixes it. Exit code 1 where something needed is missing.

    Examples: harness doctor; harness doctor --site fics (also shows which of the site's mirrors answer)
    """
    project = Project.find()
    findings = [*examine(project), *mirror_findings(load_site(project, site).mirrors, project.site_file(site))]
    for finding in findings:
        mark = "ok  " if not finding.fix else ("MISS" if finding.needed else "note")
        typer.echo(f"{mark} {finding.name:<12} {finding.found}" + (f"; {finding.fix}" if finding.fix else ""))
    if any(f.fix and f.needed for f in findings):
        raise typer.Exit(1)


def examine(project: Project) -> Iterator[Finding]:
    """All findings, cheapest first."""
    checks: tuple[Callable[[Project], Finding], ...] = (
        _engine,
        _signing,
        _fuse,
        _mapped_users,
        _disk,
        _scheduler,
        _registry,
        _gpu,
    )
    for check in checks:
        yield check(project)


def mirror_findings(mirrors: Mirrors, file: Path) -> Iterator[Finding]:
    """Whether each mirror answers, how fast, and which one a build takes: the first of its kind that answers."""
    chosen: set[str] = set()
    answers = probe_mirrors(mirrors.by_kind())
    for answer in answers:
        if answer.latency_s is None:
            alive = any(other.kind == answer.kind and other.latency_s is not None for other in answers)
            instead = "the next one is used" if alive else "this machine's own configuration is used"
            found = f"{answer.address} is dead ({answer.problem})"
            yield Finding(answer.kind, found, f"{instead}; to stop asking, remove it from {file}", needed=False)
            continue
        found = f"{answer.address} answers in {answer.latency_s * 1000:.0f} ms"
        if answer.kind not in chosen:
            found += ", chosen"
        chosen.add(answer.kind)
        yield Finding(answer.kind, found)


def _engine(_: Project) -> Finding:
    try:
        engine = find_engine()
    except HarnessError as error:
        return Finding("engine", error.what, error.fix or "install apptainer 1.3 or newer")
    return Finding("engine", f"{engine.name} {engine.version} at {engine.path}")


def _signing(_: Project) -> Finding:
    path = signing_key_path(os.environ)
    if path.exists():
        return Finding("signing", f"your key is {path}")
    if shutil.which("openssl") is None:
        return Finding("signing", "no openssl to make a key with", "ask the administrator for openssl")
    return Finding("signing", f"the first build will make your key, {path}")


def _fuse(_: Project) -> Finding:
    device = Path("/dev/fuse")
    if not device.exists():
        return Finding(
            "fuse", "there is no /dev/fuse", "images start only unpacked; as root: modprobe fuse", needed=False
        )
    if not os.access(device, os.R_OK | os.W_OK):
        return Finding("fuse", "/dev/fuse is not open to you", "as root: chmod 666 /dev/fuse")
    return Finding("fuse", "/dev/fuse is open")


def _mapped_users(_: Project) -> Finding:

    user = getpass.getuser()
    missing = []
    for name in ("/etc/subuid", "/etc/subgid"):
        path = Path(name)
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        if not any(line.startswith((f"{user}:", f"{os.getuid()}:")) for line in lines):
            missing.append(name)
    if missing:
        fix = f"as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"
        return Finding("subuid", f"{user} has no range in {' and '.join(missing)}", fix)
    return Finding("subuid", f"{user} has ranges")


def _disk(project: Project) -> Finding:
    folder = project.cache
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    kind = _file_system(folder)
    if free < BUILD_BYTES:
        fix = f"free some, or set HARNESS_CACHE to a local disk with {BUILD_BYTES / 1e9:.0f} GB"
        return Finding("disk", f"{free / 1e9:.1f} GB free for builds at {folder}", fix)
    if kind in NETWORK_FILE_SYSTEMS:
        return Finding(
            "disk", f"{folder} is on {kind}", "set HARNESS_CACHE to a local disk; builds break there", needed=False
        )
    return Finding("disk", f"{free / 1e9:.0f} GB free for builds")


def _file_system(folder: Path) -> str:
    """Type of the file system a folder is on, from the longest mount point above it."""
    best, kind = "", ""
    for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
        _, mount, mounted, *_ = line.split()
        if folder.is_relative_to(mount) and len(mount) > len(best):
            best, kind = mount, mounted
    return kind


def _scheduler(_: Project) -> Finding:
    detection = detect_scheduler(os.environ)
    found = f"{detection.name} ({detection.reason})"
    if detection.name == "local":
        return Finding("scheduler", found, "to try one: scripts/install-packages slurm && make cluster", needed=False)
    return Finding("scheduler", found)


def _registry(_: Project) -> Finding:
    missing = [tool for tool in ("docker-registry", "skopeo", "mmdebstrap") if shutil.which(tool) is None]
    if missing:
        fix = "needed only where no public registry answers: scripts/install-packages registry"
        return Finding("bootstrap", f"no {', '.join(missing)}", fix, needed=False)
    return Finding("bootstrap", "a base image can be made without a registry")


def _gpu(_: Project) -> Finding:
    if shutil.which("nvidia-smi") is None:
        return Finding(
            "gpu", "no NVIDIA driver here", "CUDA jobs need a GPU node; the .cpu.job files do not", needed=False
        )
    return Finding("gpu", "nvidia-smi is there")
