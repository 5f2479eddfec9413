"""Docker's word processing: quotes, escapes and variable references in ENV, LABEL, COPY and WORKDIR.

A value stays a list of parts, because not everything is known when the definition is written: a build argument is
known when the image is built, a variable of the base image only inside it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from harness.definition.shell import argument_variable, break_tokens, quote
from harness.errors import SpecError


@dataclass(frozen=True)
class Part:
    """A piece of a value.

    Attributes:
        kind: literal ``text``; a build ``argument``; the base's ``variable``; the base's variable under its ``saved``
            name, where this Dockerfile gives that variable another value.
        text: the text, or the name.
        default: of an argument.
        operator, word: a shell's ``${NAME:-word}`` and its like; variables only.
    """

    kind: Literal["text", "argument", "variable", "saved"]
    text: str
    default: str = ""
    operator: str = ""
    word: tuple[Part, ...] = ()


Value = tuple[Part, ...]


@dataclass(frozen=True)
class Assumption:
    """What was decided while converting because a build argument has its default; another value must not undo it.

    Attributes:
        subject: what is looked at when the image is built.
        pattern: of a shell's ``case``.
        holds: whether the subject must match it, or must not.
        must: for people, after the arguments' names.
    """

    subject: Value
    pattern: str
    holds: bool
    must: str

    @property
    def arguments(self) -> list[str]:
        """Names of the arguments that it is about."""
        return sorted({part.text for part in self.subject if part.kind == "argument"})

    def command(self) -> str:
        """Shell that ends the build where it is not so."""
        text = f"build argument {', '.join(self.arguments)} {self.must}: the definition was written for that"
        fails = f"echo {quote(text)} >&2; exit 1"
        cases = f"{self.pattern}) ;; *) {fails}" if self.holds else f"{self.pattern}) {fails}"
        return f"case {shell_word(self.subject)} in {cases} ;; esac"


@dataclass
class Scope:
    """What names mean at one place of a Dockerfile.

    Attributes:
        values: what is known; another name refers to the base image's environment.
        assumed: what was decided so far because of build arguments' defaults.
    """

    values: dict[str, Value] = field(default_factory=dict)
    assumed: set[Assumption] = field(default_factory=set)


_NAME = re.compile(r"[A-Za-z_]\w*")
_OPERATOR = re.compile(r":[-+]|[-+]")
# ${NAME%pattern} and its like, with a plain pattern.
_CUT = re.compile(r"""(?:(##?|%%?)([^}\\'"$[]*)|(//?)([^/}\\'"$[]+)/([^}\\'"$]*))\}""")
# A shell's own parameters, such as $1 and $$: Docker knows none of them, so they are empty.
_SPECIAL = re.compile(r"[0-9]+|[@*#?$!-]")


def literal(text: str) -> Value:
    """A value without references."""
    return (Part("text", text),) if text else ()


def expand(word: str, scope: Scope, *, where: str, escape: str = "\\") -> Value:
    """Expand one word as Docker does: quotes removed, escapes undone, references replaced by what the scope knows.

    Args:
        escape: the Dockerfile's escape character.

    Raises:
        SpecError: an unterminated quote, or a reference that Docker itself would refuse.
    """
    reader = _Reader(word, scope, where, escape)
    parts = reader.read(stop="")
    return merge(parts)


@dataclass
class _Reader:
    word: str
    scope: Scope
    where: str
    escape: str
    position: int = 0

    def read(self, stop: str) -> list[Part]:
        """Parts up to the unquoted character ``stop``, or to the end."""
        parts: list[Part] = []
        quote = ""
        while self.position < len(self.word):
            character = self.word[self.position]
            following = self.word[self.position + 1 : self.position + 2]
            self.position += 1
            if quote == "'":
                if character == "'":
                    quote = ""
                else:
                    parts.append(Part("text", character))
            elif stop and character == stop and not quote:
                return parts
            elif character == '"' or (character == "'" and not quote):
                quote = "" if quote else character
            elif character == self.escape and following:
                # Inside double quotes the escape keeps its meaning only before these, as in a shell.
                keeps = quote and following not in ('"', "$", self.escape)
                parts.append(Part("text", character + following if keeps else following))
                self.position += 1
            elif character == "$" and (following == "{" or _NAME.match(following)):
                parts.extend(self._reference())
            elif character == "$" and (special := _SPECIAL.match(self.word, self.position)):
                self.position = special.end()
            else:
                parts.append(Part("text", character))
        if quote:
            raise SpecError(f"unterminated quote in {self.word}", where=self.where)
        if stop:
            raise self._unsupported()
        return parts

    def _reference(self) -> Value:
        braced = self.word[self.position] == "{"
        self.position += braced
        match = _NAME.match(self.word, self.position)
        if match is None:
            raise self._unsupported()
        name = match[0]
        self.position = match.end()
        value = self.scope.values.get(name, (Part("variable", name),))
        if not braced:
            return value
        if self.word[self.position : self.position + 1] == "}":
            self.position += 1
            return value
        cut = _CUT.match(self.word, self.position)
        if cut is not None and all(part.kind == "text" for part in value):
            self.position = cut.end()
            return literal(_cut("".join(part.text for part in value), cut))
        operator = _OPERATOR.match(self.word, self.position)
        if operator is None:
            raise self._unsupported()
        self.position = operator.end()
        alternative = merge(self.read(stop="}"))
        return self._choose(name, value, operator[0], alternative)

    def _choose(self, name: str, value: Value, operator: str, alternative: Value) -> Value:
        wants_text = operator.startswith(":")
        if name in self.scope.values and not wants_text:  # defined, perhaps empty
            return alternative if operator == "+" else value
        if _is_surely_set(value):
            is_set = True
        elif any(part.kind == "argument" for part in value):
            is_set = any(part.default for part in value)
            for part in (p for p in value if p.kind == "argument"):
                pattern, must = ("?*", "must not be empty") if part.default else ("''", "must stay empty")
                self.scope.assumed.add(Assumption((part,), pattern, True, must))
        elif len(value) == 1 and not value[0].operator:
            return (replace(value[0], operator=operator, word=alternative),)
        elif value:
            raise SpecError(
                f"'${{{name}{operator}…}}' depends on a value that is only known while building",
                where=self.where,
                fix="give ARG or ENV a value in this Dockerfile first",
            )
        else:
            is_set = False
        if operator.endswith("-"):
            return value if is_set else alternative
        return alternative if is_set else ()

    def _unsupported(self) -> SpecError:
        return SpecError(
            f"unsupported variable reference in '{self.word}'",
            where=self.where,
            fix="use ${NAME}, ${NAME:-x} or ${NAME:+x}; ${NAME%x} and its like only of an ENV whose text is known",
        )


def _cut(text: str, how: re.Match[str]) -> str:
    """``text`` without the beginning or end that fits a pattern, or with what fits it replaced."""
    operator, pattern = how[1] or how[3], how[2] if how[1] else how[4]
    regex = "".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in pattern)
    if how[3]:
        return re.sub(regex, lambda _: how[5], text, count=0 if operator == "//" else 1, flags=re.DOTALL)
    lengths = range(len(text) + 1) if len(operator) == 1 else range(len(text), -1, -1)
    for length in lengths:
        part, rest = (text[:length], text[length:]) if operator[0] == "#" else _end(text, length)
        if re.fullmatch(regex, part, re.DOTALL):
            return rest
    return text


def _end(text: str, length: int) -> tuple[str, str]:
    """The last ``length`` characters, and what is before them."""
    return text[len(text) - length :], text[: len(text) - length]


def _is_surely_set(value: Value) -> bool:
    """Some text is in it, whatever the base says."""
    return any(p.kind == "text" or (p.operator == ":-" and _is_surely_set(p.word)) for p in value)


def merge(parts: Iterable[Part]) -> Value:
    """Join neighbouring literal parts."""
    merged: list[Part] = []
    for part in parts:
        if merged and part.kind == merged[-1].kind == "text":
            merged[-1] = Part("text", merged[-1].text + part.text)
        else:
            merged.append(part)
    return tuple(merged)


def change(value: Value, by: Callable[[Part], Part]) -> Value:
    """The value with every part, also those inside ``${NAME:-word}``, replaced."""
    return tuple(by(replace(part, word=change(part.word, by))) for part in value)


def variables(value: Value) -> set[str]:
    """Names of the base's variables that the value refers to."""
    names = {part.text for part in value if part.kind in ("variable", "saved")}
    return names.union(*(variables(part.word) for part in value))


def plain_text(value: Value, *, where: str, what: str) -> str:
    """The text of a value that may hold no reference to the base's environment; build arguments become ``{{ NAME }}``.

    Raises:
        SpecError: it holds one, or text that a definition would take for a build argument.
    """
    for part in value:
        if part.kind in ("variable", "saved"):
            raise SpecError(
                f"{what} refers to ${part.text}, which this Dockerfile does not define",
                where=where,
                fix=f"add ARG {part.text}=… or ENV {part.text}=… before it",
            )
        if part.kind == "text" and "{{" in part.text:
            raise SpecError(f"{what} holds '{{{{', a definition's build argument", where=where, fix="use other text")
    return "".join(part.text if part.kind == "text" else f"{{{{ {part.text} }}}}" for part in value)


def saved_name(name: str) -> str:
    """The shell variable that keeps the base's value of ``name``."""
    return f"base_{name}"


def shell_word(value: Value) -> str:
    """The value as one double-quoted word of a POSIX shell, references live."""
    return f'"{_inner(value, braced=False)}"'


def _inner(value: Value, *, braced: bool) -> str:
    rendered = []
    for part in value:
        if part.kind == "text":
            special = r'(["$`\\}])' if braced else r'(["$`\\])'
            rendered.append(break_tokens(re.sub(special, r"\\\1", part.text), '""'))
        elif part.kind == "argument":
            rendered.append(f"${{{argument_variable(part.text)}}}")
        else:
            name = saved_name(part.text) if part.kind == "saved" else part.text
            rendered.append(f"${{{name}{part.operator}{_inner(part.word, braced=True)}}}")
    return "".join(rendered)
