"""Outputs: one small function per kind of expectation, each from (expectation, what the step left) to a finding."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from harness.expectation import (
    ArrayExpectation,
    ChangedExpectation,
    CurveExpectation,
    ExactExpectation,
    Expectation,
    FileExpectation,
    ImagesExpectation,
    JsonExpectation,
    NumberExpectation,
    SameExpectation,
    TableExpectation,
    TextExpectation,
)
from harness.judge.arrays import read_arrays
from harness.judge.files import (
    judge_array,
    judge_file,
    judge_json,
    judge_table,
    judged_file,
    read_text,
    recorded_file,
)
from harness.judge.finding import Finding, OtherStep, StepOutputs, listed, missing
from harness.judge.numbers import finite, shown
from harness.judge.pictures import judge_images
from harness.judge.plan import output_names
from harness.judge.verdict import Check, Status
from harness.run.evidence import Evidence
from harness.run.result import StepResult
from harness.tutorial import PresetName, Tutorial


def judge_outputs(evidence: Evidence, tutorial: Tutorial, preset: PresetName, absent: str) -> list[Check]:
    """One check per expectation of the preset; ``absent`` says why, where there is no result at all."""
    expected = tutorial.expected(preset)
    return [
        _check(expectation, name, evidence, absent)
        for expectation, name in zip(expected, output_names(expected), strict=True)
    ]


def _check(expectation: Expectation, name: str, evidence: Evidence, absent: str) -> Check:
    def outputs_of(step_name: str) -> StepOutputs | None:
        step = evidence.result.steps.get(step_name) if evidence.result else None
        return StepOutputs(step, evidence.paths.outputs(step_name)) if step else None

    outputs = outputs_of(expectation.step)
    if outputs is None:
        reason = absent if evidence.result is None else f"step '{expectation.step}' is not in result.json"
        finding = Finding("fail", f"not produced: {reason}")
    else:
        finding = _applies(expectation, outputs.step) or judge_output(expectation, outputs, outputs_of)
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


def judge_output(expectation: Expectation, outputs: StepOutputs, other: OtherStep) -> Finding:
    """Judge one expectation against what its step reported and left, and, for two kinds, another step."""
    match expectation:
        case ExactExpectation():
            return judge_exact(expectation, outputs.step)
        case NumberExpectation():
            return judge_number(expectation, outputs.step)
        case TextExpectation():
            return judge_text(expectation, outputs)
        case CurveExpectation():
            return judge_curve(expectation, outputs.step)
        case FileExpectation():
            return judge_file(expectation, outputs)
        case ArrayExpectation():
            return judge_array(expectation, outputs)
        case TableExpectation():
            return judge_table(expectation, outputs)
        case JsonExpectation():
            return judge_json(expectation, outputs)
        case ImagesExpectation():
            return judge_images(expectation, outputs)
        case ChangedExpectation():
            return judge_changed(expectation, outputs, other)
        case SameExpectation():
            return judge_same(expectation, outputs, other)


def judge_exact(expectation: ExactExpectation, step: StepResult) -> Finding:
    """Equal and of the same type, in lists too."""
    expected = shown(expectation.equals)
    if expectation.name not in step.outputs:
        return Finding("fail", missing(expectation.name, step), expected=expected)
    found = step.outputs[expectation.name]
    same = _identical(found, expectation.equals)
    message = f"{expectation.name} is {shown(found)}" + ("" if same else f", expected {expected}")
    return Finding("pass" if same else "fail", message, finite(found), expected)


def _identical(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_identical(a, b) for a, b in zip(one, other, strict=True))
    return type(one) is type(other) and bool(one == other)


def judge_number(expectation: NumberExpectation, step: StepResult) -> Finding:
    """Inside [min, max] and within ``tolerance`` of ``equals``, as far as each is given."""
    expected = _range(expectation)
    if expectation.name not in step.outputs:
        return Finding("fail", missing(expectation.name, step), expected=expected)
    raw = step.outputs[expectation.name]
    value = finite(raw)
    if value is None:
        return Finding("fail", f"{expectation.name} is {shown(raw)}, which is not a finite number", expected=expected)
    too_low = expectation.min is not None and value < expectation.min
    too_high = expectation.max is not None and value > expectation.max
    # The edge of the tolerance belongs to it also where the subtraction rounds.
    slack = _tolerance(expectation) * (1 + 1e-9)
    off = expectation.equals is not None and not abs(value - expectation.equals) <= slack
    status: Status = "fail" if too_low or too_high or off else "pass"
    return Finding(status, f"{expectation.name} = {shown(value)}, expected {expected}", value, expected)


def _tolerance(expectation: NumberExpectation) -> float:
    return expectation.tolerance + expectation.rel_tolerance * abs(expectation.equals or 0.0)


def _range(expectation: NumberExpectation) -> str:
    parts = []
    if expectation.min is not None:
        parts.append(f"≥ {shown(expectation.min)}")
    if expectation.max is not None:
        parts.append(f"≤ {shown(expectation.max)}")
    if expectation.equals is not None:
        parts.append(f"{shown(expectation.equals)} ± {shown(_tolerance(expectation))}")
    return " and ".join(parts)


def judge_text(expectation: TextExpectation, outputs: StepOutputs) -> Finding:
    """The pattern is found in it, the forbidden one is not."""
    expected = f"matches {shown(expectation.pattern, limit=80)}"
    if expectation.forbidden:
        expected += f" and not {shown(expectation.forbidden, limit=80)}"

    def judge(text: str) -> Finding:
        found = re.search(expectation.pattern, text, re.MULTILINE)
        if found is None:
            return Finding("fail", f"{expectation.name} does not match: it is {shown(text, limit=120)}")
        bad = re.search(expectation.forbidden, text, re.MULTILINE) if expectation.forbidden else None
        if bad is not None:
            return Finding("fail", f"{expectation.name} holds {shown(bad[0], limit=80)}, which it must not")
        return Finding("pass", f"{expectation.name} holds {shown(found[0], limit=80)}")

    if expectation.in_file:
        return judged_file(
            expectation.name, expected, lambda: judge(read_text(recorded_file(outputs, expectation.name)))
        )
    text, problem = _text(expectation.name, outputs.step)
    return (Finding("fail", problem) if problem else judge(text))._replace(expected=expected)


def _text(name: str, step: StepResult) -> tuple[str, str]:
    """(the text output, why it is none): one of the two is empty."""
    if name not in step.outputs:
        return "", missing(name, step)
    found = step.outputs[name]
    if not isinstance(found, str):
        return "", f"{name} is {shown(found)}, which is not a text"
    return (found, "") if found.strip() else ("", f"{name} is empty")


def judge_curve(expectation: CurveExpectation, step: StepResult) -> Finding:
    """Finite, long enough, inside its bounds, and moving in the direction as far and as steadily as asked."""
    expected = _curve_text(expectation)
    if expectation.name not in step.outputs:
        return Finding("fail", missing(expectation.name, step), expected=expected)
    points, problem = _points(expectation.name, step.outputs[expectation.name])
    if problem:
        return Finding("fail", problem, expected=expected)
    if len(points) < expectation.min_points:
        message = f"{expectation.name} has {len(points)} points, expected at least {expectation.min_points}"
        return Finding("fail", message, expected=expected, samples=points)
    message = f"{expectation.name} went from {shown(points[0])} to {shown(points[-1])} over {len(points)} points"
    wrong = _out_of_bounds(expectation, points)
    wrong = _wrong_way(expectation, points) if wrong is None else wrong
    if wrong is not None:
        return Finding("fail", f"{message}, expected {expected}{wrong}", points[-1], expected, points)
    return Finding("pass", message, points[-1], expected, points)


def _curve_text(expectation: CurveExpectation) -> str:
    way = f"{expectation.direction} " if expectation.direction else ""
    text = f"{way}over at least {expectation.min_points} points"
    if expectation.min_change:
        text += f" by at least {shown(expectation.min_change)}"
    if expectation.monotone:
        text += " without a step back"
        text += f" of more than {shown(expectation.slack)}" if expectation.slack else ""
    if expectation.min is not None:
        text += f", ≥ {shown(expectation.min)}"
    if expectation.max is not None:
        text += f", ≤ {shown(expectation.max)}"
    return text


def _points(name: str, raw: Any) -> tuple[tuple[float, ...], str]:
    """(the points, why they are none): one of the two is empty."""
    if not isinstance(raw, list):
        return (), f"{name} is {shown(raw)}, which is not a list of numbers"
    if not raw:
        return (), f"{name} is an empty list"
    points: list[float] = []
    for index, entry in enumerate(raw):
        point = finite(entry)
        if point is None:
            return (), f"point {index + 1} of {len(raw)} of {name} is {shown(entry)}, not a finite number"
        points.append(point)
    return tuple(points), ""


def _out_of_bounds(expectation: CurveExpectation, points: Sequence[float]) -> str | None:
    """The offending point, to be added to a message; None where there is none."""
    for index, point in enumerate(points):
        low = expectation.min is not None and point < expectation.min
        if low or (expectation.max is not None and point > expectation.max):
            return f": point {index + 1} is {shown(point)}"
    return None


def _wrong_way(expectation: CurveExpectation, points: Sequence[float]) -> str | None:
    """What to add to a message that names both ends; None where the curve moves as it should."""
    if expectation.direction is None:
        return None
    sign = 1 if expectation.direction == "increasing" else -1
    gain = sign * (points[-1] - points[0])
    if not (gain > 0 and gain >= expectation.min_change * (1 - 1e-9)):
        return ""
    if expectation.monotone:
        for index in range(1, len(points)):
            back = -sign * (points[index] - points[index - 1])
            if back > expectation.slack * (1 + 1e-9):
                return f": point {index + 1} steps back from {shown(points[index - 1])} to {shown(points[index])}"
    return None


def judge_changed(expectation: ChangedExpectation, outputs: StepOutputs, other: OtherStep) -> Finding:
    """Two texts, both there, that are not the same but for blanks."""
    other_name = expectation.other_name or expectation.name
    expected = f"another text than {other_name} of step '{expectation.other_step}'"
    before = other(expectation.other_step)
    if before is None:
        return Finding("fail", f"step '{expectation.other_step}' is not in result.json", expected=expected)
    new, problem = _text(expectation.name, outputs.step)
    old, other_problem = _text(other_name, before.step)
    if problem or other_problem:
        return Finding("fail", problem or f"step '{expectation.other_step}': {other_problem}", expected=expected)
    if new.split() == old.split():
        return Finding("fail", f"{expectation.name} did not change: still {shown(new, limit=120)}", expected=expected)
    message = f"{expectation.name} changed from {shown(old, limit=80)} to {shown(new, limit=80)}"
    return Finding("pass", message, expected=expected)


def judge_same(expectation: SameExpectation, outputs: StepOutputs, other: OtherStep) -> Finding:
    """Two numbers, lists of numbers, or files of arrays, equal within the tolerance."""
    other_name = expectation.other_name or expectation.name
    limit = f"{shown(expectation.tolerance)} + {shown(expectation.rel_tolerance)} × |other|"
    expected = f"as {other_name} of step '{expectation.other_step}' within {limit}"
    partner = other(expectation.other_step)
    if partner is None:
        return Finding("fail", f"step '{expectation.other_step}' is not in result.json", expected=expected)

    def judge() -> Finding:
        mine, theirs = _series(expectation, outputs, expectation.name), _series(expectation, partner, other_name)
        if mine.keys() != theirs.keys():
            raise ValueError(f"holds {listed(mine)}; the other holds {listed(theirs)}")
        worst, count = 0.0, 0
        for name, values in mine.items():
            worst = max(worst, _worst(name, values, theirs[name], expectation))
            count += len(values)
        return Finding("pass", f"{expectation.name}: {count:,} values agree, largest difference {shown(worst)}", worst)

    return judged_file(expectation.name, expected, judge)


def _series(expectation: SameExpectation, outputs: StepOutputs, name: str) -> dict[str, Sequence[float]]:
    """Named series of numbers: of an output, or of each array of a file; ValueError where there is none."""
    if expectation.in_file:
        arrays = read_arrays(recorded_file(outputs, name))
        if not arrays:
            raise ValueError(f"({name}) holds no arrays")
        return {f"{key} {array.shape}": array.values() for key, array in arrays.items()}
    if name not in outputs.step.outputs:
        raise ValueError(missing(name, outputs.step))
    raw = outputs.step.outputs[name]
    points, problem = _points(name, raw if isinstance(raw, list) else [raw])
    if problem:
        raise ValueError(problem)
    return {"values": points}


def _worst(name: str, mine: Sequence[float], theirs: Sequence[float], expectation: SameExpectation) -> float:
    """The largest difference; ValueError where the series differ in length, by more than the tolerance, or are NaN."""
    if len(mine) != len(theirs) or not mine:
        raise ValueError(f"holds {len(mine)} values in {name}, the other {len(theirs)}")
    worst = 0.0
    for index, (one, other) in enumerate(zip(mine, theirs, strict=True)):
        apart = abs(one - other)
        # A NaN compares as false, so it is caught here as well.
        if not apart <= (expectation.tolerance + expectation.rel_tolerance * abs(other)) * (1 + 1e-9):
            raise ValueError(f"differs in {name} at position {index}: {shown(one)} and {shown(other)}")
        worst = max(worst, apart)
    return worst
