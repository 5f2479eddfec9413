"""Locks: resolving from sources that move, refusing drift, comparing, building again from what is inside an image."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import NO_ENGINE
from package_sources import PackageSources, package_sources
from tiny_project import HARNESS, harness, main_file, make_tiny_project

from harness.definition.context import Context
from harness.definition.dockerfile import parse_dockerfile
from harness.errors import SpecError
from harness.image.base import ensure_base
from harness.image.contents import read_lock
from harness.image.local_registry import LocalRegistry
from harness.image.registry import probe
from harness.lock.apt_commands import apt_commands, apt_files
from harness.lock.drift import Installed, apt_drift, base_drift, python_drift
from harness.lock.outside import unpinned
from harness.lock.python import without_addresses
from harness.lock.resolve import keep_resolved
from harness.project import Project
from harness.specfile import load_spec
from harness.stack_lock import LockedBase, LockedInputs, LockedPython, StackLock, read_stack_lock, write_lock_text

needs_apt = pytest.mark.skipif(
    not all(map(shutil.which, ("apt-get", "dpkg-scanpackages", "dpkg-deb", "skopeo", "mmdebstrap"))),
    reason="no apt, dpkg-dev, skopeo or mmdebstrap: scripts/install-packages registry",
)

LOCK = "containers/tiny/cpu.lock.toml"
# pip itself comes as a wheel of Debian's: no environment has to be made for it.
DOCKERFILE = """\
ARG BASE_IMAGE=docker.io/library/debian:bookworm-slim
FROM ${BASE_IMAGE}
ENV LANG=C.UTF-8
COPY local.list /etc/apt/sources.list.d/local.list
RUN apt-get update -qq && \\
    apt-get install -qq -y --no-install-recommends python3 python3-pip-whl drifty >/dev/null && \\
    rm -rf /var/lib/apt/lists/* && ln -s python3 /usr/bin/python
COPY requirements.lock /opt/stack/requirements.lock
RUN export PYTHONPATH="$(echo /usr/share/python-wheels/pip-*.whl)" && \\
    pip="python3 -m pip install --quiet --no-cache-dir --no-compile --break-system-packages" && \\
    $pip --require-hashes -r /opt/stack/requirements.lock && $pip --upgrade drifting-wheel
"""


@dataclass
class World:
    """A project on package sources of its own, locked; ``cache`` can be emptied of all but its base."""

    root: Path
    sources: PackageSources
    cache: Path

    def harness(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        variables = {"HARNESS_CACHE": str(self.cache), "PIP_INDEX_URL": self.sources.index, "PIP_FIND_LINKS": ""}
        return harness(self.root, *arguments, env={**variables, "PIP_EXTRA_INDEX_URL": "", **environment})

    def forget_stages(self) -> None:
        shutil.rmtree(self.cache / "stages", ignore_errors=True)

    def current(self) -> Path:
        return main_file(self.root / "catalog", "tutorial2.cpu")

    def lock(self) -> StackLock:
        return load_spec(self.root / LOCK, StackLock)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[World]:
    root = make_tiny_project(tmp_path_factory.mktemp("locked") / "project")
    own_cache = tmp_path_factory.mktemp("cache")
    (cache / "base").mkdir(parents=True, exist_ok=True)
    (own_cache / "base").symlink_to(cache / "base")
    with package_sources(tmp_path_factory.mktemp("sources")) as sources:
        world = World(root, sources, own_cache)
        (root / "containers/tiny/Dockerfile.cpu").write_text(DOCKERFILE)
        (root / "containers/tiny/local.list").write_text(sources.apt_source)
        (root / "containers/tiny/requirements.in").write_text("drifting-wheel  # any version\n")
        sources.publish_deb("drifty", "1.0")
        sources.publish_wheel("drifting-wheel", "1.0")
        yield world


# --- resolving --------------------------------------------------------------------------------


@needs_apt
def test_a_lock_holds_base_apt_packages_and_python_packages(world: World) -> None:
    deb, wheel = (next(world.sources.root.rglob(name)) for name in ("drifty_1.0_all.deb", "drifting_wheel-1.0-*.whl"))
    done = world.harness("lock", "tiny", "--variant", "cpu")
    assert done.returncode == 0, done.stderr
    assert re.search(r"base bootstrapped, apt \d+, python 1$", done.stdout.strip())
    lock = world.lock()
    assert lock.apt is not None and lock.base is not None and lock.python is not None
    assert lock.base.suite == "bookworm"
    assert lock.base.packages["dpkg"].startswith("1.21")
    assert lock.apt["drifty"].version == "1.0"
    assert lock.apt["drifty"].sha256 == hashlib.sha256(deb.read_bytes()).hexdigest()
    assert "libpython3.11-stdlib" in lock.apt  # what python3 needs
    assert "dpkg" not in lock.apt  # in the base already
    assert lock.python.packages == {"drifting-wheel": "1.0"}
    pip_lock = (world.root / "containers/tiny/requirements.lock").read_text()
    assert f"sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}" in pip_lock
    assert lock.unresolved == {}
    text = (world.root / LOCK).read_text()
    for machine in (world.sources.address, str(world.root), "127.0.0.1"):
        assert machine not in text + pip_lock

    again = world.harness("lock", "tiny", "--variant", "cpu")
    assert again.stdout == f"{LOCK}: unchanged\n"
    assert (world.root / LOCK).read_text() == text


@needs_apt
def test_what_nobody_can_resolve_here_is_said_in_the_lock(world: World, tmp_path: Path) -> None:
    root = Path(shutil.copytree(world.root, tmp_path / "project", ignore=shutil.ignore_patterns("*.lock.toml")))
    dockerfile = root / "containers/tiny/Dockerfile.cpu"
    dockerfile.write_text(DOCKERFILE.replace("docker.io/library/debian:bookworm-slim", "127.0.0.1:1/cuda:12"))
    elsewhere = World(root, world.sources, world.cache)
    (root / "containers/tiny/requirements.in").write_text("no-such-package-anywhere\n")
    done = elsewhere.harness("lock", "tiny", "--variant", "cpu")
    assert done.returncode == 0, done.stderr
    lock = elsewhere.lock()
    assert (lock.base, lock.apt, lock.python) == (None, None, None)
    assert lock.unresolved.keys() == {"base", "apt", "python"}
    assert "no registry" in lock.unresolved["base"]
    assert "no-such-package-anywhere" in lock.unresolved["python"]
    assert done.stderr.count("is not resolved") == 3
    assert "127.0.0.1" not in re.sub(r"^base = .*$", "", (root / LOCK).read_text(), flags=re.MULTILINE)
    assert elsewhere.harness("lock", "--check", "-v", "cpu").returncode == 0  # open, and of today's inputs

    refused = elsewhere.harness("build", "2", "--locked")
    assert refused.returncode == 1
    assert "base: not locked" in refused.stderr

    pinned = f"127.0.0.1:1/cuda:12@sha256:{'1' * 64}"
    dockerfile.write_text(DOCKERFILE.replace("docker.io/library/debian:bookworm-slim", pinned))
    assert elsewhere.harness("lock", "tiny", "--variant", "cpu").returncode == 0
    lock = elsewhere.lock()
    assert lock.base == LockedBase(origin="registry", digest=f"sha256:{'1' * 64}")  # its name says it all
    assert lock.unresolved.keys() == {"apt", "python"}

    dockerfile.write_text(DOCKERFILE.replace("drifty", "no-such-deb"))
    (root / "containers/tiny/requirements.in").write_text("drifting-wheel\n")
    done = elsewhere.harness("lock", "tiny", "--variant", "cpu")
    lock = elsewhere.lock()
    assert lock.base is not None and lock.python is not None
    assert lock.unresolved.keys() == {"apt"}
    assert "Unable to locate package no-such-deb" in lock.unresolved["apt"]


@needs_apt
def test_locking_again_follows_the_archive_and_keeps_python_packages_until_upgraded(
    world: World, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(world.root, tmp_path / "project", ignore=shutil.ignore_patterns("*.lock.toml", ".git")))
    moving = World(root, world.sources, world.cache)
    dockerfile = root / "containers/tiny/Dockerfile.cpu"
    dockerfile.write_text(DOCKERFILE.replace("drifty", "moving-deb"))
    (root / "containers/tiny/requirements.in").write_text("moving-wheel\n")

    def versions() -> tuple[str | None, str]:
        lock = moving.lock()
        assert lock.python is not None
        return lock.apt["moving-deb"].version if lock.apt else None, lock.python.packages["moving-wheel"]

    for number in ("1.0", "2.0"):
        world.sources.publish_deb("moving-deb", number)
        world.sources.publish_wheel("moving-wheel", number)
        done = moving.harness("lock", "tiny", "-v", "cpu")
        assert done.returncode == 0, done.stderr
        assert versions() == (number, "1.0")
        if number == "1.0":
            shutil.copyfile(root / LOCK, tmp_path / "first.toml")
    shown = moving.harness("lock", "diff", str(tmp_path / "first.toml"), LOCK)
    assert [line.split()[:2] for line in shown.stdout.splitlines()[1:]] == [["apt:", "1"], ["~", "moving-deb"]]

    # Of a base that nobody can give, so that upgrading makes no new one.
    dockerfile.write_text(DOCKERFILE.replace("docker.io/library/debian:bookworm-slim", "127.0.0.1:1/cuda:12"))
    done = moving.harness("lock", "tiny", "-v", "cpu", "--upgrade")
    assert versions() == (None, "2.0")


@needs_apt
@pytest.mark.apptainer
def test_a_base_from_a_registry_is_locked_by_its_digest_and_another_one_is_refused(
    world: World, tmp_path: Path, cache: Path
) -> None:
    """A real registry, whose tag then moves to the same file system under another manifest."""
    ensure_base("debian:bookworm-slim", cache)
    storage = Path(shutil.copytree(next(cache.glob("base/debian-bookworm-slim-*/storage")), tmp_path / "storage"))
    root = Path(shutil.copytree(world.root, tmp_path / "project", ignore=shutil.ignore_patterns("*.lock.toml", ".git")))
    moving = World(root, world.sources, world.cache)
    with LocalRegistry(storage, read_only=False) as registry:
        name = f"{registry.host}/library/debian:bookworm-slim"
        dockerfile = root / "containers/tiny/Dockerfile.cpu"
        dockerfile.write_text(DOCKERFILE.replace("docker.io/library/debian:bookworm-slim", name))
        done = moving.harness("lock", "tiny", "-v", "cpu")
        assert done.returncode == 0, done.stderr
        lock = moving.lock()
        digest = probe(name)
        assert lock.base is not None and lock.apt is not None
        assert (lock.base.origin, lock.base.digest, lock.base.releases) == ("registry", digest, {})
        assert lock.base.packages["dpkg"].startswith("1.21")
        assert "drifty" in lock.apt

        push = ["skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false"]
        with_python = f"{registry.host}/library/with-python:1"
        _push_with_layer(push, name, with_python, tmp_path / "more", PYTHON_OF_BASE)
        dockerfile.write_text(f"FROM {with_python}\nCOPY requirements.lock /opt/stack/requirements.lock\n")
        done = moving.harness("lock", "tiny", "-v", "cpu")
        assert done.returncode == 0, done.stderr
        base = moving.lock().base
        assert base is not None  # without any apt command the packages of the base are known too
        assert base.python == {"conda": "1.0"}
        assert base.packages == lock.base.packages
        dockerfile.write_text(DOCKERFILE.replace("docker.io/library/debian:bookworm-slim", name))
        assert moving.harness("lock", "tiny", "-v", "cpu").returncode == 0

        subprocess.run([*push, "--format", "v2s2", f"docker://{name}", f"docker://{name}"], check=True)
        assert probe(name) != digest
        refused = moving.harness("build", "2", "--locked")
        assert refused.returncode == 1
        assert f"drift: tiny.cpu: base: {name} is {probe(name)}, locked is {digest}; lock again" in refused.stderr
    assert not (root / "catalog/images").exists()


