"""build: bring images up to date, one by one or as a whole set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer

from harness.catalog.catalog import Catalog
from harness.catalog.fresh import FreshnessCheck
from harness.catalog.manifest import Manifest
from harness.cli.console import progress
from harness.cli.options import SiteOption, TutorialsArgument, VariantOption
from harness.definition.tutorial_image import Definitions
from harness.errors import HarnessError, UserError
from harness.factory.graph import Graph, State, Task
from harness.image.compression import DEFAULT, Compression, parse_compression
from harness.image.digests import FileDigests
from harness.project import Project, Variant, image_name, parse_variant
from harness.site import DEFAULT_SITE, load_site
from harness.tutorial import Tutorial, load_tutorial, tutorial_ids

CompressionOption = Annotated[
    str, typer.Option("--compression", help="zstd:LEVEL (1 to 22), gzip or none.", envvar="COMPRESSION")
]
BUILDERS = ("apptainer", "docker", "slurm")
DEFAULT_COMPRESSION = "zstd:3"
DEFAULT_JOBS = 2


def register(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command("build")(build)


def build(
    tutorials: TutorialsArgument = None,
    variant: VariantOption = "cpu",
    site: SiteOption = DEFAULT_SITE,
    force: Annotated[bool, typer.Option("--force", help="Build again although nothing changed.")] = False,
    overlay: Annotated[
        bool, typer.Option(help="Add the tutorial's layer as a partition; without: one squashfs, as plain Apptainer.")
    ] = True,
    compression: CompressionOption = DEFAULT_COMPRESSION,
    stacks: Annotated[
        list[str] | None, typer.Option("--stack", help="Build only this stack, into the cache; publishes nothing.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All tutorials (or those named) as a graph: stacks once, then side by side.")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help=f"With --all: how many at a time ({DEFAULT_JOBS}).")
    ] = None,
    locked: Annotated[
        bool, typer.Option("--locked", help="Refuse whatever is not as the stack's lock says; see docs/locks.md.")
    ] = False,
    via: Annotated[
        str,
        typer.Option(
            "--via",
            help="Who builds the stacks: apptainer (their definitions) or docker (their Dockerfiles), both here; "
            "slurm: apptainer, all of it as batch jobs.",
            envvar="VIA",
        ),
    ] = "apptainer",
    refresh_base: Annotated[
        bool,
        typer.Option(
            "--refresh-base", help="Ask the registries for the base image again, whatever the cache holds; and build."
        ),
    ] = False,
) -> None:
    """Build, test and publish images. Of an image whose stack is there, only the tutorial's layer is built.

    Examples: harness build 2 --variant cpu; harness build (all tutorials); harness build --all --jobs 4;
    harness build --all --via slurm; harness build --stack embedding; harness build 2 --locked;
    harness build 6 --via docker; harness build --refresh-base
    """
    if via not in BUILDERS:
        raise UserError(f"nothing builds via '{via}'", fix=f"valid: {', '.join(BUILDERS)}")
    if stacks:
        given = {"--all": everything, "--jobs": jobs is not None, "--via slurm": via == "slurm"}
        _refuse_with_stack({**given, "--force": force, "--no-overlay": not overlay})
    elif jobs is not None and (not everything or via == "slurm"):
        reason = "batch jobs wait for the scheduler" if via == "slurm" else "without --all one is built after another"
        raise UserError(f"--jobs has no effect here: {reason}", fix="add --all, or leave out --jobs and --via slurm")
    force = force or refresh_base
    project, packing = Project.find(), parse_compression(compression)
    one_variant = parse_variant(variant)
    if stacks:
        if tutorials:
            raise UserError("--stack builds no tutorials", fix="name either tutorials or stacks")
        for stage in build_stacks(
            project, stacks, one_variant, site, packing, locked=locked, via=via, refresh_base=refresh_base
        ):
            typer.echo(stage)
        return
    loaded = [load_tutorial(project, name) for name in tutorials or tutorial_ids(project)]
    if everything or via == "slurm":
        same = ["--variant", one_variant, "--site", site, "--compression", compression]
        same += ["--force"] * force + ["--no-overlay"] * (not overlay) + ["--locked"] * locked
        same += ["--via", via] * (via == "docker")
        graph = set_graph(
            project, [t for t in loaded if one_variant in t.resources], one_variant, same, refresh_base=refresh_base
        )
        if not force and not locked and via != "docker":
            pass_over_fresh(project, loaded, one_variant, site, packing, graph, overlay=overlay)
        from harness.cli import building

        building.run_set(project, graph, site, jobs or DEFAULT_JOBS, via)
        return
    catalog = site_catalog(project, site)
    built = build_images(
        project,
        loaded,
        one_variant,
        site,
        force=force,
        overlay=overlay,
        compression=packing,
        locked=locked,
        via=via,
        refresh_base=refresh_base,
    )
    for manifest in built:
        typer.echo(catalog.current_link(manifest.name))


def _refuse_with_stack(given: Mapping[str, bool]) -> None:
    """Raises UserError where an option was given that means nothing for a stack alone."""
    names = " and ".join(name for name, is_given in given.items() if is_given)
    if not names:
        return
    # A stage is kept under the name of all it is made of: made again it would be the same one.
    instead = "--refresh-base takes a new base" if "--force" in names else "leave one of them out"
    raise UserError(f"{names}: not together with --stack, which builds stages here, one after the other", fix=instead)


def build_images(
    project: Project,
    tutorials: Sequence[Tutorial],
    variant: Variant,
    site: str,
    *,
    force: bool = False,
    overlay: bool = True,
    compression: Compression = DEFAULT,
    locked: bool = False,
    via: str = "apptainer",
    refresh_base: bool = False,
) -> list[Manifest]:
    """Bring the images of ``tutorials`` up to date, with progress for a person; see :class:`ImageBuilder`.

    Where nothing changed no program is started and no image is read: see :mod:`harness.image.digests`.
    """
    catalog = site_catalog(project, site)
    with remembered_digests(project) as digest, progress("building") as report:
        check = FreshnessCheck(catalog, Definitions(project, digest), compression, digest, overlay)
        fresh: dict[str, Manifest] = {}
        # With --locked also what is up to date is held against its lock.
        for tutorial in [] if force or locked or via == "docker" else tutorials:
            found = check.of(tutorial, variant)
            if found.manifest is not None and not found.reasons:
                fresh[tutorial.id] = found.manifest
                report(f"{found.manifest.name}: up to date")
        stale = [tutorial for tutorial in tutorials if tutorial.id not in fresh]
        if stale:
            from harness.cli import building  # a third of a second that nothing waits for where all is fresh

            with building.stack_builder(via) as docker:
                images = building.image_builder(
                    project, site, report, digest, compression, overlay=overlay, docker=docker
                )
                if refresh_base:
                    for stack in dict.fromkeys(tutorial.stack for tutorial in stale):
                        images.refresh_base(stack, variant)
                made = building.publish(images, catalog, stale, variant, force=force, locked=locked)
            fresh |= {tutorial.id: manifest for tutorial, manifest in zip(stale, made, strict=True)}
    return [fresh[tutorial.id] for tutorial in tutorials]


def build_stacks(
    project: Project,
    names: Sequence[str],
    variant: Variant,
    site: str,
    compression: Compression = DEFAULT,
    *,
    locked: bool = False,
    via: str = "apptainer",
    refresh_base: bool = False,
) -> list[Path]:
    """Bring the stages of stacks up to date; see :meth:`ImageBuilder.build_stack`."""
    from harness.cli import building

    with (
        building.stack_builder(via) as docker,
        remembered_digests(project) as digest,
        progress("building") as report,
    ):
        images = building.image_builder(project, site, report, digest, compression, docker=docker)
        gate = building.lock_gate(project, site, locked)
        for name in names:
            if refresh_base:
                images.refresh_base(name, variant)
            gate.before(name, variant)
        return [images.build_stack(name, variant)[0] for name in names]


def set_graph(
    project: Project,
    tutorials: Sequence[Tutorial],
    variant: Variant,
    same: Sequence[str],
    *,
    refresh_base: bool = False,
) -> Graph:
    """One task for each stack, one for each tutorial. ``same`` are the options that all of them get."""
    of_stacks = [option for option in same if option not in ("--force", "--no-overlay")]
    of_stacks += ["--refresh-base"] * refresh_base
    tasks = {}
    for tutorial in tutorials:
        name = _stack_task(tutorial.stack, variant)
        tasks[name] = Task(name, ("build", "--stack", tutorial.stack, *of_stacks))
    for tutorial in tutorials:
        name = image_name(tutorial.stem, variant)
        tasks[name] = Task(name, ("build", tutorial.id, *same), (_stack_task(tutorial.stack, variant),))
    return Graph(tasks.values())


def pass_over_fresh(
    project: Project,
    tutorials: Sequence[Tutorial],
    variant: Variant,
    site: str,
    compression: Compression,
    graph: Graph,
    *,
    overlay: bool = True,
) -> None:
    """Mark what is up to date already; a stack that no other tutorial waits for is not looked at."""
    catalog = site_catalog(project, site)
    with remembered_digests(project) as digest:
        check = FreshnessCheck(catalog, Definitions(project, digest), compression, digest, overlay)
        wanted: set[str] = set()
        for tutorial in tutorials:
            outcome = graph.outcomes.get(image_name(tutorial.stem, variant))
            if outcome is None:
                continue
            try:
                reasons = check.of(tutorial, variant).reasons
            except HarnessError as error:
                graph.finish(outcome.task, State.FAILED, reason=str(error))
                continue
            if reasons:
                wanted.update(outcome.task.needs)
            else:
                graph.finish(outcome.task, State.UP_TO_DATE)
    for outcome in list(graph.outcomes.values()):
        if not outcome.task.needs and outcome.task.name not in wanted:
            del graph.outcomes[outcome.task.name]


def site_catalog(project: Project, site: str) -> Catalog:
    """The catalog of a site."""
    return Catalog(project.catalog(load_site(project, site).storage.catalog))


def remembered_digests(project: Project) -> AbstractContextManager[FileDigests]:
    """The digests of untouched files, for the length of a block; a cache that cannot be written is a note."""
    return FileDigests.opened(project.cache / "digests.json", lambda line: typer.echo(line, err=True))


def _stack_task(stack: str, variant: Variant) -> str:
    return f"{stack}-{variant}-stack"
