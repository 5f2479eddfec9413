"""Base images: from the registry that their reference names, or bootstrapped where no registry answers.

The usual call, around a build with ``Bootstrap: docker``::

    with base_source("debian:bookworm-slim", cache_dir, mirrors=site.mirrors) as base:
        build(From=base.resolved, nohttps=base.insecure_http)
        lock["base"] = base.lock_entry()

A Debian reference that no registry answers for is bootstrapped from the package mirror that this
machine's own apt uses, packed like the real image, and served by a real registry on loopback. The
cache holds one folder for each image::

    <cache>/base/debian-bookworm-slim-amd64/storage/     the registry's storage
    <cache>/base/debian-bookworm-slim-amd64/base.json    digest, packages, sha256 of every file of storage/
    <cache>/base/debian-bookworm-slim-amd64.lock         held while the folder is made or checked

The folder appears by rename, complete; each use checks every byte of it, and makes it anew if one is wrong.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import io
import json
import os
import re
import shlex
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Literal

from harness.errors import HarnessError, MissingToolError
from harness.image.process import LineCallback, run_command
from harness.image.registry import (
    DOCKER_HUB,
    ImageNotFoundError,
    ImageReference,
    LocalRegistry,
    RegistryError,
    RegistryUnreachableError,
    probe,
)

PROBE_TIMEOUT_S = 3.0
"""Seconds that one registry gets to answer."""

BOOTSTRAP_TIMEOUT_S = 1800.0
"""Seconds for fetching and installing some 40 MB of packages: generous, for a slow mirror."""

_RECIPE = 2  # raise it when a change below changes the image: caches made by older recipes are made anew


@dataclass(frozen=True)
class _Suite:
    """A Debian release that can be bootstrapped."""

    codename: str
    version: str
    released: datetime
    """Its release day: what SOURCE_DATE_EPOCH clamps the file times to, so that they depend on nothing else."""


_SUITES = (
    _Suite("bullseye", "11", datetime(2021, 8, 14, tzinfo=timezone.utc)),
    _Suite("bookworm", "12", datetime(2023, 6, 10, tzinfo=timezone.utc)),
    _Suite("trixie", "13", datetime(2025, 8, 9, tzinfo=timezone.utc)),
)

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_MERGED_USR_HOOKS = Path("/usr/share/mmdebstrap/hooks/merged-usr")
_SCRATCH_PREFIX = "harness-bootstrap-"
_SCRATCH_BYTES = 2 << 30  # several times what a minimal Debian takes while it is made
_IMAGE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

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

# Settings of the machine's apt that lead to its mirror. Those of the second group stay in the image:
# a frozen mirror's indexes have expired for everybody who reads them.
_APT_ROUTE = re.compile(r"Acquire::(?:https?::(?:.*::)?(?:Proxy.*|CA(?:Info|Path)|Verify-.*)|Retries)\b", re.IGNORECASE)
_APT_VALIDITY = re.compile(r"Acquire::Check-(?:Valid-Until|Date)\b", re.IGNORECASE)


@dataclass(frozen=True)
class BaseRecord:
    """What is known of a base image.

    Attributes:
        reference: as the Dockerfile gives it, such as ``debian:bookworm-slim``.
        digest: of its manifest, or of its index at a public registry.
        origin: ``registry``, or ``bootstrapped`` from this machine's package mirror.
        suite: Debian's codename if bootstrapped.
        details: for a lock file; for a bootstrapped image ``architecture``, ``created``, ``diff_id``,
            ``packages`` (name to version) and ``releases`` (suite to date of its index); else ``registry``.
            Never the address of the machine's mirror.
    """

    reference: str
    digest: str
    origin: Literal["registry", "bootstrapped"]
    suite: str | None = None
    details: Mapping[str, object] = field(default_factory=dict)

    def lock_entry(self) -> dict[str, object]:
        """The record as plain JSON values, the same for the same image wherever it is served."""
        return {
            "reference": self.reference,
            "digest": self.digest,
            "origin": self.origin,
            "suite": self.suite,
            "details": dict(self.details),
        }


@dataclass(frozen=True)
class BaseImage(BaseRecord):
    """A base image that can be pulled now.

    Attributes:
        resolved: what to build from, without ``docker://``: ``127.0.0.1:PORT/library/debian@sha256:…``.
        insecure_http: its registry speaks plain HTTP (``APPTAINER_NOHTTPS=1``).
    """

    resolved: str = ""
    insecure_http: bool = False

    @classmethod
    def of(cls, record: BaseRecord, source: ImageReference) -> BaseImage:
        """``record``, pulled from ``source``'s registry by its digest: a tag may move between two pulls."""
        values = {item.name: getattr(record, item.name) for item in fields(BaseRecord)}
        resolved = f"{source.registry}/{source.repository}@{record.digest}"
        return cls(**values, resolved=resolved, insecure_http=source.insecure_http)