# setuptools is Debian's; conda came with a copy of another package.
PYTHON_OF_BASE = {
    "var/lib/dpkg/info/python3-setuptools.list": "/.\n/usr/lib/python3/dist-packages/s.egg-info/PKG-INFO\n",
    "usr/lib/python3/dist-packages/s.egg-info/PKG-INFO": "Name: setuptools\nVersion: 66\n",
    "opt/conda/lib/conda-1.0.dist-info/METADATA": "Name: Conda\nVersion: 1.0\n\nName: words\n",
    "opt/conda/lib/conda-1.0.dist-info/RECORD": "conda-1.0.dist-info/METADATA,,\nc/in-2.dist-info/METADATA,,\n",
    "opt/conda/lib/c/in-2.dist-info/METADATA": "Name: in\nVersion: 2\n",
}


def _push_with_layer(push: list[str], source: str, target: str, folder: Path, files: dict[str, str]) -> None:
    """Push an image with one more layer."""
    subprocess.run([*push, f"docker://{source}", f"dir:{folder}"], check=True)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    layer = stream.getvalue()
    manifest = json.loads((folder / "manifest.json").read_text())
    config_file = folder / manifest["config"]["digest"].partition(":")[2]
    config = json.loads(config_file.read_text())
    config["rootfs"]["diff_ids"].append(f"sha256:{hashlib.sha256(layer).hexdigest()}")
    config.pop("history", None)
    for data, entry in ((layer, {}), (json.dumps(config).encode(), manifest["config"])):
        digest = hashlib.sha256(data).hexdigest()
        (folder / digest).write_bytes(data)
        entry |= {"digest": f"sha256:{digest}", "size": len(data)}
        if data is layer:
            manifest["layers"].append({"mediaType": "application/vnd.oci.image.layer.v1.tar", **entry})
    (folder / "manifest.json").write_text(json.dumps(manifest))
    subprocess.run([*push, f"dir:{folder}", f"docker://{target}"], check=True)


