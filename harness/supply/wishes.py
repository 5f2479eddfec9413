"""What all tutorials together would like a site to hold, by the names that people call it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError
from harness.holding import DataSet
from harness.project import PRESETS, Project
from harness.run.needs import ROOT_VARIABLES, Kind
from harness.site import Site
from harness.tutorial import load_tutorial, tutorial_ids


@dataclass(frozen=True)
class Wish:
    """A model or data set and who wants it: the tutorials, and of each the presets that cannot do without."""

    kind: Kind
    wanted: DataSet
    users: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def key(self) -> str:
        return self.wanted.key

    def said_users(self) -> str:
        """``xscow-4 (full), scow-2 (full)``."""
        return ", ".join(f"{name} ({', '.join(presets) or 'can do without'})" for name, presets in self.users)


def wishes(project: Project, kind: Kind, tutorials: Sequence[str] = ()) -> list[Wish]:
    """The wishes of these tutorials, of all without; what several want alike is one.

    Raises:
        UserError: unknown tutorial.
    """
    found: dict[str, Wish] = {}
    for name in tutorials or tutorial_ids(project):
        tutorial = load_tutorial(project, name)
        presets = [preset for preset in PRESETS if preset in tutorial.presets or preset == "full"]
        wanted_here: Iterable[DataSet] = tutorial.data if kind == "data" else tutorial.models
        for wanted in wanted_here:
            user = (tutorial.id, tuple(preset for preset in presets if wanted.is_needed(preset)))
            known = found.get(wanted.key)
            if known is not None:
                files = list(dict.fromkeys([*known.wanted.files, *wanted.files]))
                wanted = known.wanted.model_copy(update={"files": files})
            found[wanted.key] = Wish(kind, wanted, (*(known.users if known else ()), user))
    return list(found.values())


def find_wishes(known: Sequence[Wish], names: Sequence[str]) -> list[Wish]:
    """Those that are called so: by key, by any of their folders or by title.

    Raises:
        UserError: nothing is called so; names the nearest.
    """
    called: dict[str, Wish] = {}
    for wish in known:
        for alias in (*wish.wanted.folders, wish.wanted.name, wish.key):
            called[alias.lower()] = wish
    found = []
    for name in names:
        if name.lower() not in called:
            near = difflib.get_close_matches(name.lower(), list(called), n=3, cutoff=0.4)
            valid = dict.fromkeys(called[alias].key for alias in near) or [wish.key for wish in known]
            raise UserError(f"no tutorial needs '{name}'", fix=f"valid: {', '.join(valid)}")
        found.append(called[name.lower()])
    return list({wish.key: wish for wish in found}.values())


def root_of(project: Project, site: Site, kind: Kind, environment: Mapping[str, str]) -> Path:
    """The folder of a site, or of a person, that holds its models or its data sets.

    Raises:
        UserError: neither names one.
    """
    named = environment.get(ROOT_VARIABLES[kind]) or getattr(site.storage, kind)
    if not named:
        raise UserError(
            f"no folder for {kind}",
            where=str(project.site_file(site.name)),
            fix=f"set {kind} in [storage], or {ROOT_VARIABLES[kind]}=/path",
        )
    return project.root / str(named)
