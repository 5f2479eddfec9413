"""Windows of equal work, long enough to be timed whatever the device, for programs that repeat one computation."""

from __future__ import annotations

import math
from collections.abc import Callable

from harness.runtime.timing import Throughput

MAX_CALLS = 100_000  # a window never grows beyond so many


def measure_windows(
    meter: Throughput, work: Callable[[int], object], units: float, *, windows: int, seconds: float
) -> int:
    """Time ``windows`` windows of about ``seconds`` each, after two that find out how much work that is.

    Args:
        meter: made with ``warm_up=2``: the first window pays for what happens once, the second is the yardstick.
        work: does its argument's number of equal pieces of work.
        units: of one piece.

    Returns:
        Pieces in a window.
    """
    for _ in range(2):
        with meter.window(units):
            work(1)
    pieces = min(MAX_CALLS, max(1, math.ceil(seconds / meter.last.seconds)))
    for _ in range(windows):
        with meter.window(units * pieces):
            work(pieces)
    return pieces
