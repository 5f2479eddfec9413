"""A stack's image as a chain of stages: their keys, what the keys were made of, and where the images are.

A stage's key is a hash over its parent's key and everything that goes into the stage itself. The images lie in
``<cache>/stages/<key>.sif``; beside them, for each stack, the parts of the keys of its newest chains, so that a moved
key can be explained::

    <cache>/stages/<key>.sif
    <cache>/stages/.building-*/<key>.sif    being written; the folder says by whom
    <cache>/stages/records/stacks/<stack>.<variant>/<key of the last stage>.json
    <cache>/stages/records/images/<image>/<sha256 of its definition>.json
    <cache>/stages/records/installed/<key>.json
    <cache>/stages/records/folders/<key>.json
    <cache>/stages/records/fingerprints/<key>.sha256

Package mirrors are no part of a key: they are lent to a build and leave nothing in an image.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from harness.definition.cut import cut
from harness.definition.model import Definition
from harness.definition.reproducible import reproducible
from harness.definition.tutorial_image import Definitions, copied_files, on_top
from harness.definition.writer import write_definition
from harness.errors import HarnessError
from harness.files import sha256_of, write_whole
from harness.image.compression import INTERMEDIATE, Compression
from harness.image.held import HeldFiles
from harness.image.overlay import FolderMode
from harness.image.packages import Package
from harness.owner import sign_folder, signed_prefix
from harness.project import Project, Variant
from harness.tutorial import Tutorial

TOOLS_IN_KEYS = ("apptainer", "singularity", "mksquashfs")
"""Programs that write bytes of an image. Our own version is none of them: what we write is in the recipe."""

KEPT_RECORDS = 20
"""Chains of one stack that are remembered, to compare the next one with."""

PACKAGES = TypeAdapter(list[Package])
FOLDERS = TypeAdapter(dict[str, FolderMode | None])


class StageParts(BaseModel):
    """What a stage's key is made of.

    Attributes:
        parent: key of the stage below; for the first one the base image's digest.
        recipe: the stage's definition, as text.
        files: what it copies from the checkout: path -> sha256, with ``+x`` for an executable.
        tools: programs whose version matters, with it.
        compression: how the stage's image is packed: mksquashfs's options.
        origins: where each of its instructions is written, ``file:line``, and its text. Not in the key: a comment above
            moves every line and changes nothing.
    """

    model_config = ConfigDict(frozen=True)
    parent: str
    recipe: str
    files: dict[str, str]
    tools: dict[str, str]
    compression: str
    origins: list[tuple[str, str]]

    @property
    def key(self) -> str:
        """sha256, hex."""
        text = json.dumps(self.model_dump(exclude={"origins"}), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


class ChainRecord(BaseModel):
    """A stack as it was built: its base and its stages in order."""

    model_config = ConfigDict(frozen=True)
    schema_version: int = 1
    name: str
    reference: str
    base_digest: str
    stages: list[StageParts]


class LayerParts(BaseModel):
    """What a tutorial's layer was made of.

    Attributes:
        definition_sha256: of the whole image's definition, as its manifest has it.
        stack_key: key of the stage that it stands on.
        sections: its own part of the definition's sections.
        files: as in :class:`StageParts`. compression: the label, as the manifest has it.
    """

    model_config = ConfigDict(frozen=True)
    definition_sha256: str
    stack_key: str
    sections: dict[str, str]
    files: dict[str, str]
    compression: str


@dataclass(frozen=True)
class Stage:
    """One stage that can be built.

    Attributes:
        definition: it stands on a base image, or on the stage before under the name :data:`PREVIOUS`.
        compression: of its image.
    """

    definition: Definition
    parts: StageParts
    compression: Compression

    @property
    def key(self) -> str:
        return self.parts.key


def plan(
    project: Project,
    definition: Definition,
    base_digest: str,
    tools: Mapping[str, str],
    compression: Compression,
    digest: Callable[[Path], str] = sha256_of,
) -> list[Stage]:
    """The stages of a stack's definition (without the lines of :func:`reproducible`), with their keys.

    Args:
        compression: of the last one; the others are only built upon.

    Raises:
        SpecError: a file that is copied is not there.
    """
    chain = cut(reproducible(definition))
    stages: list[Stage] = []
    for number, part in enumerate(chain):
        packing = compression if number == len(chain) - 1 else INTERMEDIATE
        parts = StageParts(
            parent=stages[-1].key if stages else base_digest,
            recipe=write_definition(part),
            files=_described(project, part, digest),
            tools=dict(tools),
            compression=packing.mksquashfs,
            origins=[layer.origin for layer in part.layers if layer.origin],
        )
        stages.append(Stage(part, parts, packing))
    return stages


def keyed_tools(versions: Mapping[str, str]) -> dict[str, str]:
    """Of the programs that take part in a build those that keys know."""
    return {name: version for name, version in versions.items() if name in TOOLS_IN_KEYS}


def layer_parts(
    definitions: Definitions, tutorial: Tutorial, variant: Variant, stack_key: str, compression: Compression
) -> LayerParts:
    """What the checkout's layer of a tutorial is made of.

    Raises:
        SpecError: the definition cannot be made, or a file that is copied is not there.
    """
    own = on_top(definitions.project, Definition("localimage", ""), tutorial, variant)
    sections: dict[str, list[str]] = {}
    name = ""
    for line in write_definition(own).splitlines():
        if re.fullmatch(r"%\w+", line):
            name = line[1:]
        elif name and line:
            sections.setdefault(name, []).append(line)
    return LayerParts(
        definition_sha256=definitions.key(tutorial, variant),
        stack_key=stack_key,
        sections={name: "\n".join(lines) for name, lines in sections.items() if name != "files"},
        files=_described(definitions.project, own, definitions.digest),
        compression=compression.label,
    )


def _described(project: Project, definition: Definition, digest: Callable[[Path], str]) -> dict[str, str]:
    files = copied_files(project, definition, digest).items()
    return {path: content + (" +x" if executable else "") for path, (executable, content) in files}


@dataclass(frozen=True)
class StageStore:
    """The stages of a cache.

    Attributes:
        held: the images that this process found or made, and builds upon: they stay until it ends.
    """

    folder: Path
    held: HeldFiles = field(default_factory=HeldFiles, compare=False)

    def image(self, key: str) -> Path:
        """Where the image of a key is, or will be."""
        return self.folder / f"{key}.sif"

    def built(self, stages: Sequence[Stage]) -> int:
        """How many of the stages, from the first on, need not be built: those up to the last that is there."""
        return max((n for n, stage in enumerate(stages, 1) if self.image(stage.key).is_file()), default=0)

    def hold_built(self, stages: Sequence[Stage]) -> int:
        """As :meth:`built`, for who is going to build upon the last of them: its image stays."""
        while (built := self.built(stages)) and not self.held.hold(self.image(stages[built - 1].key)):
            continue  # removed since the look
        return built

    @contextlib.contextmanager
    def aside(self, key: str) -> Iterator[Path]:
        """Where to write the image of a key before it is whole; what is there in the end is removed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=signed_prefix(".building-"), dir=self.folder))
        try:
            folder.chmod(0o755)  # a colleague may ask whose it is
            sign_folder(folder)
            yield folder / self.image(key).name
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def keep(self, temporary: Path, key: str) -> None:
        """Give a finished image its name; it is held from now on.

        Raises:
            HarnessError: somebody removed it.
        """
        try:
            self.held.rename(temporary, self.image(key))
        except FileNotFoundError as error:
            raise HarnessError(
                "somebody removed the image that was just built",
                where=str(temporary),
                fix="build again; nobody but its builder removes what changed within a day",
            ) from error

    def record(self, chain: ChainRecord) -> None:
        """Remember how a chain that was just built or used came about."""
        self._write(self._chains(chain.name), chain.stages[-1].key, chain)

    def record_layer(self, name: str, parts: LayerParts) -> None:
        """Remember what the layer of an image was made of."""
        self._write(self._layers(name), parts.definition_sha256, parts)

    def layer(self, name: str, definition_sha256: str) -> LayerParts | None:
        """What is remembered of an image's layer; None for nothing."""
        file = self._layers(name) / f"{definition_sha256}.json"
        try:
            return LayerParts.model_validate_json(file.read_text(encoding="utf-8"))
        except (OSError, ValidationError):
            return None  # built elsewhere, or by another version of this program

    def packages(self, key: str, listed: Callable[[], list[Package]]) -> list[Package]:
        """What is installed in the image of a key: as remembered, else as ``listed`` finds it.

        To look takes longer than the rest of a tutorial's layer: its shell reads every package's record.
        """
        file = self.folder / "records" / "installed" / f"{key}.json"
        try:
            return PACKAGES.validate_json(file.read_bytes())
        except (OSError, ValidationError):
            found = listed()
            write_whole(file, PACKAGES.dump_json(found, indent=1).decode() + "\n")
            return found

    def folder_modes(
        self, key: str, wanted: Sequence[str], listed: Callable[[Sequence[str]], dict[str, FolderMode]]
    ) -> dict[str, FolderMode]:
        """Of those folders that the image of a key has: mode, owner and group, as remembered, else as ``listed``."""
        file = self.folder / "records" / "folders" / f"{key}.json"
        try:
            known = FOLDERS.validate_json(file.read_bytes())
        except (OSError, ValidationError):
            known = {}
        if not known.keys() >= set(wanted):
            found = listed(sorted({*known, *wanted}))
            known = {name: found.get(name) for name in sorted({*known, *wanted})}
            write_whole(file, FOLDERS.dump_json(known, indent=1).decode() + "\n")
        return {name: mode for name in wanted if (mode := known[name]) is not None}

    def fingerprint(self, key: str, computed: Callable[[], str]) -> str:
        """sha256 over the file systems in the image of a key: as remembered, else as ``computed`` says."""
        file = self.folder / "records" / "fingerprints" / f"{key}.sha256"
        try:
            return file.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            found = computed()
            write_whole(file, found + "\n")
            return found

    def records(self, name: str) -> list[ChainRecord]:
        """What is remembered of a stack's variant, newest first. Records of another version are passed over."""
        records = []
        for file in _newest_first(self._chains(name)):
            try:
                records.append(ChainRecord.model_validate_json(file.read_text(encoding="utf-8")))
            except (OSError, ValidationError):
                continue  # from another version of this program: it explains nothing
        return records

    def remembered(self) -> dict[str, str]:
        """Of the stages of all remembered chains: key -> which one it was, ``pytorch.cpu 1 of 2``."""
        known = {}
        for folder in sorted((self.folder / "records" / "stacks").glob("*")):
            for chain in self.records(folder.name):
                for number, parts in enumerate(chain.stages, 1):
                    known[parts.key] = f"{chain.name} {number} of {len(chain.stages)}"
        return known

    def _write(self, folder: Path, key: str, record: BaseModel) -> None:
        write_whole(folder / f"{key}.json", record.model_dump_json(indent=1) + "\n")
        for old in _newest_first(folder)[KEPT_RECORDS:]:
            old.unlink(missing_ok=True)

    def _chains(self, name: str) -> Path:
        return self.folder / "records" / "stacks" / name

    def _layers(self, name: str) -> Path:
        return self.folder / "records" / "images" / name


def _newest_first(folder: Path) -> list[Path]:
    dated = []
    for file in folder.glob("*.json"):
        try:
            dated.append((file.stat().st_mtime_ns, file))
        except FileNotFoundError:
            continue  # another process removed it just now
    return [file for _, file in sorted(dated, reverse=True)]
