"""What a run needs of its site: data sets and models, looked for before the wait in the queue."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from harness.errors import UserError
from harness.holding import alternatives
from harness.project import PresetName, Project
from harness.site import Site
from harness.tutorial import DataSet, Model, Scalar, Tutorial

Kind = Literal["data", "models"]

# A person's own roots win over the site's, here as in jobs/lib/job.sh.
ROOT_VARIABLES: dict[Kind, str] = {"data": "DATA", "models": "MODELS"}
NOTHING_GIVEN: Mapping[str, Scalar] = MappingProxyType({})


@dataclass(frozen=True)
class Missing:
    """A data set or model that is not where a job of this site will look for it.

    ``problem`` says what is wrong, in words that go on a message.
    """

    kind: Kind
    wanted: DataSet
    problem: str
    incomplete: bool = False

    def stops(self, tutorial: Tutorial, preset: PresetName, given: Mapping[str, Scalar]) -> bool:
        """Whether a run could only fail. What is there in part is an error, never a reason to use something else."""
        return self.incomplete or not tutorial.can_do_without(self.wanted, preset, given)


def missing_of(project: Project, tutorial: Tutorial, site: Site, environment: Mapping[str, str]) -> tuple[Missing, ...]:
    """What the tutorial would like to have and the site's storage does not hold, whole."""
    found = []
    wishes: list[tuple[Kind, DataSet]] = [("data", data) for data in tutorial.data]
    wishes += [("models", model) for model in tutorial.models]
    for kind, wanted in wishes:
        root = environment.get(ROOT_VARIABLES[kind]) or getattr(site.storage, kind)
        missing = look(kind, wanted, None if root is None else project.root / root)
        if missing is not None:
            found.append(missing)
    return tuple(found)


def require(
    project: Project,
    tutorial: Tutorial,
    preset: PresetName,
    site: Site,
    environment: Mapping[str, str],
    given: Mapping[str, Scalar] = NOTHING_GIVEN,
) -> None:
    """Refuse a run that could only fail.

    Args:
        given: parameters given at submission (:mod:`harness.run.given`).

    Raises:
        UserError: a data set or model is missing that this preset cannot do without, or is there in part.
    """
    for missing in missing_of(project, tutorial, site, environment):
        if missing.stops(tutorial, preset, given):
            how = how_to_get(missing.kind, missing.wanted)
            way = f"{how}, or set {ROOT_VARIABLES[missing.kind]} to the {missing.kind} root that has it"
            raise UserError(
                f"preset '{preset}' uses {missing.wanted.name}, and {missing.problem}",
                where=tutorial.id,
                fix=way + _way_around(missing),
            )


def replaced(
    project: Project,
    tutorial: Tutorial,
    preset: PresetName,
    site: Site,
    environment: Mapping[str, str],
    given: Mapping[str, Scalar] = NOTHING_GIVEN,
) -> list[str]:
    """One line for everything missing that a fallback stands in for."""
    return [
        f"{tutorial.id}: {missing.problem}; preset '{preset}' uses {missing.wanted.fallback.en}"
        for missing in missing_of(project, tutorial, site, environment)
        if missing.wanted.fallback is not None and not missing.stops(tutorial, preset, given)
    ]


def _way_around(missing: Missing) -> str:
    if missing.incomplete or not isinstance(missing.wanted, Model):
        return ""
    words = [f"--set {name}={value}" for name, value in missing.wanted.unless.items()]
    return f", or do without: {' '.join(words)}" if words else ""


def is_got_by_hand(wanted: DataSet) -> bool:
    """No program can fetch it: its source wants a person who agrees to something."""
    return wanted.repository() is None and not wanted.downloads


def how_to_get(kind: Kind, wanted: DataSet) -> str:
    """The line that brings it here, or what a person must do where no program can."""
    if is_got_by_hand(wanted):
        return f"get it by hand: {wanted.source}"
    return f"fetch it: harness {kind} fetch {shlex.quote(wanted.key)}"


def look(kind: Kind, wanted: DataSet, root: Path | None) -> Missing | None:
    """What is wrong with it below ``root``; None where it is whole in one of its folders."""
    if root is None:
        return Missing(kind, wanted, f"the site names no {kind} root")
    folders = [root / name for name in wanted.folders if (root / name).is_dir()]
    for folder in folders:
        if all(_is_there(folder, entry) for entry in wanted.files):
            return None
    if not folders:
        return Missing(kind, wanted, f"{root / wanted.folders[0]} is not there")
    lacking = next(entry for entry in wanted.files if not _is_there(folders[0], entry))
    return Missing(kind, wanted, f"{folders[0] / alternatives(lacking)[0]} is missing", incomplete=True)


def _is_there(folder: Path, entry: str) -> bool:
    paths = [folder / name for name in alternatives(entry)]
    return any(path.is_dir() or (path.is_file() and path.stat().st_size > 0) for path in paths)
