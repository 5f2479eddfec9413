"""When to ask again, and when to give up: pure rules, without a clock and without a network."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class RetryPolicy:
    """How patient a download is.

    Attributes:
        attempts: failures in a row without a new byte, after which a mirror is given up.
        first_pause_s: seconds before the second attempt; each further pause is twice as long.
        longest_pause_s: seconds that one pause is at most, also where a registry asks for a longer one.
        stall_s: seconds without a byte after which a connection counts as lost.
        total_s: seconds for one file from all mirrors together.
    """

    attempts: int = 5
    first_pause_s: float = 0.5
    longest_pause_s: float = 30.0
    stall_s: float = 30.0
    total_s: float = 3 * 3600.0

    def pause(self, failures: int, retry_after_s: float | None = None, chance: random.Random | None = None) -> float:
        """Seconds to wait after the ``failures``-th failure in a row, counted from 1.

        Between half and all of the doubled pause, by chance: many clients of a registry that came back do not return in
        step. A registry's own wish counts where it is longer.
        """
        doubled = min(self.longest_pause_s, math.ldexp(self.first_pause_s, failures - 1))
        jittered = doubled * (chance or random.Random()).uniform(0.5, 1.0)
        return max(jittered, retry_after_s or 0.0)

    def gives_up(self, failures: int, retry_after_s: float | None = None) -> bool:
        """After this many failures in a row, or where a registry wants a longer pause than we make."""
        return failures >= self.attempts or (retry_after_s or 0.0) > self.longest_pause_s


DEFAULT_POLICY = RetryPolicy()
