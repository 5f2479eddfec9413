"""Image references, by Docker's rules: registry, repository, tag and digest."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from harness.errors import UserError
from harness.mirrors import is_loopback

DOCKER_HUB = "docker.io"
_DOCKER_HUB_ALIASES = ("docker.io", "index.docker.io", "registry-1.docker.io")

DIGEST = re.compile(r"[a-z0-9]+:[0-9a-f]{32,}")
_REPOSITORY = re.compile(r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*")
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)


@dataclass(frozen=True)
class ImageReference:
    """An image reference in full: ``debian`` is ``docker.io/library/debian:latest``.

    Attributes:
        registry: host, with its port if it has one.
        repository: the path in the registry, such as ``library/debian``.
        tag: None only where there is a digest alone.
        digest: ``sha256:…`` if the reference pins one.
        insecure_http: spoken to without TLS (loopback, or a mirror given as ``http://``).
    """

    registry: str
    repository: str
    tag: str | None
    digest: str | None = None
    insecure_http: bool = False

    @classmethod
    def parse(cls, text: str) -> ImageReference:
        """Read ``[registry/]repository[:tag][@digest]`` by Docker's rules.

        Raises:
            UserError: it is no image reference.
        """
        rest = text.strip().removeprefix("docker://")
        rest, _, digest = rest.partition("@")
        first, slash, remainder = rest.partition("/")
        if slash and ("." in first or ":" in first or first == "localhost"):
            registry, rest = first, remainder
        else:
            registry = DOCKER_HUB
        repository, _, tag = rest.partition(":")
        if registry in _DOCKER_HUB_ALIASES:
            registry = DOCKER_HUB
            if "/" not in repository:
                repository = f"library/{repository}"
        valid = _REPOSITORY.fullmatch(repository) and (not tag or _TAG.fullmatch(tag))
        if not valid or (digest and not DIGEST.fullmatch(digest)) or rest.endswith(":"):
            raise UserError(
                f"{text!r} is no image reference", fix="write name, name:tag or registry.example/path/name:tag@sha256:…"
            )
        return cls(registry, repository, tag or (None if digest else "latest"), digest or None, is_loopback(registry))

    def at(self, mirror: str) -> ImageReference:
        """The same image at another registry: ``host[:port][/prefix]``, with ``http://`` in front for no TLS."""
        insecure = mirror.startswith("http://")
        host, _, prefix = mirror.removeprefix("http://").removeprefix("https://").rstrip("/").partition("/")
        repository = f"{prefix}/{self.repository}" if prefix else self.repository
        return replace(self, registry=host, repository=repository, insecure_http=insecure or is_loopback(host))

    @property
    def name(self) -> str:
        """``repository:tag@digest``, without the registry."""
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.repository}{tag}" + (f"@{self.digest}" if self.digest else "")

    def __str__(self) -> str:
        return f"{self.registry}/{self.name}"
