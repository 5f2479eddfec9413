"""The tutorial's own layer as an overlay partition on its stack's image: a few files, not a second build.

An image that holds a squashfs overlay partition shows, when it runs, the same tree as one built from the whole
definition; tests compare the two. Only layers that are plain data qualify: files, environment, labels, start script.
"""

from __future__ import annotations

import json
import os
import re
import stat
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from harness.definition.model import Definition, Layer
from harness.definition.writer import environment_lines, write_definition
from harness.errors import HarnessError
from harness.image.assembly import Piece, data_object, pieces_of
from harness.image.engine import Engine
from harness.image.process import run_command
from harness.image.sif import DEFINITION, JSON, PARTITION, SIGNATURE, read_sif

# Apptainer's own names and texts: what its builds write for these sections.
METADATA = ".singularity.d"
ENVIRONMENT_FILE = f"{METADATA}/env/90-environment.sh"
LABELS_FILE = f"{METADATA}/labels.json"
HELP_FILE = f"{METADATA}/runscript.help"
RUNSCRIPT_FILE = f"{METADATA}/runscript"
TEST_FILE = f"{METADATA}/test"
DEFINITION_FILE = f"{METADATA}/Singularity"
INSPECTED_FILES = {"runscript": RUNSCRIPT_FILE, "test": TEST_FILE, "helpfile": HELP_FILE, "deffile": DEFINITION_FILE}
INSPECTION_OBJECT = "inspect-metadata.json"
ENVIRONMENT_MARK = "# Custom environment shell code should follow\n\n"
SHELL_HEADER = "#!/bin/sh\n\n"

# A partition of type squashfs (1), an overlay (4), for amd64 ("02"). It must be in the group: without, the partition is
# there and silently ignored.
_LISTED_FOLDER = re.compile(r"(?P<mode>d[rwxsStT-]{9}) (?P<user>\d+)/(?P<group>\d+) +\d+ \S+ \S+ ?(?P<path>.*)")
_OVERLAY_PARTITION = struct.pack("<ii", 1, 4) + b"02\0"


@dataclass(frozen=True)
class OverlayFile:
    """A file of the overlay: its path in the image without the leading slash, its permission bits, its content."""

    path: str
    mode: int
    content: bytes


class FolderMode(NamedTuple):
    """Permission bits, owner and group of a folder, as numbers."""

    mode: int
    user: int
    group: int


PLAIN_FOLDER = FolderMode(0o755, 0, 0)


@dataclass(frozen=True)
class StageMetadata:
    """What an image says of itself: the object `apptainer inspect --all --json` prints."""

    inspection: dict[str, Any]

    @property
    def environment(self) -> str:
        """Its environment script."""
        return str(self._attributes["environment"][f"/{ENVIRONMENT_FILE}"])

    @property
    def labels(self) -> dict[str, str]:
        return dict(self._attributes.get("labels") or {})

    @property
    def _attributes(self) -> dict[str, Any]:
        attributes: dict[str, Any] = self.inspection["data"]["attributes"]
        return attributes

    def with_files(self, files: Iterable[OverlayFile]) -> dict[str, Any]:
        """The same object for the image with ``files`` on top."""
        texts = {file.path: file.content.decode() for file in files if file.path.startswith(METADATA)}
        attributes = dict(self._attributes)
        attributes["environment"] = {
            **attributes["environment"],
            f"/{ENVIRONMENT_FILE}": texts[ENVIRONMENT_FILE].strip(),
        }
        attributes["labels"] = json.loads(texts[LABELS_FILE])
        for name, path in INSPECTED_FILES.items():
            if path in texts:
                attributes[name] = texts[path].strip()
        return {**self.inspection, "data": {**self.inspection["data"], "attributes": attributes}}


def qualifies(layer: Layer) -> bool:
    """Whether a layer is data alone, so that adding its files is all there is to building it."""
    return not layer.commands


def has_layer(image: Path) -> bool:
    """Whether an image's file, the whole or a layer alone, was built by adding a layer to a stack's image.

    Raises:
        SifError: no image, or half of one.
    """
    return any(d.extra.startswith(_OVERLAY_PARTITION[:8]) for d in read_sif(image).objects(PARTITION))


