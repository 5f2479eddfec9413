"""submit: hand runs to the scheduler and return."""

from __future__ import annotations

import os
from typing import Annotated, Literal

import typer

from harness.cli.options import PresetOption, SiteOption, TutorialsArgument, VariantOption
from harness.job.size import Size
from harness.project import Environment, Project, parse_preset, parse_variant
from harness.run.campaign import RunRequest, submit_runs
from harness.run.given import read_given
from harness.run.needs import replaced
from harness.site import DEFAULT_SITE, load_site
from harness.tutorial import load_tutorial, tutorial_ids


def register(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command()(submit)


def submit(
    tutorials: TutorialsArgument = None,
    variant: VariantOption = "cpu",
    preset: PresetOption = "full",
    site: SiteOption = DEFAULT_SITE,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="An option for sbatch, such as --gres=shard:16.")
    ] = None,
    given: Annotated[
        list[str] | None, typer.Option("--set", help="A parameter of every step, such as weights=random.")
    ] = None,
    conda: Annotated[
        bool, typer.Option("--conda", help="In conda environments of the stacks, without images: docs/conda.md.")
    ] = False,
    pack: Annotated[
        bool, typer.Option("--pack", help="One allocation in which the runs take turns, instead of a job array.")
    ] = False,
    nodes: Annotated[
        int | None, typer.Option("--nodes", min=1, help="Nodes, of a tutorial that can share its work among more.")
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option("--processes", min=1, help="Processes on each node, likewise; on GPUs each has one of its own."),
    ] = None,
    repeat: Annotated[int, typer.Option("--repeat", min=1, max=100_000, help="So many runs of each.")] = 1,
) -> None:
    """Submit jobs and return; `harness wait` and `harness check` work later from any shell.

    Several tutorials that ask for the same resources become one job array.

    A training that was stopped goes on from its newest checkpoint with RUN_ID=<run-id> sbatch jobs/<its>.job.

    Examples: harness submit 2 --preset smoke; harness submit 2 --variant cuda -o --gres=shard:16;
    harness submit --pack --preset smoke; harness submit 2 --repeat 5;
    harness submit 6 --preset bench --set weights=random;
    harness submit mnist --variant cuda --processes 2 (two GPUs); harness submit mnist --nodes 2
    """
    project = Project.find()
    loaded = [load_tutorial(project, name) for name in tutorials or tutorial_ids(project)]
    environment: Environment = "conda" if conda else "apptainer"
    requests = [
        RunRequest(
            tutorial,
            parse_variant(chosen),
            parse_preset(size),
            read_given(tutorial, given or ()),
            environment=environment,
            size=Size(nodes, processes),
        )
        for tutorial in loaded
        for chosen in variant.split(",")
        for size in preset.split(",")
        for _ in range(repeat)
    ]
    profile = load_site(project, site)
    notes = [replaced(project, one.tutorial, one.preset, profile, os.environ, one.given) for one in requests[::repeat]]
    for note in dict.fromkeys(line for lines in notes for line in lines):
        typer.echo(f"note: {note}", err=True)
    how: Literal["array", "pack"] = "pack" if pack else "array"
    for run in submit_runs(project, requests, site, options=option or (), how=how):
        typer.echo(run.folder.relative_to(project.root))
