"""Throughput: is the metric there and sound, fast enough, within what the hardware can do, and steady."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import NamedTuple

from harness.gpu import gpu_limits
from harness.judge.numbers import drift, finite, robust_spread, shown
from harness.judge.plan import throughput_names
from harness.judge.verdict import Check, Status
from harness.run.evidence import Evidence
from harness.run.result import Device, Metric
from harness.tutorial import Floor, Throughput, Tutorial

# A roof no CPU core reaches, so that only broken timing can exceed it: two AVX-512 fused multiply-adds a cycle
# (2 units x 16 fp32 lanes x 2 operations) at 6 GHz, above every shipped turbo clock.
CPU_FLOP_PER_CYCLE = 64
CPU_MAX_HZ = 6e9

# facts/gpu.md: CV 0.6-2 % on one machine, 5 % within a node class. Twice the latter is not noise.
STEADY_SPREAD = 0.10
STEADY_DRIFT = 0.10
STEADY_MIN_SAMPLES = 3
STEADY_RULE = (
    f"≥ {STEADY_MIN_SAMPLES} samples, robust spread (1.4826 MAD / median) ≤ {STEADY_SPREAD:.0%}, "
    f"median of the last third within {STEADY_DRIFT:.0%} of the first"
)
HEADLINE_TOLERANCE = 0.01


@dataclass(frozen=True)
class Roof:
    """The most a device can compute: ``flops`` in FLOP/s, ``text`` says how that was found."""

    flops: float
    text: str


class _Ruling(NamedTuple):
    status: Status
    message: str
    expected: str | None = None


def judge_throughput(evidence: Evidence, tutorial: Tutorial, absent: str) -> list[Check]:
    """The three throughput checks; ``absent`` says why, where there is no result at all."""
    spec = tutorial.throughput.under(evidence.preset)
    metric, problem = _find(evidence, spec, absent)
    problem = problem or (_unsound(metric, spec) if metric else None)
    floor = spec.floors.get("cuda" if evidence.variant == "cuda" else "cpu")
    step = evidence.result.steps.get(spec.step) if evidence.result else None
    roof, no_roof = _roof(spec, step.device if step else None)
    limit = roof.flops / spec.flop_per_unit if roof and spec.flop_per_unit else None
    value = finite(metric.value) if metric else None

    if metric is None or value is None or problem:
        cause = problem or "no value"
        rulings = [
            _Ruling("fail", cause, _floor_text(floor, spec)),
            _Ruling("fail", f"no sound value to compare with the limit: {cause}"),
            _Ruling("fail", f"no sound value to check for steadiness: {cause}", STEADY_RULE),
        ]
    else:
        shared = bool(evidence.result and evidence.result.gpu_shared)
        rulings = [
            judge_floor(value, floor, spec, shared=shared),
            judge_limit(value, limit, roof, no_roof, spec),
            judge_steadiness(metric.samples),
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
            floor=floor.fail if floor else None,
            limit=limit,
            fraction_of_limit=finite(value / limit) if value is not None and limit else None,
            samples=_finite_samples(metric) if index == 0 else (),
        )
        for index, (name, ruling) in enumerate(zip(throughput_names(spec.metric), rulings, strict=True))
    ]


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
    if not metric.higher_is_better:
        return f"{spec.metric} says that lower is better, but a throughput is better when higher"
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


def _floor_text(floor: Floor | None, spec: Throughput) -> str | None:
    return None if floor is None else f"≥ {shown(floor.fail)} {spec.unit}"


def judge_floor(value: float, floor: Floor | None, spec: Throughput, *, shared: bool) -> _Ruling:
    """Slower than ``fail`` fails, slower than ``warn`` warns; a shared GPU has no floor."""
    measured = f"{shown(value)} {spec.unit}"
    expected = _floor_text(floor, spec)
    if floor is None:
        return _Ruling("fail", f"{measured}, but the tutorial states no floor for this variant")
    if shared:
        return _Ruling("skip", f"{measured} on a shared GPU: other jobs slow it down, so no floor applies", expected)
    if value < floor.fail:
        message = (
            f"too slow: {measured}, the floor is {shown(floor.fail)} ({floor.source}); "
            "see whether another program uses the machine, and the clocks and the loader time of the run"
        )
        return _Ruling("fail", message, expected)
    if floor.warn is not None and value < floor.warn:
        return _Ruling("warn", f"slow: {measured}, expected {shown(floor.warn)} or more ({floor.source})", expected)
    return _Ruling("pass", f"{measured}, floor {shown(floor.fail)}", expected)


def _roof(spec: Throughput, device: Device | None) -> tuple[Roof | None, str]:
    """The device's roof, or None and why there is none."""
    if spec.flop_per_unit is None:
        return None, "the tutorial does not state the work per unit (flop_per_unit)"
    if not spec.unit.endswith("/s"):
        return None, f"the unit {spec.unit!r} is not per second"
    if device is None:
        return None, "the step recorded no device"
    return device_roof(device)


def device_roof(device: Device) -> tuple[Roof | None, str]:
    """Peak of the device in FLOP/s: GPUs used x their dense fp16 peak, or CPU threads x a bound no core reaches."""
    if device.kind == "cpu":
        flops = device.count * CPU_FLOP_PER_CYCLE * CPU_MAX_HZ
        text = f"{device.count} threads × {CPU_FLOP_PER_CYCLE} FLOP/cycle × {CPU_MAX_HZ / 1e9:g} GHz"
        return Roof(flops, text), ""
    limits = gpu_limits(device.name, device.compute_capability)
    if limits is None:
        return None, f"the peak of '{device.name}' is not in harness/gpu.py"
    peak = max(limits.fp16_tflops, limits.bf16_tflops or 0.0)
    return Roof(device.count * peak * 1e12, f"{device.count} × {limits.name} at {peak:g} TFLOP/s"), ""


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
