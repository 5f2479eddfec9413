"""catalog: what is published, is it whole, going back, and removing what nobody needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.catalog.catalog import Catalog, build_again
from harness.catalog.check import problems
from harness.catalog.garbage import collect
from harness.catalog.garbage import rollback as roll_back
from harness.cli.console import console
from harness.cli.options import SiteOption, VariantOption
from harness.errors import HarnessError, UserError
from harness.image.engine import find_engine
from harness.project import Project, image_name, parse_variant
from harness.run.campaign import images_in_use, project_catalog
from harness.site import DEFAULT_SITE
from harness.tutorial import load_tutorial

KEPT = 2

app = typer.Typer(help="Published images: list, verify, roll back, remove old ones.", no_args_is_help=True)
NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="An image as `harness catalog list` names it, or a tutorial.")
]


def register(commands: typer.Typer) -> None:
    """Add this family as one command."""
    commands.add_typer(app, name="catalog")


@app.command("list")
def list_images(site: SiteOption = DEFAULT_SITE) -> None:
    """List all published images, newest first, and the stacks they share. The current one is marked with a star.

    Example: harness catalog list
    """
    catalog = project_catalog(Project.find(), site)
    needed: dict[str, int] = {}
    width = max(map(len, catalog.names()), default=0)
    for name in catalog.names():
        current = catalog.current_digest(name)
        for m in catalog.versions(name):
            stack = f"{m.stack_image.name} {m.stack_image.sha256[:12]}" if m.stack_image else ""
            if m.stack_image:
                needed[m.stack_image.sha256] = needed.get(m.stack_image.sha256, 0) + 1
            mark = "*" if current == m.sha256 else ""
            size = f"{m.own_bytes / 1e6:.1f} MB"
            typer.echo(f"{mark:1} {name:<{width}}  {m.sha256[:12]}  {m.built_at}  {size:>9}  {stack}".rstrip())
        for sha256, error in catalog.unreadable(name).items():
            mark = "*" if current == sha256 else ""
            typer.echo(f"{mark:1} {name:<{width}}  {sha256[:12]}  broken: {error}")
        if current is not None and not catalog.version(name, current).is_dir():
            typer.echo(f"* {name:<{width}}  {current[:12]}  gone; {build_again(name)}")
    for path in sorted(catalog.stacks.glob("*/*.sif")):
        users = needed.get(path.stem, 0)
        typer.echo(f"stack {path.parent.name} {path.stem[:12]}: {path.stat().st_size / 1e6:.0f} MB, {users} images")


@app.command()
def verify(site: SiteOption = DEFAULT_SITE) -> None:
    """Read all that is published: content, signatures, whether the parts belong together. Exit code 1 if not.

    Example: harness catalog verify
    """
    catalog, engine = project_catalog(Project.find(), site), find_engine()
    seen: dict[Path, str | None] = {}
    found = 0
    for name in catalog.names():
        lines = list(problems(catalog, name, engine, seen))
        found += len(lines)
        for line in lines:
            typer.echo(f"{name}: {line}")
        if not lines:
            typer.echo(f"{name}: ok")
    if found:
        raise HarnessError(f"{found} problems", where=str(catalog.root))


@app.command()
def rollback(
    name: NameArgument,
    to: Annotated[str | None, typer.Option("--to", metavar="SHA256", help="This image; a beginning will do.")] = None,
    variant: VariantOption = "cpu",
    site: SiteOption = DEFAULT_SITE,
) -> None:
    """Make the image before the current one current again. The next build publishes the checkout's, as always.

    Examples: harness catalog rollback 2; harness catalog rollback tutorial2.cpu --to 5930c76b
    """
    project = Project.find()
    catalog = project_catalog(project, site)
    image = _image_name(project, catalog, name, variant)
    manifest = roll_back(catalog, image, _say, to)
    typer.echo(f"{image}: {manifest.sha256[:12]}, built {manifest.built_at}, is current")


@app.command()
def gc(
    keep: Annotated[int, typer.Option(min=1, help="Keep this many images of each name, the newest.")] = KEPT,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    site: SiteOption = DEFAULT_SITE,
) -> None:
    """Remove old images, and stacks that no image needs. Current images, and those of unfinished runs here, stay.

    Example: harness catalog gc --keep 3 --dry-run
    """
    project = Project.find()
    catalog = project_catalog(project, site)
    freed = 0
    for removed in collect(catalog, images_in_use(project), _say, keep=keep, remove=not dry_run):
        freed += removed.bytes
        typer.echo(removed.path)
    typer.echo(f"{freed / 1e6:.1f} MB {'would be ' if dry_run else ''}freed")


def _image_name(project: Project, catalog: Catalog, name: str, variant: str) -> str:
    if name in catalog.names():
        return name
    try:
        return image_name(load_tutorial(project, name).stem, parse_variant(variant))
    except UserError as error:
        names = ", ".join(catalog.names()) or "none"
        raise UserError(f"there is no image '{name}'", where=str(catalog.root), fix=f"published: {names}") from error


def _say(line: str) -> None:
    console().print(line, markup=False)
