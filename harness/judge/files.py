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
from harness.judge.said import Said, say, why
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
        raise ValueError(
            say(
                "is not among the files the step recorded: {files}",
                "不在该步骤记录的文件之中：{files}",
                files=listed(f.path for f in outputs.step.files),
            )
        )
    path = outputs.folder / name
    problem = file_problem(path, record, min_bytes)
    if problem is not None:
        raise ValueError(problem)
    return path


def recorded_names(outputs: StepOutputs, pattern: str) -> list[str]:
    """Names on record that match a pattern such as ``images/*.png``, in order."""
    return sorted(file.path for file in outputs.step.files if fnmatchcase(file.path, pattern))


def file_problem(path: Path, record: OutputFile, min_bytes: int) -> Said | None:
    """Why the file is not the one the step recorded, or None."""
    if not path.is_file():
        return say(
            "was recorded but is not in the run folder (looked for {path})",
            "有记录，但不在运行目录中（查找了 {path}）",
            path=f"{path.parent.name}/{path.name}",
        )
    size = path.stat().st_size
    if size < min_bytes:
        return say(
            "has {size} bytes, expected at least {least}",
            "有 {size} 字节，至少应有 {least}",
            size=size,
            least=min_bytes,
        )
    if size != record.bytes:
        return say(
            "has {size} bytes, the run recorded {recorded}: it was changed or cut after the run",
            "有 {size} 字节，运行记录的是 {recorded}：它在运行之后被改动或截断",
            size=size,
            recorded=record.bytes,
        )
    digest = sha256_of(path)
    if digest != record.sha256.lower():
        return say(
            "has the digest {digest}…, the run recorded {recorded}…: it was changed after the run",
            "摘要为 {digest}…，运行记录的是 {recorded}…：它在运行之后被改动",
            digest=digest[:12],
            recorded=record.sha256[:12],
        )
    return None


def judged_file(name: str, expected: str, judge: Callable[[], Finding]) -> Finding:
    """``judge``'s finding; what it raises about the file becomes a failure that names it."""
    try:
        return judge()._replace(expected=expected)
    except OSError as error:
        message = say("{name} cannot be read: {why}", "{name} 不能读取：{why}", name=name, why=error.strerror)
    except ValueError as error:
        message = say("{name} {why}", "{name} {why}", name=name, why=why(error))
    return Finding("fail", message, expected=expected)


def judge_file(expectation: FileExpectation, outputs: StepOutputs) -> Finding:
    """On record, on disk, large enough, the recorded size and digest, and of the stated format."""
    kind = "PNG picture" if expectation.format == "png" else "file"

    def judge() -> Finding:
        path = recorded_file(outputs, expectation.name, min_bytes=expectation.min_bytes)
        size = path.stat().st_size
        if expectation.format == "png":
            width, height = png_size(path)
            picture = {"name": expectation.name, "width": width, "height": height}
            message = say("{name}: PNG, {width} × {height} pixels", "{name}：PNG，{width} × {height} 像素", **picture)
            return Finding("pass", message, size)
        message = say(
            "{name}: {size} bytes, digest as recorded",
            "{name}：{size} 字节，摘要与记录一致",
            name=expectation.name,
            size=f"{size:,}",
        )
        return Finding("pass", message, size)

    return judged_file(expectation.name, f"a {kind} of at least {expectation.min_bytes} bytes", judge)


