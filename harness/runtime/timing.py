"""Measuring throughput: windows of work, the first ones dropped, every later one kept as a raw sample."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Window(NamedTuple):
    """One stretch of work: ``units`` done in ``seconds``."""

    units: float
    seconds: float

    @property
    def rate(self) -> float:
        """Units per second."""
        return self.units / self.seconds


def _nothing() -> None:
    """What a CPU program waits for at the edge of a window."""


class Throughput:
    """Units of work per second over windows.

    A GPU computes behind the program's back, so the clock is read only after ``synchronize`` returned; it is called
    twice per window, at the edges, never inside, where it would slow down what it measures.

    Args:
        warm_up: how many windows at the start to drop (compiling, choosing kernels, filling caches, rising clocks).
        synchronize: waits until all work given to the device is done (``torch.cuda.synchronize``).
        clock: seconds, never going backwards.
    """

    def __init__(
        self,
        warm_up: int = 1,
        synchronize: Callable[[], object] = _nothing,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if warm_up < 0:
            raise ValueError(f"warm_up is {warm_up}, must be 0 or more")
        self._warm_up = warm_up
        self._synchronize = synchronize
        self._clock = clock
        self._windows: list[Window] = []
        self._paused = 0.0  # seconds of the window that is open

    @contextmanager
    def window(self, units: float) -> Iterator[None]:
        """Time the body, which does ``units`` of work. A body that raises leaves no window."""
        if not units > 0:
            raise ValueError(f"a window of {units} units cannot be timed")
        self._synchronize()
        self._paused = 0.0
        start = self._clock()
        yield
        self._synchronize()
        seconds = self._clock() - start - self._paused
        if seconds <= 0:
            raise ValueError(f"a window took {seconds} s by the clock: too short to be timed, put more work into it")
        self._windows.append(Window(units, seconds))

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Leave the body's time out of the window around it: it does none of the work, it writes a checkpoint, say."""
        self._synchronize()
        start = self._clock()
        yield
        self._synchronize()
        self._paused += self._clock() - start

    @property
    def measured(self) -> list[Window]:
        """The windows that count."""
        return self._windows[self._warm_up :]

    @property
    def last(self) -> Window:
        """The newest window, warm-up or not. IndexError before the first one has ended."""
        return self._windows[-1]

    @property
    def samples(self) -> list[float]:
        """Units per second of each measured window, in order."""
        return [window.rate for window in self.measured]

    @property
    def median(self) -> float:
        """The headline: the median of :attr:`samples`, in units per second.

        Raises:
            ValueError: every window was warm-up.
        """
        if not self.measured:
            raise ValueError(f"{len(self._windows)} windows, {self._warm_up} of them warm-up: nothing was measured")
        return statistics.median(self.samples)

    @property
    def warm_up_seconds(self) -> float:
        return sum(window.seconds for window in self._windows[: self._warm_up])

    @property
    def measured_seconds(self) -> float:
        return sum(window.seconds for window in self.measured)

    def is_steady(self, last: int = 3, within: float = 0.10) -> bool:
        """Whether the last windows agree: the spread of their rates is at most ``within`` of their median.

        False where fewer than ``last`` windows were measured. May be wrong on a machine whose speed drifts slowly:
        neighbouring windows then agree although the run as a whole does not.
        """
        rates = self.samples[-last:]
        if len(rates) < last:
            return False
        return max(rates) - min(rates) <= within * statistics.median(rates)
