"""Base images: from the registry that their reference names, or bootstrapped where no registry answers.

The usual call, around a build with ``Bootstrap: docker``::

    with base_source("debian:bookworm-slim", cache_dir, mirrors=site.mirrors) as base:
        build(From=base.resolved, nohttps=base.insecure_http)
        lock["base"] = base.lock_entry()

A Debian reference that no registry answers for is bootstrapped from the package mirror that this
machine's own apt uses, packed like the real image, and served by a real registry on loopback. See
:mod:`harness.image.base_cache` for what is kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from harness.image.base_cache import BaseCache
from harness.image.bootstrap import Bootstrapped
from harness.image.debian import SUITES, DebianTarget
from harness.image.local_registry import LocalRegistry
from harness.image.process import LineCallback
from harness.image.reference import DOCKER_HUB, ImageReference
from harness.image.registry import (
    ImageNotFoundError,
    RegistryError,
    RegistryUnreachableError,
    probe,
)

PROBE_TIMEOUT_S = 3.0
"""Seconds that one registry gets to answer."""


@dataclass(frozen=True)
class BaseRecord:
    """What is known of a base image.

    Attributes:
        reference: as the Dockerfile gives it, such as ``debian:bookworm-slim``.
        digest: of its manifest, or of its index at a public registry.
        origin: ``registry``, or ``bootstrapped`` from this machine's package mirror.
        suite: Debian's codename if bootstrapped.
        details: for a lock file; for a bootstrapped image ``architecture``, ``created``, ``diff_id``,
            ``packages`` (name to version) and ``releases`` (suite to date of its index); else ``registry``.
            Never the address of the machine's mirror.
    """

    reference: str
    digest: str
    origin: Literal["registry", "bootstrapped"]
    suite: str | None = None
    details: Mapping[str, object] = field(default_factory=dict)

    def lock_entry(self) -> dict[str, object]:
        """The record as plain JSON values, the same for the same image wherever it is served."""
        return {
            "reference": self.reference,
            "digest": self.digest,
            "origin": self.origin,
            "suite": self.suite,
            "details": dict(self.details),
        }


@dataclass(frozen=True)
class BaseImage(BaseRecord):
    """A base image that can be pulled now.

    Attributes:
        resolved: what to build from, without ``docker://``: ``127.0.0.1:PORT/library/debian@sha256:…``.
        insecure_http: its registry speaks plain HTTP (``APPTAINER_NOHTTPS=1``).
    """

    resolved: str = ""
    insecure_http: bool = False

    @classmethod
    def of(cls, record: BaseRecord, source: ImageReference) -> BaseImage:
        """``record``, pulled from ``source``'s registry by its digest: a tag may move between two pulls."""
        values = {item.name: getattr(record, item.name) for item in fields(BaseRecord)}
        resolved = f"{source.registry}/{source.repository}@{record.digest}"
        return cls(**values, resolved=resolved, insecure_http=source.insecure_http)


@contextlib.contextmanager
def base_source(
    reference: str,
    cache_dir: Path,
    *,
    mirrors: Sequence[str] = (),
    probe_timeout_s: float = PROBE_TIMEOUT_S,
    refresh: bool = False,
    on_line: LineCallback | None = None,
) -> Iterator[BaseImage]:
    """The base image ``reference``, ready to be pulled while the ``with`` block runs.

    Arguments and errors are those of :func:`ensure_base`. For a bootstrapped image a registry on
    loopback runs during the block; any number of blocks may run side by side on one cache.
    """
    image = ImageReference.parse(reference)
    record, source = _find(image, reference, cache_dir, mirrors, probe_timeout_s, refresh, on_line)
    if source is not None:
        yield BaseImage.of(record, source)
        return
    target = DebianTarget.of(image)
    assert target is not None  # only such references are bootstrapped
    with LocalRegistry(BaseCache(cache_dir, target).storage) as registry:
        yield BaseImage.of(record, registry.reference(target.image))


def ensure_base(
    reference: str,
    cache_dir: Path,
    *,
    mirrors: Sequence[str] = (),
    probe_timeout_s: float = PROBE_TIMEOUT_S,
    refresh: bool = False,
    on_line: LineCallback | None = None,
) -> BaseRecord:
    """Make sure that the base image ``reference`` can be had, and return what is known of it.

    In this order: what the cache holds (checked, no network); the ``mirrors``, then the reference's own
    registry, of which the first that answers wins; for Debian, a bootstrap (some 20 s, 40 MB fetched).

    Args:
        mirrors: ``host[:port][/prefix]``, ``http://`` in front for no TLS; they stand in for Docker Hub only.
        probe_timeout_s: seconds for each registry that is asked.
        refresh: pass over what the cache holds and make it anew.
        on_line: called with lines of progress.

    Raises:
        UserError: ``reference`` is no image reference.
        ImageNotFoundError: every registry that was asked answers, and has no such image.
        RegistryUnreachableError: no registry gave it, and it is nothing that could be bootstrapped.
        MissingToolError: it must be bootstrapped, and a program for that is missing.
        CommandError: the bootstrap failed.
    """
    image = ImageReference.parse(reference)
    return _find(image, reference, cache_dir, mirrors, probe_timeout_s, refresh, on_line)[0]


def _find(
    image: ImageReference,
    reference: str,
    cache_dir: Path,
    mirrors: Sequence[str],
    probe_timeout_s: float,
    refresh: bool,
    on_line: LineCallback | None,
) -> tuple[BaseRecord, ImageReference | None]:
    """The record, and the registry's reference that answered; None for a bootstrapped image."""
    target = DebianTarget.of(image)
    cache = BaseCache(cache_dir, target) if target else None
    if cache and not refresh and (cached := cache.read()):
        return _record(reference, cached), None
    candidates = [image.at(mirror) for mirror in mirrors] if image.registry == DOCKER_HUB else []
    refusals: list[RegistryError] = []
    for candidate in [*candidates, image]:
        try:
            digest = probe(candidate, probe_timeout_s)
        except RegistryError as error:
            refusals.append(error)
            continue
        return BaseRecord(reference, digest, "registry", details={"registry": candidate.registry}), candidate
    if cache is None:
        raise _no_registry(reference, image, refusals)
    say = on_line or (lambda line: None)
    say(f"{_reasons(refusals)}: bootstrapping {reference} from this machine's package mirror")
    return _record(reference, cache.fill(refresh, say)), None


def _record(reference: str, made: Bootstrapped) -> BaseRecord:
    return BaseRecord(reference, made.digest, "bootstrapped", made.suite, made.details)


def _reasons(refusals: Sequence[RegistryError]) -> str:
    return ", ".join(f"{error.where}: {error.what}" for error in refusals)


def _no_registry(reference: str, image: ImageReference, refusals: Sequence[RegistryError]) -> RegistryError:
    if all(isinstance(error, ImageNotFoundError) for error in refusals):
        return ImageNotFoundError(_reasons(refusals), where=reference, fix="check the name and the tag")
    reason = f"no registry gave it ({_reasons(refusals)})"
    if image.repository == "library/debian" and image.registry == DOCKER_HUB:
        tags = ", ".join(f"{suite.codename}[-slim]" for suite in SUITES)
        reason = f"{reason}; only the tags {tags}, without a digest, can be made here"
    return RegistryUnreachableError(
        reason, where=reference, fix="name a registry mirror that has it in the site's file, or mend network and proxy"
    )
