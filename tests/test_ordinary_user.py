"""An image is the same whoever builds it: root, or an ordinary user with subordinate ids."""

from __future__ import annotations

import os
import pwd
import shutil
import site
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import NO_ENGINE
from tiny_project import HARNESS, REPOSITORY, make_tiny_project

from harness.image.base import ensure_base
from harness.image.compare import differences

USER = "harness-tests"
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


@pytest.fixture
def person(cache: Path) -> Iterator[pwd.struct_passwd]:
    """An ordinary user of this machine, made for the test."""
    if os.geteuid() != 0:
        pytest.skip("to build as root and as somebody else needs root; runs as root in CI")
    if shutil.which("apptainer") is None and shutil.which("singularity") is None:
        pytest.skip(NO_ENGINE)
    if not all(map(shutil.which, ("useradd", "userdel", "setpriv"))):
        pytest.skip("no useradd, userdel or setpriv: Debian packages passwd, util-linux")
    subprocess.run(["useradd", "--create-home", "--shell", "/bin/sh", USER], check=True)
    try:
        yield pwd.getpwnam(USER)
    finally:
        subprocess.run(["userdel", "--remove", USER], check=True, capture_output=True)


def python_for(person: pwd.struct_passwd) -> list[str]:
    """A Python of this version that the person may run, with what is installed for this one."""
    paths = [str(REPOSITORY), *site.getsitepackages()]
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        command = [*as_person(person), "env", f"PYTHONPATH={':'.join(paths)}", python]
        done = subprocess.run([*command, "-c", "import harness.cli.build"], capture_output=True, check=False, cwd="/")
        if done.returncode == 0:
            return command
    pytest.skip(f"an ordinary user may run no {version} here, or not read this checkout")


def as_person(person: pwd.struct_passwd) -> list[str]:
    ids = [f"--reuid={person.pw_uid}", f"--regid={person.pw_gid}", "--clear-groups"]
    return ["setpriv", *ids, "env", "-i", f"HOME={person.pw_dir}", f"PATH={os.environ['PATH']}", "LANG=C.UTF-8"]


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
def test_root_and_an_ordinary_user_build_the_same_image(person: pwd.struct_passwd, cache: Path, tmp_path: Path) -> None:
    command = python_for(person)
    home = Path(person.pw_dir) / "work"
    ensure_base("debian:bookworm-slim", cache)
    images = []
    for folder, words in ((tmp_path, [sys.executable]), (home, command)):
        root = make_tiny_project(folder / "project")
        (root / "containers/tiny/Dockerfile.cpu").write_text(DOCKERFILE)
        shutil.copytree(cache / "base", folder / "cache" / "base")
        if folder == home:
            subprocess.run(["chown", "-R", f"{USER}:", home], check=True)
            words = [*as_person(person), f"HARNESS_CACHE={folder / 'cache'}", *command[len(as_person(person)) + 1 :]]
        images.append(built(root, folder / "cache", words))
    roots, theirs = images
    assert theirs.stat().st_uid == person.pw_uid
    assert theirs.name == roots.name  # the same key
    # All but one time: for an ordinary user the engine unpacks a stage without /dev, and makes that folder anew.
    assert set(differences(roots, theirs, tmp_path)) <= {"dev: modified"}
