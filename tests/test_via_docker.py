"""`harness build --via docker`: a real engine builds the stack's Dockerfile; the image equals the definition's."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from test_overlay import environment as running_environment
from test_overlay import tree as running_tree
from tiny_project import DOCKERFILE, exported, harness

from harness.catalog.catalog import Catalog
from harness.definition.dockerfile import parse_dockerfile
from harness.errors import CommandError, MissingToolError, SpecError
from harness.fidelity.behaviour import Behaviour, apptainer_behaviour
from harness.fidelity.docker import Docker, docker_engine, streamed
from harness.fidelity.tree import Entry, compare_trees, read_tree
from harness.image.base import base_source
from harness.image.contents import read_lock
from harness.image.engine import find_engine
from harness.image.lend import lending
from harness.image.process import run_command
from harness.image.via_docker import build_archive, lent_dockerfile, refuse_buildkit
from harness.image.via_docker import docker_engine as sdk_engine
from harness.site import Mirrors

NAME = "tutorial2.cpu"
OF_THE_WAY = {
    f".singularity.d/{name}" for name in ("base-environment", "env/10-docker2singularity.sh", "env/90-environment.sh")
}
"""Files that set an image's variables, each way by its own means; the variables that come out are compared."""


def test_without_an_engine_it_is_one_line_that_says_what_to_do(project: Path) -> None:
    done = harness(project, "build", "2", "--via", "docker", env={"DOCKER_HOST": "unix:///nonexistent.sock"})
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: unix:///nonexistent.sock: no Docker engine answers (")
    assert "build without --via docker" in line


def test_an_unknown_way_is_refused_with_the_valid_ones(project: Path) -> None:
    done = harness(project, "build", "2", "--via", "podman")
    assert done.returncode == 2
    assert done.stderr.strip() == "error: nothing builds via 'podman'; valid: apptainer, docker, slurm"


def test_the_loan_follows_each_from_and_names_only_what_there_is() -> None:
    text = "ARG B=x\nFROM ${B} AS \\\n  one\nRUN a\nFROM scratch\nCOPY --from=one /a /a\n"
    lines = lent_dockerfile(text, parse_dockerfile(text, "D"), ["pip.conf"]).splitlines()
    assert lines[1:5] == ["FROM ${B} AS \\", "  one", "ARG PIP_CONFIG_FILE=/.lent-to-the-build/pip.conf", lines[4]]
    assert lines[4].startswith("ARG SOURCE_DATE_EPOCH=")
    assert lines[5] == "COPY .lent-to-the-build /.lent-to-the-build"
    assert lines[6:8] == ["RUN a", "FROM scratch"]
    assert lines[-1] == "COPY --from=one /a /a"


@pytest.mark.parametrize("line", ["RUN --mount=type=cache,target=/c true", "COPY --chmod=600 a b", "RUN <<E\ntrue\nE"])
def test_what_the_sdks_builder_lacks_is_refused_with_its_line(line: str) -> None:
    with pytest.raises(SpecError, match=r"^D:2: .* needs BuildKit, which Docker's SDK lacks; build without"):
        refuse_buildkit(parse_dockerfile(f"FROM a\n{line}\n", "D"))


