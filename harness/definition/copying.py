"""COPY and ADD: staged by %files, moved by %post in their turn."""

from __future__ import annotations

import bz2
import gzip
import lzma
import posixpath
import re
import tarfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

from harness.definition.context import Staged
from harness.definition.dockerfile import Instruction
from harness.definition.shell import ARGUMENT, STAGING, quote, quote_path
from harness.definition.stages import StageSources
from harness.definition.state import StageState
from harness.definition.words import Assumption, Scope, Value, expand, plain_text, shell_word
from harness.errors import SpecError

_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_OPENERS: dict[str, Callable[[Path], IO[bytes]]] = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}  # type: ignore[dict-item]
_HEREDOC = re.compile(r"""^<<(-?)(['"]?)([^'"]+)\2$""")
_FLAGS = {
    "COPY": ("from", "chown", "chmod", "link", "exclude"),
    "ADD": ("chown", "chmod", "link", "checksum", "exclude"),
}


def copy(state: StageState, instruction: Instruction, sources_of: StageSources) -> None:
    """COPY or ADD."""
    flags, excluded = _flags(instruction)
    *sources, target_text = instruction.values
    if not sources:
        raise instruction.refuse("needs a source and a target", "write both")
    target = state.text(target_text, instruction)
    into_folder = target.endswith(("/", "/.")) or target == "."
    if len(sources) > 1 and not into_folder:
        raise instruction.refuse("several sources need a folder", f"write the target as {target}/")
    patterns = [state.text(pattern, instruction) for pattern in excluded]
    place = _Place(state, instruction, flags, state.path(target), into_folder, patterns)
    heredocs = dict(instruction.heredocs)
    for written in sources:
        match = _HEREDOC.match(written)
        if match and match[3] in heredocs:
            place.heredoc(match[3], heredocs[match[3]], strips=bool(match[1]), expands=not match[2])
            continue
        source, chosen = _source(state, written, instruction)
        is_remote = instruction.name == "ADD" and _is_remote(chosen)
        if excluded and ("from" in flags or is_remote):
            raise instruction.refuse("--exclude is not supported with --from or an address", "RUN rm after it")
        if "from" in flags:
            place.sent(sources_of.send(state, flags["from"], [source], instruction))
        elif is_remote:
            _hold(state, written, instruction, "http://*|https://*", "must stay part of an address")
            place.remote(source, chosen)
        elif "checksum" in flags:
            raise instruction.refuse("--checksum is for an address only, as Docker says too", "remove the flag")
        else:
            _hold(state, written, instruction, quote(chosen), "must stay as it is: it chooses what is copied")
            found = state.context.find(chosen, where=instruction.where)
            if len(found) > 1 and not into_folder:
                raise instruction.refuse("several files need a folder", f"write the target as {target}/")
            for path in found:
                place.context_path(path)


def _source(state: StageState, written: str, instruction: Instruction) -> tuple[str, str]:
    """(A source with its build arguments; what it is with their defaults)."""
    value = state.value(written, instruction)
    chosen = "".join(state.arguments.get(p.text, p.default) if p.kind == "argument" else p.text for p in value)
    return plain_text(value, where=instruction.where, what=instruction.name), chosen


def _hold(state: StageState, written: str, instruction: Instruction, pattern: str, must: str) -> None:
    """Note what was decided by the defaults of a source's build arguments, if it has any."""
    value = state.value(written, instruction)
    if any(part.kind == "argument" for part in value):
        state.scope.assumed.add(Assumption(value, pattern, True, must))


def _flags(instruction: Instruction) -> tuple[dict[str, str], list[str]]:
    """Flags with their values, and the patterns of --exclude."""
    flags: dict[str, str] = {}
    excluded = []
    for flag in instruction.flags:
        name, _, value = flag.removeprefix("--").partition("=")
        if name not in _FLAGS[instruction.name]:
            raise instruction.refuse(f"{flag} is not supported", "name the files, or copy plainly and RUN the rest")
        if name == "exclude":
            excluded.append(value)
        else:
            flags[name] = value
    return flags, excluded


def _is_remote(source: str) -> bool:
    return bool(re.match(r"(?:https?|git|ssh)://|git@", source))


