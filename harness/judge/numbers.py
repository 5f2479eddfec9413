"""Numbers as programs report them: told apart from everything that only looks like one."""

from __future__ import annotations

import math
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
