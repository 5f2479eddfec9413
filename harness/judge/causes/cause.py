"""A cause of failure: what it is called, what to do, and what proves it."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from harness.judge.causes.trail import Line, Trail
from harness.specfile import LocalizedText


class Level(enum.IntEnum):
    """How much a cause explains; see :mod:`harness.judge.causes.diagnose` for the rules."""

    ROOT = 0  # explains by itself why the run failed
    ENDING = 1  # somebody ended the job: the scheduler or a person
    SYMPTOM = 2  # often follows from something else: a rank that waits for a dead one
    RESIDUE = 3  # what can be said where nothing better is known


@dataclass(frozen=True)
class Sighting:
    """One proof of a cause.

    Attributes:
        position: when it happened: an index into the trail's lines; below 0: before all of them (an out-of-memory kill
            is told at the end of a log); the trail's end: after all of them.
        line: the evidence.
        chain: number of the exception chain it was seen in, None for all other lines.
    """

    position: float
    line: Line
    chain: int | None = None


Matcher = Callable[[Trail], Iterable[Sighting]]


@dataclass(frozen=True)
class Cause:
    """One entry of the tables.

    Attributes:
        id: stable name, for programs and for tests.
        title: one clause a student understands.
        fix: the one thing to do.
        matchers: any of them proves it.
        level: see :class:`Level`.
    """

    id: str
    title: LocalizedText
    fix: LocalizedText
    matchers: tuple[Matcher, ...]
    level: Level = Level.ROOT


def cause(
    id: str, en: str, zh: str, *, fix: tuple[str, str], by: tuple[Matcher, ...], level: Level = Level.ROOT
) -> Cause:
    """A table entry, written briefly. ``fix`` is (English, Chinese)."""
    return Cause(id, LocalizedText(en=en, zh=zh), LocalizedText(en=fix[0], zh=fix[1]), by, level)
