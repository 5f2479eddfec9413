"""The build context: what COPY finds there, and how %files and %post bring it into the image unchanged.

%files copies with ``cp -fLr`` under the caller's umask: links are followed, modes lose bits, names with blanks cannot
be written. A folder without any of that is staged whole; of another one, what differs is staged piece by piece.
"""

from __future__ import annotations

import os
import posixpath
import re
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from harness.definition.ignore import IgnoreRules, pattern_to_regex
from harness.definition.model import CopiedFile
from harness.definition.shell import STAGING, quote
from harness.errors import SpecError

Kind = Literal["file", "folder", "unknown"]
_PLAIN_NAME = re.compile(r"[\w@+=:,.-]+", re.ASCII)
_PLAIN_PREFIX = re.compile(r"[\w@+=:,./-]*")
_PLAIN_MODES = {0o644, 0o755}


@dataclass
class Staged:
    """One source, on its way: %files lines, the commands that mend what %files cannot say, and the path then."""

    path: str
    kind: Kind = "unknown"
    files: list[CopiedFile] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Context:
    """A build context.

    Attributes:
        prefix: its path as %files shall name it: relative to where ``apptainer build`` will run.
        root: the folder to look into; None: nothing is known of it, so only plain names can be copied.
        rules: its ``.dockerignore``.
        keeps_modes: False where modes are git's: of a mode only "executable" counts.
    """

    prefix: str
    root: Path | None = None
    rules: IgnoreRules = field(default_factory=IgnoreRules)
    keeps_modes: bool = True

    @classmethod
    def of(cls, root: Path, prefix: str, *, dockerfile: Path | None = None, keeps_modes: bool = True) -> Context:
        """The context in the folder ``root``, if there is one."""
        if not root.is_dir():
            return cls(prefix)
        return cls(prefix, root, IgnoreRules.of(root, dockerfile), keeps_modes)

    def find(self, source: str, *, where: str) -> list[str]:
        """Paths in the context, relative to it, that a COPY's source means; ``.`` is the context itself. A pattern may
        fit nothing, as with Docker.

        Raises:
            SpecError: there is none, it lies outside, or it cannot be known here.
        """
        clean = posixpath.normpath("/" + source).lstrip("/") or "."
        if posixpath.normpath(source.lstrip("/")).startswith(".."):
            raise SpecError(f"COPY: '{source}' is outside the context", where=where, fix="name files or folders in it")
        has_wildcard = re.search(r"[*?\[]", source) is not None
        if self.root is None:
            if has_wildcard or clean == ".":
                raise SpecError(
                    f"COPY: the context '{self.prefix}' is not here, so '{source}' cannot be looked up",
                    where=where,
                    fix="convert where the context is, or name the files",
                )
            return [clean]
        found = self._glob(clean) if has_wildcard else [clean]
        found = [p for p in found if p == "." or (self._exists(p) and self._is_wanted(p))]
        if not found and not has_wildcard:
            raise SpecError(
                f"COPY: '{source}' is not in the context '{self.prefix}', or ignored by .dockerignore",
                where=where,
                fix="check its spelling; paths are relative to the context",
            )
        return found

    def without(self, path: str, patterns: list[str], *, where: str) -> Context:
        """This context as a COPY of ``path`` with ``--exclude`` sees it.

        Raises:
            SpecError: it cannot be looked into.
        """
        if not patterns:
            return self
        if self.root is None:
            raise SpecError(
                f"COPY: the context '{self.prefix}' is not here, so --exclude cannot be looked up",
                where=where,
                fix="convert where the context is, or name the files",
            )
        return replace(self, rules=self.rules.leaving_out(self._resolved(path, where), patterns))

    def named(self, path: str, where: str) -> str:
        """What stands in %files for a path in the context.

        Raises:
            SpecError: the context's own path cannot stand there.
        """
        if not _PLAIN_PREFIX.fullmatch(self.prefix):
            raise SpecError(
                f"COPY: %files cannot name the folder '{self.prefix}'",
                where=where,
                fix="call it from within that folder, or rename it: letters, digits and @+=:,.-_ only",
            )
        return posixpath.join(self.prefix, path)

    def stage(self, path: str, number: int, *, where: str) -> Staged:
        """Bring one found path to the staging folder ``number``.

        Raises:
            SpecError: something in it is neither file, folder nor link, or a link leads out of the context.
        """
        folder = f"{STAGING}/{number}"
        if self.root is None:
            target = f"{folder}/{posixpath.basename(path)}"
            return Staged(target, files=[CopiedFile(self.named(path, where), target)])
        name = posixpath.basename(path) if path != "." else "context"
        path = self._resolved(path, where)
        staged = Staged(f"{folder}/{name}", "folder" if (self.root / path).is_dir() else "file")
        _Stager(self, staged, where, aside=f"{STAGING}/{number}.odd").add(path, staged.path)
        return staged

    def _resolved(self, path: str, where: str) -> str:
        """Docker follows a link that a COPY names itself."""
        assert self.root is not None
        if path == ".":
            return path
        root = self.root.resolve()
        real = (self.root / path).resolve()
        if not real.is_relative_to(root):
            raise SpecError(f"COPY: '{path}' is a link out of the context", where=where, fix="copy what it leads to")
        return real.relative_to(root).as_posix()

    def _exists(self, path: str) -> bool:
        return self.root is not None and os.path.lexists(self.root / path)

    def _is_wanted(self, path: str) -> bool:
        """Not ignored, or holding something that an exception keeps."""
        assert self.root is not None
        if not self.rules.ignores(path):
            return True
        below = self.root / path
        if not self.rules.has_exceptions or below.is_symlink() or not below.is_dir():
            return False
        return any(self._is_wanted(posixpath.join(path, name)) for name in _names(below))

    def _glob(self, pattern: str) -> list[str]:
        assert self.root is not None
        found = [""]
        for part in pattern.split("/"):
            regex = pattern_to_regex(part.replace("**", "*"))
            found = [
                posixpath.join(parent, name)
                for parent in found
                if (self.root / parent).is_dir()
                for name in _names(self.root / parent)
                if regex.fullmatch(name)
            ]
        return found


