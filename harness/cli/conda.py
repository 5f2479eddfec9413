"""conda: stacks as conda environments, for sites where a student may not or will not use an image."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli.generated import write_or_check
from harness.project import Project
from harness.stack import load_stack, stack_names
from harness.stack_conda import environment_file, environment_text


def register(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command("conda")(conda)


def conda(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 where a file is not up to date.")
    ] = False,
) -> None:
    """Write containers/*/VARIANT.environment.yml: each stack's locked packages as a conda environment.

    Example: harness conda
    """
    project = Project.find()
    stacks = [load_stack(project, name) for name in stack_names(project)]
    files = {
        environment_file(project, stack, variant): environment_text(stack, variant)
        for stack in stacks
        for variant in stack.variants
    }
    write_or_check(files, project.stacks.glob("*/*.environment.yml"), check=check, fix="harness conda")
