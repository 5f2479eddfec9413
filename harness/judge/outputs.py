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
from harness.judge.curves import judge_curve, points_of
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
from harness.judge.image import not_in_result
from harness.judge.numbers import finite, shown
from harness.judge.pictures import judge_images
from harness.judge.plan import OUTPUTS_JUDGED, output_names
from harness.judge.said import Said, say
from harness.judge.verdict import Check, Status
from harness.run.evidence import Evidence
from harness.run.result import StepResult
from harness.tutorial import PresetName, Tutorial


def judge_outputs(evidence: Evidence, tutorial: Tutorial, preset: PresetName, absent: Said) -> list[Check]:
    """Whether any output was judged, then one check per expectation of the preset.

    Args:
        absent: says why, where there is no result at all.
    """
    expected = tutorial.expected(preset)
    checks = [
        _check(expectation, name, evidence, absent)
        for expectation, name in zip(expected, output_names(expected), strict=True)
    ]
    return [_judged(checks, preset, absent), *checks]


def _judged(checks: Sequence[Check], preset: PresetName, absent: Said) -> Check:
    """A run of which no output was looked at has not passed, whatever the rest says."""
    judged = 0 if absent else sum(check.status != "skip" for check in checks)
    if absent:
        message = say("no output was judged: {absent}", "没有判定任何输出：{absent}", absent=absent)
    elif not checks:
        message = say(
            "the tutorial expects no output of the preset {preset}, so nothing shows that it is right; "
            "add an expectation to tutorial.toml",
            "教程没有为预设 {preset} 规定任何输出，无法说明结果正确；请在 tutorial.toml 中添加 expectation",
            preset=preset,
        )
    elif not judged:
        message = say(
            "none of the {count} expectations applies to this run, so nothing shows that its outputs are right",
            "{count} 项输出要求都不适用于本次运行，无法说明输出正确",
            count=len(checks),
        )
    else:
        message = say(
            "{judged} of {count} expectations apply",
            "{count} 项输出要求中有 {judged} 项适用",
            judged=judged,
            count=len(checks),
        )
    return Check(
        group="output",
        name=OUTPUTS_JUDGED,
        status="pass" if judged else "fail",
        message=message,
        message_zh=message.zh,
    )


def _check(expectation: Expectation, name: str, evidence: Evidence, absent: Said) -> Check:
    def outputs_of(step_name: str) -> StepOutputs | None:
        step = evidence.result.steps.get(step_name) if evidence.result else None
        return StepOutputs(step, evidence.paths.outputs(step_name)) if step else None

    outputs = outputs_of(expectation.step)
    if outputs is None:
        reason = absent if evidence.result is None else not_in_result(expectation.step)
        finding = Finding("fail", say("not produced: {reason}", "没有产生：{reason}", reason=reason))
    else:
        finding = _applies(expectation, outputs.step) or judge_output(expectation, outputs, outputs_of)
    return Check(
        group="output",
        step=expectation.step,
        name=name,
        status=finding.status,
        message=finding.message,
        message_zh=finding.message.zh,
        value=finding.value,
        expected=finding.expected,
        samples=finding.samples,
    )


def _applies(expectation: Expectation, step: StepResult) -> Finding | None:
    """None where the expectation applies; a skip where ``when`` says it does not; a failure where nobody knows."""
    for key, wanted in expectation.when.items():
        if key not in step.outputs:
            message = say(
                "whether this applies depends on the output '{key}', which the step did not report",
                "是否适用取决于输出“{key}”，而该步骤没有报告它",
                key=key,
            )
            return Finding("fail", message)
        found = step.outputs[key]
        if found != wanted or isinstance(found, bool) != isinstance(wanted, bool):
            message = say(
                "applies only when {key} is {wanted}; here it is {found}",
                "仅当 {key} 为 {wanted} 时适用；此处为 {found}",
                key=key,
                wanted=shown(wanted),
                found=shown(found),
            )
            return Finding("skip", message)
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
    parts = {"name": expectation.name, "found": shown(found), "expected": expected}
    if same:
        return Finding("pass", say("{name} is {found}", "{name} 为 {found}", **parts), finite(found), expected)
    message = say("{name} is {found}, expected {expected}", "{name} 为 {found}，应为 {expected}", **parts)
    return Finding("fail", message, finite(found), expected)


def _identical(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_identical(a, b) for a, b in zip(one, other, strict=True))
    return type(one) is type(other) and bool(one == other)


