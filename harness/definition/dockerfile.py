"""Reading a Dockerfile with BuildKit's own parser into instructions that know their line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import dockerfile

from harness.errors import SpecError

KNOWN_INSTRUCTIONS = frozenset(
    {"ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "MAINTAINER"}
    | {"ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"}
)


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile.

    Attributes:
        name: upper case, such as ``RUN``.
        values: its words, quotes kept, as BuildKit splits them.
        flags: ``--mount=…`` and the like.
        is_json: written in exec (JSON) form.
        heredocs: (name, content) of here-documents.
        lines: the instruction as it is written, comments and continuation marks included.
        where: ``file:line`` of its first line.
        escape: the Dockerfile's escape character.
        original: all of it, continued lines joined.
    """

    name: str
    values: tuple[str, ...]
    flags: tuple[str, ...]
    is_json: bool
    heredocs: tuple[tuple[str, str], ...]
    lines: tuple[str, ...]
    where: str
    escape: str = "\\"
    original: str = ""

    def refuse(self, reason: str, instead: str) -> SpecError:
        """The error for something a definition cannot express, at this line."""
        return SpecError(f"{self.name}: {reason}", where=self.where, fix=instead)


def parse_dockerfile(text: str, name: str) -> list[Instruction]:
    """The instructions of a Dockerfile's ``text``; ``name`` is the file name for messages.

    Raises:
        SpecError: BuildKit's parser refuses it, an instruction does not exist or has no argument, or FROM is missing.
    """
    text = text.removeprefix("\ufeff")
    escape = _escape_character(text)
    try:
        commands = dockerfile.parse_string(text)
    except (dockerfile.GoIOError, dockerfile.GoParseError) as error:
        line = re.search(r"line (\d+)", str(error))
        where = f"{name}:{line[1] if line else _failing_line(text, str(error))}"
        raise SpecError(f"not a Dockerfile: {error}", where=where) from error
    written = [line.rstrip("\r") for line in text.split("\n")]
    instructions = [
        Instruction(
            name=command.cmd.upper(),
            values=tuple(command.value),
            flags=tuple(command.flags),
            is_json=command.json,
            heredocs=tuple(
                (h.name, _with_line_ends(h.content, text, command.start_line, command.end_line, name))
                for h in command.heredocs
            ),
            lines=tuple(written[command.start_line - 1 : command.end_line]),
            where=f"{name}:{command.start_line}",
            escape=escape,
            original=command.original,
        )
        for command in commands
    ]
    for instruction in instructions:
        if instruction.name not in KNOWN_INSTRUCTIONS:
            raise SpecError(f"unknown instruction '{instruction.name}'", where=instruction.where)
        if not instruction.values and instruction.name not in ("CMD", "ENTRYPOINT"):
            raise SpecError(f"{instruction.name} has no argument", where=instruction.where)
    if not any(i.name == "FROM" for i in instructions):
        raise SpecError("there is no FROM", where=name)
    return instructions


def _with_line_ends(content: str, text: str, first: int, last: int, name: str) -> str:
    """A here-document's text with the line ends it is written with: the parser gives each as a line feed.

    Raises:
        SpecError: they are of two kinds.
    """
    ends = {line.endswith("\r") for line in text.split("\n")[first - 1 : last - 1]}
    if len(ends) == 2:
        raise SpecError("a here-document has line ends of two kinds", where=f"{name}:{first}", fix="use one of them")
    return content.replace("\n", "\r\n") if ends == {True} else content


def _failing_line(text: str, message: str) -> int:
    """Where the parser first says ``message``, which names no line."""
    lines = text.split("\n")
    for count in range(1, len(lines)):
        try:
            dockerfile.parse_string("\n".join(lines[:count]))
        except (dockerfile.GoIOError, dockerfile.GoParseError) as error:
            if str(error) == message:
                return count
    return len(lines)


def _escape_character(text: str) -> str:
    """What the ``escape`` directive says; directives end at the first line that is none."""
    for line in text.splitlines():
        directive = re.match(r"#\s*(\w+)\s*=\s*(.+?)\s*$", line)
        if directive is None:
            break
        if directive[1].lower() == "escape":
            return directive[2]
    return "\\"


def read_dockerfile(path: Path, display_name: str | None = None) -> list[Instruction]:
    """As :func:`parse_dockerfile`, from a file.

    Raises:
        SpecError: also when the file cannot be read or is not UTF-8.
    """
    name = display_name or str(path)
    try:
        return parse_dockerfile(path.read_bytes().decode("utf-8"), name)
    except FileNotFoundError:
        raise SpecError("no such file", where=name) from None
    except IsADirectoryError:
        raise SpecError("is a folder", where=name, fix=f"name the file: {path / 'Dockerfile'}") from None
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror}", where=name) from error
    except UnicodeDecodeError as error:
        raise SpecError(f"not UTF-8 text at byte {error.start}", where=name) from error
