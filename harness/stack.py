"""A stack: the software several tutorials share, ``containers/<name>/stack.toml`` and its Dockerfiles."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from harness.errors import SpecError
from harness.project import Project, Variant
from harness.specfile import LocalizedText, SpecModel, load_spec

PackageName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
PinnedPackage = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.+!_-]*$")]


class Conda(SpecModel):
    """What a conda environment needs beside the lock: what the image's base brings, and what apt installs."""

    packages: list[str] = Field(default_factory=list, description="of conda-forge, as conda writes them: name=version")
    pip: list[PinnedPackage] = Field(
        default_factory=list, description="installed by pip instead of the lock: the base image brings them, unlocked"
    )
    note: str = Field("", description="for who makes the environment")


class StackVariant(SpecModel):
    """One way to build the stack."""

    dockerfile: str
    requirements: str = Field(description="top-level Python requirements, the input of the lock")
    lock: str = Field(description="every Python package with its hashes; copied into the image")
    python: str = Field(pattern=r"^3\.\d+$", description="the image's Python, major.minor")
    platform: str = Field("x86_64-manylinux_2_35", description="whom packages are resolved for, in uv's words")
    provided: list[PinnedPackage] = Field(
        default_factory=list, description="what the base image brings: resolved with, but neither locked nor installed"
    )
    left_out: list[PackageName] = Field(
        default_factory=list, description="what packages ask for and the image does without; not locked, not installed"
    )
    extra_indexes: list[str] = Field(default_factory=list, description="package indexes beside the machine's own")
    servers: list[Literal["jupyter"]] = Field(
        default_factory=list, description="what `harness open` finds in the image"
    )
    conda: Conda = Field(default_factory=lambda: Conda())
    test: list[str] = Field(min_length=1, description="commands that must succeed inside the finished image")


class Stack(SpecModel):
    """The whole of a ``stack.toml``; a stack that only GPUs can run has no variant ``cpu``."""

    name: str
    title: LocalizedText
    variants: dict[Variant, StackVariant] = Field(min_length=1)


def stack_names(project: Project) -> list[str]:
    """All stacks of the checkout, sorted."""
    return sorted(p.parent.name for p in project.stacks.glob("*/stack.toml"))


def load_stack(project: Project, name: str, *, locked: bool = True) -> Stack:
    """Load a stack and check that the files it names exist.

    Args:
        locked: its requirements have been locked; False for who is about to do that.

    Raises:
        SpecError: unknown stack (names the valid ones), a broken stack.toml, or a missing file.
    """
    folder = project.stack_folder(name)
    path = folder / "stack.toml"
    if not path.is_file():
        known = ", ".join(stack_names(project)) or "none"
        raise SpecError(f"unknown stack '{name}'; valid: {known}", where=str(project.stacks))
    stack = load_spec(path, Stack)
    if stack.name != name:
        raise SpecError(f"name is '{stack.name}' but the folder is '{name}'", where=str(path))
    for variant, parts in stack.variants.items():
        for key, file in (("dockerfile", parts.dockerfile), ("lock", parts.lock)):
            if not (folder / file).is_file() and (locked or key != "lock"):
                raise SpecError(f"variants.{variant}.{key} names '{file}', which is not there", where=str(path))
    return stack