def judge_number(expectation: NumberExpectation, step: StepResult) -> Finding:
    """Inside [min, max] and within ``tolerance`` of ``equals``, if given; a warning beyond warn_min and warn_max."""
    expected = _range(expectation)
    if expectation.name not in step.outputs:
        return Finding("fail", missing(expectation.name, step), expected=expected)
    raw = step.outputs[expectation.name]
    value = finite(raw)
    if value is None:
        message = say(
            "{name} is {found}, which is not a finite number",
            "{name} 为 {found}，不是有限数",
            name=expectation.name,
            found=shown(raw),
        )
        return Finding("fail", message, expected=expected)
    too_low = expectation.min is not None and value < expectation.min
    too_high = expectation.max is not None and value > expectation.max
    # The edge of the tolerance belongs to it also where the subtraction rounds.
    slack = _tolerance(expectation) * (1 + 1e-9)
    off = expectation.equals is not None and not abs(value - expectation.equals) <= slack
    poor = (expectation.warn_max is not None and value > expectation.warn_max) or (
        expectation.warn_min is not None and value < expectation.warn_min
    )
    status: Status = "fail" if too_low or too_high or off else "warn" if poor else "pass"
    message = say(
        "{name} = {value}, expected {expected}",
        "{name} = {value}，应为 {expected}",
        name=expectation.name,
        value=shown(value),
        expected=_range(expectation),
    )
    return Finding(status, message, value, expected)


def _tolerance(expectation: NumberExpectation) -> float:
    return expectation.tolerance + expectation.rel_tolerance * abs(expectation.equals or 0.0)


def _range(expectation: NumberExpectation) -> Said:
    parts = []
    if expectation.min is not None:
        parts.append(f"≥ {shown(expectation.min)}")
    if expectation.max is not None:
        parts.append(f"≤ {shown(expectation.max)}")
    if expectation.equals is not None:
        parts.append(f"{shown(expectation.equals)} ± {shown(_tolerance(expectation))}")
    bounds = Said(" and ".join(parts), " 且 ".join(parts))
    warns = [("≥", expectation.warn_min), ("≤", expectation.warn_max)]
    better = ", ".join(f"{sign} {shown(bound)}" for sign, bound in warns if bound is not None)
    if not better:
        return bounds
    return say("{bounds} (better {better})", "{bounds}（最好 {better}）", bounds=bounds, better=better)


def judge_text(expectation: TextExpectation, outputs: StepOutputs) -> Finding:
    """The pattern is found in it, the forbidden one is not."""
    expected = f"matches {shown(expectation.pattern, limit=80)}"
    if expectation.forbidden:
        expected += f" and not {shown(expectation.forbidden, limit=80)}"

    def judge(text: str) -> Finding:
        found = re.search(expectation.pattern, text, re.MULTILINE)
        if found is None:
            message = say(
                "{name} does not match: it is {text}",
                "{name} 不匹配：内容是 {text}",
                name=expectation.name,
                text=shown(text, limit=120),
            )
            return Finding("fail", message)
        bad = re.search(expectation.forbidden, text, re.MULTILINE) if expectation.forbidden else None
        if bad is not None:
            message = say(
                "{name} holds {text}, which it must not",
                "{name} 含有不该出现的 {text}",
                name=expectation.name,
                text=shown(bad[0], limit=80),
            )
            return Finding("fail", message)
        text = shown(found[0], limit=80)
        return Finding("pass", say("{name} holds {text}", "{name} 含有 {text}", name=expectation.name, text=text))

    if expectation.in_file:
        return judged_file(
            expectation.name, expected, lambda: judge(read_text(recorded_file(outputs, expectation.name)))
        )
    text, problem = _text(expectation.name, outputs.step)
    return (judge(text) if problem is None else Finding("fail", problem))._replace(expected=expected)


def _text(name: str, step: StepResult) -> tuple[str, Said | None]:
    """(the text output, why it is none): empty, or None."""
    if name not in step.outputs:
        return "", missing(name, step)
    found = step.outputs[name]
    if not isinstance(found, str):
        return "", say(
            "{name} is {found}, which is not a text", "{name} 为 {found}，不是文本", name=name, found=shown(found)
        )
    return (found, None) if found.strip() else ("", say("{name} is empty", "{name} 为空", name=name))


