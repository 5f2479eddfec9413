"""Files a step left: whole and as recorded, and what is inside them."""

from __future__ import annotations

import csv
import json
import struct
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from harness.expectation import ArrayExpectation, FileExpectation, JsonExpectation, TableExpectation
from harness.files import sha256_of
from harness.judge.arrays import MAX_VALUES, StoredArray, read_arrays
from harness.judge.finding import Finding, StepOutputs, listed
from harness.judge.numbers import finite, shown
from harness.run.result import OutputFile

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
PNG_END = b"IEND\xaeB`\x82"
MAX_TEXT_BYTES = 64 * 1024 * 1024


def recorded_file(outputs: StepOutputs, name: str, *, min_bytes: int = 1) -> Path:
    """The file of that name: on record, on disk, not empty, of the recorded size and digest.

    Raises:
        ValueError: one line that says what is wrong with it. OSError: it cannot be read.
    """
    record = next((file for file in outputs.step.files if file.path == name), None)
    if record is None:
        raise ValueError(f"is not among the files the step recorded: {listed(f.path for f in outputs.step.files)}")
    path = outputs.folder / name
    problem = file_problem(path, record, min_bytes)
    if problem:
        raise ValueError(problem)
    return path


def recorded_names(outputs: StepOutputs, pattern: str) -> list[str]:
    """Names on record that match a pattern such as ``images/*.png``, in order."""
    return sorted(file.path for file in outputs.step.files if fnmatchcase(file.path, pattern))


def file_problem(path: Path, record: OutputFile, min_bytes: int) -> str | None:
    """Why the file is not the one the step recorded, or None."""
    if not path.is_file():
        return f"was recorded but is not in the run folder (looked for {path.parent.name}/{path.name})"
    size = path.stat().st_size
    if size < min_bytes:
        return f"has {size} bytes, expected at least {min_bytes}"
    if size != record.bytes:
        return f"has {size} bytes, the run recorded {record.bytes}: it was changed or cut after the run"
    digest = sha256_of(path)
    if digest != record.sha256.lower():
        return f"has the digest {digest[:12]}…, the run recorded {record.sha256[:12]}…: it was changed after the run"
    return None


def judged_file(name: str, expected: str, judge: Callable[[], Finding]) -> Finding:
    """``judge``'s finding; what it raises about the file becomes a failure that names it."""
    try:
        return judge()._replace(expected=expected)
    except OSError as error:
        return Finding("fail", f"{name} cannot be read: {error.strerror}", expected=expected)
    except ValueError as error:
        return Finding("fail", f"{name} {error}", expected=expected)


def judge_file(expectation: FileExpectation, outputs: StepOutputs) -> Finding:
    """On record, on disk, large enough, the recorded size and digest, and of the stated format."""
    kind = "PNG picture" if expectation.format == "png" else "file"

    def judge() -> Finding:
        path = recorded_file(outputs, expectation.name, min_bytes=expectation.min_bytes)
        size = path.stat().st_size
        if expectation.format == "png":
            width, height = png_size(path)
            return Finding("pass", f"{expectation.name}: PNG, {width} × {height} pixels", size)
        return Finding("pass", f"{expectation.name}: {size:,} bytes, digest as recorded", size)

    return judged_file(expectation.name, f"a {kind} of at least {expectation.min_bytes} bytes", judge)


