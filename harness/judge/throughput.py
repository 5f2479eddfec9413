"""Throughput: is the metric there and sound, fast enough, within what the hardware can do, and steady."""

from __future__ import annotations

import statistics

from harness.judge.background import NOTHING, Background, comparable
from harness.judge.gates import (
    STEADY_RULE,
    Ruling,
    bounds_text,
    judge_floor,
    judge_history,
    judge_limit,
    judge_steadiness,
)
from harness.judge.image import not_in_result
from harness.judge.limits import Roof, device_roof, highest_rate, lowest_rate
from harness.judge.numbers import finite, shown
from harness.judge.plan import throughput_names
from harness.judge.said import Said, same, say
from harness.judge.verdict import Check
from harness.run.evidence import Evidence
from harness.run.result import Metric
from harness.tutorial import Throughput, Tutorial

HEADLINE_TOLERANCE = 0.01


def judge_throughput(
    evidence: Evidence, tutorial: Tutorial, absent: Said, background: Background = NOTHING
) -> list[Check]:
    """The four throughput checks.

    Args:
        absent: says why, where there is no result at all.
        background: other runs and measured roofs, as far as the caller knows any.
    """
    spec = tutorial.throughput.under(evidence.preset)
    metric, problem = _find(evidence, spec, absent)
    problem = problem or (_unsound(metric, spec) if metric else None)
    step = evidence.result.steps.get(spec.step) if evidence.result else None
    device = step.device if step else None
    roof, no_roof = device_roof(device, background.roofs) if device else (None, _NO_DEVICE)
    limit, no_limit = _limit(spec, roof, no_roof)
    bounds = lowest_rate(spec, evidence.variant, roof)
    value = finite(metric.value) if metric else None

    resumed = _too_little_left(evidence, spec)
    if resumed is not None:
        rulings = [Ruling("skip", resumed, rule) for rule in (bounds_text(bounds, spec), None, STEADY_RULE, None)]
    elif metric is None or value is None or problem:
        cause = problem or say("no value", "没有数值")
        rulings = [
            Ruling("fail", cause, bounds_text(bounds, spec)),
            *(Ruling("fail", say(en, zh, cause=cause), rule) for en, zh, rule in _NO_SOUND_VALUE),
        ]
    else:
        shared = bool(evidence.result and evidence.result.gpu_shared)
        values = [value, *comparable(background.repeats, device, spec.unit)]
        rulings = [
            judge_floor(values, bounds, spec, shared=shared),
            judge_limit(value, limit, roof, no_limit, spec),
            judge_steadiness(metric.samples),
            judge_history(values, background.earlier, device, spec, shared=shared),
        ]
    return [
        Check(
            group="throughput",
            step=spec.step,
            name=name,
            status=ruling.status,
            message=ruling.message,
            message_zh=ruling.message.zh,
            value=value,
            unit=metric.unit if metric else None,
            expected=ruling.expected,
            floor=bounds.fail if bounds else None,
            limit=limit,
            fraction_of_limit=finite(value / limit) if value is not None and limit else None,
            samples=_finite_samples(metric) if index == 0 else (),
            rerun=ruling.rerun,
        )
        for index, (name, ruling) in enumerate(zip(throughput_names(spec.metric), rulings, strict=True))
    ]


_NO_DEVICE = say("the step recorded no device", "该步骤没有记录设备")
_NO_SOUND_VALUE = (
    (
        "no sound value to compare with the limit: {cause}",
        "没有可与上限比较的可靠数值：{cause}",
        None,
    ),
    ("no sound value to check for steadiness: {cause}", "没有可检查平稳性的可靠数值：{cause}", STEADY_RULE),
    ("no sound value to compare with earlier runs: {cause}", "没有可与以往运行比较的可靠数值：{cause}", None),
)


