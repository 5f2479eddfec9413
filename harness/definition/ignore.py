"""``.dockerignore``: which paths of a context Docker does not see."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from pathlib import Path

from harness.errors import SpecError


@dataclass(frozen=True)
class IgnoreRules:
    """The rules of one ``.dockerignore``, in order; of those that match a path the last one decides."""

    rules: tuple[tuple[re.Pattern[str], bool], ...] = ()

    @classmethod
    def parse(cls, text: str) -> IgnoreRules:
        """Read a ``.dockerignore``: Go's patterns, ``**`` for any depth, ``!`` for exceptions."""
        rules = []
        for line in text.removeprefix("\ufeff").splitlines():
            if line.startswith("#") or not line.strip():
                continue
            pattern = line.strip()
            keeps = pattern.startswith("!")
            pattern = posixpath.normpath(pattern.removeprefix("!").strip()).lstrip("/")
            if pattern != ".":
                rules.append((pattern_to_regex(pattern), not keeps))
        return cls(tuple(rules))

    @classmethod
    def of(cls, context: Path, dockerfile: Path | None) -> IgnoreRules:
        """The rules that Docker uses: ``NAME.dockerignore`` beside the Dockerfile wins over the context's own.

        Raises:
            SpecError: the file cannot be read, or is not UTF-8.
        """
        candidates = [context / ".dockerignore"]
        if dockerfile is not None:
            candidates.insert(0, dockerfile.with_name(dockerfile.name + ".dockerignore"))
        for candidate in candidates:
            if candidate.is_file():
                try:
                    return cls.parse(candidate.read_text(encoding="utf-8"))
                except UnicodeDecodeError as error:
                    raise SpecError(f"not UTF-8 text at byte {error.start}", where=str(candidate)) from error
                except OSError as error:
                    raise SpecError(f"cannot be read: {error.strerror}", where=str(candidate)) from error
        return cls()

    def leaving_out(self, folder: str, patterns: list[str]) -> IgnoreRules:
        """These rules and more patterns, each relative to ``folder``."""
        above = "" if folder == "." else re.escape(folder + "/")
        more = [re.compile(above + pattern_to_regex(posixpath.normpath(p)).pattern, re.DOTALL) for p in patterns]
        return IgnoreRules((*self.rules, *((rule, True) for rule in more)))

    def ignores(self, path: str) -> bool:
        """Is ``path`` (relative to the context), or a folder above it, left out?"""
        parts = path.split("/")
        above = ["/".join(parts[: n + 1]) for n in range(len(parts))]
        ignored = False
        for pattern, leaves_out in self.rules:
            if any(pattern.fullmatch(p) for p in above):
                ignored = leaves_out
        return ignored

    @property
    def has_exceptions(self) -> bool:
        """May something below an ignored folder be kept?"""
        return any(not leaves_out for _, leaves_out in self.rules)


def pattern_to_regex(pattern: str) -> re.Pattern[str]:
    """A pattern of Go's ``filepath.Match``, with ``**``, as a regular expression for whole paths."""
    result = ""
    position = 0
    while position < len(pattern):
        character = pattern[position]
        if pattern.startswith("**", position):
            position += 2
            if pattern.startswith("/", position):
                position += 1
                result += "(?:.*/)?"
            else:
                result += ".*"
            continue
        if character == "*":
            result += "[^/]*"
        elif character == "?":
            result += "[^/]"
        elif character == "[" and (end := pattern.find("]", position + 2)) > 0:
            inside = pattern[position + 1 : end].replace("\\", "\\\\")
            result += f"[{inside}]"
            position = end
        elif character == "\\" and position + 1 < len(pattern):
            position += 1
            result += re.escape(pattern[position])
        else:
            result += re.escape(character)
        position += 1
    return re.compile(result, re.DOTALL)
