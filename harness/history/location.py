"""Where a project's history is kept."""

from __future__ import annotations

import os
from collections.abc import Mapping

from harness.project import Project
from harness.site import DEFAULT_SITE, Site, load_site

HISTORY_VARIABLE = "HARNESS_HISTORY"


def history_of(project: Project, site: str | None) -> str:
    """The database URL for runs of a site by its name; a site that has no file here keeps its history below ``runs/``.

    Raises:
        SpecError: its file is broken.
    """
    name = site or DEFAULT_SITE
    return history_url(project, load_site(project, name) if project.site_file(name).is_file() else None)


def history_url(project: Project, site: Site | None, environment: Mapping[str, str] | None = None) -> str:
    """The database URL: ``HARNESS_HISTORY``, else the site's ``storage.history``, else a file below ``runs/``."""
    variables = os.environ if environment is None else environment
    chosen = variables.get(HISTORY_VARIABLE) or (site.storage.history if site else None)
    return chosen or f"sqlite:///{project.runs / '.history.sqlite'}"
