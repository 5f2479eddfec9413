"""How far a download is, as plain lines: for logs and pipes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from harness.runtime.hub.fetch import Watcher
from harness.runtime.hub.transfer import Say

EVERY_S = 10.0
"""Seconds between two lines about bytes."""


def plain_watcher(say: Say, clock: Callable[[], float] = time.monotonic) -> Watcher:
    """A watcher whose lines go to ``say``: what happens at once, how many bytes came every ten seconds."""
    lock = threading.Lock()
    total = came = 0
    told = clock()

    def expect(size: int) -> None:
        nonlocal total
        with lock:
            total += size

    def moved(size: int) -> None:
        nonlocal came, told
        with lock:
            came += size
            if clock() - told < EVERY_S:
                return
            told = clock()
            line = f"{came / 1e6:.0f} of {total / 1e6:.0f} MB" if total else f"{came / 1e6:.0f} MB"
        say(line)

    return Watcher(say, expect, moved)
