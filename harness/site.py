"""A site: one cluster, ``sites/<name>.toml``. What no source gives stays unset."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from harness.errors import UserError
from harness.project import Project
from harness.specfile import LocalizedText, SpecModel, load_spec

DEFAULT_SITE = "default"


class Storage(SpecModel):
    """Folders of the site; relative ones start at the checkout."""

    data: str | None = Field(None, description="root of the public data sets")
    models: str | None = Field(None, description="root of the public models")
    catalog: str = Field("catalog", description="where images are published")
    history: str | None = Field(None, description="database URL of the measurements; default: a file below runs/")


class Site(SpecModel):
    name: str
    title: LocalizedText
    scheduler: Literal["slurm", "local"] = "slurm"
    partition: str | None = None
    gres: str = Field("gpu", description="the scheduler's name for a GPU")
    storage: Storage = Field(default_factory=lambda: Storage())
    registries: list[str] = Field(default_factory=list, description="mirrors of docker.io, asked in this order")
    modules: list[str] = Field(default_factory=list, description="lines a job needs before apptainer is on PATH")


def load_site(project: Project, name: str) -> Site:
    """Load a site.

    Raises:
        UserError: unknown site (names the valid ones). SpecError: broken file.
    """
    path = project.site_file(name)
    if not path.is_file():
        known = sorted(p.stem for p in project.sites.glob("*.toml"))
        raise UserError(f"unknown site '{name}'", where=str(project.sites), fix=f"valid: {', '.join(known) or 'none'}")
    return load_spec(path, Site)
