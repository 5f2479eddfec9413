"""An image is the same whoever builds it: root, or an ordinary user with subordinate ids."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import NO_ENGINE
from tiny_project import HARNESS, REPOSITORY, make_tiny_project

from harness.image.base import ensure_base
from harness.image.compare import differences

ID = 61_234
ACCOUNTS = {
    "passwd": "harness-tests:x:{id}:{id}::{home}:/bin/sh",
    "group": "harness-tests:x:{id}:",
    "subuid": "harness-tests:2000000000:65536",
    "subgid": "harness-tests:2000000000:65536",
}
"""A file below /etc -> the line about the person."""
DOCKERFILE = """\
ARG BASE_IMAGE=docker.io/library/debian:bookworm-slim
FROM ${BASE_IMAGE}
ENV GREETING="good day"
COPY requirements.lock /opt/stack/requirements.lock
RUN useradd -m someone && mkdir -p /opt/a/b && echo text >/opt/a/b/c && ln /opt/a/b/c /opt/a/d && ln -s d /opt/a/e \\
 && chown someone:www-data /opt/a/b/c && chmod 4755 /opt/a/b/c && chmod 1777 /opt/a/b && id -u >/opt/a/id \\
 && ldconfig && mknod /opt/a/pipe p
USER someone
RUN umask 077 && touch /home/someone/mine
"""


@dataclass(frozen=True)
class Person:
    """An ordinary user with subordinate ids, known to no other process of this machine: its accounts stay as they are.

    Attributes:
        home: also has the account files that the person's processes see.
    """

    home: Path

    def command(self, **variables: str) -> list[str]:
        """What a command of the person's is put behind."""
        own = {"HOME": str(self.home), "PATH": os.environ["PATH"], "LANG": "C.UTF-8", **variables}
        script = f'for n in {" ".join(ACCOUNTS)}; do mount --bind "$0/etc/$n" "/etc/$n"; done; exec "$@"'
        ids = [f"--reuid={ID}", f"--regid={ID}", "--clear-groups"]
        private = ["unshare", "--mount", "sh", "-ec", script, str(self.home)]
        return [*private, "setpriv", *ids, "env", "-i", *(f"{name}={value}" for name, value in own.items())]


@pytest.fixture
def person(cache: Path) -> Iterator[Person]:
    """Somebody whose home is in the cache: pytest's folders are root's alone."""
    if os.geteuid() != 0:
        pytest.skip("to build as root and as somebody else needs root; runs as root in CI")
    if shutil.which("apptainer") is None and shutil.which("singularity") is None:
        pytest.skip(NO_ENGINE)
    if not all(map(shutil.which, ("unshare", "setpriv", "newuidmap"))):
        pytest.skip("no unshare, setpriv or newuidmap: scripts/install-apptainer")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="person-") as folder:
        home = Path(folder)
        (home / "etc").mkdir()
        for name, line in ACCOUNTS.items():
            (home / "etc" / name).write_text(Path("/etc", name).read_text() + line.format(id=ID, home=home) + "\n")
        os.chown(home, ID, ID)
        yield Person(home)


def python_for(person: Person) -> tuple[str, str]:
    """A Python of this version that the person may run, and the path to what is installed for this one."""
    path = ":".join([str(REPOSITORY), *site.getsitepackages()])
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        command = [*person.command(PYTHONPATH=path), python, "-c", "import harness.cli.build"]
        if subprocess.run(command, capture_output=True, check=False, cwd="/").returncode == 0:
            return python, path
    pytest.skip(f"an ordinary user may run no {version} here, or not read this checkout")


def built(root: Path, cache: Path, command: list[str]) -> Path:
    """The stack's image, built by that command from nothing but the base."""
    done = subprocess.run(
        [*command, str(HARNESS), "build", "--stack", "tiny"],
        cwd=root,
        env={**os.environ, "HARNESS_CACHE": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.split()[-1])


@pytest.mark.apptainer
def test_root_and_an_ordinary_user_build_the_same_image(person: Person, cache: Path, tmp_path: Path) -> None:
    python, path = python_for(person)
    ensure_base("debian:bookworm-slim", cache)
    for folder in (tmp_path, person.home):
        root = make_tiny_project(folder / "project")
        (root / "containers/tiny/Dockerfile.cpu").write_text(DOCKERFILE)
        shutil.copytree(cache / "base", folder / "cache" / "base")
    subprocess.run(["chown", "-R", f"{ID}:{ID}", person.home], check=True)
    roots = built(tmp_path / "project", tmp_path / "cache", [sys.executable])
    variables = {"PYTHONPATH": path, "HARNESS_CACHE": str(person.home / "cache")}
    theirs = built(person.home / "project", person.home / "cache", [*person.command(**variables), python])
    assert theirs.stat().st_uid == ID
    assert theirs.name == roots.name  # the same key
    # All but one time: for an ordinary user the engine unpacks a stage without /dev, and makes that folder anew.
    assert set(differences(roots, theirs, tmp_path)) <= {"dev: modified"}
