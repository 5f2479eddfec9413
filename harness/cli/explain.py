"""explain: what a build would do, and which line or file is the reason."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from harness.catalog.fresh import FreshnessCheck
from harness.cli.build import DEFAULT_COMPRESSION, CompressionOption, remembered_digests, site_catalog
from harness.cli.options import SiteOption, TutorialsArgument, VariantOption
from harness.definition.tutorial_image import Definitions
from harness.errors import HarnessError
from harness.image.compression import Compression, parse_compression
from harness.image.contents import tool_versions
from harness.image.driver import BASE_ARGUMENT
from harness.image.engine import find_engine
from harness.image.explain import StageNote, explain_layer, explain_stages
from harness.image.stages import StageStore, keyed_tools, layer_parts, plan
from harness.project import Project, Variant, image_name, parse_variant
from harness.site import DEFAULT_SITE
from harness.tutorial import Tutorial, load_tutorial, tutorial_ids


@dataclass(frozen=True)
class ImageNote:
    """What a build of one tutorial would do.

    Attributes:
        reasons: why the published image is not what is wanted; none: nothing would be done.
        layer: what moved in the tutorial's own layer.
    """

    name: str
    stack: str
    is_up_to_date: bool
    reasons: tuple[str, ...]
    stages: tuple[StageNote, ...]
    layer: tuple[str, ...]


def register(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command("explain")(explain)


def explain(
    tutorials: TutorialsArgument = None,
    variant: VariantOption = "cpu",
    site: SiteOption = DEFAULT_SITE,
    compression: CompressionOption = DEFAULT_COMPRESSION,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say which stages `harness build` would build, and which line or file moved their keys. Builds nothing.

    The base image is taken to be the one of the last build; no registry is asked.

    Examples: harness explain 6 --variant cpu; harness explain --json
    """
    project, packing, one_variant = Project.find(), parse_compression(compression), parse_variant(variant)
    loaded = [load_tutorial(project, name) for name in tutorials or tutorial_ids(project)]
    with remembered_digests(project) as digest:
        definitions = Definitions(project, digest)
        check = FreshnessCheck(site_catalog(project, site), definitions, packing, digest)
        tools = keyed_tools(tool_versions(find_engine()))
        notes = [
            _note(definitions, check, tools, t, one_variant, packing) for t in loaded if one_variant in t.resources
        ]
    if as_json:
        typer.echo(json.dumps([asdict(note) for note in notes], indent=1, ensure_ascii=False))
        return
    for note in notes:
        for line in _lines(note):
            typer.echo(line)


def _note(
    definitions: Definitions,
    check: FreshnessCheck,
    tools: dict[str, str],
    tutorial: Tutorial,
    variant: Variant,
    compression: Compression,
) -> ImageNote:
    project, name = definitions.project, image_name(tutorial.stem, variant)
    store, stack = StageStore(project.cache / "stages"), f"{tutorial.stack}.{variant}"
    definition = definitions.stack(tutorial.stack, variant)[1]
    reference = dict(definition.arguments).get(BASE_ARGUMENT, definition.base)
    known = next((r.base_digest for r in store.records(stack) if r.reference == reference), "not known yet")
    chain = plan(project, definition, known, tools, compression, definitions.digest)
    try:
        found = check.of(tutorial, variant)
        reasons, manifest = found.reasons, found.manifest
    except HarnessError as error:
        reasons, manifest = (str(error),), None
    layer: list[str] = []
    if reasons and manifest is not None:
        now = layer_parts(definitions, tutorial, variant, chain[-1].key, compression)
        layer = explain_layer(store.layer(name, manifest.definition_sha256), now)
    return ImageNote(name, stack, not reasons, reasons, tuple(explain_stages(chain, store, stack)), tuple(layer))


def _lines(note: ImageNote) -> list[str]:
    if note.is_up_to_date:
        return [f"{note.name}: up to date, nothing would be done"]
    lines = [f"{note.name}: would be built: {'; '.join(note.reasons)}", f"  stack {note.stack}"]
    for number, stage in enumerate(note.stages, 1):
        lines.append(f"    stage {number} of {len(note.stages)}  {stage.state:<7} {stage.title}")
        lines += [f"        {line}" for line in stage.moved]
    lines.append("  layer             build")
    lines += [f"        {line}" for line in note.layer]
    return lines