def test_a_part_that_was_resolved_before_is_kept_where_its_inputs_are_the_same() -> None:
    inputs = LockedInputs(base="a:1", python="3.11 x", apt=["install b"], files={"r.in": "1"})
    python = LockedPython(file="r.lock", sha256="2", packages={"c": "1"})
    before = StackLock(
        stack="s", variant="cpu", inputs=inputs, base=LockedBase(origin="registry", digest="d"), apt={}, python=python
    )
    unresolved = {"base": "no network", "apt": "no network", "python": "no network"}
    now = StackLock.model_validate({"stack": "s", "variant": "cpu", "inputs": inputs, "unresolved": unresolved})
    kept = keep_resolved(now, before)
    assert (kept.base, kept.apt, kept.python, kept.unresolved) == (before.base, {}, python, {})

    other_base = now.model_copy(update={"inputs": inputs.model_copy(update={"base": "a:2"})})
    kept = keep_resolved(other_base, before)
    assert (kept.base, kept.apt, kept.python) == (None, None, python)
    assert kept.unresolved.keys() == {"base", "apt"}
    assert keep_resolved(now, None) == now


def test_a_lock_file_says_what_was_written(tmp_path: Path) -> None:
    lock = StackLock.model_validate(
        {
            "stack": "s",
            "variant": "cuda",
            "inputs": {"base": 'a"b', "python": "3.11 x", "apt": ["install g++ libstdc++6"], "files": {"a.in": "1"}},
            "base": {"origin": "bootstrapped", "suite": "x", "releases": {"x": "Sat, 1"}, "packages": {"g++": "1:2~3"}},
            "apt": {"libstdc++6": {"version": "1", "architecture": "all", "sha256": "2"}},
            "python": {"file": "r.lock", "sha256": "3", "packages": {"torch": "2.13.0+cpu"}},
            "tools": {"uv": "1"},
        }
    )
    path = tmp_path / "cuda.lock.toml"
    path.write_text(write_lock_text(lock))
    assert load_spec(path, StackLock) == lock
    empty = StackLock.model_validate(
        {
            "stack": "s",
            "variant": "cpu",
            "inputs": {"base": "a", "python": "3"},
            "apt": {},
            "unresolved": {"base": "no\nline \\ break"},
        }
    )
    path.write_text(write_lock_text(empty))
    assert load_spec(path, StackLock) == empty


# --- what a Dockerfile asks apt for ------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "commands"),
    [
        ("apt-get update && apt-get install -y --no-install-recommends a b", ["install --no-install-recommends a b"]),
        ("apt-get update; DEBIAN_FRONTEND=noninteractive apt-get -qq -y install a >/dev/null 2>&1", ["install a"]),
        ("apt install -y \\\n    a \\\n    # why\n    b=1:2-3 && rm -rf /x/*", ["install a b=1:2-3"]),
        ("if true; then sudo /usr/bin/apt-get install -y a; fi", ["install a"]),
        ('["/bin/sh", "-c", "apt-get install -y a"]', ["install a"]),
        ('["apt-get", "install", "-y", "a"]', ["install a"]),
        ("<<END\nset -e\n# apt-get install no\napt-get install -y a\napt-get install -y b\nEND",
         ["install a", "install b"]),
        ("apt-get install -t bookworm-backports -o APT::Install-Recommends=0 -o Dpkg::Use-Pty=0 a",
         ["install -tbookworm-backports -oAPT::Install-Recommends=0 a"]),
        ("apt-get install -y a && apt-get purge -y --auto-remove b && apt-get upgrade -y",
         ["install a", "purge --auto-remove b", "upgrade"]),
        ("echo 'apt-get install quoted' && echo apt-get install", []),
        ("apt-get clean && apt-get --version && apt-mark hold a", []),
    ],
)  # fmt: skip
def test_apt_commands_are_read_from_run_lines(run: str, commands: list[str]) -> None:
    instructions = parse_dockerfile(f"FROM debian\nRUN {run}\n", "Dockerfile")
    assert [str(command) for command in apt_commands(instructions)] == commands


