"""The software stacks: what can be said of them without building, and, slowly, the CPU ones built and used."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_project import REPOSITORY, harness, make_tiny_project

from harness.definition.reproducible import reproducible
from harness.definition.tutorial_image import stack_definition
from harness.definition.writer import write_definition
from harness.errors import SpecError
from harness.image.engine import find_engine
from harness.project import Project, Variant
from harness.stack import StackVariant, load_stack, stack_names

PROJECT = Project(REPOSITORY)
NAMES = stack_names(PROJECT)
STACKS = {name: load_stack(PROJECT, name) for name in NAMES}
BUILDS = [(name, variant) for name, stack in STACKS.items() for variant in stack.variants]
EXERCISES = Path(__file__).parent / "in_stack"

_PIN = re.compile(r"^([a-z0-9][a-z0-9.-]*)==([^ ;\\]+)")
_HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def locked(name: str, parts: StackVariant) -> dict[str, tuple[str, int]]:
    """Package to version and number of hashes."""
    text = (PROJECT.stack_folder(name) / parts.lock).read_text(encoding="utf-8")
    found = {}
    for block in re.split(r"(?<!\\)\n", text):
        if block and not block.startswith("#"):
            pin = _PIN.match(block)
            assert pin, f"not a pinned package: {block[:80]}"
            found[pin[1]] = (pin[2], len(_HASH.findall(block)))
    return found


def asked_for(path: Path) -> Iterator[str]:
    """The requirements of a ``.in`` file and of those it includes, comments aside."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("-r "):
            yield from asked_for(path.parent / line.removeprefix("-r "))
        elif line and not line.startswith("#"):
            yield line


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_seven_stacks_and_the_historical_one_are_there() -> None:
    seven = {"pytorch", "embedding", "llamafactory", "gptq", "vllm", "diffusers", "tilelang"}
    assert {*seven, "auto-gptq"} <= set(NAMES)
    assert all(set(STACKS[name].variants) == {"cpu", "cuda"} for name in seven)
    assert set(STACKS["auto-gptq"].variants) == {"cuda"}


@pytest.mark.parametrize(("name", "variant"), BUILDS)
def test_a_definition_can_be_rendered(name: str, variant: Variant) -> None:
    definition = reproducible(stack_definition(PROJECT, STACKS[name], variant))
    text = write_definition(definition)
    assert text.startswith("Bootstrap: docker\n")
    assert definition.base == "{{ BASE_IMAGE }}"
    reference = dict(definition.arguments)["BASE_IMAGE"]
    assert re.fullmatch(r"docker\.io/[a-z]+/[a-z]+:[\w.-]+(@sha256:[0-9a-f]{64})?", reference), "a public, tagged image"
    assert definition.test
    for command in STACKS[name].variants[variant].test:
        assert command in definition.test


@pytest.mark.parametrize(("name", "variant"), BUILDS)
def test_a_lock_is_complete(name: str, variant: Variant) -> None:
    """Every package that is asked for is locked as asked, and every locked one has hashes."""
    parts = STACKS[name].variants[variant]
    packages = locked(name, parts)
    assert all(hashes for _, hashes in packages.values())
    for requirement in asked_for(PROJECT.stack_folder(name) / parts.requirements):
        wanted, separator, version = requirement.partition("==")
        assert separator, f"{requirement}: exact versions only"
        assert packages.get(normal(wanted), ("missing", 0))[0] == version, requirement


@pytest.mark.parametrize(("name", "variant"), BUILDS)
def test_a_lock_holds_nothing_that_the_image_brings_or_does_without(name: str, variant: Variant) -> None:
    parts = STACKS[name].variants[variant]
    absent = {*(requirement.partition("==")[0] for requirement in parts.provided), *parts.left_out}
    packages = locked(name, parts)
    assert not {normal(package) for package in absent} & set(packages)
    if any(requirement.startswith("torch==") for requirement in parts.provided):
        assert not [package for package in packages if package.startswith("nvidia-")], "they came with torch"


