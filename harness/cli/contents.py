"""inspect, rebuild, export: what an image says of itself, whether it can be made again, and one file to take away."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from harness.catalog.catalog import LAYER, MANIFEST, WHOLE, Catalog
from harness.catalog.export import export_image
from harness.cli.console import progress
from harness.cli.options import SiteOption, TutorialArgument, VariantOption
from harness.definition.tutorial_image import definition_key, tutorial_definition
from harness.errors import HarnessError, UserError
from harness.image.build import ImageBuilder
from harness.image.compare import differences
from harness.image.contents import ImageLock, read_lock, read_sbom
from harness.image.engine import find_engine
from harness.image.keys import trusted_keys
from harness.image.parts import join, read_reference, whole_content_digest
from harness.image.sif import content_digest
from harness.image.sign import SignatureError, verify
from harness.owner import sign_folder
from harness.project import Project, image_name, parse_variant
from harness.run.campaign import project_catalog
from harness.site import DEFAULT_SITE, load_site
from harness.tutorial import load_tutorial

ImageArgument = Annotated[str, typer.Argument(metavar="IMAGE", help="An image file, or a tutorial: its current image.")]
SHOWN_DIFFERENCES = 50


def register(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command("inspect")(inspect)
    app.command("rebuild")(rebuild)
    app.command("export")(export)


def inspect(
    image: ImageArgument,
    variant: VariantOption = "cpu",
    site: SiteOption = DEFAULT_SITE,
    packages: Annotated[bool, typer.Option("--packages", help="List every package.")] = False,
) -> None:
    """Show who signed an image, what it was made from, and what is in it. Exit code 1 where nobody trusted signed it.

    Examples: harness inspect 2; harness inspect tutorial2.sif --packages
    """
    project = Project.find()
    catalog = project_catalog(project, site)
    path = find_image(project, catalog, image, variant)
    try:
        signature = f"good, {verify(find_engine(), path, trusted_keys(catalog.keys)).fingerprint}"
        trusted = True
    except SignatureError as error:
        signature, trusted = f"NOT TRUSTED: {error.what}", False
    lock, sbom = read_lock(path), read_sbom(path)
    contents = [p for p in sbom["packages"] if "externalRefs" in p]
    rows = {
        "image": f"{lock.name} ({path})",
        "signature": signature,
        "content": f"sha256 {whole_content_digest(path)} (whoever signs it)",
        **_stack_row(catalog, path),
        "definition": f"sha256 {lock.definition_sha256}",
        "tutorial": f"{lock.tutorial}, stack {lock.stack}, variant {lock.variant}",
        "base": f"{lock.base['reference']} {lock.base['digest']} ({lock.base['origin']})",
        "made with": ", ".join(f"{name} {version}" for name, version in lock.tools.items()),
        "packages": ", ".join(f"{_count(contents, kind)} {kind}" for kind in ("deb", "pypi")),
    }
    for name, value in rows.items():
        typer.echo(f"{name:<11} {value}")
    if packages:
        for package in contents:
            typer.echo(package["externalRefs"][0]["referenceLocator"])
    if not trusted:
        raise typer.Exit(1)


def rebuild(
    image: ImageArgument,
    variant: VariantOption = "cpu",
    site: SiteOption = DEFAULT_SITE,
    check: Annotated[bool, typer.Option("--verify", help="Compare with the image, and publish nothing.")] = False,
) -> None:
    """Build an image again, from nothing cached but its base, and compare. Exit code 1 where a byte differs.

    Example: harness rebuild --verify 2
    """
    if not check:
        raise UserError("rebuild compares and publishes nothing", fix="add --verify; to publish: harness build --force")
    project = Project.find()
    catalog = project_catalog(project, site)
    path = find_image(project, catalog, image, variant)
    lock = read_lock(path)
    with progress("rebuilding") as report, tempfile.TemporaryDirectory(prefix="rebuild-", dir=_made(project)) as folder:
        fresh = Path(folder)
        sign_folder(fresh)
        if (project.cache / "base").is_dir():
            (fresh / "base").symlink_to(project.cache.absolute() / "base")
        builder = ImageBuilder(project, load_site(project, site), find_engine(), fresh, report)
        again = _build_again(project, builder, lock, fresh)
        equal = content_digest(again) == whole_content_digest(path)
        lines = [] if equal else differences(_whole(catalog, path, fresh), again, fresh)
    for line in lines[:SHOWN_DIFFERENCES]:
        typer.echo(line)
    if len(lines) > SHOWN_DIFFERENCES:
        typer.echo(f"… and {len(lines) - SHOWN_DIFFERENCES} more")
    if not equal:
        raise HarnessError(f"building {lock.name} again gave another image", where=str(path))
    typer.echo(f"{lock.name}: the same, byte for byte but for the signature")


def export(
    tutorial: TutorialArgument,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The file to write.")] = None,
    variant: VariantOption = "cpu",
    site: SiteOption = DEFAULT_SITE,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write the current image of a tutorial as one self-contained signed file: the one that was built and tested.

    Example: harness export 2 -o tutorial2.sif && apptainer run tutorial2.sif train
    """
    project = Project.find()
    catalog = project_catalog(project, site)
    name = image_name(load_tutorial(project, tutorial).stem, parse_variant(variant))
    manifest = catalog.current(name)
    if manifest is None:
        raise UserError(f"there is no image '{name}'", fix=f"make build-sif TUT={tutorial} VARIANT={variant}")
    target = output or Path(f"{name}.sif")
    signer = export_image(catalog, manifest, target, find_engine(), force=force)
    typer.echo(f"{target}: {name}, {manifest.bytes / 1e6:.0f} MB, sha256 {manifest.whole_sha256}, signed by {signer}")