def _limit(spec: Throughput, roof: Roof | None, no_roof: Said) -> tuple[float | None, Said]:
    """(the highest rate the hardware allows, why there is none)."""
    if spec.flop_per_unit is None and spec.bytes_per_unit is None:
        return None, say(
            "the tutorial does not state the work per unit (flop_per_unit)",
            "教程没有说明每单位的计算量（flop_per_unit）",
        )
    if not spec.unit.endswith("/s"):
        return None, say("the unit {unit} is not per second", "单位 {unit} 不是每秒", unit=repr(spec.unit))
    if roof is None:
        return None, no_roof
    limit = highest_rate(spec, roof)
    return limit, same("") if limit else say(
        "what is known of the device does not bound this work", "已知的设备参数不能限定这项计算"
    )


def _find(evidence: Evidence, spec: Throughput, absent: Said) -> tuple[Metric | None, Said | None]:
    step = evidence.result.steps.get(spec.step) if evidence.result else None
    if step is None:
        reason = absent if evidence.result is None else not_in_result(spec.step)
        return None, say("not measured: {reason}", "没有测得：{reason}", reason=reason)
    metric = step.metrics.get(spec.metric)
    if metric is None:
        reported = ", ".join(sorted(step.metrics)) or say("none", "无")
        return None, say(
            "the metric '{metric}' is missing; step '{step}' reported: {reported}",
            "缺少指标“{metric}”；步骤“{step}”报告了：{reported}",
            metric=spec.metric,
            step=spec.step,
            reported=reported,
        )
    return metric, None


def _too_little_left(evidence: Evidence, spec: Throughput) -> Said | None:
    """What a run that went on from a checkpoint says in place of the metric; None where it does not, or has both."""
    step = evidence.result.steps.get(spec.step) if evidence.result else None
    said = step.not_measured.get(spec.metric) if step and spec.metric not in step.metrics else None
    if said is None:
        return None
    counted = {"left": said.left, "done": said.resumed_after}
    if said.of == "epochs":
        return say(
            "not measured: resumed after epoch {done} with {left} epochs left; a run from the beginning measures",
            "未测量：从第 {done} 轮之后继续，只剩 {left} 轮；从头开始的运行才会测量",
            **counted,
        )
    return say(
        "not measured: resumed after step {done} with {left} steps left; a run from the beginning measures",
        "未测量：从第 {done} 步之后继续，只剩 {left} 步；从头开始的运行才会测量",
        **counted,
    )


_HIGHER, _LOWER = say("higher", "越高"), say("lower", "越低")


def _unsound(metric: Metric, spec: Throughput) -> Said | None:
    """Why the metric cannot be judged, or None."""
    value = finite(metric.value)
    name = spec.metric
    if metric.unit != spec.unit:
        return say(
            "{name} is in {found}, the tutorial states {wanted}",
            "{name} 的单位是 {found}，教程规定的是 {wanted}",
            name=name,
            found=shown(metric.unit),
            wanted=shown(spec.unit),
        )
    if metric.higher_is_better != spec.higher_is_better:
        says, states = (_HIGHER, _LOWER) if metric.higher_is_better else (_LOWER, _HIGHER)
        return say(
            "{name} says that {says} is better, the tutorial states {states}",
            "{name} 声称{says}越好，教程规定{states}越好",
            name=name,
            says=says,
            states=states,
        )
    if value is None or value <= 0:
        return say(
            "{name} is {value} {unit}, which is not a positive finite number",
            "{name} 为 {value} {unit}，不是正的有限数",
            name=name,
            value=shown(metric.value),
            unit=metric.unit,
        )
    if len(_finite_samples(metric)) != len(metric.samples) or any(sample <= 0 for sample in metric.samples):
        return say(
            "{name} has raw samples that are not positive finite numbers",
            "{name} 的原始样本不全是正的有限数",
            name=name,
        )
    if metric.samples:
        median = statistics.median(metric.samples)
        if abs(value - median) > HEADLINE_TOLERANCE * median:
            return say(
                "{name} is {value} {unit} but the median of its samples is {median}",
                "{name} 为 {value} {unit}，但其样本的中位数是 {median}",
                name=name,
                value=shown(value),
                unit=metric.unit,
                median=shown(median),
            )
    return None


def _finite_samples(metric: Metric | None) -> tuple[float, ...]:
    return tuple(s for s in metric.samples if finite(s) is not None) if metric else ()
