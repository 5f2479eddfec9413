"""jobs: from tutorials and a site to batch scripts."""

from __future__ import annotations

from itertools import product
from typing import Annotated

import typer

from harness.cli.generated import write_or_check
from harness.cli.options import SiteOption
from harness.job.render import job_file, render_job
from harness.project import ENVIRONMENTS, Project
from harness.site import DEFAULT_SITE, load_site
from harness.tutorial import load_tutorial, tutorial_ids


def register(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command("jobs")(jobs)


def jobs(
    site: SiteOption = DEFAULT_SITE,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 where a file is not up to date.")
    ] = False,
) -> None:
    """Write jobs/*.job for every tutorial and variant, in images and with conda; for another site, jobs/SITE/*.job.

    Examples: harness jobs; harness jobs --site fics
    """
    project = Project.find()
    profile = load_site(project, site)
    files = {}
    for tutorial_id in tutorial_ids(project):
        tutorial = load_tutorial(project, tutorial_id)
        for variant, environment in product(tutorial.resources, ENVIRONMENTS):
            path = job_file(project, tutorial, variant, profile, environment)
            files[path] = render_job(project, tutorial, variant, profile, environment)
    folder = project.jobs if site == DEFAULT_SITE else project.jobs / site
    write_or_check(files, folder.glob("*.job"), check=check, fix=f"make jobs SITE={site}")
