"""An image with its tutorial's layer as a partition is the image that plain `apptainer build` makes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from tiny_project import exported, harness, image_of, main_file

from harness.image.base import base_source
from harness.image.overlay import folder_modes

pytestmark = pytest.mark.apptainer

# Path below / -> why two builds of the same definition differ there.
DIFFER_BY_NATURE = {
    ".singularity.d/labels.json": "holds the date of the build and the address of the registry",
    ".singularity.d/Singularity": "the definition as given: with its header, and the base by its public name",
    "etc/resolv.conf": "made by the engine when the image starts",
    "etc/hosts": "made by the engine when the image starts",
    "var/log": "dated by apt and dpkg",
    "var/cache/ldconfig": "holds inode numbers",
    "var/lib/dpkg": "dated by dpkg",
    "usr/lib/python3": "byte code written when a package was installed holds its time",
    "usr/share/python3": "byte code written when a package was installed holds its time",
    "etc/mtab": "made by the engine when the image starts",
    "etc/localtime": "bound from the host",
}

LIST = (
    "cd / && find . -xdev -mindepth 1 -path ./proc -prune -o -path ./sys -prune -o -path ./dev -prune"
    " -o -path ./tmp -prune -o -path ./mnt -prune -o -printf '%y %m %U:%G %l %p\\n' | sort -k5"
    " && find . -xdev -type f -not -path './proc/*' -not -path './sys/*' -not -path './dev/*' -exec sha256sum {} +"
    " | sort -k2"
)


def tree(image: list[str]) -> dict[str, str]:
    """What a running container sees: path -> type, mode, owner, link target, digest."""
    userns = ["--userns"] if os.geteuid() == 0 else []
    command = [
        "apptainer",
        "exec",
        *userns,
        "--cleanenv",
        "--no-home",
        "--no-mount",
        "tmp",
        *image,
        "sh",
        "-c",
        LIST,
    ]
    found: dict[str, str] = {}
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        facts, _, path = line.rpartition(" ./")
        if path and not any(path == skip or path.startswith(f"{skip}/") for skip in DIFFER_BY_NATURE):
            found[path] = f"{found.get(path, '')} {facts}".strip()
    return found


def environment(image: list[str]) -> str:
    userns = ["--userns"] if os.geteuid() == 0 else []
    command = ["apptainer", "exec", *userns, "--cleanenv", "--no-home", *image, "env"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return "\n".join(sorted(line for line in lines if not line.startswith(("APPTAINER_", "SINGULARITY_", "PROMPT"))))


# What a cut between two RUNs could lose: variables, arguments, working directory, user, deleted files, modes.
MORE_STAGES = """\
ARG LEVEL=3
ENV PATH=/opt/tools:${PATH} TWO="a b"
WORKDIR /opt/stack
RUN umask 077 && sort requirements.lock >sorted && cd / && sort -o /opt/stack/kept /opt/stack/sorted && \\
    mkdir /opt/again && touch /opt/again/old && chgrp staff /opt && chmod 2775 /opt
ENV THREE=${TWO}c
RUN unlink sorted && unlink /usr/share/perl5/Debconf/Log.pm && pwd >place && \\
    echo "$PATH|$LEVEL|$TWO|$THREE|$DEBIAN_FRONTEND" >seen && \\
    rm -rf /opt/again && mkdir /opt/again && touch /opt/again/new
USER daemon
WORKDIR /opt/own
RUN id -un | tee who && pwd >>who
USER root
COPY --from=tools /tool /opt/stack/
"""
BUILD_STAGE = """\
FROM ${BASE_IMAGE} AS tools
COPY requirements.in /in
RUN sort /in /etc/debian_version >/tool
FROM ${BASE_IMAGE}
"""


def test_a_staged_image_has_the_tree_of_a_plain_build_of_the_committed_definition(
    project: Path, cache: Path, tmp_path: Path
) -> None:
    dockerfile = project / "containers/tiny/Dockerfile.cpu"
    text = dockerfile.read_text().replace("FROM ${BASE_IMAGE}\n", BUILD_STAGE)
    dockerfile.write_text(text + MORE_STAGES)
    for command in (["defs"], ["build", "2"]):
        done = harness(project, *command)
        assert done.returncode == 0, done.stderr
    (note,) = json.loads(harness(project, "explain", "2", "--json").stdout)
    assert len(note["stages"]) == 5
    shared = image_of(project / "catalog", "tutorial2.cpu")
    assert shared[0] == "--overlay"
    ours = exported(project, tmp_path / "ours.sif")
    partitions = subprocess.run(["apptainer", "sif", "list", str(ours)], capture_output=True, text=True, check=True)
    assert "Squashfs/Overlay" in partitions.stdout

    layer = folder_modes(main_file(project / "catalog", "tutorial2.cpu"), ["opt", "opt/tutorial"])
    assert layer == {"opt": (0o2775, 0, 50), "opt/tutorial": (0o755, 0, 0)}  # its owner in a container is mapped

    plain = tmp_path / "plain.sif"
    with base_source("docker.io/library/debian:bookworm-slim", cache) as base:
        arguments = ["--fakeroot", "--build-arg", f"BASE_IMAGE={base.resolved}", str(plain), "defs/tutorial2.cpu.def"]
        variables = {**os.environ, "APPTAINER_NOHTTPS": "1"} if base.insecure_http else dict(os.environ)
        done = subprocess.run(
            ["apptainer", "build", *arguments],
            cwd=project,
            env=variables,
            capture_output=True,
            text=True,
            umask=0o077,
        )
    assert done.returncode == 0, done.stderr
    theirs = tree([str(plain)])
    for mine in (tree([str(ours)]), tree(shared)):
        assert len(mine) > 3000
        assert {"opt/own/who", "opt/stack/kept", "opt/stack/seen", "opt/stack/tool"} <= mine.keys()
        assert "opt/stack/sorted" not in mine
        assert "opt/again/new" in mine
        assert "opt/again/old" not in mine  # a folder that is removed and made anew is another one
        assert mine["opt"].startswith("d 2775 ")
        assert {
            path: (mine.get(path), theirs.get(path))
            for path in mine.keys() | theirs.keys()
            if mine.get(path) != theirs.get(path)
        } == {}
    assert environment([str(ours)]) == environment(shared) == environment([str(plain)])
    for section in ("--runscript", "--test", "--helpfile"):
        shown = [
            subprocess.run(
                ["apptainer", "inspect", section, str(i)], capture_output=True, text=True, check=True
            ).stdout.strip()
            for i in (ours, plain)
        ]
        assert shown[0] == shown[1]
        assert shown[0]


def test_without_the_overlay_the_image_is_one_squashfs(project: Path) -> None:
    done = harness(project, "build", "2", "--no-overlay")
    assert done.returncode == 0, done.stderr
    image = main_file(project / "catalog", "tutorial2.cpu")
    assert image_of(project / "catalog", "tutorial2.cpu") == [
        f"{project}/catalog/images/tutorial2.cpu/current/image.sif"
    ]
    listed = subprocess.run(["apptainer", "sif", "list", str(image)], capture_output=True, text=True, check=True).stdout
    assert "Overlay" not in listed
    assert (
        "arguments"
        in subprocess.run(
            ["apptainer", "run", *(["--userns"] if os.geteuid() == 0 else []), "--cleanenv", str(image), "count"],
            capture_output=True,
            text=True,
            check=False,
            cwd=project,
        ).stdout
    )
