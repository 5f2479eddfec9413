"""Equal inputs give equal image files: other folder, other time, other number of processors, empty caches."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_project import HARNESS, REPOSITORY, harness, image_of, main_file, make_tiny_project

from harness.catalog.catalog import Catalog
from harness.catalog.manifest import Manifest
from harness.definition.model import CopiedFile, Definition, Layer
from harness.definition.reproducible import EPOCH, reproducible
from harness.definition.writer import write_definition
from harness.image import sif
from harness.image.base import BaseImage
from harness.image.workplace import make_home, public_name

DIGEST = "sha256:" + "1" * 64
needs_engine = pytest.mark.skipif(
    shutil.which("apptainer") is None and shutil.which("singularity") is None,
    reason="no apptainer or singularity: scripts/install-apptainer; `make test` installs it",
)


def build_from_empty(root: Path, work: Path, cache: Path, tutorial: str, processors: str) -> Manifest:
    """Build below ``work`` with nothing cached but the base image: its digest is part of what is compared."""
    fresh = work / "cache"
    fresh.mkdir(parents=True)
    if (cache / "base").is_dir():
        shutil.copytree(cache / "base", fresh / "base")
    environment = {**os.environ, "HARNESS_CACHE": str(fresh), "CATALOG": str(work / "catalog")}
    command = ["taskset", "-c", processors, str(HARNESS), "build", tutorial]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    link = Path(done.stdout.strip())
    shutil.rmtree(fresh / "stages")
    manifest = Catalog(work / "catalog").current(link.parent.name)
    assert manifest is not None
    return manifest


@needs_engine
@pytest.mark.apptainer
def test_two_builds_from_empty_caches_give_the_same_file(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, built_project: Path
) -> None:
    """Folders, checkout's umask and file times, processors, and of course the time of the builds differ."""
    first = Catalog(built_project / "catalog").current("tutorial2.cpu")
    root = make_tiny_project(tmp_path / "elsewhere" / "checkout")
    for path in [*root.rglob("*.py"), *root.rglob("requirements.lock")]:
        path.chmod(0o664)
        os.utime(path, (EPOCH + 1000, EPOCH + 1000))
    second = build_from_empty(root, tmp_path / "b", cache, "2", "0")
    assert first is not None
    assert second.base == first.base
    assert second.content_sha256 == first.content_sha256
    assert second.sha256 == first.sha256  # the same key: an ed25519 signature depends on nothing else

    # Nothing in the image knows where it was built.
    image = main_file(tmp_path / "b" / "catalog", "tutorial2.cpu")
    for descriptor in sif.read_sif(image).objects():
        if descriptor.kind != sif.PARTITION:
            text = sif.read_object(image, descriptor)
            assert str(tmp_path).encode() not in text
            if text.startswith(b"{"):  # the lock also holds the checkout's own files, which may speak of loopback
                text = json.dumps({**json.loads(text), "files": None}).encode()
            assert b"127.0.0.1" not in text


@needs_engine
@pytest.mark.apptainer
def test_byte_code_stays_valid_though_file_times_are_clamped(built_project: Path) -> None:
    """Byte code that a build wrote names its source by hash; stale byte code would be compiled at every import."""
    expect_valid_byte_code(image_of(built_project / "catalog", "tutorial2.cpu"), "glob.glob('/usr/lib/python3*/*.py')")


