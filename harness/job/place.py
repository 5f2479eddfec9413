"""Where job scripts are."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from harness.project import Environment, Project, Variant
from harness.site import DEFAULT_SITE, Site
from harness.tutorial import Tutorial

Server = Literal["jupyter", "board"]
"""What a job can run instead of its tutorial's steps."""

SERVERS: tuple[Server, ...] = get_args(Server)


def job_file(
    project: Project, tutorial: Tutorial, variant: Variant, site: Site, environment: Environment = "apptainer"
) -> Path:
    """Where a job script is kept: ``jobs/``, or ``jobs/<site>/`` for a site other than the default one."""
    path = project.job_file(tutorial.stem, variant, environment)
    return path if site.name == DEFAULT_SITE else path.parent / site.name / path.name