# --- the public functions ---------------------------------------------------------------------


@contextlib.contextmanager
def base_source(
    reference: str,
    cache_dir: Path,
    *,
    mirrors: Sequence[str] = (),
    probe_timeout_s: float = PROBE_TIMEOUT_S,
    refresh: bool = False,
    on_line: LineCallback | None = None,
) -> Iterator[BaseImage]:
    """The base image ``reference``, ready to be pulled while the ``with`` block runs.

    Arguments and errors are those of :func:`ensure_base`. For a bootstrapped image a registry on
    loopback runs during the block; any number of blocks may run side by side on one cache.
    """
    image = ImageReference.parse(reference)
    record, source = _find(image, reference, cache_dir, mirrors, probe_timeout_s, refresh, on_line)
    if source is not None:
        yield BaseImage.of(record, source)
        return
    target = _Target.of(image)
    assert target is not None  # only such references are bootstrapped
    with LocalRegistry(_Cache(cache_dir, target).storage) as registry:
        yield BaseImage.of(record, registry.reference(target.image))


def ensure_base(
    reference: str,
    cache_dir: Path,
    *,
    mirrors: Sequence[str] = (),
    probe_timeout_s: float = PROBE_TIMEOUT_S,
    refresh: bool = False,
    on_line: LineCallback | None = None,
) -> BaseRecord:
    """Make sure that the base image ``reference`` can be had, and return what is known of it.

    In this order: what the cache holds (checked, no network); the ``mirrors``, then the reference's own
    registry, of which the first that answers wins; for Debian, a bootstrap (some 20 s, 40 MB fetched).

    Args:
        mirrors: ``host[:port][/prefix]``, ``http://`` in front for no TLS; they stand in for Docker Hub only.
        probe_timeout_s: seconds for each registry that is asked.
        refresh: pass over what the cache holds and make it anew.
        on_line: called with lines of progress.

    Raises:
        UserError: ``reference`` is no image reference.
        ImageNotFoundError: every registry that was asked answers, and has no such image.
        RegistryUnreachableError: no registry gave it, and it is nothing that could be bootstrapped.
        MissingToolError: it must be bootstrapped, and a program for that is missing.
        CommandError: the bootstrap failed.
    """
    image = ImageReference.parse(reference)
    return _find(image, reference, cache_dir, mirrors, probe_timeout_s, refresh, on_line)[0]


def _find(
    image: ImageReference,
    reference: str,
    cache_dir: Path,
    mirrors: Sequence[str],
    probe_timeout_s: float,
    refresh: bool,
    on_line: LineCallback | None,
) -> tuple[BaseRecord, ImageReference | None]:
    """The record, and the registry's reference that answered; None for a bootstrapped image."""
    target = _Target.of(image)
    cache = _Cache(cache_dir, target) if target else None
    if cache and not refresh and (cached := cache.read()):
        return cached.record(reference), None
    candidates = [image.at(mirror) for mirror in mirrors] if image.registry == DOCKER_HUB else []
    refusals: list[RegistryError] = []
    for candidate in [*candidates, image]:
        try:
            digest = probe(candidate, probe_timeout_s)
        except RegistryError as error:
            refusals.append(error)
            continue
        return BaseRecord(reference, digest, "registry", details={"registry": candidate.registry}), candidate
    if cache is None:
        raise _no_registry(reference, image, refusals)
    say = on_line or (lambda line: None)
    say(f"{_reasons(refusals)}: bootstrapping {reference} from this machine's package mirror")
    return cache.fill(refresh, say).record(reference), None


def _reasons(refusals: Sequence[RegistryError]) -> str:
    return ", ".join(f"{error.where}: {error.what}" for error in refusals)


