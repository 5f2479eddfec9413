"""Debian releases, and the Debian images that can be made without a registry."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime, timezone

from harness.image.reference import DOCKER_HUB, ImageReference


@dataclass(frozen=True)
class Suite:
    """A Debian release that can be bootstrapped."""

    codename: str
    version: str
    released: datetime
    """Its release day: what SOURCE_DATE_EPOCH clamps the file times to, so that they depend on nothing else."""


SUITES = (
    Suite("bullseye", "11", datetime(2021, 8, 14, tzinfo=timezone.utc)),
    Suite("bookworm", "12", datetime(2023, 6, 10, tzinfo=timezone.utc)),
    Suite("trixie", "13", datetime(2025, 8, 9, tzinfo=timezone.utc)),
)


@dataclass(frozen=True)
class DebianTarget:
    """A Debian image that we can make.

    Attributes:
        slim: without manual pages, translations and documents.
        architecture: Debian's word for it, which is also Docker's: ``amd64``, ``arm64``.
    """

    suite: Suite
    slim: bool
    architecture: str

    @classmethod
    def of(cls, image: ImageReference) -> DebianTarget | None:
        """The target that ``image`` means; None if it is not Debian's, or pins a digest that no bootstrap can meet."""
        if (image.registry, image.repository) != (DOCKER_HUB, "library/debian") or image.digest or not image.tag:
            return None
        name, dash, flavour = image.tag.partition("-")
        if dash and flavour != "slim":
            return None
        machine = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64el"}.get(os.uname().machine)
        for suite in SUITES:
            if machine and name in (suite.codename, suite.version):
                return cls(suite, bool(dash), machine)
        return None

    @property
    def tag(self) -> str:
        return f"{self.suite.codename}-slim" if self.slim else self.suite.codename

    @property
    def image(self) -> ImageReference:
        return ImageReference(DOCKER_HUB, "library/debian", self.tag)
