"""COPY and ADD: staged by %files, moved by %post in their turn."""

from __future__ import annotations

import gzip
import posixpath
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from harness.definition.context import Staged
from harness.definition.dockerfile import Instruction
from harness.definition.shell import STAGING, quote, quote_path
from harness.definition.stages import StageSources
from harness.definition.state import StageState
from harness.definition.words import Scope, Value, expand, shell_word
from harness.errors import SpecError

_MAGIC = {b"\x1f\x8b": 0, b"BZh": 0, b"\xfd7zXZ\x00": 0, b"ustar": 257, b"\x28\xb5\x2f\xfd": 0}
_HEREDOC = re.compile(r"""^<<(-?)(['"]?)([^'"]+)\2$""")
_FLAGS = {"COPY": ("from", "chown", "chmod", "link"), "ADD": ("chown", "chmod", "link", "checksum")}


def copy(state: StageState, instruction: Instruction, sources_of: StageSources) -> None:
    """COPY or ADD."""
    flags = _flags(instruction)
    *sources, target_text = instruction.values
    if not sources:
        raise instruction.refuse("needs a source and a target", "write both")
    target = state.text(target_text, instruction)
    into_folder = target.endswith("/") or target == "."
    if len(sources) > 1 and not into_folder:
        raise instruction.refuse("several sources need a folder", f"write the target as {target}/")
    place = _Place(state, instruction, flags, state.path(target), into_folder)
    heredocs = dict(instruction.heredocs)
    for source in sources:
        match = _HEREDOC.match(source)
        if match and match[3] in heredocs:
            place.heredoc(match[3], heredocs[match[3]], strips=bool(match[1]), expands=not match[2])
        elif "from" in flags:
            place.sent(sources_of.send(state, flags["from"], [state.text(source, instruction)], instruction))
        elif instruction.name == "ADD" and _is_remote(source):
            place.remote(state.text(source, instruction))
        else:
            found = state.context.find(state.text(source, instruction), where=instruction.where)
            if len(found) > 1 and not into_folder:
                raise instruction.refuse("several files need a folder", f"write the target as {target}/")
            for path in found:
                place.context_path(path)


def _flags(instruction: Instruction) -> dict[str, str]:
    flags = {}
    for flag in instruction.flags:
        name, _, value = flag.removeprefix("--").partition("=")
        if name not in _FLAGS[instruction.name]:
            raise instruction.refuse(f"{flag} is not supported", "name the files, or copy plainly and RUN the rest")
        flags[name] = value
    return flags


def _is_remote(source: str) -> bool:
    return bool(re.match(r"(?:https?|git|ssh)://|git@", source))


class _Place:
    """Where one COPY puts its sources."""

    def __init__(
        self, state: StageState, instruction: Instruction, flags: dict[str, str], target: str, into_folder: bool
    ) -> None:
        self.state, self.instruction, self.flags, self.target = state, instruction, flags, target
        self.folder = target if into_folder else posixpath.dirname(target) or "/"
        self.into_folder = into_folder

    def context_path(self, path: str) -> None:
        staged = self.state.context.stage(path, next(self.state.numbers), where=self.instruction.where)
        self.state.files += staged.files
        self.state.commands += staged.commands
        if self.instruction.name == "ADD" and self._is_archive(path, staged):
            if "chown" in self.flags or "chmod" in self.flags:
                raise self.instruction.refuse("--chown and --chmod of an archive are not supported", "RUN chown after")
            self.state.commands.append(f"unpack {staged.path} {quote_path(self.target)}")
            return
        self._move(quote(staged.path))

    def sent(self, words: Sequence[str]) -> None:
        for word in words:
            if not word.endswith("*.*"):
                self._move(word)
                continue
            mark = len(self.state.commands)
            self._move('"$(received "$sent")"')
            moves = self.state.commands[mark:]
            self.state.commands[mark:] = [f"for sent in {word}; do\n    " + "\n    ".join(moves) + "\ndone"]

    def heredoc(self, name: str, content: str, *, strips: bool, expands: bool) -> None:
        if strips:
            content = re.sub(r"^\t+", "", content, flags=re.MULTILINE)
        staged = f"{STAGING}/{next(self.state.numbers)}/{name}"
        value = _expanded(content, self.state.scope, self.instruction) if expands else None
        word = quote(content) if value is None else shell_word(value)
        if value is not None and all(part.kind == "text" for part in value):
            word = quote("".join(part.text for part in value))
        self.state.commands += [
            f"mkdir -p {quote(posixpath.dirname(staged))}",
            f"printf %s {word} >{quote(staged)}",
            f"chmod 644 {quote(staged)}",
        ]
        self._move(quote(staged))

    def remote(self, address: str) -> None:
        if not address.startswith(("http://", "https://")) or urlsplit(address).path.endswith(".git"):
            raise self.instruction.refuse("a git repository cannot be added", "RUN git clone, or COPY a checkout")
        name = posixpath.basename(urlsplit(address).path)
        if self.into_folder and not name:
            raise self.instruction.refuse("the address ends without a file name", "name the target file")
        staged = f"{STAGING}/{next(self.state.numbers)}/{name or 'file'}"
        self.state.commands += [
            f"mkdir -p {quote(posixpath.dirname(staged))}",
            f"fetch {quote(address)} {quote(staged)}",
        ]
        if "checksum" in self.flags:
            algorithm, _, digest = self.state.text(self.flags["checksum"], self.instruction).partition(":")
            if algorithm != "sha256":
                raise self.instruction.refuse(f"--checksum={algorithm}:… is not supported", "use sha256:…")
            self.state.commands.append(f"echo {quote_path(digest + '  ' + staged)} | sha256sum -c - >/dev/null")
        self._move(quote(staged))

    def _move(self, staged: str) -> None:
        target, folder = quote_path(self.target), quote_path(self.folder)
        if "chmod" in self.flags:
            mode = self.state.text(self.flags["chmod"], self.instruction)
            self.state.commands.append(f"chmod -R {quote_path(mode)} {staged}")
        if "chown" in self.flags:
            owner = self.state.text(self.flags["chown"], self.instruction)
            self.state.commands.append(f'own "$(owner {quote_path(owner)})" {staged} {target} {folder}')
        self.state.commands.append(f"copy {staged} {target} {folder}")

    def _is_archive(self, path: str, staged: Staged) -> bool:
        root = self.state.context.root
        if root is None:
            if re.search(r"\.(?:tar|t?gz|t?bz2|t?xz|tzst|zst)$", path):
                raise SpecError(
                    f"ADD: the context is not here, so it is unknown whether '{path}' is an archive",
                    where=self.instruction.where,
                    fix="convert where the context is, or use COPY and RUN tar",
                )
            return False
        full = root / path
        if staged.kind != "file" or not full.is_file():
            return False
        return _has_magic(full)


def _has_magic(path: Path) -> bool:
    with path.open("rb") as stream:
        head = stream.read(512)
    if head[:2] == b"\x1f\x8b":
        try:
            with gzip.open(path) as unzipped:
                return unzipped.read(512)[257:262] == b"ustar"
        except (OSError, EOFError):
            return False
    return any(head[offset : offset + len(magic)] == magic for magic, offset in _MAGIC.items())


def _expanded(content: str, scope: Scope, instruction: Instruction) -> Value:
    """A here-document's text: variables replaced, quotes and escapes kept as they are."""
    kept = re.sub(r"""(\\.|["'\\])""", lambda m: "".join("\\" + c for c in m[0]), content, flags=re.DOTALL)
    return expand(kept, scope, where=instruction.where)
