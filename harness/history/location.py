"""Where a project's history is kept."""

from __future__ import annotations

import os
from collections.abc import Mapping

from harness.project import Project
from harness.site import Site

HISTORY_VARIABLE = "HARNESS_HISTORY"


def history_url(project: Project, site: Site, environment: Mapping[str, str] | None = None) -> str:
    """The database URL: ``HARNESS_HISTORY``, else the site's ``storage.history``, else a file below ``runs/``."""
    variables = os.environ if environment is None else environment
    chosen = variables.get(HISTORY_VARIABLE) or site.storage.history
    return chosen or f"sqlite:///{project.runs / '.history.sqlite'}"
