"""Rendering ``jobs/*.job`` from a tutorial and a site."""

from __future__ import annotations

import shlex
from importlib import resources
from pathlib import Path

import jinja2

from harness.errors import SpecError
from harness.project import Project, Variant
from harness.site import DEFAULT_SITE, Site
from harness.tutorial import Tutorial


def render_job(project: Project, tutorial: Tutorial, variant: Variant, site: Site) -> str:
    """The batch script of one variant for one site.

    Raises:
        SpecError: the tutorial does not say what that variant needs.
    """
    needed = tutorial.resources.get(variant)
    if needed is None:
        valid = ", ".join(tutorial.resources)
        raise SpecError(
            f"no resources for variant '{variant}'; valid: {valid}", where=str(project.tutorial_file(tutorial.id))
        )
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    template = environment.from_string(
        resources.files("harness.job").joinpath("templates/apptainer.job.j2").read_text("utf-8")
    )
    hours, minutes = divmod(needed.minutes, 60)
    text: str = template.render(
        tutorial=tutorial,
        variant=variant,
        site=site,
        name=tutorial.stem,
        path=job_file(project, tutorial, variant, site).relative_to(project.root),
        resources=needed,
        memory_mb=round(needed.memory_gb * 1024),
        time=f"{hours:02d}:{minutes:02d}:00",
        data_root=shlex.quote(site.storage.data or ""),
        data_sets=[shlex.join([":".join(data.folders), *data.files]) for data in tutorial.data],
        models_root=shlex.quote(site.storage.models or ""),
        models=[shlex.join([":".join(model.folders), *model.files]) for model in tutorial.models],
    )
    return text


def job_file(project: Project, tutorial: Tutorial, variant: Variant, site: Site) -> Path:
    """Where that script is kept: ``jobs/``, or ``jobs/<site>/`` for a site other than the default one."""
    path = project.job_file(tutorial.stem, variant)
    return path if site.name == DEFAULT_SITE else path.parent / site.name / path.name
