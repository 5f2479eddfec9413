"""The apt commands of a Dockerfile: what its RUN lines ask apt for, read without running anything."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from harness.definition.context import Context
from harness.definition.dockerfile import Instruction
from harness.definition.stages import WrittenStage
from harness.errors import SpecError

_PROGRAMS = ("apt-get", "apt", "aptitude")
_INSTALLING = ("install", "upgrade", "dist-upgrade", "full-upgrade", "build-dep")
_REMOVING = ("remove", "purge", "autoremove", "autopurge")
_WITH_VALUE = ("-o", "--option", "-t", "--target-release", "--default-release", "-c", "--config-file", "-a")
# What may stand in front of a command's own name; a word with "=" in front of it is an assignment.
_BEFORE = ("sudo", "env", "exec", "time", "then", "do", "else", "if", "while", "!", "{", "nice", "eatmydata")
_SEPARATORS = set(";&|()\n")
_APT_FOLDERS = ("/etc/apt/", "/usr/share/keyrings/")


class UnreadableCommandError(SpecError):
    """An apt command whose packages cannot be known without running it."""


@dataclass(frozen=True)
class AptCommand:
    """An apt command that changes what is installed.

    Attributes:
        action: apt-get's word for it.
        options: those that decide what is installed.
        packages: as written, such as ``git`` or ``git=1:2.39``.
        where: file and line.
    """

    action: str
    options: tuple[str, ...]
    packages: tuple[str, ...]
    where: str = ""

    def __str__(self) -> str:
        return " ".join((self.action, *self.options, *self.packages))


def image_stages(instructions: list[Instruction]) -> list[WrittenStage]:
    """The stages that the image itself stands on, the last one last; files copied from others are only files."""
    stages: list[WrittenStage] = []
    for instruction in instructions:
        if instruction.name == "FROM":
            stages.append(WrittenStage.of(len(stages), instruction))
        elif stages:
            stages[-1].body.append(instruction)
    chain = [stages[-1]]
    while True:
        own = chain[0]
        parents = [s for s in stages[: own.index] if s.name == own.reference.lower()]
        if not parents:
            return chain
        chain.insert(0, parents[-1])


def apt_commands(instructions: list[Instruction]) -> list[AptCommand]:
    """What the RUN lines of the image's own stages ask apt for, in order.

    Raises:
        UnreadableCommandError: a package is named by a variable or a substitution.
    """
    found: list[AptCommand] = []
    for stage in image_stages(instructions):
        for instruction in stage.body:
            if instruction.name == "RUN":
                for script in _scripts(instruction):
                    found += _read(script, instruction.where)
    return found


def apt_files(instructions: list[Instruction], context: Context) -> list[tuple[str, str]]:
    """(source, target) of files that COPY brings to apt's own folders: sources, preferences, keys.

    A folder's files are named one by one: COPY brings what is in it, not the folder.

    Args:
        context: where the sources are; they are named from there.

    Raises:
        SpecError: a source is not there.
    """
    found = []
    for stage in image_stages(instructions):
        for instruction in stage.body:
            if instruction.name != "COPY" or any(flag.startswith("--from") for flag in instruction.flags):
                continue
            *sources, target = instruction.values
            folder = f"{target.rstrip('/')}/"
            is_known = not any("$" in source or source.startswith("<<") for source in sources)
            is_above = is_known and any(apt.startswith(folder) for apt in _APT_FOLDERS)
            if not folder.startswith(_APT_FOLDERS) and not is_above:
                continue
            named = [path for source in sources for path in context.find(source, where=instruction.where)]
            for path in named:
                into = len(named) > 1 or target.endswith("/")
                found += [
                    pair for pair in _copied(path, target, context, into=into) if pair[1].startswith(_APT_FOLDERS)
                ]
    return found


def _copied(path: str, target: str, context: Context, *, into: bool) -> Iterator[tuple[str, str]]:
    """(source, target) of each file that a COPY of one path brings."""
    assert context.root is not None
    top = context.root / path
    if not top.is_dir():
        yield path, posixpath.join(target, posixpath.basename(path)) if into else target
        return
    for file in sorted(file for file in top.rglob("*") if file.is_file()):
        name = file.relative_to(context.root).as_posix()
        if not context.rules.ignores(name):
            yield name, posixpath.join(target, file.relative_to(top).as_posix())


def _scripts(instruction: Instruction) -> Iterator[str]:
    if instruction.is_json:
        yield instruction.values[-1] if "-c" in instruction.values else shlex.join(instruction.values)
    else:
        yield " ".join(instruction.values)
    for _, content in instruction.heredocs:
        yield content


def _read(script: str, where: str) -> Iterator[AptCommand]:
    if not any(program in script for program in _PROGRAMS):
        return
    text = re.sub(r"^\s*#.*$", "", script, flags=re.MULTILINE).replace("\\\n", " ")
    lexer = shlex.shlex(text, posix=True, punctuation_chars=";&|()<>\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t\r", True, ""
    try:
        tokens = list(lexer)
    except ValueError as error:
        raise UnreadableCommandError(f"RUN: cannot be split into words: {error}", where=where) from error
    words: list[str] = []
    redirected = False
    for token in [*tokens, "\n"]:
        if redirected:
            redirected = False
        elif set(token) <= set("<>&") and set(token) & set("<>"):
            redirected = True
        elif set(token) <= _SEPARATORS:
            command = _command(words, where)
            if command is not None:
                yield command
            words = []
        else:
            words.append(token)


def _command(words: list[str], where: str) -> AptCommand | None:
    while words and (words[0] in _BEFORE or re.match(r"[A-Za-z_]\w*=", words[0])):
        words = words[1:]
    if not words or posixpath.basename(words[0]) not in _PROGRAMS:
        return None
    options: list[str] = []
    names: list[str] = []
    rest = iter(words[1:])
    for word in rest:
        if word in _WITH_VALUE:
            value = next(rest, "")
            if word in ("-o", "--option") and value.startswith("APT::Install-"):
                options.append(f"-o{value}")
            elif word in ("-t", "--target-release", "--default-release"):
                options.append(f"-t{value}")
        elif word.startswith("-"):
            if word in ("--no-install-recommends", "--install-recommends", "--install-suggests", "--auto-remove"):
                options.append(word)
            elif word.startswith(("-t", "--target-release=", "--default-release=")):
                options.append(f"-t{word.partition('=')[2] or word[2:]}")
        elif not word.isdigit():  # the 2 of "2>/dev/null"
            names.append(word)
    if not names or names[0] not in (*_INSTALLING, *_REMOVING):
        return None
    action, *packages = names
    odd = [name for name in (*packages, *options) if re.search(r"[$`*?]", name)]
    if odd or action == "build-dep":
        reason = f"'{odd[0]}' is known only while building" if odd else "build-dep cannot be simulated here"
        raise UnreadableCommandError(f"apt-get {action}: {reason}", where=where, fix="write the packages' names")
    return AptCommand(action, tuple(options), tuple(packages), where)
