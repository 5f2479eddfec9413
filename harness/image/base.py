"""Base images: from the registry that their reference names, or bootstrapped where no registry answers.

The usual call, around a build with ``Bootstrap: docker``::

    with base_source("debian:bookworm-slim", cache_dir, mirrors=site.mirrors) as base:
        build(From=base.resolved, nohttps=base.insecure_http)
        lock["base"] = base.lock_entry()

What a registry has is fetched part by part when the engine asks for it, through :mod:`harness.image.relay`:
checked, with patience, from the next mirror where one fails. A Debian reference that no registry answers for is
bootstrapped from the package mirror that this machine's own apt uses, packed like the real image, and served by a real
registry on loopback. See :mod:`harness.image.base_cache` and :mod:`harness.image.blobs` for what is kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from harness.image.base_cache import BaseCache
from harness.image.blobs import BlobStore
from harness.image.bootstrap import Bootstrapped
from harness.image.debian import SUITES, DebianTarget
from harness.image.fetch import Fetcher
from harness.image.local_registry import LocalRegistry
from harness.image.process import LineCallback
from harness.image.reference import DOCKER_HUB, ImageReference
from harness.image.registry import (
    ImageNotFoundError,
    RegistryError,
    RegistryUnreachableError,
)
from harness.image.relay import Relay
from harness.image.sources import choose_source
from harness.runtime.retry import DEFAULT_POLICY, RetryPolicy

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
        bootstrapped_on: the day on which this machine made it, for people; None for a registry's.
    """

    reference: str
    digest: str
    origin: Literal["registry", "bootstrapped"]
    suite: str | None = None
    details: Mapping[str, object] = field(default_factory=dict)
    bootstrapped_on: str | None = None

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
        insecure_http: its registry speaks plain HTTP, as ours on loopback do; ``registries.conf`` says so of it alone.
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
    policy: RetryPolicy = DEFAULT_POLICY,
    refresh: bool = False,
    on_line: LineCallback | None = None,
) -> Iterator[BaseImage]:
    """The base image ``reference``, ready to be pulled from loopback while the ``with`` block runs.

    Arguments and errors are those of :func:`ensure_base`. Any number of blocks may run side by side on one cache.

    Raises:
        RegistryError: also where the block failed because a part of the image could not be had.
    """
    say = on_line or _silent
    image = ImageReference.parse(reference)
    found = _find(image, reference, cache_dir, mirrors, probe_timeout_s, policy, refresh, say)
    if found.sources:
        fetcher = Fetcher(found.sources, BlobStore(cache_dir), say, policy)
        with Relay(image, found.record.digest, fetcher).running() as relay:
            yield BaseImage.of(found.record, relay.reference())
        return
    target = DebianTarget.of(image)
    assert target is not None  # only such references are bootstrapped
    with LocalRegistry(BaseCache(cache_dir, target).storage) as registry:
        yield BaseImage.of(found.record, registry.reference(target.image))


def ensure_base(
    reference: str,
    cache_dir: Path,
    *,
    mirrors: Sequence[str] = (),
    probe_timeout_s: float = PROBE_TIMEOUT_S,
    policy: RetryPolicy = DEFAULT_POLICY,
    refresh: bool = False,
    on_line: LineCallback | None = None,
) -> BaseRecord:
    """Make sure that the base image ``reference`` can be had, and return what is known of it.

    In this order: what the cache holds (checked, no network); the ``mirrors``, then the reference's own
    registry, of which the first that has it wins; for Debian, a bootstrap (some 20 s, 40 MB fetched).

    Args:
        mirrors: ``host[:port][/prefix]``, ``http://`` in front for no TLS; they stand in for Docker Hub only.
        probe_timeout_s: seconds for each registry that is asked; all are asked at once.
        policy: how often and how long a registry is asked that answers and fails.
        refresh: pass over what the cache holds: ask the registries, and make it anew where none has it.
        on_line: called with lines of progress.

    Raises:
        UserError: ``reference`` is no image reference.
        ImageNotFoundError: every registry that was asked answers, and has no such image.
        RegistryUnreachableError: no registry gave it, and it is nothing that could be bootstrapped.
        MissingToolError: it must be bootstrapped, and a program for that is missing.
        CommandError: the bootstrap failed.
    """
    image = ImageReference.parse(reference)
    return _find(image, reference, cache_dir, mirrors, probe_timeout_s, policy, refresh, on_line or _silent).record


@dataclass(frozen=True)
class _Found:
    """A base; ``sources`` are the registries that may have it, best first, and none for a bootstrapped one."""

    record: BaseRecord
    sources: tuple[ImageReference, ...] = ()


def _silent(line: str) -> None:
    pass


def _find(
    image: ImageReference,
    reference: str,
    cache_dir: Path,
    mirrors: Sequence[str],
    probe_timeout_s: float,
    policy: RetryPolicy,
    refresh: bool,
    say: LineCallback,
) -> _Found:
    target = DebianTarget.of(image)
    cache = BaseCache(cache_dir, target) if target else None
    if cache and not refresh and (cached := cache.read()):
        return _Found(_record(reference, cached, cache))
    candidates = [*([image.at(mirror) for mirror in mirrors] if image.registry == DOCKER_HUB else []), image]
    if image.digest and not refresh and BlobStore(cache_dir).find(image.digest):
        return _Found(BaseRecord(reference, image.digest, "registry"), tuple(candidates))
    choice = choose_source(candidates, probe_timeout_s, policy, say)
    if choice.sources:
        if cache and refresh and cache.made_on:
            cache.drop(say)  # else the next build would take it again
        details = {"registry": choice.sources[0].registry}
        return _Found(BaseRecord(reference, choice.digest, "registry", details=details), choice.sources)
    if cache is None:
        raise _no_registry(reference, image, choice.refusals)
    say(f"{reference}: bootstrapping from this machine's package mirror: {_reasons(choice.refusals)}")
    return _Found(_record(reference, cache.fill(refresh, say), cache))


def _record(reference: str, made: Bootstrapped, cache: BaseCache) -> BaseRecord:
    return BaseRecord(reference, made.digest, "bootstrapped", made.suite, made.details, cache.made_on)


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