# --- with a real engine -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def docker(cache: Path) -> Iterator[Docker]:
    """This machine's engine, or one of our own for the length of the module."""
    folder = cache.resolve() / f"docker-{os.getpid()}"
    context = docker_engine(folder)
    try:
        engine = context.__enter__()
    except MissingToolError as error:
        pytest.skip(str(error))
    try:
        yield engine
    finally:
        context.__exit__(None, None, None)
        subprocess.run(["umount", "-l", str(folder / "exec/netns/default")], check=False, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


def stage_of(project: Path, *arguments: str, env: dict[str, str]) -> Path:
    """The file of the last stage that a build with these arguments made."""
    stages = Path(env["HARNESS_CACHE"]) / "stages"
    before = set(stages.glob("*.sif"))
    done = harness(project, "build", "2", *arguments, env=env)
    assert done.returncode == 0, done.stderr
    return max(set(stages.glob("*.sif")) - before, key=lambda path: path.stat().st_mtime_ns)


def look(image: Path, folder: Path) -> tuple[dict[str, Entry], Behaviour]:
    """Tree and behaviour of an image file."""
    engine, sandbox = find_engine(), folder / "sandbox"
    run_command([str(engine.path), "build", "--fakeroot", "--sandbox", str(sandbox), str(image)], timeout_s=300)
    inside = ["tar", "-C", str(sandbox), "--numeric-owner", "-cf", "-", "."]
    with streamed(["unshare", "--map-root-user", "--map-auto", *inside]) as stream:
        tree = read_tree(stream)

    def execute(command: list[str]) -> str:
        start = ["-q", "exec", *engine.run_flags(), "--cleanenv", "--contain", "--pwd", "/", str(sandbox)]
        return run_command([str(engine.path), *start, *command], separate_stdout=True, check=False).stdout

    behaviour = apptainer_behaviour(execute, sandbox, host={})  # nothing of ours gets in
    # Making the sandbox wrote its own date and source there.
    labels = {name: text for name, text in behaviour.labels.items() if not name.startswith("org.label-schema.")}
    return tree, replace(behaviour, labels=labels)


@pytest.mark.docker
def test_the_engine_keeps_nothing_of_a_build(
    docker: Docker, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps hold the machine's package configuration, and there may be a password in it."""
    if docker.host:
        monkeypatch.setenv("DOCKER_HOST", docker.host)
    before = docker.call("image", "ls", "--all", "--quiet")
    context = tmp_path / "context"
    context.mkdir()
    recipe = "ARG B=x\nFROM ${B}\nENV A=1\nRUN test -f $PIP_CONFIG_FILE && echo hi >/hi\nFROM ${B}\n"
    lines: list[str] = []
    with sdk_engine() as engine, base_source("debian:bookworm-slim", cache, on_line=lines.append) as base:
        for last in ("COPY --from=0 /hi /hi\nENV Z=2\n", "RUN echo no such thing >&2; exit 7\n"):
            (context / "Dockerfile").write_text(recipe + last)
            work = tmp_path / last[:4].strip()
            work.mkdir()
            with lending(work / "lent", [], Mirrors(), lines.append) as lent:
                arguments = (engine, context / "Dockerfile", "D", "B", base, lent, work, lines.append)
                if last.startswith("COPY"):
                    assert build_archive(*arguments)["Z"] == "2"
                    assert (work / "image.tar").stat().st_size > 10e6
                else:
                    with pytest.raises(
                        CommandError, match=r"^D: docker build: .* returned a non-zero code: 7"
                    ) as caught:
                        build_archive(*arguments)
                    assert "no such thing" in caught.value.output
            assert docker.call("image", "ls", "--all", "--quiet") == before
            assert docker.call("ps", "--all", "--quiet") == ""


@pytest.mark.slow
@pytest.mark.docker
@pytest.mark.apptainer
@pytest.mark.skipif(shutil.which("apptainer") is None, reason="needs scripts/install-apptainer")
def test_both_ways_give_the_same_image(project: Path, cache: Path, tmp_path: Path, docker: Docker) -> None:
    own_cache = tmp_path / "cache"
    own_cache.mkdir()
    if (cache / "base").is_dir():
        (own_cache / "base").symlink_to(cache.resolve() / "base")
    stack = project / "containers/tiny"
    (stack / "tool.sh").write_text("#!/bin/sh\necho tool\n")
    (stack / "tool.sh").chmod(0o700)
    (stack / "requirements.lock").chmod(0o600)
    (stack / "Dockerfile.cpu").write_text(
        DOCKERFILE
        + "ENV PATH=/opt/bin:${PATH} LANG=C.UTF-8 PROMPT='`id`> $HOME'\nLABEL kind='a \"b\" c'\nWORKDIR /work\n"
        + 'COPY tool.sh /opt/bin/\nRUN echo "$GREETING" >greeting && useradd someone && python -m compileall -q /opt\n'
    )
    host = {"DOCKER_HOST": docker.host} if docker.host else {}
    env = {"HARNESS_CACHE": str(own_cache), **host}
    by_docker = stage_of(project, "--via", "docker", env=env)
    catalog = Catalog(project / "catalog")
    manifest = catalog.current(NAME)
    assert manifest is not None
    assert manifest.via == "docker"
    assert manifest.builder.startswith("docker ")
    assert "docker" in read_lock(catalog.files(manifest).main).tools
    image_by_docker = exported(project, tmp_path / "docker.sif")
    again = harness(project, "build", "2", "--via", "docker", env=env)
    assert "up to date" in again.stderr, again.stderr

    # The other way is another key: nothing of the one passes for the other.
    by_definition = stage_of(project, env=env)
    current = catalog.current(NAME)
    assert current is not None
    assert (current.via, current.definition_sha256) == ("apptainer", manifest.definition_sha256)

    # The tutorial's images, as who runs them sees them.
    image = exported(project, tmp_path / "apptainer.sif")
    seen, wanted_seen = (running_tree([str(path)]) for path in (image_by_docker, image))
    assert len(seen) > 3000
    other = {path for path in seen.keys() | wanted_seen.keys() if seen.get(path) != wanted_seen.get(path)}
    assert other <= OF_THE_WAY, sorted(other)
    assert running_environment([str(image_by_docker)]) == running_environment([str(image)])

    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    wanted_tree, wanted = look(by_definition, folders[0])
    tree, behaviour = look(by_docker, folders[1])
    assert compare_trees(wanted_tree, tree) == []
    assert behaviour.differences(wanted) == []
    assert behaviour.labels == wanted.labels
    assert wanted_tree["opt/bin/tool.sh"].mode == 0o755
    assert not [path for path in tree if ".lent" in path]
