"""What a base image's configuration says beside its files, read from its registry: two or three small documents."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.definition.state import BaseConfig
from harness.definition.variables import platform_arguments
from harness.errors import HarnessError, SpecError
from harness.image.base import PROBE_TIMEOUT_S
from harness.image.blobs import BlobStore, is_sha256
from harness.image.debian import DebianTarget
from harness.image.fetch import Fetcher
from harness.image.reference import DOCKER_HUB, ImageReference
from harness.image.registry import RegistryUnreachableError
from harness.image.sources import choose_source
from harness.runtime.retry import RetryPolicy

POLICY = RetryPolicy(attempts=2, longest_pause_s=5.0, stall_s=10.0, total_s=30.0)
"""Somebody waits for a definition, which can be written without an answer."""


def registry_base_config(
    reference: str, mirrors: Sequence[str] = (), *, probe_timeout_s: float = PROBE_TIMEOUT_S
) -> BaseConfig:
    """What the base image ``reference`` says, for this machine's platform; nothing is kept.

    Debian's own images say nothing of what a build asks; they are known where no registry answers, too.

    Args:
        mirrors: as in :func:`harness.image.base.ensure_base`.

    Raises:
        UserError: ``reference`` is no image reference.
        RegistryError: no registry gave it.
        HarnessError: what a registry gave is no configuration, or is of other platforms.
    """
    image = ImageReference.parse(reference)
    candidates = [*([image.at(mirror) for mirror in mirrors] if image.registry == DOCKER_HUB else []), image]
    choice = choose_source(candidates, probe_timeout_s, POLICY, _silent)
    if not choice.sources:
        own = choice.refusals[-1]
        if isinstance(own, RegistryUnreachableError) and DebianTarget.of(image) is not None:
            return BaseConfig()
        raise own
    with tempfile.TemporaryDirectory(prefix="harness-base-config-") as folder:
        fetcher = Fetcher(choice.sources, BlobStore(Path(folder)), _silent, POLICY)
        manifest = _document(fetcher.manifest(choice.digest), reference)
        if "manifests" in manifest:
            manifest = _document(fetcher.manifest(_of_this_platform(manifest, reference)), reference)
        part = manifest.get("config")
        digest = str(part.get("digest")) if isinstance(part, dict) else ""
        if not is_sha256(digest):
            raise HarnessError("what the registry gave is no image", where=reference)
        document = _document(fetcher.blob(digest), reference)
    return BaseConfig.of(document.get("config") or {}, where=reference)


def read_base_config(file: Path) -> BaseConfig:
    """What a file says of an image: as ``skopeo inspect --config`` prints it, or the part ``config`` of that alone.

    Raises:
        SpecError: the file cannot be read, or is no such document.
    """
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror}", where=str(file)) from error
    except ValueError as error:
        raise SpecError(f"no JSON: {error}", where=str(file)) from error
    if not isinstance(document, dict):
        raise SpecError("no image's configuration", where=str(file), fix="skopeo inspect --config prints one")
    config = document.get("config", document)
    return BaseConfig.of(config or {}, where=str(file))


def _of_this_platform(index: dict[str, Any], reference: str) -> str:
    architecture = platform_arguments()["TARGETARCH"]
    for entry in index["manifests"]:
        platform = entry.get("platform", {})
        if (platform.get("os"), platform.get("architecture")) == ("linux", architecture):
            return str(entry["digest"])
    raise HarnessError(f"has no image for linux/{architecture}", where=reference)


def _document(file: Path, reference: str) -> dict[str, Any]:
    try:
        document = json.loads(file.read_bytes())
    except ValueError as error:
        raise HarnessError("what the registry gave is no JSON", where=reference) from error
    if not isinstance(document, dict):
        raise HarnessError("what the registry gave is no image", where=reference)
    return document


def _silent(line: str) -> None:
    pass