def judge_changed(expectation: ChangedExpectation, outputs: StepOutputs, other: OtherStep) -> Finding:
    """Two texts, both there, that are not the same but for blanks."""
    other_name = expectation.other_name or expectation.name
    expected = f"another text than {other_name} of step '{expectation.other_step}'"
    before = other(expectation.other_step)
    if before is None:
        return Finding("fail", not_in_result(expectation.other_step), expected=expected)
    new, problem = _text(expectation.name, outputs.step)
    old, other_problem = _text(other_name, before.step)
    if problem is not None:
        return Finding("fail", problem, expected=expected)
    if other_problem is not None:
        template, chinese = "step '{step}': {problem}", "步骤“{step}”：{problem}"
        message = say(template, chinese, step=expectation.other_step, problem=other_problem)
        return Finding("fail", message, expected=expected)
    if new.split() == old.split():
        text = shown(new, limit=120)
        message = say(
            "{name} did not change: still {text}", "{name} 没有变化：仍为 {text}", name=expectation.name, text=text
        )
        return Finding("fail", message, expected=expected)
    message = say(
        "{name} changed from {old} to {new}",
        "{name} 从 {old} 变为 {new}",
        name=expectation.name,
        old=shown(old, limit=80),
        new=shown(new, limit=80),
    )
    return Finding("pass", message, expected=expected)


def judge_same(expectation: SameExpectation, outputs: StepOutputs, other: OtherStep) -> Finding:
    """Two numbers, lists of numbers, or files of arrays, equal within the tolerance."""
    other_name = expectation.other_name or expectation.name
    limit = f"{shown(expectation.tolerance)} + {shown(expectation.rel_tolerance)} × |other|"
    expected = f"as {other_name} of step '{expectation.other_step}' within {limit}"
    partner = other(expectation.other_step)
    if partner is None:
        return Finding("fail", not_in_result(expectation.other_step), expected=expected)

    def judge() -> Finding:
        mine, theirs = _series(expectation, outputs, expectation.name), _series(expectation, partner, other_name)
        if mine.keys() != theirs.keys():
            both = {"mine": listed(mine), "theirs": listed(theirs)}
            raise ValueError(say("holds {mine}; the other holds {theirs}", "含有 {mine}；另一方含有 {theirs}", **both))
        worst, count = 0.0, 0
        for name, values in mine.items():
            worst = max(worst, _worst(name, values, theirs[name], expectation))
            count += len(values)
        message = say(
            "{name}: {count} values agree, largest difference {worst}",
            "{name}：{count} 个数值一致，最大差 {worst}",
            name=expectation.name,
            count=f"{count:,}",
            worst=shown(worst),
        )
        return Finding("pass", message, worst)

    return judged_file(expectation.name, expected, judge)


def _series(expectation: SameExpectation, outputs: StepOutputs, name: str) -> dict[str, Sequence[float]]:
    """Named series of numbers: of an output, or of each array of a file; ValueError where there is none."""
    if expectation.in_file:
        arrays = read_arrays(recorded_file(outputs, name))
        if not arrays:
            raise ValueError(say("({name}) holds no arrays", "（{name}）不含数组", name=name))
        return {f"{key} {array.shape}": array.values() for key, array in arrays.items()}
    if name not in outputs.step.outputs:
        raise ValueError(missing(name, outputs.step))
    raw = outputs.step.outputs[name]
    points, problem = points_of(name, raw if isinstance(raw, list) else [raw])
    if problem is not None:
        raise ValueError(problem)
    return {"values": points}


def _worst(name: str, mine: Sequence[float], theirs: Sequence[float], expectation: SameExpectation) -> float:
    """The largest difference; ValueError where the series differ in length, by more than the tolerance, or are NaN."""
    if len(mine) != len(theirs) or not mine:
        raise ValueError(
            say(
                "holds {mine} values in {name}, the other {theirs}",
                "在 {name} 中有 {mine} 个数值，另一方有 {theirs} 个",
                mine=len(mine),
                name=name,
                theirs=len(theirs),
            )
        )
    worst = 0.0
    for index, (one, other) in enumerate(zip(mine, theirs, strict=True)):
        apart = abs(one - other)
        # A NaN compares as false, so it is caught here as well.
        if not apart <= (expectation.tolerance + expectation.rel_tolerance * abs(other)) * (1 + 1e-9):
            raise ValueError(
                say(
                    "differs in {name} at position {index}: {one} and {other}",
                    "在 {name} 的第 {index} 位不同：{one} 与 {other}",
                    name=name,
                    index=index,
                    one=shown(one),
                    other=shown(other),
                )
            )
        worst = max(worst, apart)
    return worst