def overlay_files(definition: Definition, layer: Layer, root: Path, stage: StageMetadata) -> list[OverlayFile]:
    """What ``layer`` adds to an image that holds the other layers of ``definition``.

    Args:
        definition: the whole image's.
        layer: the one to add; it qualifies.
        root: the checkout, where the layer's sources are.
        stage: what the image of the layers below says of itself.

    Raises:
        HarnessError: a source is missing, or the stage was not built by an engine whose layout is known here.
    """
    files = [_copied(root / c.source, c.target) for c in layer.files]
    header, mark, said = stage.environment.partition(ENVIRONMENT_MARK)
    if not mark:
        raise HarnessError(f"the stage's /{ENVIRONMENT_FILE} has an unknown form", fix="build with --no-overlay")
    exports = _exports(definition, layer, said)
    labels = {**stage.labels, **dict(layer.labels)}
    if definition.help_text is not None:
        labels["org.label-schema.usage"] = f"/{HELP_FILE}"
        labels["org.label-schema.usage.apptainer.runscript.help"] = f"/{HELP_FILE}"
        files.append(_text(HELP_FILE, definition.help_text + "\n\n", 0o644))
    files += [
        _text(ENVIRONMENT_FILE, header + mark + exports + "\n\n", 0o755),
        _text(LABELS_FILE, json.dumps(labels, indent="\t", sort_keys=True, ensure_ascii=False), 0o644),
        _text(DEFINITION_FILE, write_definition(definition), 0o644),
    ]
    for path, body in ((RUNSCRIPT_FILE, definition.runscript), (TEST_FILE, definition.test)):
        if body is not None:
            files.append(_text(path, f"{SHELL_HEADER}{body}\n\n\n", 0o755))
    return files


def read_stage(engine: Engine, stage: Path) -> StageMetadata:
    """What an image says of itself.

    Raises:
        CommandError: the image cannot be read. HarnessError: it has no environment script of an engine's build.
    """
    command = [str(engine.path), "inspect", "--all", "--json", str(stage)]
    listed = run_command(command, separate_stdout=True, what="reading the stack's image", where=str(stage)).stdout
    metadata = StageMetadata(json.loads(listed))
    try:
        _ = metadata.environment
    except KeyError:
        raise HarnessError(f"it has no /{ENVIRONMENT_FILE}", where=str(stage), fix="build with --no-overlay") from None
    return metadata


def folders_of(files: Iterable[OverlayFile]) -> list[str]:
    """The folders that a layer has, with ``.`` for the root."""
    return sorted({parent.as_posix() for file in files for parent in PurePosixPath(file.path).parents})


def folder_modes(stage: Path, wanted: Sequence[str]) -> dict[str, FolderMode]:
    """Of those folders that an image has: mode, owner and group. Read from its file system: no owner is mapped.

    Raises:
        CommandError: it cannot be read. SifError: no image, or half of one.
    """
    found: dict[str, FolderMode] = {}

    def on_line(line: str) -> None:
        match = _LISTED_FOLDER.fullmatch(line)
        name = (match["path"].lstrip("/") or ".") if match else ""
        if match and name in wanted:
            found[name] = FolderMode(_mode_bits(match["mode"]), int(match["user"]), int(match["group"]))

    offset = read_sif(stage).objects(PARTITION)[0].offset
    command = ["unsquashfs", "-dest", "", "-offset", str(offset), "-lln", str(stage), *(w for w in wanted if w != ".")]
    run_command(command, on_line=on_line, what="reading the stack's folders", where=str(stage))
    return found


def _mode_bits(letters: str) -> int:
    """``drwxrwsr-x`` -> 0o2775."""
    bits = sum(1 << (8 - place) for place, letter in enumerate(letters[1:]) if letter not in "-ST")
    special = ((3, "sS", 0o4000), (6, "sS", 0o2000), (9, "tT", 0o1000))
    return bits | sum(bit for place, marks, bit in special if letters[place] in marks)


