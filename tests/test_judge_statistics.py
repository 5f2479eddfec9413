"""The learned gate: its arithmetic by hand, and how often the rule errs, by simulation."""

from __future__ import annotations

import random
import statistics as stdlib
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.judge import statistics
from harness.judge.statistics import decide, decide_floor, drift, learn, robust_spread, warm_up_length

CAMPAIGNS = 1_000


def test_spread_and_drift() -> None:
    assert robust_spread([10.0, 10.0, 10.0, 99.0]) == 0
    assert drift([1.0] * 5) == 0
    assert drift([1.0, 1.0, 2.0, 2.0, 3.0, 3.0]) == 1.0
    source = random.Random(3)
    normal = [source.gauss(100, 4) for _ in range(4000)]
    assert robust_spread(normal) == pytest.approx(0.04, rel=0.05)


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([], 0),
        ([1, 100, 100], 0),
        ([100, 101, 99, 100, 100, 100], 0),
        ([10, 50, 100, 101, 99, 100, 100, 100], 2),
        ([96, 100, 100, 100, 100, 100], 0),
        ([10, 20, 30, 40, 100, 100, 100, 100], 4),
        ([100, 100, 100, 50, 50, 50], 0),
    ],
)
def test_warm_up(samples: list[float], expected: int) -> None:
    assert warm_up_length(samples) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([101.0], "good"),
        ([100.0], "good"),
        ([99.0], "needs re-run"),
        ([99.0, 120.0], "needs re-run"),
        ([99.0, 120.0, 120.0], "good"),
        ([99.0, 98.0, 120.0], "bad"),
        ([120.0, 120.0, 1.0], "good"),
        ([99.0, 98.0, 101.0, 102.0], "good"),
    ],
)
def test_the_median_of_three_decides(values: list[float], expected: str) -> None:
    assert decide(values, 100.0) == expected
    mirrored = [200.0 - value for value in values]
    assert decide(mirrored, 100.0, higher_is_better=False) == expected


def test_nothing_decides_nothing() -> None:
    with pytest.raises(ValueError, match="no values"):
        decide([], 1.0)


