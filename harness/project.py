"""The checkout: where each noun of the project lives. The only owner of these file names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from harness.errors import UserError

Variant = Literal["cpu", "cuda"]
PresetName = Literal["smoke", "bench", "full"]
# What a job runs its programs in: an image, or a conda environment made from the same lock.
Environment = Literal["apptainer", "conda"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
PRESETS: tuple[PresetName, ...] = get_args(PresetName)
ENVIRONMENTS: tuple[Environment, ...] = get_args(Environment)


@dataclass(frozen=True)
class Project:
    """A checkout of this repository, or a folder with the same layout."""

    root: Path
    catalog_override: Path | None = None
    cache_override: Path | None = None

    @classmethod
    def find(cls, start: Path | None = None, environment: Mapping[str, str] | None = None) -> Project:
        """The nearest folder at or above ``start`` (default: the working directory) that holds ``tutorials/``.

        ``CATALOG`` and ``HARNESS_CACHE`` in the environment put the catalog and the cache elsewhere; job scripts read
        ``CATALOG`` too.

        Raises:
            UserError: there is none.
        """
        origin = (start or Path.cwd()).resolve()
        variables = os.environ if environment is None else environment
        catalog, cache = variables.get("CATALOG"), variables.get("HARNESS_CACHE")
        for folder in (origin, *origin.parents):
            if (folder / "tutorials").is_dir() and (folder / "containers").is_dir():
                return cls(folder, folder / catalog if catalog else None, folder / cache if cache else None)
        raise UserError(
            "no folder here or above holds tutorials/ and containers/",
            where=str(origin),
            fix="run this from a checkout of the project",
        )

    @property
    def tutorials(self) -> Path:
        return self.root / "tutorials"

    @property
    def stacks(self) -> Path:
        return self.root / "containers"

    @property
    def sites(self) -> Path:
        return self.root / "sites"

    @property
    def definitions(self) -> Path:
        return self.root / "defs"

    @property
    def jobs(self) -> Path:
        return self.root / "jobs"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def roofs(self) -> Path:
        """What ``harness roof`` measured on the nodes of this site."""
        return self.root / "roofs"

    @property
    def cache(self) -> Path:
        """Rebuildable things: bootstrapped bases, stage images, the loopback registry's storage."""
        return self.cache_override or self.root / "cache"

    def catalog(self, site_catalog: str) -> Path:
        """Root of the catalog: the environment's choice, else the site's, relative to the checkout."""
        return self.catalog_override or self.root / site_catalog

    @property
    def runtime_package(self) -> Path:
        """The package that is copied into every image, next to ``harness/__init__.py``."""
        return self.root / "harness" / "runtime"

    def tutorial_file(self, tutorial_id: str) -> Path:
        return self.tutorials / tutorial_id / "tutorial.toml"

    def stack_folder(self, stack: str) -> Path:
        return self.stacks / stack

    def site_file(self, site: str) -> Path:
        return self.sites / f"{site}.toml"

    def definition_file(self, stem: str, variant: Variant) -> Path:
        """``defs/tutorial2.def`` for the CUDA variant, ``defs/tutorial2.cpu.def`` for the CPU one."""
        return self.definitions / f"{image_name(stem, variant)}.def"

    def job_file(self, stem: str, variant: Variant, environment: Environment = "apptainer") -> Path:
        """``jobs/tutorial2.apptainer.job`` for CUDA, ``jobs/tutorial2.conda.cpu.job`` for the CPU without an image."""
        return self.jobs / f"{stem}.{environment}{_variant_suffix(variant)}.job"


def parse_variant(text: str) -> Variant:
    """The variant a person named.

    Raises:
        UserError: there is no such variant.
    """
    for variant in VARIANTS:
        if text == variant:
            return variant
    raise UserError(f"unknown variant '{text}'", fix=f"valid: {', '.join(VARIANTS)}")


def parse_preset(text: str) -> PresetName:
    """The preset a person named.

    Raises:
        UserError: there is no such preset.
    """
    for preset in PRESETS:
        if text == preset:
            return preset
    raise UserError(f"unknown preset '{text}'", fix=f"valid: {', '.join(PRESETS)}")


def image_name(stem: str, variant: Variant) -> str:
    """Name of an image, its definition and its catalog folder: ``tutorial2`` (CUDA) or ``tutorial2.cpu``."""
    return f"{stem}{_variant_suffix(variant)}"


def _variant_suffix(variant: Variant) -> str:
    return "" if variant == "cuda" else f".{variant}"