def test_packages_of_stages_that_the_image_does_not_stand_on_are_not_its_own(tmp_path: Path) -> None:
    for name in ("a.list", "b.list", "k.gpg"):
        (tmp_path / name).touch()
    text = (
        "FROM debian AS base\nRUN apt-get install -y a\nFROM debian AS tools\nRUN apt-get install -y gcc\n"
        "FROM base\nCOPY --from=tools /x /x\nCOPY a.list b.list /etc/apt/sources.list.d/\n"
        "COPY k.gpg /usr/share/keyrings/l.gpg\n"
        "RUN apt-get install -y b\n"
    )
    instructions = parse_dockerfile(text, "Dockerfile")
    assert [str(command) for command in apt_commands(instructions)] == ["install a", "install b"]
    folder = "/etc/apt/sources.list.d"
    assert apt_files(instructions, Context.of(tmp_path, "")) == [
        ("a.list", f"{folder}/a.list"),
        ("b.list", f"{folder}/b.list"),
        ("k.gpg", "/usr/share/keyrings/l.gpg"),
    ]


def test_of_a_folder_that_is_copied_to_apt_each_file_counts(tmp_path: Path) -> None:
    for name in ("sources.list.d/a.list", "sources.list.d/b.list", "etc/apt/preferences.d/x", "etc/hosts", "one.list"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".dockerignore").write_text("**/b.list\n")
    text = (
        "FROM debian\nCOPY sources.list.d/ /etc/apt/sources.list.d/\nCOPY sources.list.d /etc/apt/other.d\n"
        "COPY etc/ /etc/\nCOPY etc /app/\nCOPY *.list /etc/apt/sources.list.d/\nCOPY one.list /etc/apt/sources.list\n"
    )
    assert apt_files(parse_dockerfile(text, "Dockerfile"), Context.of(tmp_path, "")) == [
        ("sources.list.d/a.list", "/etc/apt/sources.list.d/a.list"),
        ("sources.list.d/a.list", "/etc/apt/other.d/a.list"),
        ("etc/apt/preferences.d/x", "/etc/apt/preferences.d/x"),
        ("one.list", "/etc/apt/sources.list.d/one.list"),
        ("one.list", "/etc/apt/sources.list"),
    ]


@pytest.mark.parametrize(
    "run", ["apt-get install -y $PACKAGES", "apt-get install -y $(cat list)", "apt-get build-dep a"]
)
def test_packages_that_only_a_build_would_know_are_refused(run: str) -> None:
    with pytest.raises(SpecError, match=r"Dockerfile:2: apt-get"):
        apt_commands(parse_dockerfile(f"FROM debian\nRUN {run}\n", "Dockerfile"))


def test_words_of_tools_are_committed_without_addresses_and_paths() -> None:
    said = "error: Failed to fetch: `https://user:pw@mirror.example/simple/a/`\n  × in /root/.cache/uv/x: no 'a>=2'"
    assert without_addresses(said) == "Failed to fetch: an address in a path: no 'a>=2'"


# --- inputs -----------------------------------------------------------------------------------


@needs_apt
def test_the_check_names_what_changed_since_a_lock_was_made(world: World, tmp_path: Path) -> None:
    if not (world.root / LOCK).is_file():
        assert world.harness("lock", "tiny", "-v", "cpu").returncode == 0
    root = Path(shutil.copytree(world.root, tmp_path / "project"))
    copy = World(root, world.sources, world.cache)
    folder = root / "containers/tiny"
    assert copy.harness("lock", "--check", "-v", "cpu").returncode == 0
    never = copy.harness("lock", "--check")
    assert never.returncode == 1
    assert "containers/tiny/cuda.lock.toml: was never locked" in never.stderr

    (folder / "requirements.in").write_text("# a better comment\ndrifting-wheel\n")
    (folder / "Dockerfile.cpu").write_text("# a better comment\n" + DOCKERFILE)
    assert copy.harness("lock", "--check", "-v", "cpu").returncode == 0

    (folder / "Dockerfile.cpu").write_text(DOCKERFILE.replace("drifty", "git drifty"))
    (folder / "requirements.in").write_text("drifting-wheel<2\n-r more.in\n")
    (folder / "more.in").write_text("")
    (folder / "local.list").write_text("# nothing\n")
    (folder / "requirements.lock").write_text((folder / "requirements.lock").read_text().replace("==1.0", "==1.1"))
    checked = copy.harness("lock", "--check", "-v", "cpu")
    assert checked.returncode == 1
    for words in (
        "apt: the Dockerfile now also says 'apt-get install --no-install-recommends python3 python3-pip-whl git dr",
        "requirements.in: changed since it was locked",
        "more.in: new since it was locked",
        "local.list: changed since it was locked",
        "requirements.lock: edited since it was locked",
        "make lock",
    ):
        assert words in checked.stderr
    refused = copy.harness("build", "2", "--locked")
    assert refused.returncode == 1
    assert "requirements.in: changed since it was locked; lock again, or undo the change" in refused.stderr
    assert not (root / "catalog/images").exists()


