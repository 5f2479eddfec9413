"""Curves: a list of numbers that is finite, long enough, inside its bounds, and moves the right way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.expectation import CurveExpectation
from harness.judge.finding import Finding, missing
from harness.judge.numbers import finite, shown
from harness.judge.said import Said, say
from harness.judge.said import same as same_text
from harness.run.result import StepResult


def judge_curve(expectation: CurveExpectation, step: StepResult) -> Finding:
    """Finite, long enough, inside its bounds, and moving in the direction as far and as steadily as asked."""
    expected = _curve_text(expectation)
    if expectation.name not in step.outputs:
        return Finding("fail", missing(expectation.name, step), expected=expected)
    points, problem = points_of(expectation.name, step.outputs[expectation.name])
    if problem is not None:
        return Finding("fail", problem, expected=expected)
    if len(points) < expectation.min_points:
        message = say(
            "{name} has {count} points, expected at least {least}",
            "{name} 有 {count} 个点，至少应有 {least} 个",
            name=expectation.name,
            count=len(points),
            least=expectation.min_points,
        )
        return Finding("fail", message, expected=expected, samples=points)
    message = say(
        "{name} went from {first} to {last} over {count} points",
        "{name} 在 {count} 个点上从 {first} 变到 {last}",
        name=expectation.name,
        first=shown(points[0]),
        last=shown(points[-1]),
        count=len(points),
    )
    wrong = _out_of_bounds(expectation, points)
    wrong = _wrong_way(expectation, points) if wrong is None else wrong
    if wrong is not None:
        message = say(
            "{message}, expected {expected}{wrong}",
            "{message}，要求 {expected}{wrong}",
            message=message,
            expected=expected,
            wrong=wrong,
        )
        return Finding("fail", message, points[-1], expected, points)
    return Finding("pass", message, points[-1], expected, points)


_WAYS = {"increasing": say("increasing ", "上升"), "decreasing": say("decreasing ", "下降"), None: same_text("")}


def _curve_text(expectation: CurveExpectation) -> Said:
    text = say(
        "{way}over at least {count} points",
        "至少 {count} 个点{way}",
        way=_WAYS[expectation.direction],
        count=expectation.min_points,
    )
    if expectation.min_change:
        change = shown(expectation.min_change)
        text = say("{text} by at least {change}", "{text}，变化至少 {change}", text=text, change=change)
    if expectation.monotone:
        slack = shown(expectation.slack)
        if expectation.slack:
            text = say(
                "{text} without a step back of more than {slack}", "{text}，回退不超过 {slack}", text=text, slack=slack
            )
        else:
            text = say("{text} without a step back", "{text}，不得回退", text=text)
    bounds = "" if expectation.min is None else f", ≥ {shown(expectation.min)}"
    bounds += "" if expectation.max is None else f", ≤ {shown(expectation.max)}"
    return say("{text}{bounds}", "{text}{bounds}", text=text, bounds=bounds)


def points_of(name: str, raw: Any) -> tuple[tuple[float, ...], Said | None]:
    """(the points, why they are none): empty, or None."""
    if not isinstance(raw, list):
        found = shown(raw)
        return (), say(
            "{name} is {raw}, which is not a list of numbers", "{name} 为 {raw}，不是数列", name=name, raw=found
        )
    if not raw:
        return (), say("{name} is an empty list", "{name} 是空列表", name=name)
    points: list[float] = []
    for index, entry in enumerate(raw):
        point = finite(entry)
        if point is None:
            return (), say(
                "point {index} of {count} of {name} is {entry}, not a finite number",
                "{name} 的第 {index} 点（共 {count} 点）为 {entry}，不是有限数",
                index=index + 1,
                count=len(raw),
                name=name,
                entry=shown(entry),
            )
        points.append(point)
    return tuple(points), None


def _out_of_bounds(expectation: CurveExpectation, points: Sequence[float]) -> Said | None:
    """The offending point, to be added to a message; None where there is none."""
    for index, point in enumerate(points):
        low = expectation.min is not None and point < expectation.min
        if low or (expectation.max is not None and point > expectation.max):
            return say(": point {n} is {value}", "：第 {n} 点为 {value}", n=index + 1, value=shown(point))
    return None


def _wrong_way(expectation: CurveExpectation, points: Sequence[float]) -> Said | None:
    """What to add to a message that names both ends; None where the curve moves as it should."""
    if expectation.direction is None:
        return None
    sign = 1 if expectation.direction == "increasing" else -1
    gain = sign * (points[-1] - points[0])
    if not (gain > 0 and gain >= expectation.min_change * (1 - 1e-9)):
        return same_text("")
    if expectation.monotone:
        for index in range(1, len(points)):
            back = -sign * (points[index] - points[index - 1])
            if back > expectation.slack * (1 + 1e-9):
                return say(
                    ": point {n} steps back from {before} to {after}",
                    "：第 {n} 点从 {before} 退到 {after}",
                    n=index + 1,
                    before=shown(points[index - 1]),
                    after=shown(points[index]),
                )
    return None