def test_thresholds_by_hand() -> None:
    assert learn([100.0] * 4) is None
    quiet = learn([100.0, 100.5, 99.5, 100.2, 99.8])
    assert quiet is not None
    assert (quiet.median, quiet.margin, quiet.threshold) == (100.0, 0.05, 95.0)
    noisy = learn([100.0, 110.0, 90.0, 105.0, 95.0])
    assert noisy is not None
    assert noisy.margin == pytest.approx(3 * 1.4826 * 0.05)
    assert noisy.threshold == pytest.approx(100 * (1 - 3 * 1.4826 * 0.05))
    latency = learn([100.0] * 5, higher_is_better=False)
    assert latency is not None
    assert latency.threshold == 105.0
    with pytest.raises(ValueError, match="positive"):
        learn([100.0, 0.0, 1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="positive"):
        learn([100.0, float("nan"), 1.0, 1.0, 1.0])


@given(
    spread=st.floats(0.001, 0.1),
    probability=st.floats(0.6, 0.99),
    higher=st.booleans(),
)
def test_sensitivity_is_the_inverse_of_the_probability(spread: float, probability: float, higher: bool) -> None:
    earlier = [100 * (1 + sign * spread / 1.4826) for sign in (-1, -1, 0, 1, 1)]
    expected = learn(earlier, higher_is_better=higher)
    assert expected is not None
    assert expected.spread == pytest.approx(spread)
    drop = expected.sensitivity(probability)
    assert expected.noticed_with(drop) == pytest.approx(probability, abs=1e-6)


def test_a_silent_history_notices_any_drop_beyond_the_margin() -> None:
    expected = learn([100.0] * 5)
    assert expected is not None
    assert expected.sensitivity() == pytest.approx(0.05)
    assert [expected.noticed_with(drop) for drop in (0.04, 0.06)] == [0.0, 1.0]


def alarm_rate(spread: float, drop: float, earlier: int, *, seed: int = 7, higher: bool = True) -> float:
    """How often the rule, re-runs included, calls a campaign slower when the true rate fell by ``drop``."""
    source = random.Random(f"{seed}/{spread}/{drop}/{earlier}/{higher}")
    true = 100 * (1 - drop if higher else 1 + drop)

    def runs(centre: float, count: int) -> list[float]:
        return [max(1e-9, source.gauss(centre, centre * spread)) for _ in range(count)]

    alarms = 0
    for _ in range(CAMPAIGNS):
        expected = learn(runs(100, earlier), higher_is_better=higher)
        assert expected is not None
        values = runs(true, 1)
        if decide(values, expected.threshold, higher_is_better=higher) == "needs re-run":
            values += runs(true, 2)
        alarms += decide(values, expected.threshold, higher_is_better=higher) == "bad"
    return alarms / CAMPAIGNS


# (CV, drop, earlier runs) -> the most, for false alarms, or the least, for drops, that the rule may give.
FALSE_ALARMS = {
    (0.01, 5): 0.002,
    (0.01, 20): 0.001,
    (0.02, 5): 0.02,
    (0.02, 20): 0.005,
    (0.05, 5): 0.10,
    (0.05, 20): 0.01,
}
NOTICED = {
    (0.01, 0.1, 5): 0.97,
    (0.01, 0.1, 20): 0.999,
    (0.02, 0.1, 20): 0.85,
    (0.02, 0.2, 5): 0.97,
    (0.05, 0.3, 20): 0.97,
}


def rates_table() -> str:
    """The table of the module's docstring."""
    lines = [
        "====  ==  ===========  ===========  ============  ============",
        "CV     N  false alarm  drop of 5 %  drop of 10 %  drop of 20 %",
        "====  ==  ===========  ===========  ============  ============",
    ]
    for spread in (0.01, 0.02, 0.05):
        for earlier in (5, 20):
            rates = [f"{alarm_rate(spread, drop, earlier):.1%}" for drop in (0.0, 0.05, 0.1, 0.2)]
            lines.append(f"{spread:<4.0%}  {earlier:>2}  {rates[0]:<11}  {rates[1]:<11}  {rates[2]:<12}  {rates[3]}")
    return "\n".join([*lines, lines[0]])


def test_rates_are_those_the_docstring_states() -> None:
    table = rates_table()
    sys.stdout.write(f"\n{table}\n")
    assert table in (statistics.__doc__ or "")


RATIOS = (0.8, 0.9, 0.95, 1.0, 1.05, 1.1)


def floor_rate(spread: float, ratio: float, *, reruns: bool) -> tuple[float, float]:
    """(how often a machine of ``ratio`` times the floor fails, re-runs per run) by the floor's rule."""
    source = random.Random(f"floor/{spread}/{ratio}")
    fails = extra = 0
    for _ in range(CAMPAIGNS):
        values = [max(1e-9, source.gauss(ratio, ratio * spread)) for _ in range(3)]
        decision = decide_floor(values[:1], 1.0, 1.0)
        if decision == "needs re-run" and reruns:
            extra += 2
            decision = decide_floor(values, 1.0, 1.0)
        fails += decision != "good"
    return fails / CAMPAIGNS, extra / CAMPAIGNS


def floor_table() -> str:
    """The second table of the module's docstring."""
    rule = "====  ========  ======  ======  ======  ======  ======  ======"
    lines = [rule, "CV    runs      " + "  ".join(f"{ratio:<6.2f}" for ratio in RATIOS).rstrip(), rule]
    for spread in (0.02, 0.05):
        rates = [
            [floor_rate(spread, ratio, reruns=False)[0] for ratio in RATIOS],
            [floor_rate(spread, ratio, reruns=True)[0] for ratio in RATIOS],
            [floor_rate(spread, ratio, reruns=True)[1] for ratio in RATIOS],
        ]
        cells = [[f"{rate:.1%}" for rate in row] for row in rates[:2]] + [[f"{extra:.2f}" for extra in rates[2]]]
        for name, row in zip(("one", "up to 3", "+ runs"), cells, strict=True):
            lines.append(f"{spread:<4.0%}  {name:<8}  " + "  ".join(f"{cell:<6}" for cell in row).rstrip())
    return "\n".join([*lines, rule])


def test_rates_of_the_floor_with_and_without_re_runs_are_those_the_docstring_states() -> None:
    table = floor_table()
    sys.stdout.write(f"\n{table}\n")
    assert table in (statistics.__doc__ or "")


def test_re_runs_make_the_floor_sharper() -> None:
    """Both kinds of error fall, and a machine that is far too slow costs no more runs."""
    for spread in (0.02, 0.05):
        assert floor_rate(spread, 1.05, reruns=True)[0] < floor_rate(spread, 1.05, reruns=False)[0] + 1e-9
        assert floor_rate(spread, 0.8, reruns=True)[0] > 0.99
    assert floor_rate(0.02, 0.8, reruns=True)[1] < 0.02
    assert floor_rate(0.05, 1.05, reruns=False)[0] - floor_rate(0.05, 1.05, reruns=True)[0] > 0.05


@pytest.mark.parametrize(("case", "most"), FALSE_ALARMS.items())
@pytest.mark.parametrize("higher", [True, False])
def test_false_alarm_rates(case: tuple[float, int], most: float, higher: bool) -> None:
    spread, earlier = case
    assert alarm_rate(spread, 0.0, earlier, seed=11, higher=higher) <= most


@pytest.mark.parametrize(("case", "least"), NOTICED.items())
def test_detection_rates(case: tuple[float, float, int], least: float) -> None:
    spread, drop, earlier = case
    assert alarm_rate(spread, drop, earlier, seed=11) >= least


def test_the_stated_sensitivity_is_what_simulation_gives() -> None:
    """One run beyond the threshold, as `noticed_with` promises, against 4,000 simulated ones."""
    source = random.Random(5)
    expected = learn([source.gauss(100, 2) for _ in range(30)])
    assert expected is not None
    drop = expected.sensitivity(0.9)
    seen = [source.gauss(100, 100 * expected.spread) * (1 - drop) for _ in range(4_000)]
    centre = expected.median / 100
    rate = stdlib.fmean(value * centre < expected.threshold for value in seen)
    assert rate == pytest.approx(0.9, abs=0.02)