PINNED = f"example.org/tools:1@sha256:{'1' * 64}"
COMMIT = "0123456789" * 4


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (f"FROM {PINNED} AS tools\nFROM debian:12\nCOPY --from=tools /a /a\nCOPY --from=0 /b /b\n", []),
        ("FROM docker.io/library/debian:12 AS one\nFROM ONE\nRUN --mount=from=one,target=/m true\n", []),
        ("ARG V=12\nFROM debian:$V\n", []),
        ("FROM debian:12\nADD --checksum=sha256:1 https://x/a.tgz /\nADD local.tgz /\n", []),
        (f"FROM debian:12\nADD https://x/a.git#{COMMIT}:folder git@x:a.git#{COMMIT} /\n", []),
        ("FROM debian:12\nADD <<END /x\nhttps://x/a\nEND\n", []),
        ("FROM golang:1 AS tools\nFROM debian:12\n", ["D:1: FROM golang:1: an image without a digest"]),
        ("FROM debian:13 AS old\nFROM debian:12\n", ["D:1: FROM debian:13: an image without a digest"]),
        (
            "FROM debian:12\nARG TOOLS=docker.io/library/alpine:latest\nRUN true\nCOPY --from=alpine /a /a\n"
            "RUN --mount=type=bind,from=$TOOLS,target=/m true\n",
            [
                "D:4: COPY --from=alpine: an image without a digest",
                "D:5: RUN --mount from=docker.io/library/alpine:latest: an image without a digest",
            ],
        ),
        (
            "FROM debian:12 AS one\nENV U=1 V=2\nFROM one\nADD https://x/$V.tgz https://x/b /\n",
            [
                "D:4: ADD https://x/2.tgz: an address without a checksum",
                "D:4: ADD https://x/b: an address without a checksum",
            ],
        ),
        (
            "FROM debian:12\nADD https://x/a.git#main /\n",
            ["D:2: ADD https://x/a.git#main: a git repository without a commit"],
        ),
        (
            "FROM debian:12\nONBUILD ADD https://x/a /\nCOPY --from=$NOTHING /a /a\n",
            [
                "D:2: ADD https://x/a: an address without a checksum",
                "D:3: COPY --from=$NOTHING: no name of an image",
            ],
        ),
    ],
)
def test_what_a_dockerfile_takes_from_outside_must_say_which_bytes_it_means(text: str, lines: list[str]) -> None:
    found = list(unpinned(parse_dockerfile(text, "D"), "debian:12"))
    assert [one.what for one in found] == lines
    assert all("write " in one.fix or "name it" in one.fix for one in found)


@needs_apt
def test_a_locked_build_refuses_images_and_addresses_that_no_lock_holds(project: Path) -> None:
    dockerfile = project / "containers/tiny/Dockerfile.cpu"
    dockerfile.write_text(
        dockerfile.read_text()
        + "ADD https://127.0.0.1:1/x.tgz /opt/x.tgz\n"
        + "COPY --from=docker.io/library/alpine:latest /etc/hosts /opt/hosts\n"
    )
    assert harness(project, "lock", "tiny", "-v", "cpu").returncode == 0
    for what in (["2"], ["--stack", "tiny"]):
        refused = harness(project, "build", *what, "--locked")
        assert refused.returncode == 1
        of = "drift: tiny.cpu: containers/tiny/Dockerfile.cpu"
        assert (
            f"{of}:7: ADD https://127.0.0.1:1/x.tgz: an address without a checksum; write ADD --checksum=sha256:…\n"
            in refused.stderr
        )
        image = "docker.io/library/alpine:latest"
        assert f"{of}:8: COPY --from={image}: an image without a digest; write {image}@sha256:…; " in refused.stderr
        assert f"error: {LOCK}: 2 things are not as locked" in refused.stderr
    assert not (project / "catalog/images").exists()


@needs_apt
def test_a_folder_of_sources_is_locked_as_its_files_are(world: World, tmp_path: Path) -> None:
    root = Path(shutil.copytree(world.root, tmp_path / "project"))
    copy = World(root, world.sources, world.cache)
    folder = root / "containers/tiny"
    (folder / "sources.list.d").mkdir()
    (folder / "local.list").rename(folder / "sources.list.d/local.list")
    line = "COPY local.list /etc/apt/sources.list.d/local.list"
    assert line in DOCKERFILE
    (folder / "Dockerfile.cpu").write_text(DOCKERFILE.replace(line, "COPY sources.list.d/ /etc/apt/sources.list.d/"))
    done = copy.harness("lock", "tiny", "-v", "cpu")
    assert done.returncode == 0, done.stderr
    assert "drifty" in (copy.lock().apt or {})
    assert "sources.list.d/local.list" in copy.lock().inputs.files
    assert copy.harness("lock", "--check", "-v", "cpu").returncode == 0
    (folder / "sources.list.d/more.list").write_text("# more\n")
    checked = copy.harness("lock", "--check", "-v", "cpu")
    assert checked.returncode == 1
    assert "sources.list.d/more.list: new since it was locked" in checked.stderr


# --- comparing --------------------------------------------------------------------------------


def _git(root: Path, *words: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "-C", str(root), *identity, *words], check=True, capture_output=True)