def _no_registry(reference: str, image: ImageReference, refusals: Sequence[RegistryError]) -> RegistryError:
    if all(isinstance(error, ImageNotFoundError) for error in refusals):
        return ImageNotFoundError(_reasons(refusals), where=reference, fix="check the name and the tag")
    reason = f"no registry gave it ({_reasons(refusals)})"
    if image.repository == "library/debian" and image.registry == DOCKER_HUB:
        tags = ", ".join(f"{suite.codename}[-slim]" for suite in _SUITES)
        reason = f"{reason}; only the tags {tags}, without a digest, can be made here"
    return RegistryUnreachableError(
        reason, where=reference, fix="name a registry mirror that has it in the site's file, or mend network and proxy"
    )


# --- what is bootstrapped ---------------------------------------------------------------------


@dataclass(frozen=True)
class _Target:
    """A Debian image that we can make.

    Attributes:
        slim: without manual pages, translations and documents.
        architecture: Debian's word for it, which is also Docker's: ``amd64``, ``arm64``.
    """

    suite: _Suite
    slim: bool
    architecture: str

    @classmethod
    def of(cls, image: ImageReference) -> _Target | None:
        """The target that ``image`` means; None if it is not Debian's, or pins a digest that no bootstrap can meet."""
        if (image.registry, image.repository) != (DOCKER_HUB, "library/debian") or image.digest or not image.tag:
            return None
        name, dash, flavour = image.tag.partition("-")
        if dash and flavour != "slim":
            return None
        machine = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64el"}.get(os.uname().machine)
        for suite in _SUITES:
            if machine and name in (suite.codename, suite.version):
                return cls(suite, bool(dash), machine)
        return None

    @property
    def tag(self) -> str:
        return f"{self.suite.codename}-slim" if self.slim else self.suite.codename

    @property
    def image(self) -> ImageReference:
        return ImageReference(DOCKER_HUB, "library/debian", self.tag)


@dataclass(frozen=True)
class _Entry:
    """What a cache folder's ``base.json`` says; ``files`` are paths under ``storage/`` with their sha256."""

    recipe: int
    digest: str
    suite: str
    details: dict[str, object]
    files: dict[str, str]

    def record(self, reference: str) -> BaseRecord:
        return BaseRecord(reference, self.digest, "bootstrapped", self.suite, self.details)


class _Cache:
    """The cache folder of one target."""

    def __init__(self, cache_dir: Path, target: _Target) -> None:
        self.target = target
        self.parent = cache_dir.absolute() / "base"
        self.key = f"debian-{target.tag}-{target.architecture}"
        self.folder = self.parent / self.key
        self.storage = self.folder / "storage"

    def read(self) -> _Entry | None:
        """The entry if it is complete and every byte is as it was written (some 0.1 s); else None."""
        try:
            entry = _Entry(**json.loads((self.folder / "base.json").read_text("utf-8")))
            if entry.recipe != _RECIPE or not entry.files:
                return None
            intact = all(_sha256(self.storage / name) == digest for name, digest in entry.files.items())
        except (OSError, ValueError, TypeError, AttributeError):
            return None
        return entry if intact else None

    def fill(self, refresh: bool, say: LineCallback) -> _Entry:
        """Make the folder, unless another process made it while we waited for the lock."""
        self.parent.mkdir(parents=True, exist_ok=True)
        before = self._made_at()
        with self._lock(say):
            self._sweep()
            # A refresh is content with what somebody else finished while we waited.
            fresh = not refresh or self._made_at() != before
            if fresh and (entry := self.read()):
                return entry
            work = Path(tempfile.mkdtemp(prefix=f".{self.key}-", dir=self.parent))
            try:
                entry = _make(self.target, work, say)
                (work / "base.json").write_text(json.dumps(entry.__dict__, indent=1, sort_keys=True), "utf-8")
                work.chmod(0o755)
                self._replace_folder(work)
            finally:
                _remove_work(work)
            return entry

    def _made_at(self) -> int | None:
        try:
            return (self.folder / "base.json").stat().st_mtime_ns
        except OSError:
            return None

    @contextlib.contextmanager
    def _lock(self, say: LineCallback) -> Iterator[None]:
        """Held by one process at a time; the kernel lets go of it when the process ends, however it ends."""
        with (self.parent / f"{self.key}.lock").open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"another process makes {self.key}; waiting for it")
                fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    def _sweep(self) -> None:
        """Remove what killed processes left; the lock says that none of them is at work."""
        for left in self.parent.glob(f".{self.key}-*"):
            _remove_work(left)

    def _replace_folder(self, work: Path) -> None:
        """Put ``work`` in the folder's place. A registry that still serves the old one keeps its open files only,
        so a reader may have to start over: a broken or refreshed base is worth that."""
        old = self.parent / f".{self.key}-old"
        shutil.rmtree(old, ignore_errors=True)
        if self.folder.exists():
            self.folder.rename(old)
        work.rename(self.folder)
        shutil.rmtree(old, ignore_errors=True)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


