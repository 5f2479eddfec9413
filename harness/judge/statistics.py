"""The learned throughput gate: is this rate what this hardware gave before? Pure functions over plain numbers.

How often the rule errs, simulated with normal noise of coefficient of variation CV (1,000 campaigns a cell, seeded;
``pytest tests/test_judge_statistics.py -k rates -s`` prints the table and fails where it is not this one). One run is
judged against N earlier ones; where it is beyond the threshold, two more are made and the median of the three decides:

====  ==  ===========  ===========  ============  ============
CV     N  false alarm  drop of 5 %  drop of 10 %  drop of 20 %
====  ==  ===========  ===========  ============  ============
1%     5  0.0%         41.6%        100.0%        100.0%
1%    20  0.0%         38.5%        100.0%        100.0%
2%     5  0.1%         28.7%        89.4%         99.9%
2%    20  0.0%         21.6%        95.8%         100.0%
5%     5  3.1%         12.5%        36.3%         79.6%
5%    20  0.1%         2.0%         14.7%         83.7%
====  ==  ===========  ===========  ============  ============

So on one machine (CV 0.6 to 2 %) a false alarm is practically never seen and a drop of 10 % nearly always; across a
node class (CV 5 %) the threshold widens with the noise, and only a drop of 20 % is likely to be seen. Noise that is not
normal, such as a few slow nodes among many, makes both worse: the median absolute deviation does not see those nodes.

How often a floor's rule fails a machine whose true rate is 0.80 to 1.10 of the floor, by its one run, and with the
re-runs that `harness check --rerun 2` makes where that run is slower than the floor by at most ``FLOOR_BAND``; and how
many runs more that costs (1,000 machines a cell, seeded; ``-k floor -s`` prints the table):

====  ========  ======  ======  ======  ======  ======  ======
CV    runs      0.80    0.90    0.95    1.00    1.05    1.10
====  ========  ======  ======  ======  ======  ======  ======
2%    one       100.0%  100.0%  99.9%   50.6%   0.9%    0.0%
2%    up to 3   100.0%  100.0%  99.9%   39.2%   0.0%    0.0%
2%    + runs    0.00    1.99    2.00    1.01    0.02    0.00
5%    one       100.0%  98.7%   85.6%   50.8%   19.1%   2.6%
5%    up to 3   100.0%  98.7%   83.7%   40.2%   6.0%    0.0%
5%    + runs    0.24    1.70    1.68    1.02    0.38    0.05
====  ========  ======  ======  ======  ======  ======  ======

Below the floor to the left, above it to the right: a machine 5 % above it, of a node class that scatters by 5 %, fails
by one run in 19 of 100 cases, and with re-runs in 6; one 5 % below it passes in 14, and in 16 with re-runs.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

MIN_DROP = 0.05  # the smallest relative drop that is called one, however quiet the machine
MAD_FACTOR = 3.0  # robust standard deviations
MIN_EARLIER = 5
RUNS_TO_DECIDE = 3
FLOOR_BAND = 0.15  # half-width of a floor's noise: three times the 5 % by which runs on one node class scatter
CONFIDENCE = 0.95  # with which the stated drop would be noticed

WARM_UP_WITHIN = 0.05  # a first sample within this of the steady rate is no warm-up


def robust_spread(samples: Sequence[float]) -> float:
    """1.4826 x median absolute deviation / median: the relative standard deviation of normal data without its outliers.

    Assumes positive samples. May be 0 when more than half of the samples are equal.
    """
    centre = statistics.median(samples)
    return 1.4826 * statistics.median(abs(sample - centre) for sample in samples) / centre


def drift(samples: Sequence[float]) -> float:
    """Relative change of the median from the first third of the samples to the last; 0 for fewer than 6 samples."""
    third = len(samples) // 3
    if third < 2:
        return 0.0
    first, last = statistics.median(samples[:third]), statistics.median(samples[-third:])
    return (last - first) / statistics.median(samples)


def warm_up_length(samples: Sequence[float]) -> int:
    """How many samples at the start are warm-up: those before the first that is as fast as the second half.

    As fast: within 5 % of that half's median, or within three of its robust standard deviations if that is more. At
    most half of the samples are warm-up; 0 for fewer than 6 samples, where nobody can tell. Assumes rates (higher is
    faster) and a second half that is steady; one that slows down hides the warm-up.
    """
    if len(samples) < 6:
        return 0
    half = samples[len(samples) // 2 :]
    steady = statistics.median(half)
    lowest = steady * (1 - max(WARM_UP_WITHIN, MAD_FACTOR * robust_spread(half)))
    return next((index for index, sample in enumerate(samples) if sample >= lowest), 0)


def is_worse(value: float, limit: float, *, higher_is_better: bool) -> bool:
    """Whether ``value`` is on the wrong side of ``limit``."""
    return value < limit if higher_is_better else value > limit


Decision = Literal["good", "bad", "needs re-run"]


def decide(values: Sequence[float], limit: float, *, higher_is_better: bool = True) -> Decision:
    """Good or bad by the rule: a first run that is good is good; otherwise the median of three or more decides.

    Args:
        values: headline values of this run and its repetitions, in any order, at least one.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("no values to decide on")
    if len(values) < RUNS_TO_DECIDE:
        bad = any(is_worse(value, limit, higher_is_better=higher_is_better) for value in values)
        return "needs re-run" if bad else "good"
    median = statistics.median(values)
    return "bad" if is_worse(median, limit, higher_is_better=higher_is_better) else "good"