def test_a_difference_reads_well(project: Path) -> None:
    base = {"origin": "registry", "digest": "sha256:1", "packages": {"bash": "5.2", "dash": "1"}}
    deb = {"version": "1.0", "architecture": "all", "sha256": "a"}
    data = {
        "stack": "tiny",
        "variant": "cpu",
        "inputs": {"base": "debian:12", "python": "3.11 x"},
        "base": base,
        "apt": {"git": deb, "gone": deb, "same": deb},
        "python": {"file": "r", "sha256": "1", "packages": {"numpy": "2.2.6"}},
    }
    one = StackLock.model_validate(data)
    (project / LOCK).write_text(write_lock_text(one))
    _git(project, "init", "-q")
    _git(project, "add", "containers")
    _git(project, "commit", "-qm", "one")
    same = harness(project, "lock", "diff")
    assert (same.returncode, same.stdout) == (0, "no difference (1 compared)\n")

    packages = {"git": {**deb, "version": "2.0"}, "new": deb, "same": {**deb, "sha256": "b"}}
    python = {"file": "r", "sha256": "2", "packages": {"numpy": "2.3"}}
    data |= {"apt": packages, "python": python, "base": {**base, "digest": "sha256:2"}}
    (project / LOCK).write_text(write_lock_text(StackLock.model_validate(data)))
    shown = harness(project, "lock", "diff", env={"TERM": "xterm-256color"})
    assert shown.returncode == 1
    assert shown.stdout.splitlines() == [
        f"{LOCK}: HEAD → working tree",
        "  base: 1 changed",
        "    ~ (digest)     sha256:1 → sha256:2",
        "  apt: 2 changed, 1 added, 1 removed",
        "    ~ git          1.0 → 2.0",
        "    - gone         1.0",
        "    + new          1.0",
        "    ~ same (file)  a → b",
        "  python: 1 changed",
        "    ~ numpy        2.2.6 → 2.3",
    ]
    (project / "old.toml").write_text(write_lock_text(one))
    assert harness(project, "lock", "diff", "old.toml", LOCK).stdout.splitlines()[1:] == shown.stdout.splitlines()[1:]
    backwards = harness(project, "lock", "diff", LOCK, "old.toml", "--json")
    assert backwards.returncode == 1
    groups = json.loads(backwards.stdout)["differences"][f"{LOCK} → old.toml"]
    assert groups["apt"]["changed"]["git"] == {"from": "2.0", "to": "1.0"}
    assert groups["apt"]["added"] == {"gone": "1.0"}

    _git(project, "commit", "-qam", "two")
    assert harness(project, "lock", "diff", "HEAD~1", "HEAD").stdout.count("~ git") == 1
    assert harness(project, "lock", "diff").returncode == 0
    new = harness(project, "lock", "diff", "HEAD~1", "4b825dc642cb6eb9a060e54bf8d69288fbee4904")
    for mistake in (new, harness(project, "lock", "diff", "nonsense"), harness(project, "lock", "diff", "a", "b", "c")):
        assert mistake.returncode == 2
        assert mistake.stderr.count("\n") == 1
    # Nothing was compared: no difference was found. 1 is kept for that.
    (project / "foreign.sif").write_text("no image\n")
    damaged = b"#!/usr/bin/env run-singularity\n".ljust(32, b"\0") + b"SIF_MAGIC\x0001\0"
    (project / "damaged.sif").write_bytes(damaged)
    for names in (["foreign.sif"], ["damaged.sif"], ["foreign.sif", "damaged.sif"], ["damaged.sif", LOCK]):
        mistake = harness(project, "lock", "diff", *names)
        assert mistake.returncode == 2
        assert mistake.stderr.startswith(f"error: {names[0]}: ")
        assert mistake.stderr.count("\n") == 1
    for command in (["inspect"], ["rebuild", "--verify"]):
        mistake = harness(project, *command, "foreign.sif")
        assert mistake.returncode == 2
        assert mistake.stderr.startswith("error: foreign.sif: this is no SIF image; name an image file")
        assert harness(project, *command, "damaged.sif").returncode == 1  # an image, and a failure that was found
    coloured = subprocess.run(
        ["script", "-qec", f"{HARNESS} lock diff HEAD~1", "/dev/null"],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TERM": "xterm-256color"},
    )
    assert "\x1b[" in coloured.stdout
    assert "\x1b[" not in shown.stdout


# --- drift ------------------------------------------------------------------------------------

DEB = {"version": "1", "architecture": "all", "sha256": "x"}
PACKAGES = {"origin": "bootstrapped", "suite": "bookworm", "packages": {"bash": "5"}}
WHAT_IS_LOCKED = StackLock.model_validate(
    {
        "stack": "s",
        "variant": "cpu",
        "inputs": {"base": "debian", "python": "3.11 x"},
        "base": PACKAGES,
        "apt": {"git": DEB},
        "python": {"file": "r", "sha256": "1", "packages": {"scikit-learn": "1.9"}},
    }
)


@pytest.mark.parametrize(
    ("apt", "python", "lines"),
    [
        ({"bash": "5", "git": "1"}, {"scikit-learn": {"1.9"}, "pip": {"23"}}, []),
        ({"bash": "5", "git": "1"}, {"scikit-learn": {"1.8", "1.9"}}, []),
        ({"bash": "5", "git": "2"}, {"scikit-learn": {"1.9"}}, ["apt: git is 2, locked is 1"]),
        ({"bash": "5"}, {"scikit-learn": {"1.9"}}, ["apt: git 1 is locked, and not in the image"]),
        (
            {"bash": "5", "git": "1", "vim": "9"},
            {"scikit-learn": {"1.9"}},
            ["apt: vim 9 is in the image, and not locked"],
        ),
        ({"bash": "5", "git": "1"}, {"scikit-learn": {"1.8"}}, ["python: scikit-learn is 1.8, locked is 1.9"]),
        ({"bash": "5", "git": "1"}, {}, ["python: scikit-learn 1.9 is locked, and not in the image"]),
    ],
)
def test_packages_of_an_image_are_held_against_the_lock(
    apt: dict[str, str], python: dict[str, set[str]], lines: list[str]
) -> None:
    installed = Installed(apt, {name: frozenset(versions) for name, versions in python.items()})
    drift = [*apt_drift(WHAT_IS_LOCKED, installed), *python_drift(WHAT_IS_LOCKED, installed)]
    assert [d.what for d in drift] == lines
    assert all(d.fix for d in drift)


_EXTRA = "is in the image, and not locked"