# --- making it --------------------------------------------------------------------------------


def _make(target: _Target, work: Path, say: LineCallback) -> _Entry:
    """Fill ``work/storage`` with the image, and return the entry for it."""
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
        digest, diff_id = _write_oci_layout(target, tree, layout)
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
    files = {str(path.relative_to(storage)): _sha256(path) for path in sorted(storage.rglob("*")) if path.is_file()}
    return _Entry(_RECIPE, digest, target.suite.codename, details, files)


def _bootstrap(target: _Target, work: Path, tree: Path, say: LineCallback) -> dict[str, str]:
    """Write the root file system to ``tree`` and return the dates of the suites it was made from.

    mmdebstrap works as root, and as an ordinary user in a user namespace (subordinate ids needed).
    Its tree lies in a folder of its own outside the cache: the namespace's users can rarely pass the folders
    above a private one. The folder's name is kept in ``work``, for :func:`_remove_work`.
    """
    scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH_PREFIX, dir=_scratch_parent()))
    (work / "scratch").write_text(str(scratch), "utf-8")
    try:
        scratch.chmod(0o755)
        lines = _source_lines(target)
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


def _remove_work(work: Path) -> None:
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


# --- the machine's apt ------------------------------------------------------------------------

_INDEX_URI = re.compile(r"'(?P<uri>\S+)/dists/(?P<suite>[^/'\s]+)/main/binary-[^/]+/Packages")


def _source_lines(target: _Target) -> list[str]:
    """``sources.list`` of the image: this machine's mirror, checked with Debian's keyring.

    Raises:
        HarnessError: apt here has no Debian source, or Debian's keyring is missing.
    """
    fix = "add a Debian mirror to apt's sources, or name a registry mirror in the site's file"
    if not _KEYRING.is_file():
        raise HarnessError("Debian's keyring is missing", where=str(_KEYRING), fix="install debian-archive-keyring")
    archives = _machine_archives()
    lines = [
        f"deb [signed-by={_KEYRING}] {uri} {target.suite.codename}{pocket} main"
        for pocket in ("", "-updates", "-security")
        for uri in archives.get(pocket, [])[:1]
    ]
    if "" not in archives:
        raise HarnessError(f"no Debian mirror to bootstrap debian:{target.tag} from", where="apt's sources", fix=fix)
    return lines


def _machine_archives() -> dict[str, list[str]]:
    """The URIs of Debian's archives by pocket: ``""``, ``-updates``, ``-security``.

    apt itself reads its configuration (deb822, one-line, options, mirror lists), and is asked for what it
    would fetch with empty lists; nothing is fetched.
    """
    if shutil.which("apt-get") is None:
        return {}
    suites = "|".join([*(suite.codename for suite in _SUITES), "stable", "oldstable", "oldoldstable"])
    with tempfile.TemporaryDirectory(prefix="harness-apt-") as state:
        (Path(state) / "lists" / "partial").mkdir(parents=True)
        asked = run_command(
            ["apt-get", "update", "--print-uris", "-o", f"Dir::State={state}", "-o", f"Dir::Cache={state}"],
            separate_stdout=True,
            timeout_s=30,
            what="reading apt's sources",
        )
    archives: dict[str, list[str]] = {}
    for found in _INDEX_URI.finditer(asked.stdout):
        suite = re.fullmatch(rf"(?:{suites})(|-updates|-security)", found["suite"])
        uri = _first_mirror(found["uri"])
        if suite and uri not in archives.setdefault(suite[1], []):
            archives[suite[1]].append(uri)
    for pocket, uris in archives.items():
        # Vendors, too, name their suites "bookworm main"; Debian's archives are called debian*.
        archives[pocket] = sorted(uris, key=lambda uri: "debian" not in uri.rsplit("//", 1)[-1].partition("/")[2])
    return archives


