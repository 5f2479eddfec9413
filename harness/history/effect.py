"""How different two groups of measurements are, and how sure that is. Pure functions.

The effect is the Hodges-Lehmann estimate on a logarithmic scale: the median of all ratios b/a. Its confidence interval
inverts the Mann-Whitney test, whose distribution is counted exactly for small groups. It assumes independent
measurements and two distributions of the same shape; it does not assume normal ones, and single outliers cannot move
it. Ties make the interval a little too wide, never too narrow.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from harness.errors import UserError

# Above this size of a group the normal approximation of U is within 0.1 % of the exact tail.
EXACT_LIMIT = 30


@dataclass(frozen=True)
class Effect:
    """B against A.

    Attributes:
        ratio: of B to A; 1.05 means 5 % more.
        low, high: confidence interval of ``ratio``; None where the groups are too small for one.
        confidence: that the interval covers the true ratio; below what was asked for where few measurements allow no
            more, None without an interval.
        p_value: two-sided, of no difference at all.
        counts: how many measurements there were of A and of B.
    """

    ratio: float
    low: float | None
    high: float | None
    confidence: float | None
    p_value: float
    counts: tuple[int, int]

    @property
    def is_clear(self) -> bool:
        """Whether the interval, at 90 % confidence or more, leaves out "no difference"."""
        if self.low is None or self.high is None or self.confidence is None or self.confidence < 0.9:
            return False
        return not self.low <= 1.0 <= self.high


def effect(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> Effect:
    """The ratio of ``b`` to ``a``.

    Raises:
        UserError: a group is empty, or holds a value that is not positive.
    """
    if not a or not b:
        raise UserError("nothing to compare with: a group is empty")
    if any(value <= 0 or not math.isfinite(value) for value in (*a, *b)):
        raise UserError("only positive numbers can be compared as ratios")
    differences = sorted(math.log(y) - math.log(x) for x in a for y in b)
    ratio = math.exp(statistics.median(differences))
    n, m = len(a), len(b)
    above = sum(1.0 if d > 0 else 0.5 if d == 0 else 0.0 for d in differences)
    p_value = min(1.0, 2 * _tail(math.floor(min(above, n * m - above)), n, m))
    # From the k-th smallest to the k-th largest difference; it misses the true one with probability 2 P(U < k).
    alpha = 1 - confidence
    k = 0
    while _tail(k, n, m) <= alpha / 2:
        k += 1
    if k == 0:
        # Even the whole range of differences covers less than was asked for; it is said how much.
        attained = 1 - 2 * _tail(0, n, m)
        if attained <= 0:
            return Effect(ratio, None, None, None, p_value, (n, m))
        return Effect(ratio, math.exp(differences[0]), math.exp(differences[-1]), attained, p_value, (n, m))
    low, high = math.exp(differences[k - 1]), math.exp(differences[-k])
    return Effect(ratio, low, high, 1 - 2 * _tail(k - 1, n, m), p_value, (n, m))


def _tail(u: int, n: int, m: int) -> float:
    """P(U <= u) of the Mann-Whitney statistic of groups of ``n`` and ``m`` where there is no difference."""
    if u < 0:
        return 0.0
    if max(n, m) <= EXACT_LIMIT:
        counts = _counts(n, m)
        return sum(counts[: u + 1]) / math.comb(n + m, n)
    mean, deviation = n * m / 2, math.sqrt(n * m * (n + m + 1) / 12)
    return statistics.NormalDist(mean, deviation).cdf(u + 0.5)


@lru_cache(maxsize=64)
def _counts(n: int, m: int) -> tuple[int, ...]:
    """Number of arrangements of ``n`` and ``m`` values with U = 0, 1, ..., n m: the Gaussian binomial coefficients."""
    counts = [1] + [0] * (n * m)
    for i in range(1, n + 1):
        for u in range(n * m, m + i - 1, -1):  # times (1 - q^(m+i))
            counts[u] -= counts[u - m - i]
        for u in range(i, n * m + 1):  # divided by (1 - q^i)
            counts[u] += counts[u - i]
    return tuple(counts)