@pytest.mark.parametrize(
    ("own", "base", "lines"),
    [
        ({}, {}, []),
        ({"pip": {"23.0.1"}}, {}, []),  # a virtual environment got it from Debian's package
        ({"pip": {"24"}}, {}, [f"python: pip 24 {_EXTRA}"]),
        ({"evil": {"1.0"}}, {}, [f"python: evil 1.0 {_EXTRA}"]),
        ({"scikit-learn": {"1.8", "1.9"}}, {}, [f"python: scikit-learn 1.8 {_EXTRA}"]),
        ({"scikit-learn": {"1.8"}}, {}, ["python: scikit-learn is 1.8, locked is 1.9"]),
        ({"torch": {"2.7"}}, {}, []),  # stack.toml says that the base provides it
        ({"torch": {"2.8"}}, {}, [f"python: torch 2.8 {_EXTRA}"]),
        ({"conda": {"1", "2"}}, {"origin": "registry", "digest": "d", "python": {"conda": "1, 2"}}, []),
        ({"conda": {"3"}}, {"origin": "registry", "digest": "d", "python": {}}, [f"python: conda 3 {_EXTRA}"]),
        (
            {"conda": {"1"}, "evil": {"2"}},
            {"origin": "registry", "digest": "d"},
            ["python: 2 in the image are not locked (conda 1, evil 2), and what the base brings is not known"],
        ),
    ],
)
def test_python_packages_that_nobody_locked_are_drift(
    own: dict[str, set[str]], base: dict[str, object], lines: list[str]
) -> None:
    data = WHAT_IS_LOCKED.model_dump() | {"base": base or PACKAGES}
    data["inputs"]["python"] = "3.11 x with Torch==2.7 without triton"
    versions = {"scikit-learn": frozenset({"1.9"}), **{name: frozenset(v) for name, v in own.items()}}
    apt = {"bash": "5", "git": "1", "python3-pip-whl": "23.0.1+dfsg-1"}
    drift = list(python_drift(StackLock.model_validate(data), Installed(apt, versions, versions)))
    assert [d.what for d in drift] == lines
    # An image from before it was recorded what is part of what: nobody can say what is one package too many.
    assert not any(_EXTRA in d.what for d in python_drift(StackLock.model_validate(data), Installed(apt, versions)))


@pytest.mark.parametrize(
    ("locked", "used", "words"),
    [
        (PACKAGES, {"origin": "bootstrapped", "digest": "any", "details": {"packages": {"bash": "5"}}}, ""),
        (
            PACKAGES,
            {"origin": "bootstrapped", "digest": "any", "details": {"packages": {"bash": "6"}}},
            "base: bash is 6, locked is 5",
        ),
        (
            PACKAGES,
            {"origin": "registry", "digest": "d", "details": {}},
            "base: locked is one that was bootstrapped from a package mirror, this one was pulled from a registry",
        ),
        ({"origin": "registry", "digest": "d"}, {"origin": "registry", "digest": "d", "details": {}}, ""),
        (
            {"origin": "registry", "digest": "d"},
            {"origin": "registry", "digest": "e", "reference": "debian", "details": {}},
            "base: debian is e, locked is d",
        ),
        (None, {}, "base: not locked (no network)"),
    ],
)
def test_a_base_is_held_against_the_lock(locked: dict[str, object] | None, used: dict[str, object], words: str) -> None:
    data = WHAT_IS_LOCKED.model_dump() | {"base": locked, "unresolved": {} if locked else {"base": "no network"}}
    assert [d.what for d in base_drift(StackLock.model_validate(data), used)] == ([words] if words else [])


# --- building ---------------------------------------------------------------------------------


