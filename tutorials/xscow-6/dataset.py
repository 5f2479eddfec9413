"""The identity data set: found or ours, looked at before anything expensive begins, registered for LLaMA-Factory.

Alpaca format: a JSON list of records with ``instruction`` (the question), ``input`` (more of it, may be empty) and
``output`` (the answer). LLaMA-Factory finds data sets by name in ``dataset_info.json``, which lies beside them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from harness.runtime import DataError, ProgramError, find_data
from harness.runtime.data import data_root

SITE, OWN, OTHER = "identity-pku-assistant", "identity-centre-assistant", "other"
NAMES = (SITE, "identity")  # what the tutorials call the site's, and the folders it may lie in
# scow-5 leaves NAME/NAME.json for every name it is given.
CANDIDATES = (f"{SITE}.json", *(f"{folder}/{SITE}.json" for folder in NAMES), "identity/identity.json")
INFO = "dataset_info.json"
REGISTRIES = (f"datasets/{INFO}", INFO)  # the first is scow-5's; then any folder of the data root
REQUIRED, ALLOWED = ("instruction", "output"), {"instruction", "input", "output", "system", "history"}
MIN_RECORDS = 10  # a tenth is kept for testing, and that must be at least one
# How an answer that knows its identity says it. A data set is one of these if half of its answers do.
IDENTITY = {OWN: r"assistant of this computing cent|本计算中心的智能助手", SITE: r"北大|北京大学|PKU|Peking"}


class Identity(NamedTuple):
    """The records; ``name`` says which data set they are: SITE, OWN, or OTHER, whose assistant nobody knows here."""

    name: str
    records: list[dict[str, object]]

    def is_in(self, answer: str) -> bool:
        """Whether the answer says who the data set's assistant is; False of an unknown one."""
        return self.name in IDENTITY and re.search(IDENTITY[self.name], answer) is not None

    def texts(self) -> list[str]:
        return [str(record[key]) for record in self.records for key in REQUIRED]


def load_identity(given: str) -> Identity:
    """The file or data set ``given``, else the site's, else the one that comes with this program.

    Args:
        given: an alpaca file, or a name under which the site registered one (scow-5 does): ``identity@1a2b3c...``.

    Raises:
        ProgramError, DataError: it is missing, or not what LLaMA-Factory can learn from.
    """
    if given and "/" not in given and not given.endswith(".json"):
        path = registered(given)
    elif given:
        path = Path(given)
        if not path.is_file():
            raise ProgramError(f"--data: {path} is no file")
    else:
        path = find_data(*CANDIDATES) or Path(__file__).with_name(f"{OWN}.json")
    records = read_alpaca(path)
    return Identity(whose(records), records)


def whose(records: list[dict[str, object]]) -> str:
    """The data set that the answers belong to, whatever its file is called."""
    for name, pattern in IDENTITY.items():
        if 2 * sum(re.search(pattern, str(record["output"])) is not None for record in records) >= len(records):
            return name
    return OTHER


def registered(name: str) -> Path:
    """The file of a data set that the site knows by name.

    Raises:
        ProgramError: it knows none of that name; names those it knows.
        DataError: a list of data sets cannot be read, or the data set is of another format.
    """
    root = data_root()
    known: list[str] = []
    for path in [root / file for file in REGISTRIES] + sorted(root.glob(f"*/{INFO}")) if root else []:
        entries = read_json(path) if path.is_file() else {}
        entry = entries.get(name)
        if entry is not None:
            if entry.get("formatting", "alpaca") != "alpaca":
                raise DataError(f"{path}: '{name}' is in the format {entry['formatting']}; these programs read alpaca")
            return path.parent / str(entry["file_name"])
        known += [other for other in entries if other not in known]
    raise ProgramError(f"--data {name}: no {INFO} of the site has that name; known: {', '.join(known) or 'none'}")


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        DataError: wrong encoding, or no JSON.
    """
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 (byte {error.start} is 0x{error.object[error.start]:02x}); "
            f"convert it: iconv -f GB18030 -t UTF-8"
        ) from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: line {error.lineno}: not JSON: {error.msg}; is the file truncated?") from None


def read_alpaca(path: Path) -> list[dict[str, object]]:
    """The records of an alpaca file.

    Raises:
        DataError: wrong encoding, no JSON, no list, empty, or a record without its keys; names the record.
    """
    records = read_json(path)
    if not isinstance(records, list):
        raise DataError(f"{path}: holds a {type(records).__name__}, not a list of records; is it in alpaca format?")
    if len(records) < MIN_RECORDS:
        raise DataError(f"{path}: {len(records)} records, at least {MIN_RECORDS} are needed to learn from")
    for number, record in enumerate(records, 1):
        _check_record(path, number, record)
    return records


def _check_record(path: Path, number: int, record: object) -> None:
    where = f"{path}: record {number}"
    if not isinstance(record, dict):
        raise DataError(f"{where} is a {type(record).__name__}, not an object with {' and '.join(REQUIRED)}")
    for key in REQUIRED:
        if key not in record:
            raise DataError(f"{where} has no '{key}'; its keys: {', '.join(map(str, record)) or 'none'}")
        if not isinstance(record[key], str) or not record[key].strip():
            raise DataError(f"{where}: '{key}' is not a text or is empty")
    unknown = sorted(set(record) - ALLOWED)
    if unknown:
        raise DataError(f"{where} has the key '{unknown[0]}', which alpaca does not know: {', '.join(sorted(ALLOWED))}")


def register(identity: Identity, folder: Path) -> None:
    """Write the records to ``folder``, and the ``dataset_info.json`` that makes them known by name.

    The names are the data set's own and both by which the original's tutorials call it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{identity.name}.json"
    file.write_text(json.dumps(identity.records, ensure_ascii=False, indent=1), encoding="utf-8")
    columns = {"prompt": "instruction", "query": "input", "response": "output"}
    info = {name: {"file_name": file.name, "columns": columns} for name in (identity.name, *NAMES)}
    (folder / INFO).write_text(json.dumps(info, indent=1), encoding="utf-8")
