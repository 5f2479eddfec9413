"""list, convert, defs, build: from tutorials to images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from harness.catalog.builder import CatalogBuilder
from harness.catalog.catalog import Manifest
from harness.cli.console import progress
from harness.cli.generated import write_or_check
from harness.cli.options import SiteOption, TutorialsArgument, VariantOption
from harness.definition.context import Context
from harness.definition.convert import convert as convert_instructions
from harness.definition.dockerfile import read_dockerfile
from harness.definition.tutorial_image import tutorial_definition
from harness.definition.writer import write_definition
from harness.errors import UserError
from harness.fidelity.verify import verify_dockerfile
from harness.image.build import ImageBuilder
from harness.image.engine import find_engine
from harness.project import Project, Variant, image_name, parse_variant
from harness.run.campaign import project_catalog
from harness.site import DEFAULT_SITE, load_site
from harness.stack import load_stack
from harness.tutorial import Tutorial, load_tutorial, tutorial_ids


def register(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command("list")(list_tutorials)
    app.command("convert")(convert)
    app.command("defs")(defs)
    app.command("build")(build)


def list_tutorials(site: SiteOption = DEFAULT_SITE) -> None:
    """List the tutorials with their images.

    Example: harness list
    """
    project = Project.find()
    catalog = project_catalog(project, site)
    table = Table("id", "also called", "title", "variants (size of the published image)", box=None, pad_edge=False)
    for tutorial_id in tutorial_ids(project):
        tutorial = load_tutorial(project, tutorial_id)
        images = []
        for variant in tutorial.resources:
            current = catalog.current(image_name(tutorial.stem, variant))
            images.append(f"{variant} ({current.bytes / 1e6:.0f} MB)" if current else f"{variant} (not built)")
        alias = tutorial.stem if tutorial.stem != tutorial.id else ""
        table.add_row(tutorial.id, alias, f"{tutorial.title.en} / {tutorial.title.zh}", ", ".join(images))

    Console(highlight=False, soft_wrap=True).print(table)


def convert(
    dockerfile: Annotated[Path, typer.Argument(help="The Dockerfile to convert.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write here instead of standard output.")
    ] = None,
    context: Annotated[
        str | None,
        typer.Option(
            help="Build context, relative to where `apptainer build` will run; default: the Dockerfile's folder."
        ),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Also build it with Docker and with Apptainer, and compare (root).")
    ] = False,
) -> None:
    """Convert a Dockerfile to an Apptainer definition file; what a definition cannot express is refused.

    Examples: harness convert containers/pytorch/Dockerfile.cpu -o pytorch.def; harness convert --verify Dockerfile
    """
    prefix = context if context is not None else str(dockerfile.parent)
    found = Context.of(dockerfile.parent if context is None else Path(context), prefix, dockerfile=dockerfile)
    definition = convert_instructions(read_dockerfile(dockerfile), found)
    if verify:
        verdict = verify_dockerfile(dockerfile, Path(os.environ.get("HARNESS_CACHE") or "cache"))
        for line in verdict.details:
            typer.echo(line, err=True)
        typer.echo(f"{dockerfile}: {verdict.outcome}", err=True)
        if verdict.outcome != "identical":
            raise typer.Exit(1)
    text = write_definition(definition)
    if output is None:
        typer.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")


def defs(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 where a file is not up to date.")
    ] = False,
) -> None:
    """Write defs/*.def for every tutorial and variant.

    Example: harness defs --check
    """
    project = Project.find()
    files = {}
    for tutorial_id in tutorial_ids(project):
        tutorial = load_tutorial(project, tutorial_id)
        for variant in tutorial.resources:
            path = project.definition_file(tutorial.stem, variant)
            files[path] = write_definition(tutorial_definition(project, tutorial, variant))
    write_or_check(files, project.definitions.glob("*.def"), check=check, fix="make defs")


def build(
    tutorials: TutorialsArgument = None,
    variant: VariantOption = "cpu",
    site: SiteOption = DEFAULT_SITE,
    force: Annotated[bool, typer.Option("--force", help="Build again although nothing changed.")] = False,
    overlay: Annotated[
        bool, typer.Option(help="Add the tutorial's layer as a partition; without: one squashfs, as plain Apptainer.")
    ] = True,
    stacks: Annotated[
        list[str] | None, typer.Option("--stack", help="Build only this stack, into the cache; publishes nothing.")
    ] = None,
) -> None:
    """Build, test and publish images.

    Examples: harness build 2 --variant cpu; harness build (all tutorials); harness build --stack embedding
    """
    project = Project.find()
    if stacks:
        if tutorials:
            raise UserError("--stack builds no tutorials", fix="name either tutorials or stacks")
        for stage in build_stacks(project, stacks, parse_variant(variant), site):
            typer.echo(stage)
        return
    loaded = [load_tutorial(project, name) for name in tutorials or tutorial_ids(project)]
    catalog = project_catalog(project, site)
    for manifest in build_images(project, loaded, parse_variant(variant), site, force=force, overlay=overlay):
        typer.echo(catalog.current_link(manifest.name))


def build_stacks(project: Project, names: Sequence[str], variant: Variant, site: str) -> list[Path]:
    """Bring the stages of stacks up to date, with progress for a person; see :meth:`ImageBuilder.build_stack`."""
    loaded = [load_stack(project, name) for name in names]
    engine = find_engine()
    with progress("building") as report:
        images = ImageBuilder(project, load_site(project, site), engine, project.cache, report)
        return [images.build_stack(stack, variant) for stack in loaded]


def build_images(
    project: Project,
    tutorials: Sequence[Tutorial],
    variant: Variant,
    site: str,
    *,
    force: bool = False,
    overlay: bool = True,
) -> list[Manifest]:
    """Bring the images of ``tutorials`` up to date, with progress for a person; see :class:`ImageBuilder`."""
    engine = find_engine()
    with progress("building") as report:
        images = ImageBuilder(project, load_site(project, site), engine, project.cache, report, overlay)
        builder = CatalogBuilder(images, project_catalog(project, site))
        return [builder.build(tutorial, variant, force=force) for tutorial in tutorials]
