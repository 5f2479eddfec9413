"""Rendering ``jobs/*.job`` from a tutorial and a site."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from importlib import resources

import jinja2

from harness.definition.tutorial_image import program_files, stack_definition, start_script
from harness.definition.writer import environment_lines
from harness.errors import SpecError
from harness.holding import DataSet
from harness.job.place import Server
from harness.job.place import job_file as job_file
from harness.project import PRESETS, Environment, Project, Variant
from harness.runtime.hub.fetch import PROTOCOLS
from harness.site import Site
from harness.stack import load_stack
from harness.stack_conda import create_command, environment_name
from harness.tutorial import Tutorial

# Variables of an image that mean its own folders, or its build.
_IMAGE_ONLY = ("PATH", "PYTHONPATH", "DEBIAN_FRONTEND")


def render_job(
    project: Project, tutorial: Tutorial, variant: Variant, site: Site, environment: Environment = "apptainer"
) -> str:
    """The batch script of one variant for one site, in an image or in a conda environment.

    Raises:
        SpecError: the tutorial does not say what that variant needs.
    """
    needed = tutorial.resources.get(variant)
    if needed is None:
        valid = ", ".join(tutorial.resources)
        raise SpecError(
            f"no resources for variant '{variant}'; valid: {valid}", where=str(project.tutorial_file(tutorial.id))
        )
    engine = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    template = engine.from_string(resources.files("harness.job").joinpath("templates/job.j2").read_text("utf-8"))
    hours, minutes = divmod(needed.minutes, 60)
    text: str = template.render(
        tutorial=tutorial,
        variant=variant,
        site=site,
        name=tutorial.stem,
        path=job_file(project, tutorial, variant, site, environment).relative_to(project.root),
        conda=conda_words(project, tutorial, variant, site) if environment == "conda" else None,
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


@dataclass(frozen=True)
class CondaWords:
    """What a conda job says where another names its image; shell words.

    Attributes:
        how: the line that makes the environment.
        words: arguments of job_need_conda.
        programs: files that the image's layer would hold.
        start: the image's start script, with the image's variables.
    """

    how: str
    words: str
    programs: str
    start: str


def conda_words(project: Project, tutorial: Tutorial, variant: Variant, site: Site) -> CondaWords:
    """What a conda job of that variant is told."""
    stack = load_stack(project, tutorial.stack)
    parts, name, root = stack.variants[variant], environment_name(stack.name, variant), site.storage.environments
    how = create_command(stack, variant, f"{root}/{name}")
    lock = "" if parts.conda.pip else f"containers/{stack.name}/{parts.lock}"
    exports = [f"export {name}=" for name in _IMAGE_ONLY]
    lines = environment_lines(stack_definition(project, stack, variant).layers)
    variables = [line for line in lines if line.startswith("export ") and not line.startswith(tuple(exports))]
    return CondaWords(
        how=how,
        words=shlex.join([name, root, parts.python, lock, how, *parts.conda.pip]),
        programs=shlex.join(program_files(tutorial)),
        start="\n".join([*variables, start_script(tutorial, ".")]),
    )