@dataclass
class _Stager:
    """Stages one tree in as few %files lines as its peculiarities allow."""

    context: Context
    staged: Staged
    where: str
    aside: str

    def add(self, path: str, target: str) -> None:
        assert self.context.root is not None
        full = self.context.root / path
        mode = full.lstat().st_mode
        try:
            (path + (str(full.readlink()) if stat.S_ISLNK(mode) else "")).encode()
        except UnicodeEncodeError as error:
            shown = os.fsencode(path).decode(errors="replace")
            raise SpecError(
                f"COPY: a name in the context is not UTF-8: {shown}",
                where=self.where,
                fix="rename the file, or add its folder to .dockerignore",
            ) from error
        if stat.S_ISLNK(mode):
            self._run(f"ln -s {quote(str(full.readlink()))} {quote(target)}", target)
        elif stat.S_ISREG(mode):
            self._file(path, target)
            self._mode(mode, target)
        elif not stat.S_ISDIR(mode):
            raise SpecError(
                f"COPY: '{path}' is neither file, folder nor link", where=self.where, fix="add it to .dockerignore"
            )
        elif path != "." and self._is_plain(path):
            self._file(path, target)
        else:
            self.staged.commands.append(f"mkdir -p {quote(target)}")
            for name in _names(full):
                child = posixpath.normpath(posixpath.join(path, name))
                if self.context._is_wanted(child):
                    self.add(child, f"{target}/{name}")
            self._mode(mode, target)

    def _run(self, command: str, target: str) -> None:
        parent = posixpath.dirname(target)
        if not any(c == f"mkdir -p {quote(parent)}" for c in self.staged.commands):
            self.staged.commands.append(f"mkdir -p {quote(parent)}")
        self.staged.commands.append(command)

    def _mode(self, mode: int, target: str) -> None:
        bits = stat.S_IMODE(mode)
        if self.context.keeps_modes and (
            bits not in _PLAIN_MODES if stat.S_ISREG(mode) else bits != 0o755 and target != self.staged.path
        ):
            self.staged.commands.append(f"chmod {bits:04o} {quote(target)}")

    def _file(self, path: str, target: str) -> None:
        """One %files line; a name that cannot stand there is matched by a pattern, staged aside and picked."""
        source = self.context.named(path, self.where)
        if all(map(_PLAIN_NAME.fullmatch, (path + target.removeprefix(STAGING)).strip("/").split("/"))):
            self.staged.files.append(CopiedFile(source, target))
            return
        pattern = re.sub(r"[^\w@+=:,./-]", "?", path, flags=re.ASCII)
        name = posixpath.basename(path)
        if sum(posixpath.basename(found) == name for found in self.context._glob(pattern)) != 1:
            raise SpecError(
                f"COPY: %files can name '{path}' only by the pattern '{pattern}', which fits another file of that name",
                where=self.where,
                fix="rename one of the folders",
            )
        aside = f"{self.aside}/{len(self.staged.files)}"  # a folder for all that the pattern fits
        self.staged.files.append(CopiedFile(self.context.named(pattern, self.where), f"{aside}/"))
        self._run(f"mv {quote(f'{aside}/{name}')} {quote(target)}", target)

    def _is_plain(self, path: str) -> bool:
        """May %files copy this folder whole?"""
        assert self.context.root is not None
        full = self.context.root / path
        mode = full.lstat().st_mode
        name_is_plain = path == "." or _PLAIN_NAME.fullmatch(posixpath.basename(path)) is not None
        if not name_is_plain or self.context.rules.ignores(path):
            return False
        keeps = self.context.keeps_modes
        if stat.S_ISREG(mode):
            return not keeps or stat.S_IMODE(mode) in _PLAIN_MODES
        if not stat.S_ISDIR(mode) or (keeps and stat.S_IMODE(mode) != 0o755):
            return False
        return all(self._is_plain(posixpath.normpath(posixpath.join(path, name))) for name in _names(full))


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())
