"""Docker's word processing: quotes, escapes and variable references in ENV, LABEL, COPY and WORKDIR.

A value stays a list of parts, because not everything is known when the definition is written: a build argument is
known when the image is built, a variable of the base image only inside it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from harness.errors import SpecError


@dataclass(frozen=True)
class Part:
    """A piece of a value: literal ``text``, or the name of a build ``argument`` or of the base's ``variable``."""

    kind: Literal["text", "argument", "variable"]
    text: str


Value = tuple[Part, ...]

_REFERENCE = re.compile(
    r"\$(?:(?P<bare>[A-Za-z_]\w*)|\{(?P<braced>[A-Za-z_]\w*)(?P<operator>:[-+])?(?P<word>[^{}]*)\})"
)


def literal(text: str) -> Value:
    """A value without references."""
    return (Part("text", text),) if text else ()


def expand(word: str, known: Mapping[str, Value], *, where: str) -> Value:
    """Expand one word as Docker does: quotes removed, escapes undone, references replaced by what is ``known``.

    A name that is not known refers to the base image's environment.

    Raises:
        SpecError: an unterminated quote, or a reference that Docker itself would refuse.
    """
    parts: list[Part] = []
    quote: str | None = None
    position = 0
    while position < len(word):
        character = word[position]
        if quote == "'" and character != "'":
            parts.append(Part("text", character))
        elif character in "'\"" and quote in (None, character):
            quote = None if quote else character
        elif character == "\\" and position + 1 < len(word):
            escaped = word[position + 1]
            # Inside double quotes a backslash keeps its meaning only before these, as in a shell.
            parts.append(Part("text", escaped if quote is None or escaped in '"$\\' else "\\" + escaped))
            position += 1
        elif character == "$" and (match := _REFERENCE.match(word, position)):
            parts.extend(_reference(match, known, where=where))
            position = match.end() - 1
        elif word.startswith("${", position):
            raise SpecError(f"unsupported variable reference in '{word}'", where=where, fix="use ${NAME} or ${NAME:-x}")
        else:
            parts.append(Part("text", character))
        position += 1
    if quote:
        raise SpecError(f"unterminated quote in {word}", where=where)
    return merge(parts)


def _reference(match: re.Match[str], known: Mapping[str, Value], *, where: str) -> Value:
    name = match["bare"] or match["braced"]
    operator, alternative = match["operator"], match["word"] or ""
    if operator is None and alternative:
        raise SpecError(f"unsupported modifier in '{match[0]}'", where=where, fix="use ${NAME:-x} or ${NAME:+x}")
    value = known.get(name, (Part("variable", name),))
    if operator is None:
        return value
    if any(part.kind != "text" for part in value):
        raise SpecError(
            f"'{match[0]}' depends on a value that is only known while building",
            where=where,
            fix="give ARG or ENV a value in this Dockerfile first",
        )
    is_set = bool(value)
    if operator == ":-":
        return value if is_set else expand(alternative, known, where=where)
    return expand(alternative, known, where=where) if is_set else ()


def merge(parts: list[Part]) -> Value:
    """Join neighbouring literal parts."""
    merged: list[Part] = []
    for part in parts:
        if merged and part.kind == merged[-1].kind == "text":
            merged[-1] = Part("text", merged[-1].text + part.text)
        else:
            merged.append(part)
    return tuple(merged)


def plain_text(value: Value, *, where: str, what: str) -> str:
    """The text of a value that may hold no reference to the base's environment; build arguments become ``{{ NAME }}``.

    Raises:
        SpecError: it holds one.
    """
    for part in value:
        if part.kind == "variable":
            raise SpecError(
                f"{what} refers to ${part.text}, which this Dockerfile does not define",
                where=where,
                fix=f"add ARG {part.text}=… or ENV {part.text}=… before it",
            )
    return "".join(part.text if part.kind == "text" else f"{{{{ {part.text} }}}}" for part in value)


def shell_word(value: Value) -> str:
    """The value as one double-quoted word of a POSIX shell, references live."""
    rendered = []
    for part in value:
        if part.kind == "text":
            rendered.append(re.sub(r'(["$`\\])', r"\\\1", part.text))
        elif part.kind == "argument":
            rendered.append(f"{{{{ {part.text} }}}}")
        else:
            rendered.append(f"${{{part.text}}}")
    return '"' + "".join(rendered) + '"'
