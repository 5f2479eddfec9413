"""What a record of a data set must be: the two formats LLaMA-Factory trains on, and errors that name the record."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.runtime.errors import DataError

Record = dict[str, Any]
SPEAKERS = ("human", "gpt")  # they take turns, the person first


def read(path: Path) -> list[Record]:
    """The records of a JSON file.

    Raises:
        DataError: cannot be read, is not UTF-8 or not JSON, or is no list of objects with something in it.
    """
    try:
        content = path.read_bytes()
        records = json.loads(content.decode("utf-8-sig"))  # some editors put a mark in front
    except UnicodeDecodeError as error:
        fix = f"iconv -f GB18030 -t UTF-8 {path.name}"
        raise DataError(f"{path}: byte {error.start} is not UTF-8; save it again as UTF-8: {fix}") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: line {error.lineno}: not JSON: {error.msg}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if not isinstance(records, list) or not records:
        raise DataError(f"{path}: {'holds no record' if records == [] else 'not a list of records'}")
    return records


def alpaca_problem(record: Record) -> str | None:
    """What is wrong with an instruction with its answer; None where nothing is."""
    for key, is_needed in (("instruction", True), ("input", False), ("output", True), ("system", False)):
        if key not in record and not is_needed:
            continue
        if not isinstance(record.get(key), str):
            return f"'{key}' is {'missing' if key not in record else 'no text'}"
        if is_needed and not record[key].strip():
            return f"'{key}' is empty"
    return None


def sharegpt_problem(record: Record) -> str | None:
    """What is wrong with a conversation: person and assistant in turns, the assistant last; None where nothing is."""
    turns = record.get("conversations")
    if not isinstance(turns, list) or not turns:
        return "'conversations' is missing, empty or no list"
    for number, turn in enumerate(turns):
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str) or not turn["value"].strip():
            return f"turn {number + 1} says nothing: 'value' must be a text"
        if turn.get("from") != SPEAKERS[number % 2]:
            return f"turn {number + 1} is from '{turn.get('from')}', must be from '{SPEAKERS[number % 2]}'"
    return None if len(turns) % 2 == 0 else "the last turn is a person's: there is no answer to learn"


PROBLEMS: dict[str, Callable[[Record], str | None]] = {"alpaca": alpaca_problem, "sharegpt": sharegpt_problem}


def check(records: list[Record], form: str, where: str) -> None:
    """Refuse a data set at its first bad record; records count from 1.

    Raises:
        DataError: names the record and what is wrong with it.
    """
    for number, record in enumerate(records, start=1):
        problem = PROBLEMS[form](record) if isinstance(record, dict) else "not an object"
        if problem is not None:
            raise DataError(f"{where}: record {number}: {problem}; format: {form}")


def guess(records: list[Record], where: str) -> str:
    """The format that the first record looks like.

    Raises:
        DataError: it looks like none.
    """
    first = records[0]
    keys = list(first) if isinstance(first, dict) else []
    if "conversations" in keys:
        return "sharegpt"
    if "instruction" in keys or "output" in keys:
        return "alpaca"
    found = f"the keys {', '.join(map(repr, keys))}" if keys else "no keys"
    raise DataError(f"{where}: record 1 has {found}: neither alpaca (instruction, output) nor sharegpt (conversations)")


def version(records: list[Record]) -> str:
    """What these records are called for ever: 12 digits of the SHA-256 of their content, however it was indented."""
    canonical = json.dumps(records, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()[:12]


def as_sharegpt(records: list[Record]) -> list[Record]:
    """Alpaca records as conversations of two turns."""
    asked = ("\n".join(part for part in (r["instruction"], r.get("input", "")) if part) for r in records)
    turns = (zip(SPEAKERS, (question, r["output"]), strict=True) for question, r in zip(asked, records, strict=True))
    return [{"conversations": [{"from": who, "value": value} for who, value in pair]} for pair in turns]
