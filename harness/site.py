"""A site: one cluster, ``sites/<name>.toml``. What no source gives stays unset."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from harness.errors import UserError
from harness.mirrors import MIRROR_KINDS, MirrorKind
from harness.project import PresetName, Project
from harness.specfile import LocalizedText, SpecModel, load_spec

DEFAULT_SITE = "default"
NEVER = 8888  # everybody's Jupyter: clusters forbid it

# A smoke run shows that the program works; its rate is not worth another job.
DEFAULT_RERUNS: dict[PresetName, int] = {"smoke": 0, "bench": 2, "full": 2}


class Storage(SpecModel):
    """Folders of the site; relative ones start at the checkout."""

    data: str | None = Field(None, description="root of the public data sets")
    models: str | None = Field(None, description="root of the public models")
    catalog: str = Field("catalog", description="where images are published")
    environments: str = Field("envs", description="where conda environments are, for conda jobs")
    history: str | None = Field(None, description="database URL of the measurements; default: a file below runs/")


class Mirrors(SpecModel):
    """Servers near the site, by kind, in the order to be tried; after the last one, the machine's own configuration.

    They serve what is the same everywhere, so they are no part of what an image is made from: lent to a build, they
    neither change its keys nor stay in the image.
    """

    registry: list[str] = Field(
        default_factory=list, description="mirrors of docker.io, host[:port][/prefix], http:// in front for no TLS"
    )
    pip: list[str] = Field(default_factory=list, description="package indexes, such as https://…/simple")
    apt: list[str] = Field(
        default_factory=list, description="roots that have debian/, debian-security/ and ubuntu/, such as https://…"
    )
    conda: list[str] = Field(default_factory=list, description="roots that have pkgs/ and cloud/")
    huggingface: list[str] = Field(default_factory=list, description="what HF_ENDPOINT is set to")
    modelscope: list[str] = Field(default_factory=list, description="ModelScope's address, or a mirror of it")

    @field_validator("pip", "apt", "conda", "huggingface", "modelscope")
    @classmethod
    def _urls(cls, addresses: list[str]) -> list[str]:
        for address in addresses:
            parts = urlsplit(address)
            if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"[\s\"'\\]", address):
                raise ValueError(f"'{address}' is no address; valid: http://host/path or https://host/path")
        return _distinct(addresses)

    @field_validator("registry")
    @classmethod
    def _registries(cls, addresses: list[str]) -> list[str]:
        for address in addresses:
            if not re.fullmatch(r"(https?://)?[A-Za-z0-9.-]+(:\d+)?(/[a-z0-9._/-]+)?/?", address):
                raise ValueError(f"'{address}' is no registry; valid: host, host:port, host/prefix, http://host:port")
        return _distinct(addresses)

    def by_kind(self) -> dict[MirrorKind, list[str]]:
        """All of them."""
        return {kind: getattr(self, kind) for kind in MIRROR_KINDS}


def _distinct(addresses: list[str]) -> list[str]:
    for address in addresses:
        if addresses.count(address) > 1:
            raise ValueError(f"'{address}' is there twice")
    return addresses


class Interactive(SpecModel):
    """Where interactive sessions may listen, and how a person gets there."""

    ports: str = Field("20000-29999", pattern=r"^\d{4,5}-\d{4,5}$", description="first and last port, on compute nodes")
    forbidden_ports: list[int] = Field(default_factory=list, description=f"of those; {NEVER} is never used")
    login: str | None = Field(None, description="user-facing name of the login node, for the ssh tunnel")

    @model_validator(mode="after")
    def _some_port(self) -> Interactive:
        if not self.allowed_ports():
            raise ValueError(f"ports '{self.ports}' leaves none; write the first and the last, such as 20000-29999")
        return self

    def allowed_ports(self) -> str:
        """The ports without the forbidden ones, as ranges: ``20000-20099,20101-20999``."""
        first, last = map(int, self.ports.split("-"))
        ranges, start = [], max(first, 1024)
        for stop in [*sorted({NEVER, *self.forbidden_ports}), min(last, 65535) + 1]:
            if start <= stop <= last + 1:
                if start < stop:
                    ranges.append(f"{start}-{stop - 1}")
                start = stop + 1
        return ",".join(ranges)


class Site(SpecModel):
    name: str
    title: LocalizedText
    scheduler: Literal["slurm", "local"] = "slurm"
    partition: str | None = None
    data_partition: str | None = Field(None, description="its nodes reach the internet: for jobs that download")
    gres: str = Field("gpu", description="the scheduler's name for a GPU")
    storage: Storage = Field(default_factory=lambda: Storage())
    mirrors: Mirrors = Field(default_factory=lambda: Mirrors())
    checks: str | None = Field(
        None, pattern=r"^[\w.-]+\.py$", description="file beside this one with checks of the site's own: docs/hooks.md"
    )
    reruns: dict[PresetName, int] = Field(
        default_factory=lambda: dict(DEFAULT_RERUNS),
        description="by preset: how many more runs may be submitted to decide a throughput that is near its gate",
    )
    interactive: Interactive = Field(default_factory=lambda: Interactive())
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
