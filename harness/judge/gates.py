"""The gates a throughput passes: floor, earlier runs, the hardware's limit, steadiness. Pure functions of numbers."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from harness.judge.background import OtherRun, comparable
from harness.judge.limits import Bounds, Roof
from harness.judge.numbers import shown
from harness.judge.said import Said, same, say
from harness.judge.statistics import (
    CONFIDENCE,
    MIN_EARLIER,
    RUNS_TO_DECIDE,
    decide,
    decide_floor,
    drift,
    is_worse,
    learn,
    robust_spread,
    warm_up_length,
)
from harness.judge.verdict import Status
from harness.run.result import Device
from harness.tutorial import Throughput

# Published figures: CV 0.6-2 % on one machine, 5 % within a node class. Twice the latter is not noise.
STEADY_SPREAD = 0.10
STEADY_DRIFT = 0.10
STEADY_MIN_SAMPLES = 3
STEADY_RULE = (
    f"≥ {STEADY_MIN_SAMPLES} samples, robust spread (1.4826 MAD / median) ≤ {STEADY_SPREAD:.0%}, "
    f"median of the last third within {STEADY_DRIFT:.0%} of the first"
)


class Ruling(NamedTuple):
    """What a gate says; ``rerun``: more runs could change it."""

    status: Status
    message: Said
    expected: str | None = None
    rerun: bool = False


def sign_of(spec: Throughput) -> str:
    """Of a bound on the metric."""
    return "≥" if spec.higher_is_better else "≤"


def bounds_text(bounds: Bounds | None, spec: Throughput) -> str | None:
    """What passes the floor, for a reader; None where there is none."""
    return None if bounds is None else f"{sign_of(spec)} {shown(bounds.fail)} {spec.unit}"


RERUN = say(
    "; needs re-run: the median of {runs} runs decides", "；需要重跑：由 {runs} 次运行的中位数决定", runs=RUNS_TO_DECIDE
)
_NOTHING = same("")


def judge_floor(values: Sequence[float], bounds: Bounds | None, spec: Throughput, *, shared: bool) -> Ruling:
    """Slower than ``fail`` fails, slower than ``warn`` warns; of three runs or more their median decides.

    One run that is so slow that noise does not explain it needs no other (``FLOOR_BAND``). A shared GPU has no floor.
    ``values``: this run's, then its repetitions'.
    """
    unit = spec.unit
    measured = same(f"{shown(values[0])} {unit}")
    expected = bounds_text(bounds, spec)
    if bounds is None:
        message = say(
            "{measured}, but the tutorial states no floor for this variant",
            "{measured}，但教程没有给出该变体的下限",
            measured=measured,
        )
        return Ruling("fail", message)
    if shared:
        message = say(
            "{measured} on a shared GPU: other jobs slow it down, so no floor applies",
            "共享 GPU 上为 {measured}：其他作业会拖慢它，因此不适用下限",
            measured=measured,
        )
        return Ruling("skip", message, expected)
    near = bounds.fail if bounds.warn is None else bounds.warn
    rerun = decide_floor(values, near, bounds.fail, higher_is_better=spec.higher_is_better) == "needs re-run"
    judged = values[0]
    if len(values) >= RUNS_TO_DECIDE:
        judged = statistics.median(values)
        measured = say(
            "{value} {unit}, the median of {runs} runs",
            "{value} {unit}（{runs} 次运行的中位数）",
            value=shown(judged),
            unit=unit,
            runs=len(values),
        )
    parts = {"measured": measured, "source": bounds.source, "again": RERUN if rerun else _NOTHING}
    if is_worse(judged, bounds.fail, higher_is_better=spec.higher_is_better):
        message = say(
            "too slow: {measured}, the floor is {floor} ({source}); "
            "see whether another program uses the machine, and the clocks and the loader time of the run{again}",
            "过慢：{measured}，下限为 {floor}（{source}）；"
            "请查看是否有其他程序占用机器，以及运行的时钟频率和加载时间{again}",
            floor=shown(bounds.fail),
            **parts,
        )
        return Ruling("fail", message, expected, rerun)
    if is_worse(judged, near, higher_is_better=spec.higher_is_better):
        message = say(
            "slow: {measured}, expected {near} or {better} ({source}){again}",
            "偏慢：{measured}，应为 {near} 或更{better}（{source}）{again}",
            near=shown(near),
            better=say("more", "高") if spec.higher_is_better else say("less", "低"),
            **parts,
        )
        return Ruling("warn", message, expected, rerun)
    message = say("{measured}, floor {floor}", "{measured}，下限 {floor}", measured=measured, floor=shown(bounds.fail))
    return Ruling("pass", message, expected)


def judge_history(
    values: Sequence[float],
    earlier: Sequence[OtherRun],
    device: Device | None,
    spec: Throughput,
    *,
    shared: bool,
) -> Ruling:
    """Slower than earlier runs on this device model and count: a warning until three runs say so, then a failure."""
    if shared:
        message = say(
            "on a shared GPU: other jobs slow it down, so earlier runs are no measure",
            "共享 GPU：其他作业会拖慢它，不能与以往运行比较",
        )
        return Ruling("skip", message)
    known = comparable(earlier, device, spec.unit)
    expected = learn(known, higher_is_better=spec.higher_is_better)
    if expected is None:
        other_units = sum(run.unit != spec.unit for run in earlier)
        note = say(
            "; {count} more are in another unit than {unit}",
            "；另有 {count} 次的单位不是 {unit}",
            count=other_units,
            unit=spec.unit,
        )
        message = say(
            "{known} earlier runs on this device model and count, {needed} are needed{note}",
            "相同设备型号和数量的以往运行有 {known} 次，需要 {needed} 次{note}",
            known=len(known),
            needed=MIN_EARLIER,
            note=note if other_units else _NOTHING,
        )
        return Ruling("skip", message)
    bound = f"{sign_of(spec)} {shown(expected.threshold)} {spec.unit}"
    judged = statistics.median(values) if len(values) >= RUNS_TO_DECIDE else values[0]
    sensitivity = expected.sensitivity()
    power = (
        say(
            "would notice a change of ≥ {change} with {confidence} probability",
            "能以 {confidence} 的概率发现 ≥ {change} 的变化",
            change=f"{sensitivity:.0%}",
            confidence=f"{CONFIDENCE:.0%}",
        )
        if sensitivity < 10
        else say("the earlier runs scatter too much to notice any change", "以往运行过于分散，发现不了任何变化")
    )
    compared = say(
        "{value} {unit} is {change} of the median of {runs} earlier runs, {median} (spread {spread}); {power}",
        "{value} {unit}，与以往 {runs} 次运行的中位数 {median} 相比 {change}（离散度 {spread}）；{power}",
        value=shown(judged),
        unit=spec.unit,
        change=f"{judged / expected.median - 1:+.1%}",
        runs=expected.runs,
        median=shown(expected.median),
        spread=f"{expected.spread:.1%}",
        power=power,
    )
    match decide(values, expected.threshold, higher_is_better=spec.higher_is_better):
        case "good":
            return Ruling("pass", compared, bound)
        case "needs re-run":
            message = say(
                "slower than before: {compared}{again}", "比以往慢：{compared}{again}", compared=compared, again=RERUN
            )
            return Ruling("warn", message, bound, rerun=True)
        case "bad":
            message = say(
                "slower than before, in {runs} runs: {compared}",
                "{runs} 次运行都表明比以往慢：{compared}",
                runs=len(values),
                compared=compared,
            )
            return Ruling("fail", message, bound)


def judge_limit(value: float, limit: float | None, roof: Roof | None, no_roof: Said, spec: Throughput) -> Ruling:
    """Faster than the hardware can be means that the clock was read wrongly, which is a failure."""
    if limit is None or roof is None:
        message = say("no physical limit to compare with: {reason}", "没有可比较的物理上限：{reason}", reason=no_roof)
        return Ruling("skip", message)
    expected = f"≤ {shown(limit)} {spec.unit} ({roof.text})"
    parts = {"unit": spec.unit, "roof": roof.text}
    if value > limit:
        message = say(
            "broken timing: {value} {unit} is {times} times what the hardware can do "
            "({roof}); wait for the device before reading the clock, and count the work actually done",
            "计时有误：{value} {unit} 是硬件能力的 {times} 倍（{roof}）；读时钟前请等待设备完成，并只计实际完成的工作",
            value=shown(value),
            times=f"{value / limit:.3g}",
            **parts,
        )
        return Ruling("fail", message, expected)
    message = say(
        "{share} of the limit of {limit} {unit} ({roof})",
        "为上限 {limit} {unit} 的 {share}（{roof}）",
        share=f"{value / limit:.2%}",
        limit=shown(limit),
        **parts,
    )
    return Ruling("pass", message, expected)


def judge_steadiness(samples: list[float]) -> Ruling:
    """A warning where the samples scatter or drift too much (``STEADY_RULE``) or are too few to tell."""
    count = len(samples)
    if count < STEADY_MIN_SAMPLES:
        message = say(
            "{count} raw samples: too few to tell whether the rate was steady",
            "只有 {count} 个原始样本：不足以判断速率是否平稳",
            count=count,
        )
        return Ruling("warn", message, STEADY_RULE)
    warm_up = warm_up_length(samples)
    if warm_up:
        message = say(
            "unsteady: the first {warm_up} of {count} samples are still warming up; let the program drop more of them",
            "不平稳：{count} 个样本中前 {warm_up} 个仍在预热；请让程序多舍弃一些",
            warm_up=warm_up,
            count=count,
        )
        return Ruling("warn", message, STEADY_RULE)
    spread, change = robust_spread(samples), drift(samples)
    # A strong trend scatters the samples too; it is the better explanation.
    if abs(change) > max(STEADY_DRIFT, spread):
        trend = (
            say("still warming up", "仍在预热")
            if change > 0
            else say("slowing down (heat, power or a busy machine)", "在变慢（过热、功耗限制或机器繁忙）")
        )
        message = say(
            "unsteady: {change} from the first third to the last: {trend}",
            "不平稳：从前三分之一到后三分之一变化 {change}：{trend}",
            change=f"{change:+.0%}",
            trend=trend,
        )
        return Ruling("warn", message, STEADY_RULE)
    if spread > STEADY_SPREAD or abs(change) > STEADY_DRIFT:
        message = say(
            "unsteady: the {count} samples scatter by {spread}; another program may use the machine",
            "不平稳：{count} 个样本离散 {spread}；可能有其他程序在使用机器",
            count=count,
            spread=f"{spread:.0%}",
        )
        return Ruling("warn", message, STEADY_RULE)
    message = say(
        "steady: {count} samples, spread {spread}, drift {drift}",
        "平稳：{count} 个样本，离散度 {spread}，漂移 {drift}",
        count=count,
        spread=f"{spread:.1%}",
        drift=f"{change:+.1%}",
    )
    return Ruling("pass", message, STEADY_RULE)
