"""Outputs: one small function per kind of expectation, each from (expectation, step result, folder) to a finding."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, NamedTuple

from harness.files import sha256_of
from harness.judge.numbers import finite, shown
from harness.judge.plan import output_names
from harness.judge.verdict import Check, Status
from harness.run.evidence import Evidence
from harness.run.result import OutputFile, StepResult
from harness.tutorial import CurveExpectation, Expectation, FileExpectation, NumberExpectation, PresetName, Tutorial

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
PNG_END = b"IEND\xaeB`\x82"


class Finding(NamedTuple):
    """What a check found: its status, one line, the number behind it, and what would have passed."""

    status: Status
    message: str
    value: float | None = None
    expected: str | None = None
    samples: tuple[float, ...] = ()


def judge_outputs(evidence: Evidence, tutorial: Tutorial, preset: PresetName, absent: str) -> list[Check]:
    """One check per expectation of the preset; ``absent`` says why, where there is no result at all."""
    expected = tutorial.expected(preset)
    return [
        _check(expectation, name, evidence, absent)
        for expectation, name in zip(expected, output_names(expected), strict=True)
    ]


def _check(expectation: Expectation, name: str, evidence: Evidence, absent: str) -> Check:
    step = evidence.result.steps.get(expectation.step) if evidence.result else None
    if step is None:
        reason = absent if evidence.result is None else f"step '{expectation.step}' is not in result.json"
        finding = Finding("fail", f"not produced: {reason}")
    else:
        finding = _applies(expectation, step) or judge_output(
            expectation, step, evidence.paths.outputs(expectation.step)
        )
    return Check(
        group="output",
        step=expectation.step,
        name=name,
        status=finding.status,
        message=finding.message,
        value=finding.value,
        expected=finding.expected,
        samples=finding.samples,
    )


def _applies(expectation: Expectation, step: StepResult) -> Finding | None:
    """None where the expectation applies; a skip where ``when`` says it does not; a failure where nobody knows."""
    for key, wanted in expectation.when.items():
        if key not in step.outputs:
            return Finding("fail", f"whether this applies depends on the output '{key}', which the step did not report")
        found = step.outputs[key]
        if found != wanted or isinstance(found, bool) != isinstance(wanted, bool):
            return Finding("skip", f"applies only when {key} is {shown(wanted)}; here it is {shown(found)}")
    return None


def judge_output(expectation: Expectation, step: StepResult, folder: Path) -> Finding:
    """Judge one expectation against what the step reported and left in ``folder``."""
    match expectation:
        case NumberExpectation():
            return judge_number(expectation, step)
        case CurveExpectation():
            return judge_curve(expectation, step)
        case FileExpectation():
            return judge_file(expectation, step, folder)


def judge_number(expectation: NumberExpectation, step: StepResult) -> Finding:
    """Inside [min, max] and within ``tolerance`` of ``equals``, as far as each is given."""
    expected = _range(expectation)
    if expectation.name not in step.outputs:
        return Finding("fail", _missing(expectation.name, step), expected=expected)
    raw = step.outputs[expectation.name]
    value = finite(raw)
    if value is None:
        return Finding("fail", f"{expectation.name} is {shown(raw)}, which is not a finite number", expected=expected)
    too_low = expectation.min is not None and value < expectation.min
    too_high = expectation.max is not None and value > expectation.max
    # The edge of the tolerance belongs to it also where the subtraction rounds.
    slack = expectation.tolerance * (1 + 1e-9)
    off = expectation.equals is not None and not abs(value - expectation.equals) <= slack
    status: Status = "fail" if too_low or too_high or off else "pass"
    return Finding(status, f"{expectation.name} = {shown(value)}, expected {expected}", value, expected)


def _range(expectation: NumberExpectation) -> str:
    parts = []
    if expectation.min is not None:
        parts.append(f"≥ {shown(expectation.min)}")
    if expectation.max is not None:
        parts.append(f"≤ {shown(expectation.max)}")
    if expectation.equals is not None:
        parts.append(f"{shown(expectation.equals)} ± {shown(expectation.tolerance)}")
    return " and ".join(parts)


def judge_curve(expectation: CurveExpectation, step: StepResult) -> Finding:
    """Finite, long enough, and moved from first to last in the direction by at least ``min_change``."""
    expected = f"{expectation.direction} over at least {expectation.min_points} points"
    if expectation.min_change:
        expected += f" by at least {shown(expectation.min_change)}"
    if expectation.name not in step.outputs:
        return Finding("fail", _missing(expectation.name, step), expected=expected)
    raw = step.outputs[expectation.name]
    if not isinstance(raw, list):
        return Finding("fail", f"{expectation.name} is {shown(raw)}, which is not a list of numbers", expected=expected)
    points: list[float] = []
    for index, entry in enumerate(raw):
        point = finite(entry)
        if point is None:
            message = f"point {index + 1} of {len(raw)} of {expectation.name} is {shown(entry)}, not a finite number"
            return Finding("fail", message, expected=expected)
        points.append(point)
    samples = tuple(points)
    if len(points) < expectation.min_points:
        message = f"{expectation.name} has {len(points)} points, expected at least {expectation.min_points}"
        return Finding("fail", message, expected=expected, samples=samples)
    change = points[-1] - points[0]
    gain = change if expectation.direction == "increasing" else -change
    right = gain > 0 and gain >= expectation.min_change * (1 - 1e-9)
    message = f"{expectation.name} went from {shown(points[0])} to {shown(points[-1])} over {len(points)} points"
    if not right:
        return Finding("fail", f"{message}, expected {expected}", points[-1], expected, samples)
    return Finding("pass", message, points[-1], expected, samples)


def judge_file(expectation: FileExpectation, step: StepResult, folder: Path) -> Finding:
    """On record, on disk, large enough, the recorded size and digest, and of the stated format."""
    expected = f"a {'PNG picture' if expectation.format == 'png' else 'file'} of at least {expectation.min_bytes} bytes"
    record = next((file for file in step.files if file.path == expectation.name), None)
    if record is None:
        message = f"{expectation.name} is not among the files the step recorded: {_names(f.path for f in step.files)}"
        return Finding("fail", message, expected=expected)
    path = folder / expectation.name
    try:
        problem = _file_problem(path, record, expectation)
        if problem is None and expectation.format == "png":
            width, height = png_size(path)
            return Finding("pass", f"{expectation.name}: PNG, {width} × {height} pixels", record.bytes, expected)
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except ValueError as error:
        problem = str(error)
    if problem:
        return Finding("fail", f"{expectation.name} {problem}", expected=expected)
    return Finding("pass", f"{expectation.name}: {record.bytes:,} bytes, digest as recorded", record.bytes, expected)


def _file_problem(path: Path, record: OutputFile, expectation: FileExpectation) -> str | None:
    if not path.is_file():
        return f"was recorded but is not in the run folder (looked for {path.parent.name}/{expectation.name})"
    size = path.stat().st_size
    if size < expectation.min_bytes:
        return f"has {size} bytes, expected at least {expectation.min_bytes}"
    if size != record.bytes:
        return f"has {size} bytes, the run recorded {record.bytes}: it was changed or cut after the run"
    digest = sha256_of(path)
    if digest != record.sha256.lower():
        return f"has the digest {digest[:12]}…, the run recorded {record.sha256[:12]}…: it was changed after the run"
    return None


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


def _missing(name: str, step: StepResult) -> str:
    return f"the step did not report '{name}'; it reported: {_names(step.outputs)}"


def _names(names: Any) -> str:
    listed = sorted(names)
    return ", ".join(listed[:8]) + (f" and {len(listed) - 8} more" if len(listed) > 8 else "") or "nothing"
