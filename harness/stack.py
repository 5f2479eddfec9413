"""A stack: the software several tutorials share, ``containers/<name>/stack.toml`` and its Dockerfiles."""

from __future__ import annotations

from pydantic import Field

from harness.errors import SpecError
from harness.project import Project, Variant
from harness.specfile import LocalizedText, SpecModel, load_spec


class StackVariant(SpecModel):
    """One way to build the stack."""

    dockerfile: str
    requirements: str = Field(description="top-level Python requirements, the input of the lock")
    lock: str = Field(description="every Python package with its hashes; copied into the image")
    python: str = Field(pattern=r"^3\.\d+$", description="the image's Python, major.minor")
    platform: str = Field("x86_64-manylinux_2_28", description="whom packages are resolved for, in uv's words")
    extra_indexes: list[str] = Field(default_factory=list, description="package indexes beside the machine's own")
    test: list[str] = Field(min_length=1, description="commands that must succeed inside the finished image")


class Stack(SpecModel):
    name: str
    title: LocalizedText
    variants: dict[Variant, StackVariant]


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
        known = sorted(p.parent.name for p in project.stacks.glob("*/stack.toml"))
        raise SpecError(f"unknown stack '{name}'; valid: {', '.join(known) or 'none'}", where=str(project.stacks))
    stack = load_spec(path, Stack)
    if stack.name != name:
        raise SpecError(f"name is '{stack.name}' but the folder is '{name}'", where=str(path))
    for variant, parts in stack.variants.items():
        for key, file in (("dockerfile", parts.dockerfile), ("lock", parts.lock)):
            if not (folder / file).is_file() and (locked or key != "lock"):
                raise SpecError(f"variants.{variant}.{key} names '{file}', which is not there", where=str(path))
    return stack
