"""Throughput: is the metric there and sound, fast enough, within what the hardware can do, and steady."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from harness.judge.background import NOTHING, Background, OtherRun, comparable
from harness.judge.limits import Bounds, Roof, device_roof, highest_rate, lowest_rate
from harness.judge.numbers import finite, shown
from harness.judge.plan import throughput_names
from harness.judge.statistics import (
    CONFIDENCE,
    MIN_EARLIER,
    RUNS_TO_DECIDE,
    decide,
    drift,
    is_worse,
    learn,
    robust_spread,
    warm_up_length,
)
from harness.judge.verdict import Check, Status
from harness.run.evidence import Evidence
from harness.run.result import Device, Metric
from harness.tutorial import Throughput, Tutorial

# Published figures: CV 0.6-2 % on one machine, 5 % within a node class. Twice the latter is not noise.
STEADY_SPREAD = 0.10
STEADY_DRIFT = 0.10
STEADY_MIN_SAMPLES = 3
STEADY_RULE = (
    f"≥ {STEADY_MIN_SAMPLES} samples, robust spread (1.4826 MAD / median) ≤ {STEADY_SPREAD:.0%}, "
    f"median of the last third within {STEADY_DRIFT:.0%} of the first"
)
HEADLINE_TOLERANCE = 0.01


class _Ruling(NamedTuple):
    status: Status
    message: str
    expected: str | None = None


def judge_throughput(
    evidence: Evidence, tutorial: Tutorial, absent: str, background: Background = NOTHING
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
    roof, no_roof = device_roof(device, background.roofs) if device else (None, "the step recorded no device")
    limit, no_limit = _limit(spec, roof, no_roof)
    bounds = lowest_rate(spec, evidence.variant, roof)
    value = finite(metric.value) if metric else None

    if metric is None or value is None or problem:
        cause = problem or "no value"
        rulings = [
            _Ruling("fail", cause, _bounds_text(bounds, spec)),
            _Ruling("fail", f"no sound value to compare with the limit: {cause}"),
            _Ruling("fail", f"no sound value to check for steadiness: {cause}", STEADY_RULE),
            _Ruling("fail", f"no sound value to compare with earlier runs: {cause}"),
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
            value=value,
            unit=metric.unit if metric else None,
            expected=ruling.expected,
            floor=bounds.fail if bounds else None,
            limit=limit,
            fraction_of_limit=finite(value / limit) if value is not None and limit else None,
            samples=_finite_samples(metric) if index == 0 else (),
        )
        for index, (name, ruling) in enumerate(zip(throughput_names(spec.metric), rulings, strict=True))
    ]


def _limit(spec: Throughput, roof: Roof | None, no_roof: str) -> tuple[float | None, str]:
    """(the highest rate the hardware allows, why there is none)."""
    if spec.flop_per_unit is None and spec.bytes_per_unit is None:
        return None, "the tutorial does not state the work per unit (flop_per_unit)"
    if not spec.unit.endswith("/s"):
        return None, f"the unit {spec.unit!r} is not per second"
    if roof is None:
        return None, no_roof
    limit = highest_rate(spec, roof)
    return limit, "" if limit else "what is known of the device does not bound this work"


def _find(evidence: Evidence, spec: Throughput, absent: str) -> tuple[Metric | None, str | None]:
    if evidence.result is None:
        return None, f"not measured: {absent}"
    step = evidence.result.steps.get(spec.step)
    if step is None:
        return None, f"not measured: step '{spec.step}' is not in result.json"
    metric = step.metrics.get(spec.metric)
    if metric is None:
        reported = ", ".join(sorted(step.metrics)) or "none"
        return None, f"the metric '{spec.metric}' is missing; step '{spec.step}' reported: {reported}"
    return metric, None


def _unsound(metric: Metric, spec: Throughput) -> str | None:
    """Why the metric cannot be judged, or None."""
    value = finite(metric.value)
    if metric.unit != spec.unit:
        return f"{spec.metric} is in {shown(metric.unit)}, the tutorial states {shown(spec.unit)}"
    if metric.higher_is_better != spec.higher_is_better:
        says, states = ("higher", "lower") if metric.higher_is_better else ("lower", "higher")
        return f"{spec.metric} says that {says} is better, the tutorial states {states}"
    if value is None or value <= 0:
        return f"{spec.metric} is {shown(metric.value)} {metric.unit}, which is not a positive finite number"
    if len(_finite_samples(metric)) != len(metric.samples) or any(sample <= 0 for sample in metric.samples):
        return f"{spec.metric} has raw samples that are not positive finite numbers"
    if metric.samples:
        median = statistics.median(metric.samples)
        if abs(value - median) > HEADLINE_TOLERANCE * median:
            return f"{spec.metric} is {shown(value)} {metric.unit} but the median of its samples is {shown(median)}"
    return None


def _finite_samples(metric: Metric | None) -> tuple[float, ...]:
    return tuple(s for s in metric.samples if finite(s) is not None) if metric else ()


def _bounds_text(bounds: Bounds | None, spec: Throughput) -> str | None:
    return None if bounds is None else f"{_sign(spec)} {shown(bounds.fail)} {spec.unit}"


def _sign(spec: Throughput) -> str:
    return "≥" if spec.higher_is_better else "≤"


RERUN = f"needs re-run: the median of {RUNS_TO_DECIDE} runs decides"


def judge_floor(values: Sequence[float], bounds: Bounds | None, spec: Throughput, *, shared: bool) -> _Ruling:
    """Slower than ``fail`` fails, slower than ``warn`` warns; of three runs or more their median decides.

    A shared GPU has no floor. ``values``: this run's, then its repetitions'.
    """
    measured = f"{shown(values[0])} {spec.unit}"
    expected = _bounds_text(bounds, spec)
    if bounds is None:
        return _Ruling("fail", f"{measured}, but the tutorial states no floor for this variant")
    if shared:
        return _Ruling("skip", f"{measured} on a shared GPU: other jobs slow it down, so no floor applies", expected)
    near = bounds.fail if bounds.warn is None else bounds.warn
    decision = decide(values, near, higher_is_better=spec.higher_is_better)
    judged = values[0]
    if len(values) >= RUNS_TO_DECIDE:
        judged = statistics.median(values)
        measured = f"{shown(judged)} {spec.unit}, the median of {len(values)} runs"
    again = f"; {RERUN}" if decision == "needs re-run" else ""
    if is_worse(judged, bounds.fail, higher_is_better=spec.higher_is_better):
        message = (
            f"too slow: {measured}, the floor is {shown(bounds.fail)} ({bounds.source}); "
            f"see whether another program uses the machine, and the clocks and the loader time of the run{again}"
        )
        return _Ruling("fail", message, expected)
    if is_worse(judged, near, higher_is_better=spec.higher_is_better):
        message = f"slow: {measured}, expected {shown(near)} or {_better(spec)} ({bounds.source}){again}"
        return _Ruling("warn", message, expected)
    return _Ruling("pass", f"{measured}, floor {shown(bounds.fail)}", expected)


def _better(spec: Throughput) -> str:
    return "more" if spec.higher_is_better else "less"


def judge_history(
    values: Sequence[float],
    earlier: Sequence[OtherRun],
    device: Device | None,
    spec: Throughput,
    *,
    shared: bool,
) -> _Ruling:
    """Slower than earlier runs on this device model and count: a warning until three runs say so, then a failure."""
    if shared:
        return _Ruling("skip", "on a shared GPU: other jobs slow it down, so earlier runs are no measure")
    known = comparable(earlier, device, spec.unit)
    expected = learn(known, higher_is_better=spec.higher_is_better)
    if expected is None:
        other_units = sum(run.unit != spec.unit for run in earlier)
        note = f"; {other_units} more are in another unit than {spec.unit}" if other_units else ""
        message = f"{len(known)} earlier runs on this device model and count, {MIN_EARLIER} are needed{note}"
        return _Ruling("skip", message)
    bound = f"{_sign(spec)} {shown(expected.threshold)} {spec.unit}"
    judged = statistics.median(values) if len(values) >= RUNS_TO_DECIDE else values[0]
    change = judged / expected.median - 1
    sensitivity = expected.sensitivity()
    power = (
        f"would notice a change of ≥ {sensitivity:.0%} with {CONFIDENCE:.0%} probability"
        if sensitivity < 10
        else "the earlier runs scatter too much to notice any change"
    )
    message = (
        f"{shown(judged)} {spec.unit} is {change:+.1%} of the median of {expected.runs} earlier runs, "
        f"{shown(expected.median)} (spread {expected.spread:.1%}); {power}"
    )
    match decide(values, expected.threshold, higher_is_better=spec.higher_is_better):
        case "good":
            return _Ruling("pass", message, bound)
        case "needs re-run":
            return _Ruling("warn", f"slower than before: {message}; {RERUN}", bound)
        case "bad":
            return _Ruling("fail", f"slower than before, in {len(values)} runs: {message}", bound)


def judge_limit(value: float, limit: float | None, roof: Roof | None, no_roof: str, spec: Throughput) -> _Ruling:
    """Faster than the hardware can be means that the clock was read wrongly, which is a failure."""
    if limit is None or roof is None:
        return _Ruling("skip", f"no physical limit to compare with: {no_roof}")
    expected = f"≤ {shown(limit)} {spec.unit} ({roof.text})"
    if value > limit:
        message = (
            f"broken timing: {shown(value)} {spec.unit} is {value / limit:.3g} times what the hardware can do "
            f"({roof.text}); wait for the device before reading the clock, and count the work actually done"
        )
        return _Ruling("fail", message, expected)
    return _Ruling("pass", f"{value / limit:.2%} of the limit of {shown(limit)} {spec.unit} ({roof.text})", expected)


def judge_steadiness(samples: list[float]) -> _Ruling:
    """A warning where the samples scatter or drift too much (``STEADY_RULE``) or are too few to tell."""
    if len(samples) < STEADY_MIN_SAMPLES:
        message = f"{len(samples)} raw samples: too few to tell whether the rate was steady"
        return _Ruling("warn", message, STEADY_RULE)
    warm_up = warm_up_length(samples)
    if warm_up:
        message = (
            f"unsteady: the first {warm_up} of {len(samples)} samples are still warming up; "
            "let the program drop more of them"
        )
        return _Ruling("warn", message, STEADY_RULE)
    spread, change = robust_spread(samples), drift(samples)
    # A strong trend scatters the samples too; it is the better explanation.
    if abs(change) > max(STEADY_DRIFT, spread):
        trend = "still warming up" if change > 0 else "slowing down (heat, power or a busy machine)"
        return _Ruling("warn", f"unsteady: {change:+.0%} from the first third to the last: {trend}", STEADY_RULE)
    if spread > STEADY_SPREAD or abs(change) > STEADY_DRIFT:
        message = f"unsteady: the {len(samples)} samples scatter by {spread:.0%}; another program may use the machine"
        return _Ruling("warn", message, STEADY_RULE)
    message = f"steady: {len(samples)} samples, spread {spread:.1%}, drift {change:+.1%}"
    return _Ruling("pass", message, STEADY_RULE)
