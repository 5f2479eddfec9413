"""The folder of data sets that LLaMA-Factory reads: versions that stay, and a list of names that lead to them."""

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from records import Record, read, version

from harness.runtime.errors import DataError
from harness.runtime.files import replaced_whole, write_json

INFO, VERSIONS = "dataset_info.json", Path("versions")
COLUMNS: dict[str, dict[str, Any]] = {
    "alpaca": {"columns": {"prompt": "instruction", "query": "input", "response": "output"}},
    "sharegpt": {
        "formatting": "sharegpt",
        "columns": {"messages": "conversations"},
        "tags": {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt"},
    },
}


def check_names(folder: Path, names: list[str], derived: list[str]) -> None:
    """Refuse names that are there twice, or that lead to somebody's own file.

    Raises:
        DataError: names it.
    """
    every = names + derived
    twice = next((name for name in every if every.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"the name '{twice}' is given twice")
    for name in every:
        file = registered(folder).get(name, {}).get("file_name")
        if file is not None and Path(file).parent != VERSIONS:
            raise DataError(f"{folder / INFO}: '{name}' is {file} already, not made by this program; take another name")


def registered(folder: Path) -> dict[str, Any]:
    """What the folder's list of data sets says; nothing where there is none yet.

    Raises:
        DataError: it cannot be read.
    """
    try:
        info = json.loads((folder / INFO).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise DataError(f"{folder / INFO}: not JSON: {error}; mend it first, other data sets are in it") from error
    return dict(info)


def show(root: Path, name: str, file: Path) -> None:
    """Let ``<root>/NAME/NAME.json`` lead to a version, unless somebody put a file of their own there."""
    link = root / name / f"{name}.json"
    if link.exists() and not link.is_symlink():
        print(f"note: {link} is not ours and stays as it is")
        return
    link.parent.mkdir(exist_ok=True)
    aside = link.with_name(f".{link.name}.{os.getpid()}")
    aside.symlink_to(os.path.relpath(file, link.parent))
    aside.replace(link)


def register(folder: Path, names: list[str], records: list[Record], form: str) -> str:
    """Store ``records`` as a new version and let ``names`` lead to it; the version.

    Many may register at once: the list of data sets is changed under a lock, and replaced whole.

    Raises:
        DataError: the folder's list of data sets cannot be read.
    """
    name = version(records)
    file = VERSIONS / f"{name}.json"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{INFO}.lock").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        info = registered(folder)
        (folder / file.parent).mkdir(exist_ok=True)
        if not (folder / file).exists():
            with replaced_whole(folder / file) as stream:
                stream.write(json.dumps(records, ensure_ascii=False, indent=1).encode("utf-8"))
        entry = {"file_name": str(file), **COLUMNS[form]}
        write_json(folder / INFO, {**info, **{key: entry for each in names for key in (each, f"{each}@{name}")}})
    return name


def load_by_name(folder: Path, name: str) -> list[Record]:
    """The records of a name, found as LLaMA-Factory finds them."""
    return read(folder / registered(folder)[name]["file_name"])
