"""What an earlier attempt at a run left to go on from.

The scheduler may start a job again while its first attempt, on a node that was only cut off, still runs. So each
attempt writes to a folder of its own, and a new one begins with what the newest of the others had: as links to the same
files, or copies. Neither side sees the other's later changes, as long as files are replaced and removed, never written
again.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path


def earlier_attempts(root: Path, attempt: int) -> list[Path]:
    """Folders of the attempts before ``attempt``, newest first; the first one's is the run's own folder, ``root``."""
    return [*(root / f"attempt-{number}" for number in range(attempt - 1, 0, -1)), *([root] if attempt else [])]


def take_over(folder: Path, earlier: list[Path]) -> int:
    """Fill ``folder`` with what the first non-empty one of ``earlier`` holds, its newest entries first.

    An entry appears whole or not at all; one that vanishes meanwhile (its owner keeps only the newest few) is left out.
    What ``folder`` has already stays.

    Returns:
        How many entries were taken over.
    """
    source = next((path for path in earlier if path.is_dir() and _entries(path)), None)
    if source is None:
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    return sum(_take(entry, folder / entry.name) for entry in _entries(source) if not (folder / entry.name).exists())


def _entries(folder: Path) -> list[Path]:
    """Newest first: what a kill leaves undone is the oldest. Names with a dot are files being written."""
    paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return sorted(paths, key=lambda path: [int(number) for number in re.findall(r"\d+", path.name)], reverse=True)


def _take(source: Path, target: Path) -> bool:
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        if source.is_dir():
            there = _names(source)
            shutil.copytree(source, aside, copy_function=_link)
            complete = bool(there) and there <= _names(aside)
        else:
            _link(source, aside)
            complete = True
        if complete:
            aside.rename(target)
            return True
    except (FileNotFoundError, shutil.Error):
        complete = False  # removed by its owner while we looked
    if aside.is_dir():
        shutil.rmtree(aside)
    else:
        aside.unlink(missing_ok=True)
    return False


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without links, or with links inside one folder only
        shutil.copy2(source, target)


def _names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
