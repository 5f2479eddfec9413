"""Whether what a site holds is still what the hub gave, or what the tutorial says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.files import sha256_of
from harness.run.needs import look
from harness.runtime.hub.store import of_folder
from harness.supply.wishes import Wish


@dataclass(frozen=True)
class Verified:
    """What was found. ``problems`` is empty where all is well; ``checked`` counts files whose content was compared."""

    wish: Wish
    folder: Path | None
    checked: int
    problems: tuple[str, ...]


def verify(wish: Wish, root: Path) -> Verified:
    """Read a model's or data set's files and compare them with their checksums, as far as there are any."""
    folder = next((root / name for name in wish.wanted.folders if (root / name).is_dir()), None)
    if folder is None:
        return Verified(wish, None, 0, ())
    missing = look(wish.kind, wish.wanted, root)
    problems = [missing.problem] if missing else []
    checked: set[str] = set()
    store = of_folder(root, folder)
    if store is not None:
        problems += [f"{wrong.path} {wrong.problem}" for wrong in store.verify(folder)]
        checked |= {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    for name, sha256 in wish.wanted.sha256.items():
        path = folder / name
        if path.is_file():
            checked.add(name)
            if (found := sha256_of(path)) != sha256:
                problems.append(f"{path} is damaged: its SHA-256 is {found}, the tutorial names {sha256}")
    return Verified(wish, folder, len(checked), tuple(dict.fromkeys(problems)))
