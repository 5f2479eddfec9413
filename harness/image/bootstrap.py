"""A Debian base image made from package mirrors with mmdebstrap, stored by a real registry."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HarnessError, MissingToolError
from harness.files import sha256_of
from harness.image.debian import DebianTarget
from harness.image.local_registry import LocalRegistry
from harness.image.machine_apt import apt_settings, source_lines
from harness.image.oci_layout import write_oci_layout
from harness.image.process import LineCallback, run_command
from harness.image.registry import probe

BOOTSTRAP_TIMEOUT_S = 1800.0
"""Seconds for fetching and installing some 40 MB of packages: generous, for a slow mirror."""

RECIPE = 2  # raise it when a change below changes the image: caches made by older recipes are made anew


_MERGED_USR_HOOKS = Path("/usr/share/mmdebstrap/hooks/merged-usr")
_SCRATCH_PREFIX = "harness-bootstrap-"
_SCRATCH_BYTES = 2 << 30  # several times what a minimal Debian takes while it is made

_DPKG_OPTIONS = ("force-unsafe-io",)
"""Also in Docker's own images: a tree that is thrown away when the power fails needs no fsync for each file."""

_SLIM_DPKG_OPTIONS = (
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/groff/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/share/linda/*",
    "path-exclude=/usr/share/locale/*",
    "path-include=/usr/share/locale/locale.alias",
    "path-exclude=/usr/share/man/*",
)
"""What ``-slim`` leaves out, in this image and in what is installed into it later; as in Docker's own."""

# Run by mmdebstrap with the new root as $1: what Docker's Debian images hold beside the packages, and
# nothing of the machine that made it but its mirror. /releases is downloaded and removed afterwards.
_FINISH_HOOK = r"""#!/bin/sh
set -eu
grep -hE '^(Suite|Codename|Date):' "$1"/var/lib/apt/lists/*Release >"$1/releases"
echo localhost >"$1/etc/hostname"
: >"$1/etc/resolv.conf"
chmod 644 "$1/etc/hostname" "$1/etc/resolv.conf"
rm -f "$1"/etc/apt/apt.conf.d/99mmdebstrap "$1"/var/cache/debconf/*-old
mv "$1/etc/dpkg/dpkg.cfg.d/99mmdebstrap" "$1/etc/dpkg/dpkg.cfg.d/docker"
cat - "$(dirname "$0")/validity" >"$1/etc/apt/apt.conf.d/docker" <<'CONF'
Acquire::Languages "none";
Acquire::GzipIndexes "true";
APT::AutoRemove::SuggestsImportant "false";
DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/*.bin || true"; };
CONF
"""
_REMOVE_RELEASES_HOOK = 'rm -f "$1/releases"'


@dataclass(frozen=True)
class Bootstrapped:
    """A base image in a registry's storage.

    Attributes:
        recipe: the ``RECIPE`` it was made by.
        digest: of its manifest.
        suite: Debian's codename.
        details: see :class:`harness.image.base.BaseRecord`.
        files: paths under the storage folder, with their sha256.
    """

    recipe: int
    digest: str
    suite: str
    details: dict[str, object]
    files: dict[str, str]


def make_base(target: DebianTarget, work: Path, say: LineCallback) -> Bootstrapped:
    """Fill ``work/storage`` with the image.

    Raises:
        MissingToolError: a program for it is missing. CommandError: one failed.
        HarnessError: apt names no Debian mirror.
    """
    for tool in ("mmdebstrap", "skopeo"):
        if shutil.which(tool) is None:
            raise MissingToolError(
                f"{tool} is not on this machine, and no registry gives debian:{target.tag}",
                fix="run: scripts/install-packages registry (Debian or Ubuntu), or name a registry mirror",
            )
    storage = work / "storage"
    with LocalRegistry(storage, read_only=False) as registry:  # first, for it may be missing: it costs 50 ms
        tree = work / "root.tar"
        releases = _bootstrap(target, work, tree, say)
        packages = _packages(tree)
        layout = work / "oci"
        digest, diff_id = write_oci_layout(target, tree, layout)
        tree.unlink()
        say(f"packing {len(packages)} packages as debian:{target.tag}")
        push = ["skopeo", "--insecure-policy", "copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false"]
        destination = f"docker://{registry.host}/{target.image.name}"
        run_command([*push, f"oci:{layout}:{target.tag}", destination], what="pushing the base image", timeout_s=300)
        shutil.rmtree(layout)
        stored = probe(registry.reference(target.image), 10)
    if stored != digest:
        raise HarnessError(f"the registry stored {stored} for {digest}", where=f"debian:{target.tag}")
    details: dict[str, object] = {
        "architecture": target.architecture,
        "created": target.suite.released.isoformat(),
        "diff_id": diff_id,
        "packages": packages,
        "releases": releases,
    }
    files = {str(path.relative_to(storage)): sha256_of(path) for path in sorted(storage.rglob("*")) if path.is_file()}
    return Bootstrapped(RECIPE, digest, target.suite.codename, details, files)


def _bootstrap(target: DebianTarget, work: Path, tree: Path, say: LineCallback) -> dict[str, str]:
    """Write the root file system to ``tree`` and return the dates of the suites it was made from.

    mmdebstrap works as root, and as an ordinary user in a user namespace (subordinate ids needed).
    Its tree lies in a folder of its own outside the cache: the namespace's users can rarely pass the folders
    above a private one. The folder's name is kept in ``work``, for :func:`remove_work`.
    """
    scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH_PREFIX, dir=_scratch_parent()))
    (work / "scratch").write_text(str(scratch), "utf-8")
    try:
        scratch.chmod(0o755)
        lines = source_lines(target)
        route, validity = apt_settings()
        sources = _write_lines(scratch / "debian.list", lines)
        options = _write_lines(scratch / "apt.conf", [*route, *validity])
        _write_lines(scratch / "validity", validity)
        finish = _write_lines(scratch / "finish", [_FINISH_HOOK])
        finish.chmod(0o755)
        releases = scratch / "releases"
        # TLS in the image needs certificates that minbase lacks.
        include = ["usr-is-merged", *(["ca-certificates"] if any(" https://" in line for line in lines) else [])]
        command: list[str | os.PathLike[str]] = [
            "mmdebstrap",
            "--variant=minbase",
            f"--architectures={target.architecture}",
            f"--include={','.join(include)}",
            f"--hook-dir={_MERGED_USR_HOOKS}",
            f"--aptopt={options}",
            "--skip=output/dev",
            *(f"--dpkgopt={option}" for option in [*_DPKG_OPTIONS, *(_SLIM_DPKG_OPTIONS if target.slim else ())]),
            f"--customize-hook={finish}",
            f"--customize-hook=download /releases {shlex.quote(str(releases))}",
            f"--customize-hook={_REMOVE_RELEASES_HOOK}",
            target.suite.codename,
            tree,
            sources,
        ]
        epoch = str(int(target.suite.released.timestamp()))
        run_command(
            command,
            on_line=say,
            timeout_s=BOOTSTRAP_TIMEOUT_S,
            cwd=scratch,
            env={**os.environ, "SOURCE_DATE_EPOCH": epoch, "TMPDIR": str(scratch), "LC_ALL": "C.UTF-8", "TZ": "UTC"},
            umask=0o022,
            what=f"bootstrapping debian:{target.tag}",
            fix="check the network and apt's sources; an ordinary user also needs: "
            "sudo scripts/install-apptainer --user NAME",
        )
        return _release_dates(releases.read_text("utf-8"))
    finally:
        _remove_scratch(work)


def _scratch_parent() -> Path | None:
    """Memory, if there is enough of it and nobody set TMPDIR; None for Python's choice.

    Packages are some 6,000 small files, written and removed again: 26 s in memory, 55 s on a busy disk.
    """
    memory = Path("/dev/shm")
    try:
        space = os.statvfs(memory)
        available = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text("utf-8"), re.MULTILINE)
    except OSError:
        return None
    roomy = space.f_bavail * space.f_frsize > _SCRATCH_BYTES and available and int(available[1]) << 10 > _SCRATCH_BYTES
    usable = os.access(memory, os.W_OK) and not space.f_flag & os.ST_NOEXEC
    return memory if roomy and usable and not os.environ.get("TMPDIR") else None


def _write_lines(path: Path, lines: Sequence[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return path


def _remove_scratch(work: Path) -> None:
    """Remove the scratch folder that ``work`` names; files of subordinate ids need their namespace for that."""
    note = work / "scratch"
    with contextlib.suppress(OSError):
        scratch = Path(note.read_text("utf-8"))
        if scratch.name.startswith(_SCRATCH_PREFIX) and scratch.lstat().st_uid == os.getuid():
            shutil.rmtree(scratch, ignore_errors=True)
            if scratch.exists():
                run_command(["mmdebstrap", "--unshare-helper", "rm", "-rf", scratch], check=False, timeout_s=60)
                shutil.rmtree(scratch, ignore_errors=True)
    note.unlink(missing_ok=True)


def remove_work(work: Path) -> None:
    """Remove a work folder and what it names outside itself."""
    _remove_scratch(work)
    shutil.rmtree(work, ignore_errors=True)


def _release_dates(text: str) -> dict[str, str]:
    """Suite's codename to the ``Date`` of its index, from the fields that the finishing hook kept."""
    dates: dict[str, str] = {}
    codename = ""
    for line in text.splitlines():
        key, _, value = line.partition(": ")
        if key == "Codename":
            codename = value
        elif key == "Date":  # apt's archive software writes Suite, Codename, Date, in this order
            dates[codename] = value
    return dict(sorted(dates.items()))


def _packages(tree: Path) -> dict[str, str]:
    """Name to version of every package in the root file system's dpkg database."""
    with tarfile.open(tree) as archive:
        member = archive.extractfile("./var/lib/dpkg/status")
        assert member is not None
        status = member.read().decode("utf-8")
    return dict(re.findall(r"^Package: (\S+)\n(?:.+\n)*?Version: (\S+)$", status, re.MULTILINE))
