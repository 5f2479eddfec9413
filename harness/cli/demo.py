"""demo: the main job, for real: build one image, run it as a job, judge it, show the page."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from typing import Annotated

import typer

from harness.cli.build import build_images
from harness.cli.console import console
from harness.cli.language import chosen_language
from harness.cli.options import SiteOption
from harness.cli.runs import REPORT_FOLDER, judge, write_reports
from harness.cluster import ClusterSpec, PrivateCluster
from harness.errors import HarnessError
from harness.project import Project
from harness.report.entry import overall
from harness.report.text import print_report
from harness.run.campaign import submit_run, wait_for_runs
from harness.scheduler.detect import detect_scheduler
from harness.site import DEFAULT_SITE, Site, load_site
from harness.tutorial import load_tutorial

DEMO_TUTORIALS = ("mnist", "xscow-1", "xscow-2")
JOB_SECONDS = 900.0


def register(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command()(demo)


def demo(
    tutorial: Annotated[
        list[str] | None, typer.Option("--tutorial", "-t", help="Tutorials to show; default: three.")
    ] = None,
    site: SiteOption = DEFAULT_SITE,
) -> None:
    """Build an image from a Dockerfile, run it as a Slurm job on real data, judge the run, write the page.

    Example: harness demo -t 2
    """
    project = Project.find()
    screen = console()
    loaded = [load_tutorial(project, name) for name in tutorial or DEMO_TUTORIALS]
    started = time.monotonic()
    build_images(project, loaded, "cpu", site)
    built = time.monotonic()
    with some_scheduler(project, load_site(project, site)) as words:
        screen.print(f"scheduler: {words}", markup=False)
        runs = [submit_run(project, one, "cpu", "smoke", site) for one in loaded]
        for run in runs:
            screen.print(f"submitted: {run.run_id}", markup=False)
        wait_for_runs(project, runs, lambda run: screen.print(f"ended:     {run.run_id}", markup=False), JOB_SECONDS)
        entries = judge(project, runs)
    ended = time.monotonic()
    print_report(entries, language=chosen_language(None))
    page = write_reports(entries, project.root / REPORT_FOLDER)
    typer.echo(f"images {built - started:.0f} s, jobs {ended - built:.0f} s")
    typer.echo(f"page: {page}")
    if overall(entries) == "fail":
        raise typer.Exit(1)


@contextlib.contextmanager
def some_scheduler(project: Project, site: Site) -> Iterator[str]:
    """The machine's scheduler, else a private Slurm cluster for the time being, else plain processes; says which."""
    if site.scheduler == "local":
        yield f"none at site {site.name}; the jobs run as plain processes"
        return
    detection = detect_scheduler(os.environ)
    if detection.name != "local":
        yield f"{detection.name} ({detection.reason})"
        return
    if shutil.which("slurmctld", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
        yield "none; the jobs run as plain processes (for a private Slurm: scripts/install-packages slurm)"
        return
    box = project.root / ".cluster-demo"
    try:
        # No more cores than there are: jobs that share them would measure each other.
        cluster = PrivateCluster(box, ClusterSpec(nodes=1, cpus=max(2, len(os.sched_getaffinity(0)))))
        cluster.stop()  # one that a killed demo left running
        cluster.start()
    except HarnessError as error:
        yield f"none; a private Slurm did not start ({error}), the jobs run as plain processes"
        return
    try:
        with _environment(cluster.environment()):
            yield "a private Slurm cluster, started for this demo"
    finally:
        cluster.stop()


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set variables of this process for a while."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
