"""Numbers as programs report them: told apart from everything that only looks like one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any


def finite(value: Any) -> float | None:
    """``value`` as a float where it is a finite number; None for text, booleans, NaN, infinities, overflow."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer beyond the range of a double
        return None
    return number if math.isfinite(number) else None


def shown(value: Any, *, limit: int = 40) -> str:
    """``value`` as a short text for a message."""
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**15 else repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


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