def expect_valid_byte_code(image: list[str], sources: str) -> None:
    """All byte code beside ``sources`` (Python, in the image) is what its interpreter takes without compiling anew."""
    program = (
        "import glob, importlib.util, os, struct, sysconfig\n"
        "stale, seen = [], 0\n"
        f"for source in {sources}:\n"
        "    cached = importlib.util.cache_from_source(source)\n"
        "    if not os.path.exists(cached): continue\n"
        "    seen += 1\n"
        "    flags, time = struct.unpack('<II', open(cached, 'rb').read(12)[4:])\n"
        "    if flags == 0 and time != int(os.stat(source).st_mtime): stale.append(source)\n"
        "assert seen > 100 and not stale, (seen, stale[:3])\n"
    )
    userns = ["--userns"] if os.geteuid() == 0 else []
    command = ["apptainer", "exec", *userns, "--cleanenv", *image, "python3", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def copy_of_the_checkout(root: Path) -> Path:
    """The files of this checkout elsewhere, with another umask and other times, and without its history."""
    listed = ["git", "-C", str(REPOSITORY), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if not (REPOSITORY / name).is_file():
            continue  # removed, and git was not told
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, root / name, follow_symlinks=False)
        if not (root / name).is_symlink():
            (root / name).chmod((root / name).stat().st_mode | 0o020)
            os.utime(root / name, (EPOCH + 1000, EPOCH + 1000))
    return root


@needs_engine
@pytest.mark.apptainer
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_builds_of_the_pytorch_image_give_the_same_file(tmp_path: Path, cache: Path) -> None:
    one = build_from_empty(REPOSITORY, tmp_path / "a", cache, "mnist", "0")
    elsewhere = copy_of_the_checkout(tmp_path / "elsewhere" / "checkout")
    two = build_from_empty(elsewhere, tmp_path / "b", cache, "mnist", "0-63")
    assert two.sha256 == one.sha256
    packages = "glob.glob(sysconfig.get_paths()['purelib'] + '/**/*.py', recursive=True)"
    expect_valid_byte_code(image_of(tmp_path / "b" / "catalog", one.name), packages)


def test_the_lines_that_make_a_definition_reproducible_stand_around_its_own() -> None:
    own = Layer(files=(CopiedFile("a", "/.harness-build/0/a"),), commands=("echo own",))
    definition = Definition("docker", "debian", layers=(own,))
    text = write_definition(reproducible(definition))
    places = [text.index(part) for part in ("chmod -R", "SOURCE_DATE_EPOCH", "echo own", "/etc/machine-id")]
    assert places == sorted(places)
    assert "org.label-schema.build-date 2026-11-01T00:00:00Z\n" in text
    unstaged = replace(definition, layers=(Layer(commands=("echo own",)),))
    assert "chmod -R" not in write_definition(reproducible(unstaged))


@pytest.mark.parametrize(
    ("reference", "resolved", "name", "location"),
    [
        ("debian:12", f"127.0.0.1:5000/library/debian@{DIGEST}", "docker.io/library/debian:12", "127.0.0.1:5000"),
        (
            "debian",
            f"mirror.example/hub/library/debian@{DIGEST}",
            "docker.io/library/debian:latest",
            "mirror.example/hub",
        ),
        (f"quay.io/a/b@{DIGEST}", f"quay.io/a/b@{DIGEST}", "quay.io/a/b", None),
    ],
)
def test_a_base_keeps_its_public_name_whoever_serves_it(
    tmp_path: Path, reference: str, resolved: str, name: str, location: str | None
) -> None:
    base = BaseImage(reference, DIGEST, "registry", resolved=resolved, insecure_http=True)
    assert public_name(base) == f"{name}@{DIGEST}"
    (tmp_path / "real/.docker").mkdir(parents=True)
    home = make_home(tmp_path / "home", tmp_path / "real", base)
    assert (home / ".docker").is_dir()
    written = (home / ".config/containers/registries.conf").read_text()
    assert (f'location = "{location}"\ninsecure = true' in written) if location else written == ""


@needs_engine
@pytest.mark.apptainer
def test_a_build_neither_sees_nor_can_empty_the_temporary_folders_of_the_machine(project: Path) -> None:
    """The build lists them, and writes; a marker of ours lies in both of the machine's."""
    dockerfile = project / "containers/tiny/Dockerfile.cpu"
    dockerfile.write_text(
        dockerfile.read_text() + "RUN ls -A /tmp /var/tmp >/opt/stack/seen && touch /tmp/mark /var/tmp/mark\n"
    )
    markers = [Path(tempfile.mkdtemp(prefix="harness-marker-", dir=folder)) for folder in ("/tmp", "/var/tmp")]
    try:
        done = harness(project, "build", "2")
        assert done.returncode == 0, done.stderr
    finally:
        for marker in markers:
            marker.rmdir()
    assert not Path("/tmp/mark").exists()
    image = image_of(project / "catalog", "tutorial2.cpu")
    userns = ["--userns"] if os.geteuid() == 0 else []
    command = ["apptainer", "exec", *userns, "--cleanenv", *image, "cat", "/opt/stack/seen"]
    seen = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert seen.split() == ["/tmp:", "/var/tmp:"]


def test_the_committed_definitions_build_alone(project: Path) -> None:
    """What a definition needs from the builder is only its arguments' other values."""
    assert harness(project, "defs").returncode == 0
    text = (project / "defs/tutorial2.cpu.def").read_text()
    assert f"export SOURCE_DATE_EPOCH={EPOCH}" in text
    assert text.count("machine-id") == 2
    assert str(project) not in text
