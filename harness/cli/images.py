"""list, convert, defs: tutorials and their definitions."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from harness.cli.base_lookup import BaseLookup
from harness.cli.console import print_table
from harness.cli.generated import write_or_check
from harness.cli.options import SiteOption
from harness.definition.context import Context
from harness.definition.convert import convert as convert_instructions
from harness.definition.dockerfile import read_dockerfile
from harness.definition.metadata import HEALTH_LABEL
from harness.definition.model import Definition
from harness.definition.tutorial_image import tutorial_definition
from harness.definition.writer import write_definition
from harness.errors import HarnessError, UserError
from harness.fidelity.verify import verify_definition
from harness.files import write_whole
from harness.project import Project, image_name
from harness.run.campaign import project_catalog
from harness.site import DEFAULT_SITE, load_site
from harness.tutorial import load_tutorial, tutorial_ids


def register(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command("list")(list_tutorials)
    app.command("convert")(convert)
    app.command("defs")(defs)


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
            try:
                current = catalog.current(image_name(tutorial.stem, variant))
                state = f"{current.bytes / 1e6:.0f} MB" if current else "not built"
            except HarnessError:
                state = "broken: build it again"
            images.append(f"{variant} ({state})")
        alias = tutorial.stem if tutorial.stem != tutorial.id else ""
        table.add_row(tutorial.id, alias, f"{tutorial.title.en} / {tutorial.title.zh}", ", ".join(images))

    print_table(table)
    for name in catalog.names():
        try:
            files = catalog.current_files(name)
        except HarnessError:
            continue  # its row says that it is broken
        if files is not None:
            words = shlex.join(_from_here(word) for word in files.engine_arguments)
            typer.echo(f"\nby hand, here {name}: apptainer run {words} STEP")
            break


def _from_here(word: str) -> str:
    """A path as a person in this folder would type it."""
    return word.removeprefix(f"{Path.cwd()}/")


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
    healthcheck_as_test: Annotated[
        bool,
        typer.Option(
            "--healthcheck-as-test", help="HEALTHCHECK becomes %test too: for a check that needs no running service."
        ),
    ] = False,
    base_config: Annotated[
        list[str] | None,
        typer.Option(
            "--base-config",
            metavar="[IMAGE=]FILE",
            help="What a base says, as `skopeo inspect --config` prints it; default: its registry is asked.",
        ),
    ] = None,
    site: SiteOption = DEFAULT_SITE,
) -> None:
    """Convert a Dockerfile to an Apptainer definition file; what a definition cannot express is refused.

    Examples: harness convert containers/pytorch/Dockerfile.cpu -o pytorch.def; harness convert --verify Dockerfile
    """

    def note(text: str) -> None:
        typer.echo(f"note: {dockerfile}: {text}", err=True)

    if output is not None and (output.is_dir() or not output.parent.is_dir()):
        what = "is a folder" if output.is_dir() else "its folder is not there"
        raise UserError(f"--output: {what}", where=str(output), fix="name a file in a folder that is there")
    prefix = context if context is not None else str(dockerfile.parent)
    folder = Path(prefix)
    instructions = read_dockerfile(dockerfile)
    found = Context.of(folder, prefix, dockerfile=dockerfile)
    bases = BaseLookup.of(base_config or [], _registry_mirrors(site), note)
    definition = convert_instructions(instructions, found, bases=bases, healthcheck_as_test=healthcheck_as_test)
    bases.check()
    if context is not None and not folder.is_dir() and not _copies(definition):
        # Where it is copied from, the definition may be built on another machine that has it.
        what = "the build context is no folder, and nothing is copied from it"
        raise UserError(f"--context: {what}", where=context, fix="name the folder, or leave --context out")
    labels = dict(label for layer in definition.layers for label in layer.labels)
    if not healthcheck_as_test and labels.get(HEALTH_LABEL, "NONE") != "NONE":
        note("HEALTHCHECK is a label of the image; --healthcheck-as-test makes it the definition's %test as well")
    if verify:
        verdict = verify_definition(definition, dockerfile, folder, prefix, _cache_outside(folder))
        for line in verdict.details:
            typer.echo(line, err=True)
        typer.echo(f"{dockerfile}: {verdict.outcome}", err=True)
        if verdict.outcome != "identical":
            raise typer.Exit(1)
    text = write_definition(definition)
    if output is None:
        typer.echo(text, nl=False)
    else:
        try:
            if output.exists() and not output.is_file():
                output.write_text(text, encoding="utf-8")  # a pipe or a device, such as /dev/stdout
            else:
                write_whole(output.resolve(), text)  # of a link: what it leads to
        except OSError as error:
            raise UserError(f"--output: {error.strerror}", where=str(output)) from error


def _copies(definition: Definition) -> bool:
    """Does a definition copy anything from the context?"""
    layers = [*definition.layers, *(layer for stage in definition.stages for layer in stage.layers)]
    return any(copied.stage is None for layer in layers for copied in layer.files)


def _registry_mirrors(site: str) -> list[str]:
    """The site's mirrors; a Dockerfile outside of a checkout has no site."""
    try:
        project = Project.find()
    except UserError:
        if site != DEFAULT_SITE:
            raise
        return []
    return load_site(project, site).mirrors.registry


def _cache_outside(context: Path) -> Path:
    """The cache to build with; where the usual one would be in the build context, and be copied, the user's own."""
    given = os.environ.get("HARNESS_CACHE")
    cache = Path(given or "cache")
    if given or not cache.resolve().is_relative_to(context.resolve()):
        return cache
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tutorial-harness"


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
