"""What `harness build` does where there is something to build; imported only then."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import typer

from harness.catalog.builder import CatalogBuilder
from harness.catalog.catalog import Catalog
from harness.catalog.manifest import Manifest
from harness.cli.set_view import set_view, summary
from harness.errors import MissingToolError
from harness.factory.batch import BatchRunner
from harness.factory.graph import Graph, Task
from harness.factory.local import LocalRunner
from harness.image.build import ImageBuilder
from harness.image.compression import Compression
from harness.image.engine import find_engine
from harness.image.process import LineCallback
from harness.image.via_docker import DockerEngine, docker_engine
from harness.lock.gate import LockGate
from harness.project import Project, Variant
from harness.scheduler import SlurmScheduler, detect_scheduler
from harness.site import load_site
from harness.tutorial import Tutorial


def image_builder(
    project: Project,
    site: str,
    report: LineCallback,
    digest: Callable[[Path], str],
    compression: Compression,
    *,
    overlay: bool = True,
    docker: DockerEngine | None = None,
) -> ImageBuilder:
    """A builder with this machine's engine."""
    return ImageBuilder(
        project, load_site(project, site), find_engine(), project.cache, report, overlay, compression, digest, docker
    )


@contextlib.contextmanager
def stack_builder(via: str) -> Iterator[DockerEngine | None]:
    """The Docker engine that builds the stacks, or None where Apptainer does.

    Raises:
        MissingToolError: no Docker engine answers.
    """
    if via != "docker":
        yield None
        return
    with docker_engine() as docker:
        yield docker


def publish(
    images: ImageBuilder,
    catalog: Catalog,
    tutorials: Sequence[Tutorial],
    variant: Variant,
    *,
    force: bool,
    locked: bool,
) -> list[Manifest]:
    """Build and publish, one after the other; each is held against its stack's lock before publication."""
    gate = lock_gate(images.project, images.site.name, locked)
    for stack in dict.fromkeys(tutorial.stack for tutorial in tutorials):
        gate.before(stack, variant)
    builder = CatalogBuilder(images, catalog, gate.check_image)
    return [builder.build(tutorial, variant, force=force) for tutorial in tutorials]


def lock_gate(project: Project, site: str, locked: bool) -> LockGate:
    """What holds builds against the committed locks: refuses drift with ``--locked``, else notes it."""
    return LockGate(project, load_site(project, site), locked, lambda line: typer.echo(line, err=True))


def run_set(project: Project, graph: Graph, site: str, jobs: int, via: str) -> None:
    """Run a graph, show how it goes, and sum it up. Exit code 1 where anything failed."""
    logs = project.cache.absolute() / "logs" / "set"
    if not graph.is_done:
        with set_view(graph) as view:
            on_change: Callable[[Task], None] = view.on_change
            if via == "slurm":
                found = load_site(project, site)
                detection = detect_scheduler(os.environ)
                if detection.name != "slurm":
                    raise MissingToolError(
                        f"no Slurm to submit builds to: {detection.reason}", fix="log in to a submit host"
                    )
                options = (f"--partition={found.partition}",) if found.partition else ()
                BatchRunner(SlurmScheduler(os.environ), project.root, logs, on_change, options).run(graph)
            else:
                LocalRunner(project.root, logs, jobs, view.on_line, on_change).run(graph)
    summary(graph)
    if graph.has_failed:
        raise typer.Exit(1)
