"""What a Dockerfile takes from outside beside its base and its packages: further images, and files of addresses.

No lock holds these. They are as good as locked where the Dockerfile itself says which bytes it means.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from harness.definition.dockerfile import Instruction, parse_dockerfile
from harness.definition.variables import platform_arguments
from harness.definition.words import Scope, expand, literal
from harness.errors import UserError
from harness.image.reference import ImageReference

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://|git@", re.IGNORECASE)
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


@dataclass(frozen=True)
class Unpinned:
    """Something from outside that may be other bytes tomorrow.

    Attributes:
        what: with file and line.
        fix: what to write instead.
    """

    what: str
    fix: str


def unpinned(instructions: list[Instruction], locked_base: str) -> Iterator[Unpinned]:
    """Images without a digest that are not the locked base, and addresses without a checksum, in all stages.

    Args:
        locked_base: the image that the lock is about, as the Dockerfile names it.
    """
    reader = _Reader(locked_base)
    for instruction in instructions:
        yield from reader.read(instruction)


@dataclass
class _Reader:
    """Reads a Dockerfile from its top; knows stages and variables so far.

    Attributes:
        stages: names and numbers of the stages so far, with what names mean at their end.
        variables: what names mean at this place, by the defaults of build arguments.
    """

    locked_base: str
    stages: dict[str, dict[str, str]] = field(default_factory=dict)
    count: int = 0
    above_from: dict[str, str] = field(default_factory=platform_arguments)
    variables: dict[str, str] = field(default_factory=dict)

    def read(self, instruction: Instruction) -> Iterator[Unpinned]:
        if instruction.name == "FROM":
            yield from self._from(instruction)
        elif instruction.name == "ARG":
            self._arg(instruction)
        elif instruction.name == "ENV":
            self._env(instruction)
        elif instruction.name == "ONBUILD":
            text = re.sub(r"^\s*ONBUILD\s+", "", "\n".join(instruction.lines), flags=re.IGNORECASE)
            for trigger in parse_dockerfile(f"FROM x\n{text}\n", instruction.where)[1:]:
                yield from self.read(replace(trigger, where=instruction.where))
        elif instruction.name == "COPY":
            for flag in instruction.flags:
                name, _, image = flag.partition("=")
                if name == "--from":
                    yield from self._image(self._text(image, instruction), f"COPY {flag}", instruction)
        elif instruction.name == "RUN":
            yield from self._mounts(instruction)
        elif instruction.name == "ADD":
            yield from self._add(instruction)

    def _from(self, instruction: Instruction) -> Iterator[Unpinned]:
        image = self._text(instruction.values[0], instruction, self.above_from)
        if image.lower() != "scratch" and not image.isdigit():
            yield from self._image(image, f"FROM {image}", instruction)
        self.variables = dict(self.stages.get(image.lower(), {}))
        self.stages |= dict.fromkeys(
            (str(self.count), *(word.lower() for word in instruction.values[2:3])), self.variables
        )
        self.count += 1

    def _mounts(self, instruction: Instruction) -> Iterator[Unpinned]:
        for flag in instruction.flags:
            name, _, value = flag.partition("=")
            pairs = (word.partition("=") for word in next(csv.reader([value]), []))
            options = {key.strip().lower(): text for key, _, text in pairs}
            if name == "--mount" and "from" in options:
                image = self._text(options["from"], instruction)
                yield from self._image(image, f"RUN --mount from={image}", instruction)

    def _image(self, name: str, said: str, instruction: Instruction) -> Iterator[Unpinned]:
        if name.lower() in self.stages:
            return  # of this Dockerfile
        try:
            image = ImageReference.parse(name)
        except UserError:
            yield Unpinned(f"{instruction.where}: {said}: no name of an image", "name it, with its digest")
            return
        if image.digest is None and image != ImageReference.parse(self.locked_base):
            found = f"skopeo inspect --format '{{{{.Digest}}}}' docker://{name}"
            yield Unpinned(
                f"{instruction.where}: {said}: an image without a digest", f"write {name}@sha256:…; {found} prints it"
            )

    def _add(self, instruction: Instruction) -> Iterator[Unpinned]:
        has_checksum = any(re.match(r"--checksum=.", flag) for flag in instruction.flags)
        heredocs = {name for name, _ in instruction.heredocs}
        for word in instruction.values[:-1]:
            address = self._text(word, instruction)
            if word.lstrip("<-\"'").rstrip("\"'") in heredocs or not _ADDRESS.match(address):
                continue
            where = f"{instruction.where}: ADD {address}"
            if not _is_repository(address):
                if not has_checksum:
                    yield Unpinned(f"{where}: an address without a checksum", "write ADD --checksum=sha256:…")
            elif not _COMMIT.fullmatch(address.partition("#")[2].partition(":")[0]):
                yield Unpinned(f"{where}: a git repository without a commit", "write #COMMIT, all of it, behind it")

    def _arg(self, instruction: Instruction) -> None:
        known = self.variables if self.stages else self.above_from
        for word in instruction.values:
            name, separator, default = word.partition("=")
            if separator:
                known[name] = self._text(default, instruction, known)
            elif name in self.above_from:
                known[name] = self.above_from[name]

    def _env(self, instruction: Instruction) -> None:
        pairs = zip(instruction.values[::2], instruction.values[1::2], strict=True)
        self.variables.update([(name, self._text(value, instruction)) for name, value in pairs])

    def _text(self, word: str, instruction: Instruction, known: dict[str, str] | None = None) -> str:
        """A word with its variables; one that nothing defines stays, and so is the name of no image."""
        scope = Scope({name: literal(text) for name, text in (self.variables if known is None else known).items()})
        value = expand(word, scope, where=instruction.where, escape=instruction.escape)
        return "".join(part.text if part.kind in ("text", "argument") else f"${part.text}" for part in value)


def _is_repository(address: str) -> bool:
    if address.startswith(("git@", "git://", "ssh://")):
        return True
    return urlsplit(address).path.endswith(".git")
