"""Writing generated files, or checking that the committed ones are what would be written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import typer

from harness.errors import HarnessError


def write_or_check(files: Mapping[Path, str], existing: Iterable[Path], *, check: bool, fix: str) -> None:
    """Bring ``files`` (path -> text) and the ``existing`` generated ones into agreement.

    Raises:
        HarnessError: with ``check``, where a file differs, is missing, or is of no tutorial any more.
    """
    stale = sorted(set(existing) - set(files))
    changed = sorted(p for p, text in files.items() if not p.is_file() or p.read_text(encoding="utf-8") != text)
    if check:
        wrong = [*changed, *stale]
        if wrong:
            names = ", ".join(p.name for p in wrong)
            raise HarnessError(f"not what the tutorials say: {names}", where=str(wrong[0].parent), fix=fix)
        return
    for path in changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path], encoding="utf-8")
        typer.echo(f"wrote {path.name}")
    for path in stale:
        path.unlink()
        typer.echo(f"removed {path.name}: no tutorial needs it")