def _first_mirror(uri: str) -> str:
    """``uri``, or the first entry of the list that a ``mirror+file:`` URI names: the image has no such file."""
    if not uri.startswith("mirror+file:"):
        return uri
    entries = Path("/" + uri.removeprefix("mirror+file:").lstrip("/")).read_text("utf-8").splitlines()
    return next(line.split()[0].rstrip("/") for line in entries if line.strip() and not line.startswith("#"))


def apt_settings() -> tuple[list[str], list[str]]:
    """Lines of the machine's apt configuration: those that lead to the mirror, those that say how old it may be."""
    dump = run_command(["apt-config", "dump"], separate_stdout=True, timeout_s=30).stdout.splitlines()
    route = [line for line in dump if _APT_ROUTE.match(line)]
    bundle = os.environ.get("SSL_CERT_FILE", "")
    if Path(bundle).is_file() and not any("CAInfo" in line for line in route):
        route.append(f'Acquire::https::CAInfo "{bundle}";')
    return route, [line for line in dump if _APT_VALIDITY.match(line)]


# --- an OCI layout from a root file system ----------------------------------------------------


def _write_oci_layout(target: _Target, tree: Path, layout: Path) -> tuple[str, str]:
    """Pack ``tree`` as an OCI layout with one layer; return the digests of manifest and uncompressed layer.

    The bytes depend on the tree and on zlib alone.
    """
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    created = target.suite.released.strftime("%Y-%m-%dT%H:%M:%SZ")
    layer, diff_id = _write_layer(tree, blobs, int(target.suite.released.timestamp()))
    config = _write_json(
        blobs,
        {
            "created": created,
            "architecture": {"ppc64el": "ppc64le"}.get(target.architecture, target.architecture),
            "os": "linux",
            "config": {"Env": [f"PATH={_IMAGE_PATH}"], "Cmd": ["bash"]},
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            "history": [{"created": created, "created_by": f"mmdebstrap --variant=minbase {target.tag}"}],
        },
    )
    manifest = _write_json(
        blobs,
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **config},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", **layer}],
        },
    )
    entry = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        **manifest,
        "annotations": {"org.opencontainers.image.ref.name": target.tag},
    }
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}), "utf-8")
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}', "utf-8")
    return str(manifest["digest"]), diff_id


def _write_layer(tree: Path, blobs: Path, epoch: int) -> tuple[dict[str, object], str]:
    """Compress ``tree`` into ``blobs``; return its descriptor and the digest of its uncompressed bytes.

    A tar file may begin with any entry, so what mmdebstrap leaves out is put in front: the empty /dev, which
    Apptainer mounts on (mmdebstrap's own has device nodes), and the file by which Debian starts no service
    in a container (mmdebstrap removes any such file at its end).
    """
    policy = b"#!/bin/sh\nexit 101\n"
    front = _tar_entry("./dev", tarfile.DIRTYPE, epoch) + _tar_entry(
        "./usr/sbin/policy-rc.d", tarfile.REGTYPE, epoch, policy
    )
    plain = hashlib.sha256()
    unnamed = blobs / "layer"
    # No name and no time in gzip's header; level 3: 10 % larger than level 6 in half of its time.
    with (
        tree.open("rb") as source,
        unnamed.open("wb") as target,
        gzip.GzipFile(filename="", mode="wb", fileobj=target, compresslevel=3, mtime=0) as packed,
    ):
        for stream in (io.BytesIO(front), source):
            _copy(stream, packed, plain)
    digest = _sha256(unnamed)
    size = unnamed.stat().st_size
    unnamed.rename(blobs / digest)
    return {"digest": f"sha256:{digest}", "size": size}, f"sha256:{plain.hexdigest()}"


def _tar_entry(name: str, kind: bytes, epoch: int, data: bytes = b"") -> bytes:
    """The bytes of one tar entry, mode 0755, owned by root."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime, entry.size = kind, 0o755, epoch, len(data)
    entry.uname = entry.gname = "root"
    return entry.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def _copy(source: IO[bytes], target: gzip.GzipFile, digest: hashlib._Hash) -> None:
    while chunk := source.read(1 << 20):
        target.write(chunk)
        digest.update(chunk)


def _write_json(blobs: Path, content: dict[str, object]) -> dict[str, object]:
    """Write ``content`` as a blob and return its digest and size."""
    data = json.dumps(content, sort_keys=True, separators=(",", ":")).encode("utf-8")
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return {"digest": f"sha256:{digest}", "size": len(data)}
