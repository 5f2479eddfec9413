"""Verdicts that are kept between runs, so that a run of the corpus builds only what may have changed.

A verdict's key is a hash of everything that it depends on: the text of the definition, the case's folder, the corpus's
bases, the comparison's own code, and both engines. So a kept verdict is what a new build would say; a change of the
converter builds exactly the cases whose definitions it changes, and those that failed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.files import write_json

Outcome = Literal["identical", "different", "refused", "failed"]


@dataclass(frozen=True)
class Verdict:
    """What became of one Dockerfile.

    Attributes:
        outcome: ``different`` is what nobody would notice: built, and not the same.
        details: the differences, or why it was refused or failed.
    """

    outcome: Outcome
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class VerdictStore:
    """A folder with a file for each verdict.

    Attributes:
        common: what all verdicts of this run depend on.
    """

    folder: Path
    common: str

    def key(self, case: Path, definition: str) -> str:
        """The name of the verdict on ``definition``, of the case in the folder ``case``."""
        return digest([self.common.encode(), definition.encode(), *folder_parts(case)])

    def load(self, key: str) -> Verdict | None:
        """The verdict of that name, if there is one."""
        file = self.folder / f"{key}.json"
        if not file.is_file():
            return None
        kept = json.loads(file.read_text(encoding="utf-8"))
        return Verdict(kept["outcome"], tuple(kept["details"]))

    def save(self, key: str, verdict: Verdict) -> None:
        """Keep a verdict, but for a failure: that may be the engine's or the machine's of one moment."""
        if verdict.outcome == "failed":
            return
        write_json(self.folder / f"{key}.json", {"outcome": verdict.outcome, "details": verdict.details})


def folder_parts(folder: Path) -> Iterator[bytes]:
    """Names, link targets, executable bits and contents of a folder: what git keeps of it."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            yield f"{name} link {path.readlink()}".encode()
        elif path.is_file():
            yield f"{name} file {path.stat().st_mode & 0o100:o}".encode()
            yield path.read_bytes()


def digest(parts: Iterable[bytes]) -> str:
    """A hash of a list of byte strings, their borders included."""
    result = hashlib.sha256()
    for part in parts:
        result.update(len(part).to_bytes(8, "big") + part)
    return result.hexdigest()