@needs_apt
@pytest.mark.apptainer
@pytest.mark.slow  # three builds of a stack, each from nothing
@pytest.mark.timeout(1800)
@pytest.mark.skipif(shutil.which("apptainer") is None and shutil.which("singularity") is None, reason=NO_ENGINE)
def test_a_locked_build_takes_locked_versions_and_refuses_others(world: World, tmp_path: Path) -> None:
    """One story: build; build again from the image; the archive loses the locked version."""
    assert world.harness("lock", "tiny", "-v", "cpu").returncode == 0
    never = world.harness("build", "2", "--locked", "--variant", "cuda")
    assert never.returncode == 1
    assert "cuda was never locked; lock it" in never.stderr

    built = world.harness("build", "2", "--locked")
    assert built.returncode == 0, built.stderr
    assert "drift" not in built.stderr
    first = world.current()
    inside = read_lock(first)
    assert inside.stack_lock == world.lock()
    assert inside.files["containers/tiny/local.list"].text == world.sources.apt_source
    shown = dict(line.split(None, 1) for line in world.harness("inspect", "2").stdout.splitlines())
    assert shown["drift"] == "none"
    assert re.fullmatch(r"base bootstrapped, apt \d+, python 1", shown["locked"])
    assert world.harness("inspect", "2", "--lock").stdout == (world.root / LOCK).read_text()
    assert json.loads(world.harness("inspect", "2", "--sbom").stdout)["spdxVersion"] == "SPDX-2.3"

    # The checkout moves on, and so does the archive: the image is still built again from its own files, apt is told
    # which version to take, and the commit is found in the history.
    _git(world.root, "init", "-q")
    _git(world.root, "add", "containers", "tutorials", "harness")
    _git(world.root, "commit", "-qm", "then")
    head = subprocess.run(["git", "-C", world.root, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    program = world.root / "tutorials/xscow-2/count.py"
    before = program.read_text()
    program.write_text(f"{before}# later\n")
    _git(world.root, "commit", "-qam", "now")
    world.sources.publish_deb("drifty", "2.0")
    rebuilt = world.harness("rebuild", "--verify", "2")
    assert rebuilt.returncode == 0, rebuilt.stdout + rebuilt.stderr
    assert "the same, byte for byte" in rebuilt.stdout
    assert "not what tutorial2.cpu was made from (tutorials/xscow-2/count.py)" in rebuilt.stderr
    assert f"git checkout {head.stdout.strip()}" in rebuilt.stderr
    program.write_text(before)

    # The locked one is gone, and an unpinned pip takes what is new.
    world.sources.withdraw_deb("drifty", "1.0")
    world.sources.publish_wheel("drifting-wheel", "2.0")
    world.forget_stages()
    refused = world.harness("build", "2", "--locked", "--force")
    assert refused.returncode == 1
    assert "drift: tiny.cpu: apt: drifty is 2.0, locked is 1.0; its archive no longer has" in refused.stderr
    assert (
        "drift: tiny.cpu: python: drifting-wheel is 2.0, locked is 1.0; pip must install the requirements lock"
        in refused.stderr
    )
    assert f"error: {LOCK}: 2 things are not as locked; run: harness lock tiny --variant cpu" in refused.stderr
    assert world.current() == first

    noted = world.harness("build", "2", "--force")
    assert noted.returncode == 0, noted.stderr
    assert "note: tiny.cpu: apt: drifty is 2.0, locked is 1.0" in noted.stderr
    second = world.current()
    assert second != first
    assert "drifty is 2.0, locked is 1.0" in world.harness("inspect", "2").stdout

    images = world.harness("lock", "diff", str(first), str(second))
    assert images.returncode == 1
    assert re.search(r"~ drifty +1\.0 → 2\.0", images.stdout)
    assert re.search(r"~ drifting-wheel +1\.0 → 2\.0", images.stdout)
    assert world.harness("lock", "diff", str(first)).returncode == 0  # its lock is the one of the working tree

    # Built again from what is inside: the packages that explain the files come first.
    rebuilt = world.harness("rebuild", "--verify", str(first))
    assert rebuilt.returncode == 1
    assert "apt: ~ drifty 1.0 → 2.0" in rebuilt.stdout.splitlines()[:3]
    assert "usr/share/drifty: content" in rebuilt.stdout


@needs_apt
@pytest.mark.apptainer
@pytest.mark.skipif(shutil.which("apptainer") is None and shutil.which("singularity") is None, reason=NO_ENGINE)
def test_a_locked_build_refuses_another_base_python_package_or_tool(project: Path, cache: Path) -> None:
    """The lock is made for real and then says other things; an archive that moves on is in the slow test."""
    assert harness(project, "lock", "tiny", "-v", "cpu").returncode == 0
    built = harness(project, "build", "2", "--locked")
    assert built.returncode == 0, built.stderr
    assert "drift" not in built.stderr
    published = sorted((project / "catalog").rglob("*.sif"))
    lock = load_spec(project / LOCK, StackLock)
    assert lock.base is not None
    assert lock.python is not None
    other_base = (
        {"packages": {**lock.base.packages, "bash": "6"}} if lock.base.packages else {"digest": f"sha256:{'1' * 64}"}
    )
    engine = next(name for name in ("apptainer", "singularity") if name in lock.tools)
    for changed, words in (
        ({"base": lock.base.model_copy(update=other_base)}, "base: "),
        (
            {"python": lock.python.model_copy(update={"packages": {"numpy": "2.3"}})},
            "python: numpy 2.3 is locked, and not in the image",
        ),
        ({"tools": {**lock.tools, engine: "0.1"}}, f"tools: {engine} is {lock.tools[engine]}, locked is 0.1"),
        (
            {"tools": {**lock.tools, "mksquashfs": "9"}},
            f"tools: mksquashfs is {lock.tools['mksquashfs']}, locked is 9",
        ),
    ):
        (project / LOCK).write_text(write_lock_text(lock.model_copy(update=changed)))
        for force in ([], ["--force"]) if words.startswith("tools: m") else ([],):
            refused = harness(project, "build", "2", "--locked", *force)
            assert refused.returncode == 1, refused.stderr
            assert f"drift: tiny.cpu: {words}" in refused.stderr
            assert f"error: {LOCK}: one thing is not as locked" in refused.stderr
    assert sorted((project / "catalog").rglob("*.sif")) == published


EVIL = """\
RUN place=/usr/local/lib/python3.11/dist-packages/evil-1.0.dist-info && mkdir -p "$place" && \\
    printf 'Metadata-Version: 2.1\\nName: evil\\nVersion: 1.0\\n' >"$place/METADATA"
"""


@needs_apt
@pytest.mark.apptainer
@pytest.mark.skipif(shutil.which("apptainer") is None and shutil.which("singularity") is None, reason=NO_ENGINE)
def test_a_locked_build_refuses_a_python_package_that_nobody_locked(project: Path) -> None:
    """What Debian's packages and a new virtual environment bring is locked with Debian's packages."""
    dockerfile = project / "containers/tiny/Dockerfile.cpu"
    plain = dockerfile.read_text().replace("python3 >", "python3 python3-venv python3-six >")
    plain += "RUN python3 -m venv /opt/environment\n"
    dockerfile.write_text(plain)
    assert harness(project, "lock", "tiny", "-v", "cpu").returncode == 0
    built = harness(project, "build", "2", "--locked")
    assert built.returncode == 0, built.stderr
    listed = harness(project, "inspect", "2", "--packages").stdout
    assert "pkg:pypi/six@" in listed
    assert "pkg:pypi/pip@" in listed
    assert re.search(r"^drift +none$", listed, re.MULTILINE)

    dockerfile.write_text(plain + EVIL)
    refused = harness(project, "build", "2", "--locked")
    assert refused.returncode == 1
    what = "python: evil 1.0 is in the image, and not locked"
    assert f"drift: tiny.cpu: {what}; name it in the requirements and lock again" in refused.stderr
    assert f"error: {LOCK}: one thing is not as locked" in refused.stderr
    assert harness(project, "build", "2").returncode == 0
    assert what in harness(project, "inspect", "2").stdout


def test_a_lock_that_is_broken_is_a_mistake_with_its_key(project: Path) -> None:
    (project / LOCK).write_text('stack = "tiny"\nvariant = "gpu"\n')
    done = harness(project, "lock", "--check")
    assert done.returncode == 2
    assert "cpu.lock.toml: key 'variant'" in done.stderr
    (project / LOCK).unlink()
    assert read_stack_lock(Project(project), "tiny", "cpu") is None
