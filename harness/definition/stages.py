"""Stages: which a Dockerfile has, and how one's files come to another."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from harness.definition.dockerfile import Instruction
from harness.definition.model import BuildStage, CopiedFile
from harness.definition.shell import ARGUMENT, OUTGOING, STAGING, quote_path
from harness.definition.state import StageState
from harness.definition.words import expand, plain_text

_OWN_LABEL = re.compile(r"(?:stage|image)-\d+")


@dataclass
class WrittenStage:
    """A FROM with the instructions below it.

    Attributes:
        index: its number.
        name: after AS, lower case.
        reference: what follows FROM, not expanded.
        label: its name in the definition, where each has another.
    """

    index: int
    origin: Instruction
    name: str | None
    reference: str
    body: list[Instruction] = field(default_factory=list)
    label: str = ""

    @classmethod
    def of(cls, index: int, instruction: Instruction) -> WrittenStage:
        """Read a FROM line."""
        words = instruction.values
        if len(words) == 1:
            return cls(index, instruction, None, words[0], label=f"stage-{index}")
        if len(words) == 3 and words[1].lower() == "as":
            name = words[2].lower()
            is_ours = _OWN_LABEL.fullmatch(name)
            return cls(index, instruction, name, words[0], label=f"stage-{index}" if is_ours else name)
        raise instruction.refuse("it must be FROM image, or FROM image AS name", "write it so")


@dataclass
class StageSources:
    """Brings files of other stages, and of other images, to a stage.

    Attributes:
        written: all stages of the Dockerfile.
        convert: converts a stage when it is needed, once.
        images: images that are only copied from.
    """

    written: list[WrittenStage]
    convert: Callable[[int], StageState]
    images: dict[str, BuildStage] = field(default_factory=dict)

    def index_of(self, name: str, before: int) -> int | None:
        """The stage called ``name`` (or numbered so) above stage ``before``."""
        for stage in reversed(self.written[:before]):
            if stage.name == name.lower():
                return stage.index
        return int(name) if name.isdigit() and int(name) < before else None

    def send(self, state: StageState, origin: str, sources: list[str], instruction: Instruction) -> list[str]:
        """Stage ``sources`` of ``origin``; returns shell words for them (one may be a pattern ending in ``*.*``).

        Raises:
            SpecError: no such stage, or a source that cannot be named.
        """
        own = next(w.index for w in self.written if w.label == state.name)
        index = self.index_of(origin, own)
        if any(later.name == origin.lower() for later in self.written[own:]):  # Docker takes the last of a name
            index = None
        number = next(state.numbers)
        here = f"{STAGING}/{number}"
        if index is None:
            return self._from_image(state, origin, sources, here, instruction)
        other = self.convert(index)
        words = " ".join(_pattern_word(posixpath.join("/", s)) for s in sources)
        for name in ARGUMENT.findall("\n".join(sources)):
            default = state.arguments[name]
            if other.arguments.setdefault(name, default) != default:
                raise instruction.refuse(f"'{name}' has another default in stage {origin}", "give both the same")
        other.sends.append(f"send {number} {words}")
        state.files.append(CopiedFile(f"{OUTGOING}/{number}", here, other.name))
        state.commands.append(f"receive {here}")
        return [f"{here}/*.*"]

    def _from_image(
        self, state: StageState, origin: str, sources: list[str], here: str, instruction: Instruction
    ) -> list[str]:
        if origin.isdigit() or any(w.name == origin.lower() for w in self.written):
            raise instruction.refuse(f"--from={origin} is no stage above this one", "copy from an earlier stage")
        reference = plain_text(
            expand(origin, state.scope, where=instruction.where), where=instruction.where, what="--from"
        )
        stage = self.images.setdefault(reference, BuildStage(f"image-{len(self.images)}", reference))
        words = []
        for position, source in enumerate(sources):
            path = posixpath.normpath(posixpath.join("/", source))
            if path == "/" or not re.fullmatch(r"[\w@%+=:,./-]+", path):
                raise instruction.refuse(
                    f"'{source}' of an image that is only copied from cannot be named in %files",
                    f"add a stage: FROM {origin} AS files, and COPY --from=files",
                )
            # The name stays: a file copied into a folder keeps it.
            target = f"{here}/{position}/{posixpath.basename(path)}"
            state.files.append(CopiedFile(path, target, stage.name))
            state.commands.append(f"chown -R 0:0 {target}")
            words.append(target)
        return words


def _pattern_word(path: str) -> str:
    """A shell word in which only ``*``, ``?`` and ``[…]`` are special."""
    if not re.search(r"[*?\[]", path):
        return quote_path(path)
    return "".join(p if p in "*?[]-" else quote_path(p) for p in re.findall(r"\{\{ \w+ \}\}|.", path, re.DOTALL))


def platform(instruction: Instruction) -> str:
    """The word of FROM --platform; empty: there is none.

    Raises:
        SpecError: another flag.
    """
    word = ""
    for flag in instruction.flags:
        name, _, word = flag.partition("=")
        if name != "--platform":
            raise instruction.refuse(f"{flag} is not supported", "remove the flag")
    return word
