"""inspect, rebuild, export: what an image says of itself, whether it can be made again, and one file to take away."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from harness import __version__
from harness.catalog.catalog import LAYER, MANIFEST, WHOLE, Catalog, ImageFiles
from harness.catalog.export import export_image
from harness.cli.console import progress
from harness.cli.options import SiteOption, TutorialArgument, VariantOption
from harness.definition.tutorial_image import definition_key, tutorial_definition
from harness.errors import HarnessError, UserError
from harness.image.build import ImageBuilder
from harness.image.compare import differences
from harness.image.compression import parse_compression
from harness.image.contents import ImageLock, read_lock, read_sbom
from harness.image.engine import find_engine
from harness.image.keys import trusted_keys
from harness.image.made_from import changed_files, find_revision, write_project
from harness.image.overlay import has_layer
from harness.image.parts import join, read_reference, whole_content_digest
from harness.image.sif import content_digest, is_sif
from harness.image.sign import SignatureError, verify
from harness.image.via_docker import docker_engine
from harness.lock.diff import Contents, compare
from harness.lock.drift import image_drift, installed_in
from harness.owner import sign_folder, signed_prefix
from harness.project import Project, image_name, parse_variant
from harness.run.campaign import project_catalog
from harness.site import DEFAULT_SITE, load_site
from harness.stack_lock import summary, write_lock_text
from harness.tutorial import load_tutorial

ImageArgument = Annotated[str, typer.Argument(metavar="IMAGE", help="An image file, or a tutorial: its current image.")]
SHOWN_DIFFERENCES = 50
SHOWN_FILES = 5


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
    lock_text: Annotated[
        bool, typer.Option("--lock", help="Print the stack's lock that is inside, as a file.")
    ] = False,
    bill: Annotated[bool, typer.Option("--sbom", help="Print the bill of materials (SPDX 2.3 JSON).")] = False,
) -> None:
    """Show who signed an image, what it was made from, and what is in it. Exit code 1 where nobody trusted signed it.

    Examples: harness inspect 2; harness inspect tutorial2.sif --packages; harness inspect 2 --sbom >sbom.spdx.json
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
    if lock_text or bill:
        typer.echo(_locked_text(lock, path) if lock_text else json.dumps(sbom, ensure_ascii=False, indent=1))
        raise typer.Exit(0 if trusted else 1)
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
        "locked": summary(lock.stack_lock) if lock.stack_lock else "no: its stack was not locked when it was built",
        "drift": _drift(lock, path),
        "made from": f"{len(lock.files)} files, all inside" if lock.files else "files that are not inside",
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
    """Build an image again from the files and the lock inside it, with nothing cached but its base, and compare.

    Exit code 1 where a byte differs.

    Example: harness rebuild --verify 2
    """
    if not check:
        raise UserError("rebuild compares and publishes nothing", fix="add --verify; to publish: harness build --force")
    project = Project.find()
    catalog = project_catalog(project, site)
    path = find_image(project, catalog, image, variant)
    lock = read_lock(path)
    with contextlib.ExitStack() as stack:
        docker = stack.enter_context(docker_engine()) if "docker" in lock.tools else None  # the same way again
        report = stack.enter_context(progress("rebuilding"))
        fresh = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix=signed_prefix("rebuild-"), dir=_made(project)))
        )
        sign_folder(fresh)
        if (project.cache / "base").is_dir():
            (fresh / "base").symlink_to(project.cache.absolute() / "base")
        source = _project_of(project, lock, path, fresh)
        again = fresh / f"{lock.name}.sif"
        facts, packing = load_site(project, site), parse_compression(lock.compression)
        builder = ImageBuilder(
            source, facts, find_engine(), fresh, report, has_layer(path), compression=packing, docker=docker
        )
        builder.build(load_tutorial(source, lock.tutorial), parse_variant(lock.variant), again)
        equal = content_digest(again) == whole_content_digest(path)
        lines = [] if equal else _explained(_whole(catalog, path, fresh), again, fresh)
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


def _project_of(project: Project, lock: ImageLock, image: Path, folder: Path) -> Project:
    """The checkout that an image was made from, as far as it is inside; says how today's checkout differs from it.

    Raises:
        UserError: from those files this version of the harness makes another definition, or there are none.
    """
    if not lock.files:
        raise UserError("the files it was made from are not inside", where=str(image), fix="it is of an older version")
    changed = changed_files(lock.files, project.root)
    revision = find_revision(lock.files, project.root)
    origin = f"git checkout {revision}" if revision else "no commit here holds the files that it was made from"
    if changed:
        shown = ", ".join(changed[:SHOWN_FILES]) + (
            f" and {len(changed) - SHOWN_FILES} more" if changed[SHOWN_FILES:] else ""
        )
        typer.echo(f"note: the checkout is not what {lock.name} was made from ({shown}); {origin}", err=True)
    inside = write_project(lock.files, folder / "checkout")
    tutorial, variant = load_tutorial(inside, lock.tutorial), parse_variant(lock.variant)
    if definition_key(inside, tutorial_definition(inside, tutorial, variant)) != lock.definition_sha256:
        made_by = lock.tools.get("tutorial-harness", "unknown")
        raise UserError(
            f"harness {__version__} makes another definition from the files inside than harness {made_by} did",
            where=str(image),
            fix=f"rebuild with the harness of that time: {origin}",
        )
    return inside


def _explained(path: Path, again: Path, work: Path) -> list[str]:
    """Differences of an image and its rebuild: packages first, for they explain the files."""
    one, other = (Contents.of_image(read_lock(image), installed_in(image)) for image in (path, again))
    packages = [
        f"{group}: {sign} {name} {versions}"
        for group, difference in compare(one, other).items()
        for sign, name, versions in difference.lines()
    ]
    return [*packages, *differences(path, again, work)]


def find_image(project: Project, catalog: Catalog, image: str, variant: str) -> Path:
    """The file that a person named, or the current image of the tutorial that a person named.

    Raises:
        UserError: neither.
    """
    if Path(image).is_file():
        if not is_sif(Path(image)):
            raise UserError("this is no SIF image", where=image, fix="name an image file (*.sif) or a tutorial")
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


def image_files(catalog: Catalog, path: Path) -> ImageFiles:
    """A file with, where it is a layer, the stack that it needs."""
    reference = read_reference(path)
    return ImageFiles(path, catalog.stack_file(reference.stack, reference.stack_sha256) if reference else None)


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


def _made(project: Project) -> Path:
    folder = project.cache / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _locked_text(lock: ImageLock, path: Path) -> str:
    if lock.stack_lock is None:
        raise UserError("its stack was not locked when it was built", where=str(path), fix=f"harness lock {lock.stack}")
    return write_lock_text(lock.stack_lock).rstrip("\n")


def _drift(lock: ImageLock, path: Path) -> str:
    if lock.stack_lock is None:
        return "unknown without a lock"
    lines = image_drift(lock.stack_lock, path)
    return (
        "; ".join(line.what for line in lines[:SHOWN_FILES]) + (" …" if lines[SHOWN_FILES:] else "")
        if lines
        else "none"
    )


def _count(packages: list[dict[str, object]], kind: str) -> int:
    return sum(f"pkg:{kind}/" in str(package["externalRefs"]) for package in packages)