class _Place:
    """Where one COPY puts its sources."""

    def __init__(
        self,
        state: StageState,
        instruction: Instruction,
        flags: dict[str, str],
        target: str,
        into_folder: bool,
        excluded: list[str],
    ) -> None:
        self.state, self.instruction, self.flags, self.target = state, instruction, flags, target
        self.folder = target if into_folder else posixpath.dirname(target) or "/"
        self.into_folder = into_folder
        self.excluded = excluded

    def context_path(self, path: str) -> None:
        context = self.state.context.without(path, self.excluded, where=self.instruction.where)
        staged = context.stage(path, next(self.state.numbers), where=self.instruction.where)
        self.state.files += staged.files
        self.state.commands += staged.commands
        packing = self._packing(path, staged) if self.instruction.name == "ADD" else None
        if packing is not None:
            if "chown" in self.flags or "chmod" in self.flags:
                raise self.instruction.refuse("--chown and --chmod of an archive are not supported", "RUN chown after")
            self.state.commands.append(f"unpack {quote(staged.path)} {quote_path(self.target)} {packing or repr('')}")
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
            moves.insert(0, '[ -e "$sent" ] || continue')
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

    def remote(self, address: str, by_default: str) -> None:
        """``by_default``: what it is with the defaults of its build arguments."""
        if not by_default.startswith(("http://", "https://")) or urlsplit(by_default).path.endswith(".git"):
            raise self.instruction.refuse("a git repository cannot be added", "RUN git clone, or COPY a checkout")
        name = posixpath.basename(unquote(urlsplit(address).path))
        if self.into_folder and not name:
            raise self.instruction.refuse("the address ends without a file name", "name the target file")
        staged = quote_path(f"{STAGING}/{next(self.state.numbers)}/{name or 'file'}")
        self.state.commands.append(f"fetch {quote_path(address)} {staged}")
        if "checksum" in self.flags:
            algorithm, _, digest = self.state.text(self.flags["checksum"], self.instruction).partition(":")
            if algorithm != "sha256":
                raise self.instruction.refuse(f"--checksum={algorithm}:… is not supported", "use sha256:…")
            self.state.commands.append(f"check_sum {quote_path(digest)} {staged}")
        self._move(staged)

    def _move(self, staged: str) -> None:
        target, folder = quote_path(self.target), quote_path(self.folder)
        if not self.into_folder and ARGUMENT.search(posixpath.basename(self.target)):
            folder = f'"$(dirname {target})"'
        owner = mode = "''"
        if "chmod" in self.flags:
            mode = quote_path(self.state.text(self.flags["chmod"], self.instruction))
            self.state.commands.append(f"chmod -R {mode} {staged}")
        if "chown" in self.flags:
            owner = f'"$(owner {quote_path(self.state.text(self.flags["chown"], self.instruction))})"'
            self.state.commands.append(f"own {owner} {staged}")
        if "chmod" in self.flags or "chown" in self.flags:
            self.state.commands.append(f"way {staged} {target} {folder} {owner} {mode}")
        self.state.commands.append(f"copy {staged} {target} {folder}")

    def _packing(self, path: str, staged: Staged) -> str | None:
        """The program that packed an archive, '' for none; None: it is no archive."""
        root = self.state.context.root
        if root is None:
            if re.search(r"\.(?:tar|t?gz|t?bz2|t?xz|tzst|zst)$", path):
                raise SpecError(
                    f"ADD: the context is not here, so it is unknown whether '{path}' is an archive",
                    where=self.instruction.where,
                    fix="convert where the context is, or use COPY and RUN tar",
                )
            return None
        full = root / path
        return packing_of(full) if staged.kind == "file" and full.is_file() else None


def packing_of(path: Path) -> str | None:
    """The program that packed a tar archive, '' for none; None: the file is no tar archive.

    Docker looks into a file to know: a packed text is copied as it is.
    """
    with path.open("rb") as stream:
        head = stream.read(512)
    program = next((program for magic, program in _PACKED.items() if head.startswith(magic)), "")
    opener = _OPENERS.get(program)
    if opener is not None:
        try:
            with opener(path) as unpacked:
                head = unpacked.read(512)
        except (OSError, EOFError, lzma.LZMAError, zlib.error):
            return None
    elif program == "zstd":  # this Python cannot look into it, and nobody adds a single file so
        return program
    try:  # old archives have no magic, only a sum over the first header
        tarfile.TarInfo.frombuf(head, tarfile.ENCODING, "surrogateescape")
    except tarfile.HeaderError:
        return None
    return program


def _expanded(content: str, scope: Scope, instruction: Instruction) -> Value:
    """A here-document's text: variables replaced, escapes undone, quotes kept."""
    escape = instruction.escape
    kept = re.sub(
        rf"""{re.escape(escape)}.|["']""",
        lambda m: m[0] if m[0][0] == escape else escape + m[0],
        content,
        flags=re.DOTALL,
    )
    return expand(kept, scope, where=instruction.where, escape=escape)
