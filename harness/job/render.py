"""Rendering ``jobs/*.job`` from a tutorial and a site."""

from __future__ import annotations

import shlex
from importlib import resources

import jinja2

from harness.errors import SpecError
from harness.holding import DataSet
from harness.job.place import Server
from harness.job.place import job_file as job_file
from harness.project import PRESETS, Project, Variant
from harness.runtime.hub.fetch import PROTOCOLS
from harness.site import Site
from harness.stack import load_stack
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
        partition=(site.data_partition if needed.internet else None) or site.partition,
        data_root=shlex.quote(site.storage.data or ""),
        data_sets=[_checked(data) for data in tutorial.data],
        models_root=shlex.quote(site.storage.models or ""),
        models=[_checked(model) for model in tutorial.models],
        hubs=shlex.quote(",".join(f"{kind}={url}" for kind in PROTOCOLS for url in getattr(site.mirrors, kind))),
        servers=(servers := servers_of(project, tutorial, variant)),
        open_words=shlex.join([tutorial.stack, site.interactive.allowed_ports(), *servers]),
    )
    return text


def _checked(wanted: DataSet) -> str:
    """What the job script must know of a data set or model: its name, who can do without, where it is, and of what."""
    without = [preset for preset in PRESETS if not wanted.is_needed(preset)]
    fetched = wanted.repository() is not None or bool(wanted.downloads)
    return shlex.join([wanted.key if fetched else "", ":".join(without), ":".join(wanted.folders), *wanted.files])


def servers_of(project: Project, tutorial: Tutorial, variant: Variant) -> list[Server]:
    """What `harness open` can start in the tutorial's image."""
    servers: list[Server] = [*load_stack(project, tutorial.stack).variants[variant].servers]
    return [*servers, "board"] if tutorial.has_board else servers