def png_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels of a PNG file (ISO/IEC 15948: signature, IHDR first, IEND last).

    Raises:
        ValueError: it is not a PNG, has no pixels, or was cut short.
    """
    with path.open("rb") as stream:
        head = stream.read(24)
        if head[:8] != PNG_MAGIC:
            raise ValueError(
                say("is not a PNG: it starts with {head}", "不是 PNG：以 {head} 开头", head=shown(head[:8]))
            )
        if len(head) < 24 or head[12:16] != b"IHDR":
            raise ValueError(say("is not a PNG: its header is not IHDR", "不是 PNG：文件头不是 IHDR"))
        width, height = struct.unpack(">II", head[16:24])
        if not (width and height):
            size = f"{width} × {height}"
            raise ValueError(say("is an empty PNG of {size} pixels", "是 {size} 像素的空 PNG", size=size))
        stream.seek(-min(8, stream.seek(0, 2)), 2)
        if stream.read(8) != PNG_END:
            raise ValueError(
                say("is a PNG that was cut short: its end mark is missing", "是被截断的 PNG：缺少结束标记")
            )
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
                raise ValueError(
                    say(
                        "has no array '{name}'; it holds: {found}",
                        "没有数组“{name}”；含有：{found}",
                        name=name,
                        found=listed(found),
                    )
                )
            array = found[name]
            fits = len(array.shape) == len(wanted.shape) and all(
                length == asked or (asked == -1 and length > 0)
                for length, asked in zip(array.shape, wanted.shape, strict=False)
            )
            if not fits:
                raise ValueError(
                    say(
                        "has '{name}' of shape {found}, expected {wanted}",
                        "数组“{name}”的形状是 {found}，应为 {wanted}",
                        name=name,
                        found=_shape(array.shape),
                        wanted=_shape(wanted.shape),
                    )
                )
            if wanted.dtype is not None and array.dtype != wanted.dtype:
                raise ValueError(
                    say(
                        "has '{name}' of type {found}, expected {wanted}",
                        "数组“{name}”的类型是 {found}，应为 {wanted}",
                        name=name,
                        found=array.dtype,
                        wanted=wanted.dtype,
                    )
                )
            if expectation.finite:
                _check_finite(name, array)
        total = sum(found[name].size for name in expectation.arrays)
        message = say(
            "{name}: {arrays} arrays, {total} values judged",
            "{name}：{arrays} 个数组，检查了 {total} 个数值",
            name=expectation.name,
            arrays=len(found),
            total=f"{total:,}",
        )
        return Finding("pass", message, total)

    return judged_file(expectation.name, expected, judge)


def _check_finite(name: str, array: StoredArray) -> None:
    if array.size > MAX_VALUES:
        raise ValueError(
            say(
                "has '{name}' of {size} values, too many to look for NaN (at most {most}); "
                "write a sample of them, or say finite = false",
                "数组“{name}”有 {size} 个数值，多到无法逐个检查 NaN（最多 {most} 个）；请写出样本，或设 finite = false",
                name=name,
                size=f"{array.size:,}",
                most=f"{MAX_VALUES:,}",
            )
        )
    for index, value in enumerate(array.values()):
        if finite(value) is None:
            raise ValueError(
                say(
                    "has '{name}' with {value} at position {index} of {size}",
                    "数组“{name}”在第 {index} 位（共 {size} 位）为 {value}",
                    name=name,
                    value=value,
                    index=index,
                    size=array.size,
                )
            )


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
                    raise ValueError(say("has no header line", "没有表头行"))
                absent = [column for column in expectation.columns if column not in header]
                if absent:
                    raise ValueError(
                        say(
                            "has no column '{column}'; it holds: {header}",
                            "没有“{column}”列；含有：{header}",
                            column=absent[0],
                            header=listed(header),
                        )
                    )
                count = 0
                for row in rows:
                    if not row:
                        continue
                    count += 1
                    if len(row) != len(header):
                        raise ValueError(
                            say(
                                "has {cells} cells in row {row}, its header has {header}",
                                "第 {row} 行有 {cells} 格，表头有 {header} 格",
                                cells=len(row),
                                row=count,
                                header=len(header),
                            )
                        )
        except (csv.Error, UnicodeDecodeError) as error:
            text = say("is not a CSV file in UTF-8: {error}", "不是 UTF-8 的 CSV 文件：{error}", error=error)
            raise ValueError(text) from error
        if count < expectation.min_rows or (expectation.max_rows is not None and count > expectation.max_rows):
            raise ValueError(
                say(
                    "has {count} rows, expected {expected}",
                    "有 {count} 行，要求 {expected}",
                    count=count,
                    expected=expected,
                )
            )
        message = say(
            "{name}: {rows} rows, {columns} columns",
            "{name}：{rows} 行，{columns} 列",
            name=expectation.name,
            rows=count,
            columns=len(header),
        )
        return Finding("pass", message, count)

    return judged_file(expectation.name, expected, judge)


def judge_json(expectation: JsonExpectation, outputs: StepOutputs) -> Finding:
    """Every key leads to a value that is neither null, empty, NaN nor infinite."""

    def judge() -> Finding:
        try:
            data = json.loads(read_text(recorded_file(outputs, expectation.name)))
        except RecursionError as error:
            raise ValueError(say("is nested too deeply", "嵌套过深")) from error
        except json.JSONDecodeError as error:
            raise ValueError(say("is not JSON: {error}", "不是 JSON：{error}", error=error)) from error
        for key in expectation.keys:
            value = _value_at(data, key)
            unsound = isinstance(value, float) and finite(value) is None
            if value is None or value == "" or value == [] or value == {} or unsound:
                raise ValueError(say("has {value} at '{key}'", "“{key}”处为 {value}", value=shown(value), key=key))
        keys = ", ".join(expectation.keys)
        message = say("{name}: all of {keys} are there", "{name}：{keys} 都在", name=expectation.name, keys=keys)
        return Finding("pass", message)

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
            kind = type(place).__name__
            holds = listed(map(str, place)) if isinstance(place, dict) else say("a {kind}", "{kind}", kind=kind)
            raise ValueError(
                say(
                    "has no '{key}': where '{part}' should be it holds {holds}",
                    "没有“{key}”：应有“{part}”之处是 {holds}",
                    key=key,
                    part=part,
                    holds=holds,
                )
            )
    return place


def read_text(path: Path) -> str:
    """A file of UTF-8 text of at most 64 MiB.

    Raises:
        ValueError: larger, or not UTF-8. OSError: it cannot be read.
    """
    size = path.stat().st_size
    if size > MAX_TEXT_BYTES:
        raise ValueError(
            say(
                "has {size} bytes; texts of at most {most} are judged",
                "有 {size} 字节；只检查不超过 {most} 字节的文本",
                size=f"{size:,}",
                most=f"{MAX_TEXT_BYTES:,}",
            )
        )
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        text = say(
            "is not UTF-8 text ({reason} at byte {start})",
            "不是 UTF-8 文本（第 {start} 字节：{reason}）",
            reason=error.reason,
            start=error.start,
        )
        raise ValueError(text) from error
