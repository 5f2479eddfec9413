"""A stack as a conda environment: ``containers/<stack>/<variant>.environment.yml``, from the same lock as its image."""

from __future__ import annotations

from pathlib import Path

from harness.project import Project, Variant
from harness.stack import Stack


def environment_name(stack: str, variant: Variant) -> str:
    """Folder of an environment below the site's root for them: ``pytorch`` (CUDA) or ``pytorch.cpu``."""
    return stack if variant == "cuda" else f"{stack}.{variant}"


def environment_file(project: Project, stack: Stack, variant: Variant) -> Path:
    """Where the generated file is kept."""
    return project.stack_folder(stack.name) / f"{variant}.environment.yml"


def create_command(stack: Stack, variant: Variant, prefix: str) -> str:
    """The line that makes the environment, from the root of the checkout."""
    # conda gives pip no options; a lock holds all there is to install.
    options = "" if stack.variants[variant].conda.pip else "PIP_NO_DEPS=1 "
    return f"{options}conda env create -p {prefix} -f containers/{stack.name}/{variant}.environment.yml"


def environment_text(stack: Stack, variant: Variant) -> str:
    """The file's content.

    Python comes from conda, and what the CUDA image's base brings; everything else from the requirements lock with its
    hashes, by pip.
    """
    parts = stack.variants[variant]
    name = environment_name(stack.name, variant)
    origin = "without a lock: versions are what pip finds that day" if parts.conda.pip else "from its image's lock"
    lines = [
        f"# {stack.title.en} as a conda environment, {origin}. Written by `harness conda`; do not edit.",
        f"#   {create_command(stack, variant, f'envs/{name}')}",
        *(f"# {line}" for line in parts.conda.note.splitlines()),
        f"name: {name}",
        "channels:",
        "  - conda-forge",
        "  - nodefaults",
        "dependencies:",
        f"  - python={parts.python}",
        "  - pip",
        *(f"  - {package}" for package in parts.conda.packages),
        "  - pip:",
    ]
    if parts.conda.pip:
        return "\n".join([*lines, *(f"      - {pin}" for pin in parts.conda.pip), ""])
    indexes = [f"      - --extra-index-url {index}" for index in parts.extra_indexes]
    return "\n".join([*lines, *indexes, f"      - -r {parts.lock}", ""])