def layer_pieces(
    stage: Path,
    files: list[OverlayFile],
    below: Mapping[str, FolderMode],
    metadata: StageMetadata,
    work: Path,
    packing: list[str],
    environment: Mapping[str, str],
) -> list[Piece]:
    """What the image of a tutorial holds besides its stack's file systems.

    These are the stage's other objects, those that the engine shows of an image made anew, and ``files`` as an overlay
    partition.

    Args:
        below: those of the layer's folders that the stack has too, and keeps as they are.
        metadata: what ``stage`` says of itself.
        work: an empty folder for temporary files.
        packing: mksquashfs options for compression.
        environment: of mksquashfs; ``SOURCE_DATE_EPOCH`` in it is the newest time in the layer.

    Raises:
        CommandError: packing failed. OSError: no space.
    """
    tree, packed = work / "tree", work / "layer.squashfs"
    for file in files:
        path = tree / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
        path.chmod(file.mode)
    modes = {name: below.get(name, PLAIN_FOLDER) for name in reversed(folders_of(files))}
    for name, facts in modes.items():
        (tree / name).chmod(facts.mode)
    pack = ["mksquashfs", str(tree), str(packed), *packing, "-no-xattrs", "-no-progress", "-quiet"]
    pack = [*pack, "-all-root"] if _all_root(modes) else _with_owners(pack, modes, files, work)
    run_command(
        pack, env=environment, what="packing the tutorial's layer", fix="scripts/install-apptainer brings mksquashfs"
    )
    # `apptainer inspect` and `run-help` read these two objects instead of starting the image.
    inspection = json.dumps(metadata.with_files(files), ensure_ascii=False).encode()
    recipe = next(file.content for file in files if file.path == DEFINITION_FILE)
    kept = [d for d in read_sif(stage).objects() if d.kind not in (PARTITION, DEFINITION, SIGNATURE)]
    return [
        *pieces_of(stage, [d for d in kept if d.name != INSPECTION_OBJECT]),
        Piece(data_object(DEFINITION), data=recipe),
        Piece(data_object(JSON, INSPECTION_OBJECT), data=inspection),
        Piece(data_object(PARTITION, extra=_OVERLAY_PARTITION), data=packed.read_bytes()),
    ]


def _all_root(modes: Mapping[str, FolderMode]) -> bool:
    return all((facts.user, facts.group) == (0, 0) for facts in modes.values())


def _with_owners(
    pack: list[str], modes: Mapping[str, FolderMode], files: Sequence[OverlayFile], work: Path
) -> list[str]:
    """The command with owners by name: ``-all-root`` would win over them."""
    lines = [f'"{name}" m {facts.mode:o} {facts.user} {facts.group}' for name, facts in modes.items() if name != "."]
    lines += [f'"{file.path}" m {file.mode:o} 0 0' for file in files]
    owners = work / "owners"
    owners.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    as_root = [] if os.geteuid() == 0 else ["unshare", "--map-root-user"]  # so the tree's own root belongs to root
    return [*as_root, *pack, "-pf", str(owners)]


def _exports(definition: Definition, layer: Layer, said: str) -> str:
    """The environment of the image: the whole definition's; on a stage that says another one, its own and the layer's.

    A stage that Docker built has its variables as Docker froze them, and not what a definition keeps to freeze them.

    Args:
        said: what the stage's environment script says.
    """
    below = environment_lines([other for other in definition.layers if other != layer])
    said = said.strip("\n")
    lines = environment_lines(definition.layers) if said == "\n".join(below) else [said, *environment_lines([layer])]
    return "".join(f"{line}\n" for line in lines)


def _copied(source: Path, target: str) -> OverlayFile:
    try:
        executable = bool(source.stat().st_mode & stat.S_IXUSR)
        return OverlayFile(target.lstrip("/"), 0o755 if executable else 0o644, source.read_bytes())
    except FileNotFoundError:
        raise HarnessError("the definition copies this file, which is not there", where=os.fspath(source)) from None


def _text(path: str, text: str, mode: int) -> OverlayFile:
    return OverlayFile(path, mode, text.encode())