def png_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels of a PNG file (ISO/IEC 15948: signature, IHDR first, IEND last).

    Raises:
        ValueError: it is not a PNG, has no pixels, or was cut short.
    """
    with path.open("rb") as stream:
        head = stream.read(24)
        if head[:8] != PNG_MAGIC:
            raise ValueError(f"is not a PNG: it starts with {shown(head[:8])}")
        if len(head) < 24 or head[12:16] != b"IHDR":
            raise ValueError("is not a PNG: its header is not IHDR")
        width, height = struct.unpack(">II", head[16:24])
        if not (width and height):
            raise ValueError(f"is an empty PNG of {width} × {height} pixels")
        stream.seek(-min(8, stream.seek(0, 2)), 2)
        if stream.read(8) != PNG_END:
            raise ValueError("is a PNG that was cut short: its end mark is missing")
    return int(width), int(height)


def judge_array(expectation: ArrayExpectation, outputs: StepOutputs) -> Finding:
    """Every named array is there, of the stated shape and type, not empty, and finite."""
    expected = ", ".join(
        f"{name} {_shape(wanted.shape)}{f' {wanted.dtype}' if wanted.dtype else ''}"
        for name, wanted in expectation.arrays.items()
    )

    def judge() -> Finding:
        found = read_arrays(recorded_file(outputs, expectation.name))
        for name, wanted in expectation.arrays.items():
            if name not in found:
                raise ValueError(f"has no array '{name}'; it holds: {listed(found)}")
            array = found[name]
            fits = len(array.shape) == len(wanted.shape) and all(
                length == asked or (asked == -1 and length > 0)
                for length, asked in zip(array.shape, wanted.shape, strict=False)
            )
            if not fits:
                raise ValueError(f"has '{name}' of shape {_shape(array.shape)}, expected {_shape(wanted.shape)}")
            if wanted.dtype is not None and array.dtype != wanted.dtype:
                raise ValueError(f"has '{name}' of type {array.dtype}, expected {wanted.dtype}")
            if expectation.finite:
                _check_finite(name, array)
        total = sum(found[name].size for name in expectation.arrays)
        return Finding("pass", f"{expectation.name}: {len(found)} arrays, {total:,} values judged", total)

    return judged_file(expectation.name, expected, judge)


def _check_finite(name: str, array: StoredArray) -> None:
    if array.size > MAX_VALUES:
        raise ValueError(
            f"has '{name}' of {array.size:,} values, too many to look for NaN (at most {MAX_VALUES:,}); "
            "write a sample of them, or say finite = false"
        )
    for index, value in enumerate(array.values()):
        if finite(value) is None:
            raise ValueError(f"has '{name}' with {value} at position {index} of {array.size}")


def _shape(shape: list[int] | tuple[int, ...]) -> str:
    return "(" + ", ".join("any" if length == -1 else str(length) for length in shape) + ")"


def judge_table(expectation: TableExpectation, outputs: StepOutputs) -> Finding:
    """The columns are there, rows are as many as asked for, and none is shorter or longer than the header."""
    most = "" if expectation.max_rows is None else f" and at most {expectation.max_rows}"
    expected = f"at least {expectation.min_rows}{most} rows"
    if expectation.columns:
        expected += f" with the columns {', '.join(expectation.columns)}"

    def judge() -> Finding:
        path = recorded_file(outputs, expectation.name)
        try:
            with path.open(encoding="utf-8-sig", newline="") as stream:
                rows = csv.reader(stream, strict=True)
                header = next(rows, None)
                if header is None:
                    raise ValueError("has no header line")
                absent = [column for column in expectation.columns if column not in header]
                if absent:
                    raise ValueError(f"has no column '{absent[0]}'; it holds: {listed(header)}")
                count = 0
                for row in rows:
                    if not row:
                        continue
                    count += 1
                    if len(row) != len(header):
                        raise ValueError(f"has {len(row)} cells in row {count}, its header has {len(header)}")
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"is not a CSV file in UTF-8: {error}") from error
        if count < expectation.min_rows or (expectation.max_rows is not None and count > expectation.max_rows):
            raise ValueError(f"has {count} rows, expected {expected}")
        return Finding("pass", f"{expectation.name}: {count} rows, {len(header)} columns", count)

    return judged_file(expectation.name, expected, judge)


def judge_json(expectation: JsonExpectation, outputs: StepOutputs) -> Finding:
    """Every key leads to a value that is neither null, empty, NaN nor infinite."""

    def judge() -> Finding:
        try:
            data = json.loads(read_text(recorded_file(outputs, expectation.name)))
        except RecursionError as error:
            raise ValueError("is nested too deeply") from error
        except json.JSONDecodeError as error:
            raise ValueError(f"is not JSON: {error}") from error
        for key in expectation.keys:
            value = _value_at(data, key)
            unsound = isinstance(value, float) and finite(value) is None
            if value is None or value == "" or value == [] or value == {} or unsound:
                raise ValueError(f"has {shown(value)} at '{key}'")
        return Finding("pass", f"{expectation.name}: all of {', '.join(expectation.keys)} are there")

    return judged_file(expectation.name, f"the keys {', '.join(expectation.keys)}", judge)


def _value_at(data: Any, key: str) -> Any:
    """The value a dotted key leads to; ValueError where it leads nowhere."""
    place = data
    for part in key.split("."):
        if isinstance(place, dict) and part in place:
            place = place[part]
        elif isinstance(place, list) and part.isdecimal() and len(part) < 10 and int(part) < len(place):
            place = place[int(part)]
        else:
            holds = listed(map(str, place)) if isinstance(place, dict) else f"a {type(place).__name__}"
            raise ValueError(f"has no '{key}': where '{part}' should be it holds {holds}")
    return place


def read_text(path: Path) -> str:
    """A file of UTF-8 text of at most 64 MiB.

    Raises:
        ValueError: larger, or not UTF-8. OSError: it cannot be read.
    """
    size = path.stat().st_size
    if size > MAX_TEXT_BYTES:
        raise ValueError(f"has {size:,} bytes; texts of at most {MAX_TEXT_BYTES:,} are judged")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text ({error.reason} at byte {error.start})") from error
