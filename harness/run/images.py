"""The image a run is to use, and the one it must have used."""

from __future__ import annotations

from harness.catalog.catalog import Catalog
from harness.catalog.manifest import Manifest
from harness.errors import UserError
from harness.project import Project, Variant, image_name, parse_variant
from harness.run.evidence import ExpectedImage
from harness.run.paths import RunPaths
from harness.run.records import read_record
from harness.site import load_site
from harness.tutorial import Tutorial, load_tutorial


def current_image(project: Project, tutorial: Tutorial, variant: Variant, site: str) -> Manifest:
    """The published image of a tutorial, if it is the checkout's.

    Raises:
        UserError: none, or one built from another definition. HarnessError: a broken manifest.
    """
    name = image_name(tutorial.stem, variant)
    fix = f"make build-sif TUT={tutorial.id} VARIANT={variant}"
    image = project_catalog(project, site).current(name)
    if image is None:
        raise UserError(f"there is no image '{name}'", where=str(project_catalog(project, site).folder(name)), fix=fix)
    if image.definition_sha256 != _definition_key(project, tutorial, variant):
        raise UserError(f"the image '{name}' was built from another definition than the checkout's", fix=fix)
    return image


def project_catalog(project: Project, site: str) -> Catalog:
    """The catalog of a site."""
    return Catalog(project.catalog(load_site(project, site).storage.catalog))


def expected_image(project: Project, run: RunPaths) -> ExpectedImage | None:
    """The image the run must have used: the one it was submitted with, else the published one it names.

    A published image has two digests: that of its layer, which names the stack, and that of the self-contained file
    that `harness export` makes of both. A run in either used the image.

    A run that somebody started by hand is held against the checkout's definition: an edited program in an image that
    was not built again is the classic false pass. None where the catalog knows no such image.
    """
    facts = read_record(run).facts
    if facts.get("environment") == "conda":
        return None
    if run.ledger.is_file() and "image_sha256" in facts and "definition_sha256" in facts:
        return ExpectedImage(str(facts["image_sha256"]), str(facts["definition_sha256"]))
    if "tutorial" not in facts:
        return None
    tutorial = load_tutorial(project, str(facts["tutorial"]))
    variant = parse_variant(str(facts.get("variant")))
    catalog = project_catalog(project, str(facts.get("site") or "default"))
    name = image_name(tutorial.stem, variant)
    sha256 = str(facts.get("image_sha256") or "")
    named = catalog.find(name, sha256)
    known = named or catalog.current(name)
    if known is None:
        return None
    return ExpectedImage(sha256 if named else known.sha256, _definition_key(project, tutorial, variant))


def _definition_key(project: Project, tutorial: Tutorial, variant: Variant) -> str:
    # The converter is a third of this command's start, and judging runs that we submitted does without it.
    from harness.definition.tutorial_image import definition_key, tutorial_definition

    return definition_key(project, tutorial_definition(project, tutorial, variant))