@pytest.mark.parametrize("name", [name for name, variant in BUILDS if variant == "cpu"])
def test_a_cpu_lock_holds_no_cuda(name: str) -> None:
    packages = locked(name, STACKS[name].variants["cpu"])
    assert packages["torch"][0].endswith("+cpu")
    assert not [package for package in packages if re.match(r"nvidia-|cuda-|triton$|cupy", package)]


@pytest.mark.parametrize(("name", "variant"), BUILDS)
def test_no_mirror_is_written_down(name: str, variant: Variant) -> None:
    """Where packages come from is the site's business: a lock or a Dockerfile with an address works at one place."""
    parts = STACKS[name].variants[variant]
    for file in (parts.lock, parts.requirements, parts.dockerfile):
        text = (PROJECT.stack_folder(name) / file).read_text(encoding="utf-8")
        assert not re.search(r"https?://|--(extra-)?index-url|--find-links|trusted-host", text), file


def test_stacks_that_fit_packages_to_cpus_do_it_alike() -> None:
    programs = [(PROJECT.stack_folder(name) / "fit_to_cpu.py").read_text() for name in ("llamafactory", "vllm")]
    assert programs[0] == programs[1]


def test_a_variant_that_a_stack_lacks_is_named(tmp_path: Path) -> None:
    project = make_tiny_project(tmp_path / "project")
    toml = project / "containers/tiny/stack.toml"
    toml.write_text(toml.read_text().partition("[variants.cuda]")[0].replace("variants.cpu", "variants.cuda"))
    done = harness(project, "build", "--stack", "tiny", env={"HARNESS_CACHE": str(tmp_path / "cache")})
    assert done.returncode == 2
    assert done.stderr.strip().endswith("stack.toml: no variant 'cpu'; valid: cuda")


def test_a_provided_package_must_have_a_version(tmp_path: Path) -> None:
    project = make_tiny_project(tmp_path / "project")
    toml = project / "containers/tiny/stack.toml"
    toml.write_text(toml.read_text().replace('python = "3.11"', 'python = "3.11"\nprovided = ["torch"]', 1))
    with pytest.raises(SpecError, match=r"stack.toml: key 'variants.cpu.provided.0'"):
        load_stack(Project(project), "tiny")


needs_engine = pytest.mark.skipif(
    shutil.which("apptainer") is None and shutil.which("singularity") is None,
    reason="no apptainer or singularity: scripts/install-apptainer; `make test` installs it",
)


@needs_engine
@pytest.mark.apptainer
def test_a_stack_is_built_alone_and_once(project: Path) -> None:
    done = harness(project, "build", "--stack", "tiny")
    assert done.returncode == 0, done.stderr
    stage = Path(done.stdout.strip())
    written = stage.stat().st_ino  # its time says when it was last used
    assert not (project / "catalog").exists(), "nothing is published"
    again = harness(project, "build", "--stack", "tiny")
    assert again.stdout == done.stdout
    assert stage.stat().st_ino == written
    assert harness(project, "build", "2", "--stack", "tiny").returncode == 2


@needs_engine
@pytest.mark.apptainer
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", [name for name, variant in BUILDS if variant == "cpu"])
def test_the_cpu_stack_builds_and_works(name: str, cache: Path, tmp_path: Path) -> None:
    """Built with its own tests inside; then, where there is one, its exercise: the tutorials' work on a tiny model."""
    done = harness(REPOSITORY, "build", "--stack", name, env={"HARNESS_CACHE": str(cache)})
    assert done.returncode == 0, done.stderr
    exercise = EXERCISES / f"use_{name}.py"
    if not exercise.is_file():
        return
    engine = find_engine()
    command = [str(engine.path), "exec", *engine.run_flags(), "--cleanenv", "--containall"]
    command += ["--bind", f"{EXERCISES}:/exercises:ro", "--bind", f"{tmp_path}:/scratch", "--pwd", "/scratch"]
    command += ["--bind", f"{REPOSITORY}:/repository:ro"]
    command += [done.stdout.strip(), "python", f"/exercises/{exercise.name}", "/repository"]
    ran = subprocess.run(command, env={**os.environ}, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