def find_image(project: Project, catalog: Catalog, image: str, variant: str) -> Path:
    """The file that a person named, or the current image of the tutorial that a person named.

    Raises:
        UserError: neither.
    """
    if Path(image).is_file():
        return Path(image).resolve()
    if (Path(image) / MANIFEST).is_file():
        return next(file for file in (Path(image).resolve() / name for name in (LAYER, WHOLE)) if file.exists())
    if "/" in image or image.endswith(".sif"):
        raise UserError("there is no such image", where=image)
    tutorial = load_tutorial(project, image)
    manifest = catalog.current(image_name(tutorial.stem, parse_variant(variant)))
    if manifest is None:
        raise UserError(f"tutorial {tutorial.id} has no image", fix=f"make build-sif TUT={image} VARIANT={variant}")
    return catalog.files(manifest).main


def _whole(catalog: Catalog, path: Path, folder: Path) -> Path:
    """The self-contained image of a file: itself, or for a layer the one it was split from, written into ``folder``."""
    reference = read_reference(path)
    if reference is None:
        return path
    target = folder / "published.sif"
    join(path, catalog.stack_file(reference.stack, reference.stack_sha256), target)
    return target


def _stack_row(catalog: Catalog, path: Path) -> dict[str, str]:
    reference = read_reference(path)
    if reference is None:
        return {}
    return {"on": f"{reference.stack} ({catalog.stack_file(reference.stack, reference.stack_sha256)})"}


def _build_again(project: Project, builder: ImageBuilder, lock: ImageLock, folder: Path) -> Path:
    tutorial, variant = load_tutorial(project, lock.tutorial), parse_variant(lock.variant)
    key = definition_key(project, tutorial_definition(project, tutorial, variant))
    if key != lock.definition_sha256:
        raise UserError(
            f"the checkout holds another definition of {lock.name} than the one it was built from",
            fix="check out the commit that the image's manifest names in git_revision",
        )
    target = folder / f"{lock.name}.sif"
    builder.build(tutorial, variant, target)
    return target


def _made(project: Project) -> Path:
    folder = project.cache / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _count(packages: list[dict[str, object]], kind: str) -> int:
    return sum(f"pkg:{kind}/" in str(package["externalRefs"]) for package in packages)