def decide_floor(values: Sequence[float], near: float, fail: float, *, higher_is_better: bool = True) -> Decision:
    """As :func:`decide` by ``near`` (the warning, or the floor itself), but a first run far beyond ``fail`` is bad.

    Far: by more than ``FLOOR_BAND``. A node that is that slow is not made faster by asking again.
    """
    decision = decide(values, near, higher_is_better=higher_is_better)
    far = fail * (1 - FLOOR_BAND if higher_is_better else 1 + FLOOR_BAND)
    if decision == "needs re-run" and is_worse(values[0], far, higher_is_better=higher_is_better):
        return "bad"
    return decision


@dataclass(frozen=True)
class Expectation:
    """What earlier runs let one expect.

    Attributes:
        median: of the earlier runs, in the metric's unit.
        spread: their robust relative standard deviation.
        margin: relative change that is called a regression.
        threshold: the value beyond which a run is called slower, in the metric's unit.
        runs: how many there were.
        higher_is_better: whether slower is lower.
    """

    median: float
    spread: float
    margin: float
    threshold: float
    runs: int
    higher_is_better: bool

    def noticed_with(self, drop: float) -> float:
        """Probability that one run is beyond the threshold when the true rate changed for the worse by ``drop``.

        Assumes normal noise of the earlier runs' spread, which scales with the rate. 0 < drop < 1.
        """
        sign = -1 if self.higher_is_better else 1
        true = self.median * (1 + sign * drop)
        if self.spread == 0:
            return float(is_worse(true, self.threshold, higher_is_better=self.higher_is_better))
        distance = sign * (true - self.threshold) / (true * self.spread)
        return NormalDist().cdf(distance)

    def sensitivity(self, probability: float = CONFIDENCE) -> float:
        """The smallest relative change for the worse that one run shows with this probability (see above).

        Of a lower-is-better metric it may exceed 1; infinity where the noise hides any change.
        """
        z = NormalDist().inv_cdf(probability)
        if self.higher_is_better:
            return max(self.margin, 1 - (1 - self.margin) / (1 + z * self.spread))
        return float("inf") if z * self.spread >= 1 else max(self.margin, (1 + self.margin) / (1 - z * self.spread) - 1)


def learn(earlier: Sequence[float], *, higher_is_better: bool = True) -> Expectation | None:
    """What earlier values on the same GPU model and count let one expect; None for fewer than five.

    The threshold is max(5 %, 3 x 1.48 x MAD) from their median. May be wrong where the earlier runs are of two kinds
    (two software stacks, two node classes): the spread is then that of the mixture and little is noticed.

    Raises:
        ValueError: a value that is not positive.
    """
    if any(not value > 0 for value in earlier):
        raise ValueError("earlier values must be positive")
    if len(earlier) < MIN_EARLIER:
        return None
    median, spread = statistics.median(earlier), robust_spread(earlier)
    margin = max(MIN_DROP, MAD_FACTOR * spread)
    threshold = median * (1 - margin) if higher_is_better else median * (1 + margin)
    return Expectation(median, spread, margin, threshold, len(earlier), higher_is_better)
