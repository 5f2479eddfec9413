"""What of a cache the definitions of a checkout need: which stages, which base images."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.definition.tutorial_image import Definitions
from harness.image.base_cache import BaseCache
from harness.image.blobs import is_sha256
from harness.image.compression import DEFAULT
from harness.image.debian import DebianTarget
from harness.image.driver import BASE_ARGUMENT
from harness.image.reference import ImageReference
from harness.image.stages import StageStore, plan
from harness.stack import load_stack, stack_names


@dataclass(frozen=True)
class Needs:
    """Names of files, each with what needs it, for people.

    Attributes:
        stages: key of a stage -> ``pytorch.cpu 1 of 2``.
        bases: folder of a bootstrapped base -> ``pytorch.cpu``.
        blobs: sha256 (hex) of a part of a base image from a registry -> ``vllm.cuda``.
    """

    stages: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    bases: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    blobs: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))


def find_needs(definitions: Definitions, cache: Path, tools: Mapping[str, str]) -> Needs:
    """What the builds of all stacks and variants of a checkout would take from the cache.

    The base image behind a tag is taken to be the one of the last build; images are taken to be packed as they are
    without ``--compression``. A stack that Docker built has a key that only its engine knows: it counts as not needed.

    Args:
        tools: the programs that keys know, with their versions.

    Raises:
        SpecError: a definition cannot be made, so what it needs cannot be known.
    """
    needs, store = Needs(), StageStore(cache / "stages")
    for stack in stack_names(definitions.project):
        for variant in load_stack(definitions.project, stack).variants:
            name = f"{stack}.{variant}"
            definition = definitions.stack(stack, variant)[1]
            reference = dict(definition.arguments).get(BASE_ARGUMENT, definition.base)
            image = ImageReference.parse(reference)
            if target := DebianTarget.of(image):
                needs.bases[BaseCache(cache, target).key].add(name)
            known = next((r.base_digest for r in store.records(name) if r.reference == reference), image.digest)
            if known is None:
                continue  # it was never built here
            for digest in parts_of_image(cache, known):
                needs.blobs[digest.removeprefix("sha256:")].add(name)
            chain = plan(definitions.project, definition, known, tools, DEFAULT, definitions.digest)
            for number, stage in enumerate(chain, 1):
                needs.stages[stage.key].add(f"{name} {number} of {len(chain)}")
    return needs


def parts_of_image(cache: Path, digest: str) -> Iterator[str]:
    """Digests of an image's index, manifests, configurations and layers, as far as the cache knows them."""
    yield digest
    file = cache / "blobs" / "sha256" / digest.removeprefix("sha256:")
    try:
        content = json.loads(file.read_bytes())
        inner = [part["digest"] for part in content.get("manifests", [])]
        leaves = [part["digest"] for part in [*content.get("layers", []), content.get("config")] if part]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return  # not there; or not a manifest
    for part in inner:
        if is_sha256(part):
            yield from parts_of_image(cache, part)
    yield from leaves
